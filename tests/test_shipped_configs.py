"""Every shipped config: its names resolve, its parts build, it trains a step, and it survives dump and reload."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from slimdiff.checkpoint import find_path
from slimdiff.configuration import check_config, load_config
from slimdiff.models.serving import serving_config
from slimdiff.registry import DATASETS, METRICS, MODELS

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts)


def test_there_are_configs():
    assert {'configs/sd/photo_patches.py', 'configs/lite_ldm/photo_patches.py'} <= set(CONFIGS)


@pytest.fixture(params=CONFIGS)
def config(request, tmp_path):
    cfg = load_config(str(ROOT / request.param))
    if cfg.model.type == 'Distiller' and find_path(cfg.model.teacher.checkpoint) is None:
        # A teacher that is not in the repository, but at a user's: one of its settings with random weights.
        cfg.model.teacher = dict(checkpoint=make_teacher(cfg, tmp_path / 'teacher'))
    return cfg


def make_teacher(cfg, folder):
    model = MODELS.build(serving_config(cfg.model))
    model.unet.save_pretrained(folder / 'unet')
    model.noise_scheduler.save_pretrained(folder / 'scheduler')
    return str(folder)


def test_every_name_and_argument_resolves(config):
    check_config(config)


def test_dump_and_reload_gives_the_same(config, tmp_path):
    config.dump(tmp_path / 'dumped.py')
    again = Config.fromfile(tmp_path / 'dumped.py')
    assert again.to_dict() == config.to_dict()


def test_it_trains_a_step_and_samples(config):
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    images = torch.randn(2, *model.image_shape).clamp(-1, 1)
    labels = torch.tensor([0, 1]) if model.num_classes else None
    trained = {f'{name}.{key}': parameter for name, module in model.trained_modules().items()
               for key, parameter in module.named_parameters()}
    for parameter in trained.values():  # zero-initialised layers would let no gradient through
        torch.nn.init.normal_(parameter, std=0.1)
    model(images, labels)['loss'].backward()
    dead = [k for k, p in trained.items() if not torch.isfinite(p.grad).all() or not p.grad.any()]
    assert not dead, f'no gradient reaches {dead}'
    out = model.sample([0, 1], num_steps=2)
    assert out.shape == images.shape and torch.isfinite(out).all()


def test_state_dict_reloads_strictly(config):
    first, second = MODELS.build(config.model), MODELS.build(config.model)
    second.load_state_dict(first.state_dict(), strict=True)
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values()):
        assert torch.equal(a, b), name


def test_datasets_and_metrics_build(config):
    if config.train_dataloader.dataset.type == 'PhotoPatches':
        for loader in (config.train_dataloader, config.val_dataloader):
            item = DATASETS.build(loader.dataset)[0]
            assert item['inputs'].shape[-1] == config.model.unet.sample_size
            assert 0 <= int(item['labels']) < config.model.num_classes
    for metric in config.val_evaluator:
        METRICS.build(metric)


def test_the_photo_patches_pair_has_the_same_macs_within_3_percent():
    from slimdiff.evaluation.cost import count_cost
    costs = []
    for path in ('configs/sd/photo_patches.py', 'configs/lite_ldm/photo_patches.py'):
        unet = MODELS.build(load_config(str(ROOT / path)).model).unet
        costs.append(count_cost(unet, torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long)))
    for kind in ('published', 'with_attention'):
        sd, lite = (getattr(cost, kind) for cost in costs)
        assert abs(sd / lite - 1) <= 0.03, (kind, sd, lite)
