"""train, then test and sample its checkpoint, through the tools, on the shipped config made short."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/sd/photo_patches.py'
SHORT = ['--cfg-options', 'train_cfg.max_iters=6', 'train_dataloader.batch_size=8', 'val_cfg.num_images=16',
         'val_cfg.num_real=64', 'val_cfg.floor_splits=2', 'val_cfg.sampling.num_steps=2', 'model.num_steps=2',
         'default_hooks.checkpoint.interval=3', 'val_evaluator.3.num_images=16',
         'default_hooks.spectra.num_steps=2', 'default_hooks.samples.num_steps=2', 'test_cfg.num_images=16',
         'test_cfg.num_real=64', 'test_cfg.floor_splits=0', 'test_evaluator.3.num_images=16']


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('trained') / 'run'
    done = subprocess.run([sys.executable, ROOT / 'tools/train.py', CONFIG, '--work-dir', work_dir, *SHORT],
                          capture_output=True, text=True, cwd=tmp_path_factory.getbasetemp())
    assert done.returncode == 0, done.stdout + done.stderr
    return work_dir, done.stdout + done.stderr


def test_train_leaves_checkpoints_pictures_and_a_report(trained):
    work_dir, printed = trained
    assert {'iter_3.pth', 'iter_6.pth', 'metrics.json', 'photo_patches.py'} <= {p.name for p in work_dir.iterdir()}
    assert Image.open(work_dir / 'samples/iter_6.png').size[0] > 32
    assert (work_dir / 'spectra/iter_6.png').exists()
    report = json.loads((work_dir / 'metrics.json').read_text())
    assert report['iterations'] == 6
    assert set(report['final']) == set(report['untrained']) and 'fd' in report['real_against_real']
    assert 'real against real' in printed and 'untrained' in printed


def test_train_refuses_a_work_dir_in_use_and_resumes_it(trained, run_tool, tmp_path):
    work_dir = tmp_path / 'run'
    shutil.copytree(trained[0], work_dir)
    refused = run_tool('train.py', CONFIG, '--work-dir', work_dir, *SHORT, status=2)
    assert '--resume' in refused.stderr and '--overwrite' in refused.stderr and 'Traceback' not in refused.stderr
    longer = [option.replace('max_iters=6', 'max_iters=8') for option in SHORT]
    run_tool('train.py', CONFIG, '--work-dir', work_dir, '--resume', *longer)
    assert json.loads((work_dir / 'metrics.json').read_text())['iterations'] == 8


def test_a_misspelt_key_is_named_with_its_file_and_nothing_is_written(run_tool, tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text(f"_base_ = '{CONFIG}'\nmodel = dict(unet=dict(norm_grups=4))\n")
    done = run_tool('train.py', config, '--work-dir', tmp_path / 'run', status=2)
    assert 'norm_grups' in done.stderr and 'norm_groups' in done.stderr and 'mine.py' in done.stderr
    assert 'Traceback' not in done.stderr and not (tmp_path / 'run').exists()


def test_test_measures_the_checkpoint(trained, run_tool, tmp_path):
    out = tmp_path / 'figures.json'
    done = run_tool('test.py', CONFIG, trained[0] / 'iter_6.pth', '--steps', 2, '--json', out, *SHORT, process=True)
    figures = json.loads(out.read_text())
    assert np.isfinite(list(figures.values())).all() and figures['denoise/total'] > 0
    assert 'denoise/total' in done.stdout
    # The EMA's weights are the ones measured in training's last validation too.
    report = json.loads((trained[0] / 'metrics.json').read_text())
    assert figures['fd'] == pytest.approx(report['final']['fd'], rel=1e-3)


def test_sample_makes_the_same_images_in_every_form(trained, run_tool, tmp_path):
    checkpoint = trained[0] / 'iter_6.pth'
    common = ['-n', 5, '--steps', 2, '--seed', 3]
    run_tool('sample.py', CONFIG, checkpoint, '--out', tmp_path / 'folder', *common, '--batch-size', 2)
    run_tool('sample.py', CONFIG, checkpoint, '--out', tmp_path / 'x.npz', *common)
    run_tool('sample.py', CONFIG, checkpoint, '--out', tmp_path / 'grid.png', *common, '--zoom', 2)
    files = sorted((tmp_path / 'folder').glob('*.png'))
    assert [f.name for f in files] == [f'{i:06d}.png' for i in range(5)]
    images = np.stack([np.asarray(Image.open(f)) for f in files])
    npz = np.load(tmp_path / 'x.npz')['images']
    assert npz.shape == (5, 32, 32, 3)
    assert np.abs(npz.astype(int) - images).max() <= 1  # another batch size may round the last bit differently
    assert np.array_equal(np.asarray(Image.open(tmp_path / 'grid.png'))[:64:2, :64:2], npz[0])


def test_sample_completes_an_interrupted_folder_and_refuses_other_settings(trained, run_tool, tmp_path):
    checkpoint, out = trained[0] / 'iter_6.pth', tmp_path / 'folder'
    run_tool('sample.py', CONFIG, checkpoint, '--out', out, '-n', 4, '--steps', 2)
    before = {p.name: p.stat().st_mtime_ns for p in out.glob('*.png')}
    (out / '000002.png').unlink()
    run_tool('sample.py', CONFIG, checkpoint, '--out', out, '-n', 4, '--steps', 2)
    after = {p.name: p.stat().st_mtime_ns for p in out.glob('*.png')}
    assert set(after) == set(before) and [n for n in after if after[n] != before[n]] == ['000002.png']
    refused = run_tool('sample.py', CONFIG, checkpoint, '--out', out, '-n', 4, '--steps', 3, status=2)
    assert 'num_steps: 2 -> 3' in refused.stderr and '--overwrite' in refused.stderr


@pytest.mark.parametrize('arguments, message', [
    (['--scheduler', 'DDIMShceduler'], "Did you mean 'DDIMScheduler'"),
    (['--labels', '0,99'], '0..11'),
    (['--labels', 'brick'], '--labels takes integers'),
    (['--steps', '2000'], '1..1000'),
    (['-n', '0'], '--num must be at least 1'),
])
def test_sample_names_what_is_wrong(trained, run_tool, tmp_path, arguments, message):
    done = run_tool('sample.py', CONFIG, trained[0] / 'iter_6.pth', '--out', tmp_path / 'x.png', '--steps', 2,
                    *arguments, status=2)
    assert message in done.stderr and 'Traceback' not in done.stderr and not (tmp_path / 'x.png').exists()


def test_checkpoints_of_another_architecture_are_refused(trained, run_tool, tmp_path):
    done = run_tool('sample.py', ROOT / 'configs/lite_ldm/photo_patches.py', trained[0] / 'iter_6.pth', '--out',
                    tmp_path / 'x.png', status=2)
    assert 'iter_6.pth' in done.stderr and 'Traceback' not in done.stderr


def test_a_diffusers_folder_is_sampled_and_measured_like_the_checkpoint(trained, run_tool, tmp_path):
    from slimdiff.checkpoint import load_weights
    from slimdiff.configuration import load_config
    from slimdiff.registry import MODELS
    model = MODELS.build(load_config(str(CONFIG)).model)
    load_weights(model, trained[0] / 'iter_6.pth')
    model.unet.save_pretrained(tmp_path / 'unet')
    for name, source in (('a', tmp_path / 'unet'), ('b', trained[0] / 'iter_6.pth')):
        run_tool('sample.py', CONFIG, source, '--out', tmp_path / f'{name}.npz', '-n', 2, '--steps', 2)
        run_tool('test.py', CONFIG, source, '--work-dir', tmp_path / name, '--json', tmp_path / f'{name}.json',
                 *SHORT, '--steps', 2)
    a, b = (np.load(tmp_path / f'{name}.npz')['images'] for name in 'ab')
    assert np.array_equal(a, b)
    a, b = (json.loads((tmp_path / f'{name}.json').read_text()) for name in 'ab')
    assert a == b and 'fd' in a


def test_two_processes_sample_each_image_once(trained, tmp_path, tiny_process):
    checkpoint = trained[0] / 'iter_6.pth'
    for count, out in ((2, 'two'), (1, 'one')):
        ranks = tiny_process(CONFIG, checkpoint, '--out', tmp_path / out, '-n', '5', '--steps', '2', '--launcher',
                             'pytorch', command=[sys.executable, ROOT / 'tools/sample.py'], ranks=count)
        printed = [process.communicate(timeout=120)[0] for process in ranks]
        assert [process.returncode for process in ranks] == [0] * count, printed
    one, two = (sorted((tmp_path / name).glob('*.png')) for name in ('one', 'two'))
    assert [p.name for p in one] == [p.name for p in two] and len(one) == 5
    for a, b in zip(one, two):
        assert np.abs(np.asarray(Image.open(a)).astype(int) - np.asarray(Image.open(b))).max() <= 1


def test_amp_trains_in_bf16(run_tool, tmp_path):
    run_tool('train.py', CONFIG, '--work-dir', tmp_path / 'run', '--amp', *SHORT)
    state = torch.load(tmp_path / 'run/iter_6.pth', weights_only=True)['state_dict']
    assert all(v.dtype == torch.float32 for v in state.values() if v.is_floating_point())


@pytest.mark.slow
def test_compile_trains(run_tool, tmp_path):
    run_tool('train.py', CONFIG, '--work-dir', tmp_path / 'run', '--compile', *SHORT, timeout=900)
    state = torch.load(tmp_path / 'run/iter_6.pth', weights_only=True)['state_dict']
    assert not any('_orig_mod' in name for name in state)
