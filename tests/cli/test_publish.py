"""What is published samples and teaches as the checkpoint did, and holds nothing else."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DiffusionPipeline

import slimdiff
from slimdiff.arguments import plain
from slimdiff.checkpoint import load_checkpoint, load_weights, save_checkpoint
from slimdiff.cli.publish import main
from slimdiff.configuration import check_config, load_config
from slimdiff.engine.work_dir import WorkDirError, check_resume
from slimdiff.evaluation.cost import count_cost, human
from slimdiff.models.distillation.loading import load_teacher
from slimdiff.models.serving import serving_config
from slimdiff.registry import MODELS

ROOT = Path(__file__).resolve().parents[2]
STAGES = [dict(channels=8, blocks=1, up_blocks=1), dict(channels=16, blocks=1, up_blocks=1, downsample=False)]
CONFIG = f"""
_base_ = '{ROOT}/configs/sd/photo_patches_16px.py'
model = dict(num_steps=2, num_classes=None, unet=dict(stages={STAGES!r}), teacher=dict(checkpoint='somewhere/teacher'))
"""
METRICS = dict(config='configs/mine.py', iterations=70, seed=3, final={'swd/mean': 12.3456, 'new': 1.0},
               untrained={'swd/mean': 99.0}, real_against_real={'swd/mean': 5.0}, history=[dict(iter=70, metrics={})])


@pytest.fixture
def run(tmp_path):
    """The files of a distillation's work dir: config.py, iter_70.pth; and the served model with averaged weights."""
    folder = tmp_path / 'run'
    folder.mkdir()
    (folder / 'tiny.py').write_text(CONFIG)
    cfg = load_config(str(folder / 'tiny.py'))
    model = MODELS.build(serving_config(cfg.model)).eval()
    for parameter in model.unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    averages = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value + 1 for name, value in averages.items()} | {'projections.up1.weight': torch.zeros(32, 8, 1, 1)}
    meta = dict(format='slimdiff-checkpoint', format_version=2, slimdiff_version='0.0.1', iter=70, seed=3, world_size=1,
                config=plain(cfg._cfg_dict), dataset_meta={})
    moments = {i: {'exp_avg': torch.randn(50_000)} for i in range(2)}
    save_checkpoint(dict(meta=meta, state_dict=state, ema={'decay': 0.99, 'state_dict': averages},
                         optimizer={'state': moments}, message_hub={'log_scalars': {}}), folder / 'iter_70.pth')
    return folder, model


def publish(run, out, *options):
    return main([str(run / 'tiny.py'), str(run / 'iter_70.pth'), str(out), *options])


def front_matter(text):
    return yaml.safe_load(re.match(r'---\n(.*?)\n---\n', text, re.S)[1])


def test_a_file_with_its_hash(run, tmp_path, capsys):
    folder, model = run
    (folder / 'metrics.json').write_text(json.dumps(METRICS))
    out = tmp_path / 'out'
    assert publish(folder, out, '--name', 'slim', '--license', 'mit') == 0
    (file, ) = out.glob('*.pth')
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert file.name == f'slim-{digest[:8]}.pth' and sorted(p.name for p in out.iterdir()) == ['README.md', file.name]
    data = load_checkpoint(file)
    assert sorted(data) == ['meta', 'state_dict'] and list(data['meta']['config']) == ['model']
    assert data['state_dict'].keys() == model.state_dict().keys()
    assert file.stat().st_size < (folder / 'iter_70.pth').stat().st_size / 2
    # It samples with either word, and teaches.
    expected = model.sample([0, 1], seed=1)
    for weights in ('ema', 'online'):
        other = MODELS.build(serving_config(load_config(str(folder / 'tiny.py')).model))
        load_weights(other, file, weights)
        assert torch.equal(other.sample([0, 1], seed=1), expected)
    teacher = load_teacher(str(file))
    assert torch.equal(teacher.unet.stem.weight, model.unet.stem.weight)
    with pytest.raises(WorkDirError, match='was published: it has no optimizer'):
        check_resume(file, data['meta'], {}, 1)

    card = re.sub(' +', ' ', (out / 'README.md').read_text())
    assert front_matter(card) == dict(library_name='slimdiff', license='mit', tags=['slimdiff', 'diffusion'],
                                      pipeline_tag='unconditional-image-generation')
    count = sum(p.numel() for p in model.unet.parameters())
    assert f'({count:,})' in card and digest in card and 'somewhere/teacher' in card
    assert '| swd/mean | 12.35 | 99 | 5 |' in card and '| new | 1 | | |' in card
    assert '`slimdiff train configs/mine.py` (seed 3), slimdiff 0.0.1' in card
    assert 'for 70 iterations' in card and 'moving average' in card
    # How it was made: the commands without folders of this machine, and what the training's config says.
    commands = card.split('## How it was made')[1].split('```')[1].strip().splitlines()
    assert commands == ['bash', 'slimdiff train configs/mine.py',
                        'slimdiff publish tiny.py iter_70.pth out --name slim --license mit']
    assert '| data | `PhotoPatches` |' in card and '| batch | 16 |' in card
    assert '| optimizer | AdamW, learning rate 0.002 |' in card and '| precision | float32 |' in card
    assert str(tmp_path) not in card
    cost = count_cost(model.unet, torch.zeros(1, 3, 16, 16), torch.tensor([0]))
    assert f'linear layers | {human(cost.conv_linear_macs)} |' in card
    # The card's own words are a config that samples the file.
    (tmp_path / 'config.py').write_text(re.search(r'```python\n(model = .*?)```', card, re.S)[1])
    cfg = load_config(str(tmp_path / 'config.py'))
    check_config(cfg)
    other = MODELS.build(serving_config(cfg.model))
    load_weights(other, file)
    assert torch.equal(other.sample([0, 1], seed=1), expected)
    assert 'with metrics.json' in capsys.readouterr().out
    # Once more, with the other weights: the earlier file is replaced, and the metrics are not theirs.
    assert publish(folder, out, '--name', 'slim', '--weights', 'online') == 0
    (second, ) = out.glob('*.pth')
    assert second.name != file.name
    assert torch.equal(load_checkpoint(second)['state_dict']['unet.network.stem.weight'], model.unet.stem.weight + 1)
    assert 'is of the averaged weights' in capsys.readouterr().out
    card = re.sub(' +', ' ', (out / 'README.md').read_text())
    assert 'No measurement of these weights' in card and '12.35' not in card and 'license' not in card


