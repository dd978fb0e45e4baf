"""The five jobs of the front door: the page's blocks run, and give what the commands give."""

import re
import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

import slimdiff
from slimdiff.checkpoint import load_checkpoint, save_checkpoint
from slimdiff.checkpoint.files import FORMAT
from slimdiff.cli import sample
from slimdiff.export.folder import export_pipeline, model_of
from slimdiff.installation import zoo
from slimdiff.registry import MODELS
from slimdiff.sampling import StepAllocation
from slimdiff.search.costs import count_macs as macs_by_width

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r'^```python\n(.*?)^```', (ROOT / 'docs/en/user_guides/python.md').read_text(), re.S | re.M)


def pixels(images):
    return np.stack([np.asarray(image) for image in images]).astype(int)


def sampled(tmp_path, *arguments):
    """The images of the command, in this process."""
    assert sample.main([*map(str, arguments), '--out', str(tmp_path / 'x.npz')]) == 0
    return np.load(tmp_path / 'x.npz')['images'].squeeze(-1).astype(int)


def run(block, namespace):
    exec(compile(block, 'python.md', 'exec'), namespace)


def test_names_are_seen_and_torch_is_not_imported():
    code = ("import sys, slimdiff; print({'load', 'count_macs', 'search', 'train', 'UNet'} <= set(dir(slimdiff)),"
            "{'torch', 'diffusers', 'mmengine', 'numpy'} & set(sys.modules))")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['True', 'set()']


def test_load_and_sample(tmp_path):
    """Of the page; the same pixels as the command's, more images than labels included."""
    namespace = {}
    run(BLOCKS[0], namespace)
    expected = sampled(tmp_path, 'sd/fashion_mnist', '--labels', '0,3', '--seed', 0, '--steps', 25, '-n', 5)
    assert expected.std() > 50
    assert np.abs(pixels(namespace['images']) - expected[:2]).max() <= 1
    five = namespace['pipe'](labels=[0, 3], num_images=5, seed=0, num_inference_steps=25).images
    assert np.abs(pixels(five) - expected).max() <= 1
    with pytest.raises(ValueError, match='seed or generator'):
        namespace['pipe'](labels=0, seed=0, generator=torch.Generator())


