"""Many runs at once: equal arms are equal, arms of a seed share their data, weights are averaged; and the table."""

import importlib.util
from pathlib import Path

import pytest
import torch
from idx_files import write_idx
from mmengine.config import Config

from slimdiff.registry import MODELS

ROOT = Path(__file__).resolve().parents[2]


def study(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f'studies/{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def cfg(tmp_path_factory):
    folder = tmp_path_factory.mktemp('idx')
    write_idx(folder, count=20)
    return Config(dict(
        model=dict(type='DiffusionModel', num_classes=10, unet=dict(
            type='UNet', sample_size=32, in_channels=1, out_channels=1, norm_groups=2,
            stages=[dict(channels=4, blocks=1), dict(channels=4, downsample=False)])),
        train_dataloader=dict(batch_size=8, dataset=dict(type='FashionMNIST', data_root=str(folder), split='train',
                                                         image_size=32)),
        train_cfg=dict(max_iters=100),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01, fused=True), clip_grad=dict(max_norm=1.0)),
        param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=10),
                         dict(type='LinearLR', start_factor=1.0, end_factor=0.2, by_epoch=False, begin=20, end=100)],
        default_hooks=dict(ema=dict(decay=0.9))))


def test_the_schedule_is_stretched(cfg):
    rates = study('together').learning_rates(cfg, 200)
    expected = [0.01 * (0.1 + 0.9 * min(i / 20, 1)) * (1 - 0.8 * min(max(i - 40, 0) / 160, 1)) for i in range(200)]
    assert rates == pytest.approx(expected)


def test_arms_of_a_seed_are_paired_and_averaged(cfg):
    together = study('together')
    arms, log = together.train({'a': cfg, 'b': cfg}, {'a': [0, 1], 'b': [0]}, 3, torch.device('cpu'))
    by_name = {(arm.name, arm.seed): arm for arm in arms}
    a, b, other = by_name['a', 0], by_name['b', 0], by_name['a', 1]
    assert log['runs'] == 3 and log['iterations'] == 3
    assert a.loss == b.loss and a.loss != other.loss
    for left, right in zip(a.network.parameters(), b.network.parameters()):
        assert torch.equal(left, right)

    # By hand: three steps of the same optimizer, and the average of the weights after each.
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    averaged = [p.detach().clone() for p in model.unet.parameters()]
    group = together.Group([together.Arm('c', cfg, 0, torch.device('cpu'), [0.0] * 3)],
                           *together.read_images(cfg, torch.device('cpu')), 8, 3, 0)
    for i, rate in enumerate(together.learning_rates(cfg, 3)):
        optimizer.param_groups[0]['lr'] = rate
        group.prepare(i)
        model.draw = lambda batch, shape: (group.t[0], group.noise[0], group.drop[0])
        optimizer.zero_grad()
        model(group.inputs, group.labels)['loss'].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        averaged = [0.9 * old + 0.1 * new.detach() for old, new in zip(averaged, model.unet.parameters())]
    for found, expected in zip(a.network.parameters(), averaged):
        torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-6)


def test_the_table_pairs_by_seed():
    rows = {f'{arm}/{seed}': {'fd_efficientnet_64': fd, 'class_accuracy': 0.5, 'spectrum/log/top_signed': -0.1}
            for arm, values in {'Lite': (10., 20., 30.), 'SD': (8., 19., 27.)}.items()
            for seed, fd in enumerate(values)}
    lines = study('compare_networks').table(rows).splitlines()
    # Differences -2, -1, -3: mean -2, standard deviation 1, t = -2 sqrt(3), p of Student's t with two degrees = 0.0742.
    assert lines[2].startswith('| Lite | 3 | 20 ± 10 |  |')
    assert lines[3].startswith('| SD | 3 | 18 ± 10 | -2 (p = 0.074) |')