def test_a_folder_of_diffusers(run, tmp_path):
    folder, model = run
    (folder / 'metrics.json').write_text(json.dumps({**METRICS, 'history': [dict(iter=60, metrics={})]}))
    out = tmp_path / 'out'
    assert publish(folder, out, '--format', 'diffusers') == 0
    assert sorted(p.name for p in out.iterdir()) == ['README.md', 'model_index.json', 'scheduler', 'unet']
    pipeline = DiffusionPipeline.from_pretrained(out)
    assert type(pipeline) is slimdiff.SlimDiffusionPipeline and pipeline.config.num_inference_steps == 2
    assert torch.equal(pipeline.unet.stem.weight, model.unet.stem.weight)
    card = re.sub(' +', ' ', (out / 'README.md').read_text())
    weights = out / 'unet/diffusion_pytorch_model.safetensors'
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in card
    assert front_matter(card)['library_name'] == 'diffusers' and '# tiny' in card
    assert '12.35' not in card  # they are of another iteration
    (out / 'notes.txt').touch()
    assert publish(folder, out, '--format', 'diffusers') == 2  # not ours to remove
    assert (out / 'notes.txt').exists()


def test_push(run, tmp_path, capsys, monkeypatch):
    """Without a network: a dry run says what would be uploaded, and an upload gets exactly the folder."""
    folder, out = run[0], tmp_path / 'out'
    calls = []

    class Hub:

        def create_repo(self, name, private, exist_ok):
            calls.append(('create', name, private))
            return f'https://huggingface.co/{name}'

        def upload_folder(self, repo_id, folder_path, commit_message):
            files = {p.relative_to(folder_path).as_posix() for p in Path(folder_path).rglob('*') if p.is_file()}
            calls.append(('upload', repo_id, files))

    options = ['--format', 'diffusers', '--push', 'me/slim', '--private']
    with monkeypatch.context() as patch:
        patch.setattr('huggingface_hub.HfApi', Hub)
        assert publish(folder, out, *options, '--dry-run') == 0
        said = capsys.readouterr().out
        files = {p.relative_to(out).as_posix(): p.stat().st_size for p in out.rglob('*') if p.is_file()}
        assert not calls and f'Would upload {len(files)} files, {sum(files.values()) / 1e6:.1f} MB, to ' \
            'https://huggingface.co/me/slim (private if it is new)' in said
        assert set(said.rstrip().splitlines()[-1].strip().split(', ')) == set(files)
        assert "DiffusionPipeline.from_pretrained('me/slim')" in (out / 'README.md').read_text()
        assert publish(folder, out, *options) == 0
        assert calls == [('create', 'me/slim', True), ('upload', 'me/slim', set(files))]
        assert 'Uploaded: https://huggingface.co/me/slim' in capsys.readouterr().out
    # The library itself, where it may not use the network: what was written stays.
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    assert publish(folder, out, *options) == 2
    said = capsys.readouterr().err
    assert 'could not be uploaded' in said and 'hf auth login' in said and 'Traceback' not in said
    assert {p.relative_to(out).as_posix() for p in out.rglob('*') if p.is_file()} == set(files)


@pytest.mark.parametrize('options, message', [
    (['--push', 'slim'], "a repository of the Hub is OWNER/NAME, got 'slim'"),
    (['--private'], 'go with --push OWNER/NAME'), (['--dry-run'], 'go with --push OWNER/NAME')])
def test_wrong_options_of_push(run, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit):
        publish(run[0], tmp_path / 'out', *options)
    assert message in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_refusals(run, tmp_path, capsys):
    folder, _ = run
    with pytest.raises(SystemExit):
        publish(folder, tmp_path / 'out', '--name', '../up')
    assert main([str(ROOT / 'configs/sd/photo_patches_16px.py'), str(folder / 'iter_70.pth'), str(tmp_path / 'o')]) == 2
    said = capsys.readouterr().err
    assert 'is of another architecture' in said and not (tmp_path / 'o').exists()
    assert ('slimdiff publish: error: Use the config that iter_70.pth was trained with '
            f'(slimdiff print_config {folder}/iter_70.pth --out its_config.py writes it): ') in said
    from slimdiff.cli.print_config import main as print_config
    assert print_config([str(folder / 'iter_70.pth'), '--out', str(tmp_path / 'its_config.py')]) == 0
    assert main([str(tmp_path / 'its_config.py'), str(folder / 'iter_70.pth'), str(tmp_path / 'o')]) == 0
