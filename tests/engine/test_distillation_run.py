"""A distillation through the runner: checkpoints without the teacher, resume bit for bit, two processes."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import tiny_run
import torch

from slimdiff.checkpoint import load_checkpoint, load_weights
from slimdiff.engine import WorkDirError
from slimdiff.engine.hooks import NonFiniteError
from slimdiff.models import UNet
from slimdiff.models.serving import serving_config
from slimdiff.registry import DATASETS, MODELS

if not DATASETS.module_dict.get('TinyPictures'):

    @DATASETS.register_module()
    class TinyPictures(torch.utils.data.Dataset):
        epoch_indexing = True
        metainfo = dict(classes=('a', 'b'))

        def __len__(self):
            return 24

        def __getitem__(self, k):
            generator = torch.Generator().manual_seed(k)
            return dict(inputs=torch.rand(3, 8, 8, generator=generator) * 2 - 1, labels=torch.tensor(k % 2))


def unet(channels):
    stages = [dict(channels=channels, blocks=1), dict(channels=2 * channels, blocks=1, downsample=False)]
    return dict(type='UNet', sample_size=8, stages=stages, norm_groups=4)


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp('teacher')
    torch.manual_seed(1)
    network = UNet(**{k: v for k, v in unet(16).items() if k != 'type'}, num_classes=2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    network.save_pretrained(folder)
    return str(folder)


def changes(teacher, **more):
    model = dict(_delete_=True, type='Distiller', unet=unet(8), num_classes=2, num_steps=2,
                 teacher=dict(checkpoint=teacher, micro_batch=3),
                 losses=[dict(type='SpatialLoss', tap=['output', 'up1'], relative=True),
                         dict(type='SpectralLoss', tap=['output', 'mid'])])
    return {'model': model, 'train_dataloader.dataset': dict(_delete_=True, type='TinyPictures'),
            'default_hooks.checkpoint.interval': 1, 'default_hooks.log.interval': 1, 'max_iters': 3, **more}


def run(folder, teacher, **more):
    torch.manual_seed(0)
    options = {key.replace('.', '__'): value for key, value in changes(teacher, **more).items()}
    runner = tiny_run.build(folder, **options)
    runner.train()
    return runner


@pytest.fixture(scope='module')
def whole(tmp_path_factory, teacher):
    folder = tmp_path_factory.mktemp('whole')
    run(folder, teacher)
    return folder


def test_checkpoint_and_log_hold_student_and_projections_alone(whole):
    data = load_checkpoint(whole / 'iter_3.pth')
    for state in (data['state_dict'], data['ema']['state_dict']):
        assert {name.split('.')[0] for name in state} == {'unet', 'projections'}
        assert state['projections.up1.weight'].shape == (16, 8, 1, 1)
    student = MODELS.build(serving_config(data['meta']['config']['model']))
    load_weights(student, whole / 'iter_3.pth')
    torch.testing.assert_close(student.unet.stem.weight, data['ema']['state_dict']['unet.network.stem.weight'])
    count = len(student.unet.state_dict()) + 2
    assert len(data['state_dict']) == len(data['ema']['state_dict']) == count
    [file] = whole.glob('*/vis_data/*_*.json')
    terms = ('denoising', 'spatial_output', 'spatial_up1', 'spectral_output', 'spectral_mid')
    for line in file.read_text().splitlines():
        logged = json.loads(line)
        assert logged['train/loss'] == pytest.approx(sum(logged[f'train/{term}'] for term in terms), rel=1e-5)


def test_projections_are_trained_and_averaged(whole):
    first, last = (load_checkpoint(whole / f'iter_{i}.pth') for i in (1, 3))
    name = 'projections.mid.weight'
    assert not torch.equal(first['state_dict'][name], last['state_dict'][name])
    assert not torch.equal(last['ema']['state_dict'][name], last['state_dict'][name])


def test_resume_bit_for_bit(tmp_path, teacher, whole):
    (tmp_path / 'iter_1.pth').write_bytes((whole / 'iter_1.pth').read_bytes())
    run(tmp_path, teacher, resume=True)
    a, b = (load_checkpoint(folder / 'iter_3.pth') for folder in (whole, tmp_path))
    for key in ('state_dict', 'optimizer', 'ema', 'param_schedulers', 'log'):
        tiny_run.same(a[key], b[key], key)


def test_another_teacher_at_the_same_path_is_not_gone_on_with(tmp_path, teacher, whole):
    shutil.copytree(teacher, tmp_path / 'teacher')
    run(tmp_path / 'run', str(tmp_path / 'teacher'), max_iters=1)
    network = UNet.from_pretrained(tmp_path / 'teacher', low_cpu_mem_usage=False)
    torch.nn.init.zeros_(network.conv_out.bias)
    network.save_pretrained(tmp_path / 'teacher')
    with pytest.raises(WorkDirError, match=r"other values of\n    weights of model\.teacher: '\w+' -> '\w+'\n"):
        run(tmp_path / 'run', str(tmp_path / 'teacher'), resume=True)
    # On purpose, it can be.
    named = run(tmp_path / 'run', str(tmp_path / 'teacher'), resume=True, load_from=str(tmp_path / 'run/iter_1.pth'))
    assert named.iter == 3


def test_nan_in_a_batch_is_reported_as_the_batchs(tmp_path, teacher, monkeypatch):
    # Past the images that are looked at before training.
    picture = TinyPictures.__getitem__
    monkeypatch.setattr(TinyPictures, '__getitem__', lambda self, k: {
        **picture(self, k), **({'inputs': torch.full((3, 8, 8), float('nan'))} if k == 2 else {})})
    with pytest.raises(NonFiniteError, match=r'The input batch itself holds NaN or infinity: inputs \(sample'):
        run(tmp_path, teacher)


def test_two_ranks_are_one_with_the_doubled_batch(tmp_path, teacher, tiny_process):
    """Ranks with 3 + 3 samples; the projections are averaged over the ranks like the rest."""
    ranks = tiny_process(tmp_path / 'two', teacher, command=[sys.executable, __file__], ranks=2)
    printed = [process.communicate(timeout=120)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], printed
    run(tmp_path / 'one', teacher, **{'train_dataloader.batch_size': 6})
    one = [float.fromhex(x) for x in tiny_run.trace(tmp_path / 'one').values()]
    two = [[float.fromhex(x) for x in tiny_run.trace(tmp_path / 'two', rank).values()] for rank in (0, 1)]
    torch.testing.assert_close(torch.tensor(two).mean(0), torch.tensor(one), rtol=1e-4, atol=1e-5)
    a, b = (load_checkpoint(tmp_path / name / 'iter_3.pth')['state_dict'] for name in ('one', 'two'))
    assert a.keys() == b.keys()
    for name, value in a.items():
        # Adam divides by the gradient's own size: where that is rounding, so is the step.
        assert (b[name] - value).norm() <= 2e-3 * value.norm() + 1e-4, name


if __name__ == '__main__':  # a rank of the test above
    sys.path.insert(0, str(Path(__file__).parent))
    torch.set_num_threads(1)
    run(sys.argv[1], sys.argv[2], launcher='pytorch', **{'train_dataloader.batch_size': 3})
