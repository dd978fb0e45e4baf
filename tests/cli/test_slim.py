"""slimdiff slim, whole: from a teacher's folder and images to a pipeline and a report, stopped and gone on with."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiTPipeline, StableDiffusionPipeline
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

import slimdiff
from slimdiff.checkpoint import load_checkpoint, save_checkpoint
from slimdiff.cli.main import main
from slimdiff.evaluation.cost import count_cost
from slimdiff.evaluation.unet_cost import network_cost
from slimdiff.models import DiffusionModel
from slimdiff.models.backbones import DiT
from slimdiff.models.converters.dit import to_diffusers
from tests.calibration.tiny_pipelines import unet, vae
from tests.models import tiny_distiller as tiny
from tests.models.conditioners.tiny_text import save_clip

STAGES = [dict(channels=16, blocks=1, up_blocks=2), dict(channels=32, blocks=1, up_blocks=2, downsample=False, heads=2)]


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """40 images of 8x8 in two classes, and no test split."""
    root, generator = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
    for name in ('cat', 'dog'):
        (root / name).mkdir()
        for i in range(20):
            Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / name / f'{i}.png')
    return str(root)


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    """A UNet of two classes at 8x8."""
    model = DiffusionModel(unet=dict(type='UNet', sample_size=8, stages=STAGES, norm_groups=4, mid_heads=2),
                           noise_scheduler=tiny.NOISE, num_classes=2)
    return tiny.save_pipeline(tiny.shake(model), tmp_path_factory.mktemp('teacher'))


def slim(teacher, images, out, *options):
    return main(['slim', teacher, '--data', images, '--out', str(out), '--iterations', '4', '--batch-size', '4',
                 '--images', '32', *options])


def test_from_a_folder_to_a_pipeline_and_a_report(teacher, images, tmp_path, capsys):
    assert slim(teacher, images, tmp_path, '--macs', '0.25', '--design-only') == 0
    assert slim(teacher, images, tmp_path, '--macs', '0.25') == 0
    printed = capsys.readouterr().out
    macs = network_cost(slimdiff.load(teacher).unet).macs_with_attention
    pipe = slimdiff.load(tmp_path / 'pipeline')
    own = network_cost(pipe.unet).macs_with_attention
    assert abs(own / macs / 0.25 - 1) < 0.03 and f'({own / macs:.1%})' in printed
    kinds = {type(module).__name__ for module in pipe.unet.modules()}
    assert {'WaveletGatedDown', 'WaveletGatedUp'} <= kinds
    # The pipeline is the checkpoint's averaged network.
    trained = slimdiff.load(tmp_path / 'training' / 'iter_4.pth')
    assert all(torch.equal(value, trained.unet.state_dict()[name]) for name, value in pipe.unet.state_dict().items())
    record = json.loads((tmp_path / 'comparison.json').read_text())
    assert record['sizes']['student']['macs'] == own and record['sizes']['teacher']['macs'] == macs
    assert record['errors']['student']['denoise/total'] > 0 and record['distances']['floor']['mean'] >= 0
    page = (tmp_path / 'report.html').read_text()
    assert page.count('data:image/png;base64,') == 3 and not re.search(r'(src|href)="(?!data:)', page)
    assert '--design-only' not in page.partition('Made by')[2]
    assert 'those of training' in page  # the data have no test split
    # some 40 lines over _base_; the long paths of a test take a few more
    assert len((tmp_path / 'student.py').read_text().partition('\n_base_')[2].splitlines()) <= 44

    # The same command goes on, and finds all of it done; another one is refused.
    before = (tmp_path / 'training' / 'iter_4.pth').stat().st_mtime_ns
    assert slim(teacher, images, tmp_path, '--macs', '0.25') == 0
    assert 'going on with it' in capsys.readouterr().out
    assert (tmp_path / 'training' / 'iter_4.pth').stat().st_mtime_ns == before
    assert slim(teacher, images, tmp_path, '--macs', '0.5') == 2
    assert '--macs was 0.25, now it is 0.5' in capsys.readouterr().err

    # An edited config is another training, and other weights another comparison.
    text = (tmp_path / 'student.py').read_text()
    (tmp_path / 'student.py').write_text(text.replace('max_norm=1.0', 'max_norm=2.0'))
    assert slim(teacher, images, tmp_path, '--macs', '0.25') == 2
    assert 'was changed after its training: optim_wrapper.clip_grad.max_norm: 1.0 -> 2.0' in ' '.join(
        capsys.readouterr().err.split())
    (tmp_path / 'student.py').write_text(text)
    (tmp_path / 'comparison.json').write_text(json.dumps(record | dict(weights='others', sampler='none')))
    assert slim(teacher, images, tmp_path, '--macs', '0.25') == 0
    again = json.loads((tmp_path / 'comparison.json').read_text())
    assert (again['weights'], again['sampler']) == (record['weights'], record['sampler'])
    capsys.readouterr()

    # Training its config by hand is the same training, bit for bit; so is going on in the middle.
    assert main(['train', str(tmp_path / 'student.py'), '--work-dir', str(tmp_path / 'by_hand')]) == 0
    (tmp_path / 'again').mkdir()
    for name in ('student.py', 'slim.json'):
        (tmp_path / 'again' / name).write_bytes((tmp_path / name).read_bytes())
    (tmp_path / 'training').rename(tmp_path / 'again' / 'training')
    for number in (3, 4):
        (tmp_path / 'again' / 'training' / f'iter_{number}.pth').unlink()
    assert slim(teacher, images, tmp_path / 'again', '--macs', '0.25') == 0
    one, other = (load_checkpoint(tmp_path / place / 'iter_4.pth')['state_dict']
                  for place in ('by_hand', 'again/training'))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_latent_transformer_of_diffusers(images, tmp_path):
    """Images are encoded once; the student is a U-shaped DiT that starts from it; its pipeline has the first stage."""
    torch.manual_seed(0)
    network = DiT(num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=8, layers=(4, ),
                  sample_size=4, patch_size=1, num_classes=2, freq_shift=1.0)
    DiTPipeline(to_diffusers(network), vae(), DDIMScheduler(clip_sample=False)).save_pretrained(tmp_path / 'dit')
    out = tmp_path / 'out'
    assert slim(str(tmp_path / 'dit'), images, out, '--macs', '0.3') == 0
    assert "start_from='" in (out / 'student.py').read_text()
    index = json.loads((out / 'latents' / 'index.json').read_text())
    assert index['length'] == 40 and index['shape'] == [4, 4, 4]
    pipe = slimdiff.load(out / 'pipeline')
    assert list(pipe.unet.config.layers) == [1, 2, 1] and pipe.vae is not None
    assert pipe(labels=[0, 1], seed=0, num_inference_steps=2, output_type='pt').images.shape == (2, 3, 8, 8)


@pytest.mark.slow
def test_a_text_teacher_of_stable_diffusion(images, tmp_path):
    """Its data are captions of COCO's kind; the student's pipeline takes prompts."""
    torch.manual_seed(0)
    clip = save_clip(tmp_path / 'clip', width=8)
    StableDiffusionPipeline(
        vae(), CLIPTextModel.from_pretrained(clip, subfolder='text_encoder'),
        CLIPTokenizer.from_pretrained(clip, subfolder='tokenizer'), unet(),
        DDIMScheduler(clip_sample=False, steps_offset=1), None, None,
        requires_safety_checker=False).save_pretrained(tmp_path / 'teacher')
    (tmp_path / 'coco/annotations').mkdir(parents=True)
    Path(tmp_path / 'coco/train').symlink_to(Path(images) / 'cat')
    (tmp_path / 'coco/annotations/captions_train.json').write_text(json.dumps(dict(
        images=[dict(id=i, file_name=f'{i}.png') for i in range(20)],
        annotations=[dict(id=i, image_id=i, caption=f'cat {"abcdefghij"[i % 10]}') for i in range(20)])))
    data = dict(type='CocoCaptions', data_root=str(tmp_path / 'coco'), split='train', caption='first', image_size=16)
    (tmp_path / 'data.py').write_text(f'train_dataloader = dict(dataset={data!r})')
    out = tmp_path / 'out'
    assert slim(str(tmp_path / 'teacher'), str(tmp_path / 'data.py'), out, '--macs', '0.5') == 0
    assert "start_from='" in (out / 'student.py').read_text()
    pipe = slimdiff.load(out / 'pipeline')
    assert pipe.unet.config.context_channels == 8
    one, other = (pipe(prompt=[text], seed=0, num_inference_steps=2, output_type='pt').images
                  for text in ('cat a', 'cat b'))
    assert one.shape == (1, 3, 16, 16) and not torch.equal(one, other)


@pytest.mark.slow
def test_a_step_aware_student(teacher, images, tmp_path):
    assert slim(teacher, images, tmp_path, '--macs', '0.53', '--recipe', 'pruned', '--step-aware', '0.6') == 0
    allocation = slimdiff.StepAllocation.load(tmp_path / 'search' / 'allocation.json')
    pipe = slimdiff.load(tmp_path / 'pipeline')
    assert pipe.unet.allocation == allocation
    costs = {run: count_cost(pipe.unet.network(run.width), torch.zeros(1, 3, 8, 8), torch.zeros(1),
                             torch.zeros(1, dtype=torch.long)).macs_with_attention for run in allocation.runs}
    assert len(costs) > 1 or min(costs).width < 1


def test_it_can_be_designed_alone_and_measured(teacher, images, tmp_path, capsys):
    assert main(['slim', teacher, '--data', images, '--out', str(tmp_path), '--recipe', 'plain', '--macs', '0.25',
                 '--minutes', '0.5', '--batch-size', '4', '--design-only']) == 0
    printed = capsys.readouterr().out
    rate = float(re.search(r'([\d.]+) it/s after the first', printed)[1])
    iterations = int(re.search(r'([\d,]+) iterations of batch 4, about (29|30) s of tr', printed)[1].replace(',', ''))
    assert abs(iterations / (30 * rate) - 1) < 0.02
    assert f'max_iters={iterations})' in (tmp_path / 'student.py').read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['slim.json', 'student.py']


def test_what_several_processes_have_trained_is_taken(teacher, images, tmp_path):
    options = teacher, images, tmp_path, '--macs', '0.25', '--recipe', 'plain', '--images', '0'
    assert slim(*options, '--design-only') == 0
    assert main(['train', str(tmp_path / 'student.py'), '--work-dir', str(tmp_path / 'training')]) == 0
    trained = tmp_path / 'training' / 'iter_4.pth'
    checkpoint = load_checkpoint(trained)
    checkpoint['meta']['world_size'] = 2
    save_checkpoint(checkpoint, trained)
    before = trained.stat().st_mtime_ns
    assert slim(*options) == 0
    assert trained.stat().st_mtime_ns == before and (tmp_path / 'pipeline' / 'model_index.json').is_file()
    assert '4 iterations of batch 8.' in (tmp_path / 'report.html').read_text()


def test_what_is_not_by_slim_is_left_alone(teacher, images, tmp_path, capsys):
    (tmp_path / 'student.py').write_text('mine = 1\n')
    assert slim(teacher, images, tmp_path, '--macs', '0.25') == 2
    assert 'not by slim' in capsys.readouterr().err
    assert (tmp_path / 'student.py').read_text() == 'mine = 1\n'


def test_data_of_another_kind_are_refused_first(teacher, tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    assert slim(teacher, str(tmp_path / 'empty'), tmp_path / 'out') == 2
    assert 'no image in' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('options, message', [
    (['--macs', '2'], '--macs is a share'), (['--images', '5'], 'at least 32'),
    (['--macs', '0.0001'], 'No student has'), (['--data', 'nowhere'], 'neither a file, a folder nor a data set'),
    (['--data', 'CIFAR10'], '--data: CIFAR10 needs data_root: give a config'),
    (['--data', 'PhotoPatches'], '--data: 12 classes, but the teacher has 2')])
def test_bad_input_is_refused_before_anything_is_made(options, message, teacher, images, tmp_path, capsys):
    try:
        status = slim(teacher, images, tmp_path / 'out', *options)
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2 and message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