def test_count_macs(capsys):
    """The page's numbers are those printed; a module of any kind by hand; a network of diffusers by its layers."""
    namespace = {'pipe': slimdiff.load('sd/fashion_mnist', device='cpu')}
    run(BLOCKS[1], namespace)
    shown = (ROOT / 'docs/en/user_guides/python.md').read_text().split('```text\n')[1].split('```')[0]
    assert capsys.readouterr().out == shown
    module = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 5 * 5, 7))
    assert slimdiff.count_macs(module, torch.zeros(1, 2, 5, 5)).conv_linear_macs == 25 * 4 * 18 + 100 * 7
    unet = diffusers.UNet2DModel(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1,
                                 block_out_channels=(32, ), down_block_types=('DownBlock2D', ),
                                 up_block_types=('UpBlock2D', ), add_attention=False)
    per_layer = {name: 64 * m.weight.numel() if isinstance(m, nn.Conv2d) else m.weight.numel()
                 for name, m in unet.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert slimdiff.count_macs(unet).conv_linear_macs == sum(per_layer.values())
    assert slimdiff.count_macs(unet.bfloat16()).conv_linear_macs == sum(per_layer.values())
    shape = dict(sample_size=8, block_out_channels=(8, ), norm_num_groups=4, down_block_types=('DownBlock2D', ),
                 up_block_types=('UpBlock2D', ), cross_attention_dim=8)
    sdxl = diffusers.UNet2DConditionModel(**shape, addition_embed_type='text_time', addition_time_embed_dim=4,
                                          projection_class_embeddings_input_dim=32)
    for other in (module, diffusers.AutoencoderKL(), sdxl):
        with pytest.raises(ValueError, match='give an example of its arguments'):
            slimdiff.count_macs(other)


def test_search(tmp_path, capsys):
    """Of the page: within the budget, and the images that the command draws with the allocation."""
    namespace = {}
    run(BLOCKS[2], namespace)
    run(BLOCKS[3], namespace)
    allocation, pipe = namespace['allocation'], namespace['pipe']
    supernet = slimdiff.load('ddsm/fashion_mnist', device='cpu')
    costs = macs_by_width(model_of(supernet), [0.25, 0.5, 0.75, 1.0])
    pipe.scheduler.set_timesteps(10)
    steps = pipe.scheduler.timesteps.tolist()
    share = costs.macs(allocation, steps) / costs.macs(StepAllocation.uniform(1.0), steps)
    assert 0.3 < share <= 0.5 and len(allocation.widths) > 1
    allocation.save(tmp_path / 'allocation.json')
    expected = sampled(tmp_path, 'ddsm/fashion_mnist', '--steps', 10, '-n', 10, '--allocation',
                       tmp_path / 'allocation.json')
    assert np.abs(pixels(namespace['images']) - expected).max() <= 1
    with pytest.raises(ValueError, match='has a network for each step'):
        slimdiff.count_macs(pipe.unet)
    with pytest.raises(ValueError, match='already has an allocation'):
        slimdiff.search(pipe)


SMALL = dict(type='DiffusionModel', unet=dict(
    type='UNet', sample_size=8, norm_groups=4, stages=[dict(channels=8, blocks=1, downsample=False)]))


@pytest.fixture
def small():
    """An unconditional model, whose exported folder names a stock pipeline."""
    model = MODELS.build(SMALL).eval()
    for parameter in model.unet.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def test_search_of_one_width(small, tmp_path):
    """It needs something to reuse; a stock pipeline of diffusers is searched, too, and a work dir keeps the report."""
    export_pipeline(small, tmp_path / 'out')
    pipe = slimdiff.load(tmp_path / 'out', device='cpu')
    assert type(pipe) is diffusers.DDIMPipeline
    with pytest.raises(ValueError, match='has one width, and .* names nothing to reuse'):
        slimdiff.search(pipe, budget=0.5)
    settings = dict(space=dict(reuse=['prediction']), num_steps=4, searcher=dict(type='RandomSearch', num_candidates=4),
                    evaluators=[dict(type='DivergenceEvaluator', num_images=2)])
    data = dict(type='PhotoPatches', split='val', image_size=8, length=4)
    allocation = slimdiff.search(pipe, data, budget=0.5, work_dir=tmp_path / 'search', **settings)
    assert allocation.uses_reuse and StepAllocation.load(tmp_path / 'search/allocation.json') == allocation
    assert (tmp_path / 'search/report.html').is_file()
    with pytest.raises(ValueError, match="search has no key 'spaces'"):
        slimdiff.search(pipe, spaces=dict())


def test_train(tmp_path, monkeypatch):
    """Of the page: what it returns is the averaged weights of the last checkpoint, opened without a config."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    (tmp_path / 'my_student.py').write_text(BLOCKS[4])
    namespace = {}
    run(BLOCKS[5], namespace)
    student, path = namespace['student'], Path('work_dirs/my_student/iter_4.pth')
    weights = load_checkpoint(path)['ema']['state_dict']
    found = student.unet.state_dict()
    assert all(torch.equal(found[name.removeprefix('unet.')], value) for name, value in weights.items()
               if name.startswith('unet.'))
    again = slimdiff.load(path)(labels=[0, 1], seed=0, num_inference_steps=10).images
    assert np.abs(pixels(again) - pixels(namespace['images'])).max() <= 1
    with pytest.raises(ValueError, match="no option 'ampp'. Did you mean 'amp'"):
        slimdiff.train('my_student.py', ampp=True)
    with pytest.raises(ValueError, match='overwrite'):
        slimdiff.train('my_student.py')


def test_what_can_be_loaded(small, tmp_path, monkeypatch):
    """A checkpoint of an unconditional model, a work dir, unet/ and scheduler/ alone: the same images."""
    expected = small.sample(range(2), seed=3, num_steps=4).permute(0, 2, 3, 1).numpy() / 2 + 0.5
    meta = dict(format=FORMAT, format_version=2, config=dict(model=SMALL))
    save_checkpoint(dict(meta=meta, state_dict=small.state_dict()), tmp_path / 'run/iter_7.pth')
    export_pipeline(small, tmp_path / 'bare', unet_only=True)
    for source in ('run/iter_7.pth', 'run', 'bare'):
        pipe = slimdiff.load(tmp_path / source, device='cpu')
        found = pipe(seed=3, num_images=2, num_inference_steps=4, output_type='np').images
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_can_not_be_loaded(small, tmp_path):
    with pytest.raises(FileNotFoundError, match="Did you mean 'sd/fashion_mnist'"):
        slimdiff.load('sd/fashion_minst')
    meta = dict(format=FORMAT, format_version=2)
    config = dict(model={**SMALL, 'type': 'subprocess.Popen'})
    for name, more, message in (('bare', {}, 'does not hold the config'),
                                ('evil', dict(config=config), "no model of type 'subprocess.Popen'")):
        save_checkpoint(dict(meta=meta | more, state_dict=small.state_dict()), tmp_path / f'{name}.pth')
        with pytest.raises(ValueError, match=message):
            slimdiff.load(tmp_path / f'{name}.pth')
    small.unet.save_pretrained(tmp_path / 'network/unet')
    with pytest.raises(ValueError, match='without the scheduler'):
        slimdiff.load(tmp_path / 'network')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='holds neither'):
        slimdiff.load(tmp_path / 'empty')


def test_the_page_names_the_zoo_and_no_job_takes_more_than_five_lines():
    text = (ROOT / 'docs/en/user_guides/python.md').read_text()
    assert all(f'`{name}`' in text for name in zoo())
    assert all(len([line for line in block.splitlines() if line]) <= 5 for block in BLOCKS)


@pytest.mark.parametrize('name', zoo())
def test_every_shipped_model_opens_and_takes_its_labels(name):
    pipe = slimdiff.load(name, device='cpu')
    pipe.set_progress_bar_config(disable=True)
    labels = {'labels': [0, 1]} if pipe.config.num_classes else {}
    one, two = pipe(**labels, seed=0, num_images=2, num_inference_steps=1, output_type='np').images
    assert one.shape == two.shape and abs(one - two).max() > 0.1
