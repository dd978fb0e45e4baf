"""Every shipped config: its names resolve, its parts build, it trains a step, and it survives dump and reload."""

import functools
import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from slimdiff.arguments import plain
from slimdiff.checkpoint import find_path
from slimdiff.configuration import check_config, load_config
from slimdiff.configuration.errors import config_files
from slimdiff.models.serving import serving_config
from slimdiff.registry import DATASETS, METRICS, MODELS

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts)
FULL_SIZE = [path for path in CONFIGS if 'photo_patches' not in path and 'fashion_mnist' not in path]


def test_there_are_configs():
    assert {'configs/sd/photo_patches.py', 'configs/lite_ldm/photo_patches.py'} <= set(CONFIGS)
    tables = {f'configs/sd/{name}{layout}.py' for layout in ('', '_ldm-layout')
              for name in ('ffhq', 'celebahq', 'lsun_bedroom', 'lsun_church', 'imagenet', 'laion')}
    assert tables <= set(FULL_SIZE)
    assert {f'configs/ldm/{name}.py' for name in ('ffhq', 'celebahq', 'lsun_bedroom', 'lsun_church', 'imagenet',
                                                  'txt2img')} <= set(FULL_SIZE)


def test_a_base_file_has_at_most_one_level_beneath_it():
    for path in (ROOT / 'configs/_base_').rglob('*.py'):
        for below in config_files(path)[1:]:
            assert config_files(below) == [below], f'{path} -> {below} -> {config_files(below)[1:]}'


def test_a_full_size_network_is_written_once():
    """A list of stages stands in one config or, where several have it, in a file of _base_."""
    found = {}
    for path in [*FULL_SIZE, *(ROOT / 'configs/_base_/models').glob('*.py')]:
        for stages in re.findall(r'stages=\[.*?\]', (ROOT / path).read_text(), re.S):
            found.setdefault(re.sub(r'#.*|\s', '', stages), []).append(str(path))
    assert len(found) >= 12 and {len(paths) for paths in found.values()} == {1}, found


def shrink(model):
    """The same network with few channels, on small latents of a first stage without a file."""
    unet = model.unet
    model.pop('start_from', None)
    if unet.get('layers'):
        unet.update(num_attention_heads=4, attention_head_dim=4, layers=[min(n, 4) for n in unet.layers])
    else:
        shrink_stages(unet)
    if unet.get('widths'):  # a quarter of so few channels is not always whole
        unet.widths = (0.5, 1.0)
        model.num_random = 0
    unet.sample_size = 32  # which five stages of the paper's tables bring down to one pixel
    if unet.get('context_channels'):
        unet.context_channels = 8
    if model.get('num_classes'):
        model.num_classes = 5
    if model.get('conditioner'):
        model.conditioner = dict(type='RandomText', channels=8)
    levels = {'VQAutoencoder': 3, 'KLAutoencoder': 4}.get(model.get('autoencoder', {}).get('type'))
    if levels is None:  # in pixels
        return
    model.autoencoder = dict(type=model.autoencoder.type, latent_scale=0.5, architecture=dict(
        block_out_channels=[8] * levels, layers_per_block=1, norm_num_groups=4))


def shrink_stages(unet):
    narrowest = min(stage.channels for stage in unet.stages)
    for stage in unet.stages:
        stage.channels = 8 * round(2 * stage.channels / narrowest) // 2
        if stage.get('heads'):
            stage.heads = 2
    if unet.get('mid_heads'):
        unet.mid_heads = 2
    unet.norm_groups = 4


@functools.cache
def load(path):
    cfg = load_config(str(ROOT / path))
    if path in FULL_SIZE:
        shrink(cfg.model)
    return cfg


@pytest.fixture(params=CONFIGS)
def config(request):
    return load(request.param).copy()


@functools.cache
def models_seen(name):
    """The models that the test of this name has seen."""
    return set()


@pytest.fixture(params=CONFIGS)
def model_config(request, tmp_path):
    """The model of a config; None for one that differs from an earlier one only in the files that are not here."""
    cfg = load(request.param).model.copy()
    theirs = None
    if cfg.type in ('Distiller', 'SlimmableDistiller') and find_path(cfg.teacher.checkpoint) is None:
        # A teacher that is not in the repository, but at a user's: one of its settings with random weights.
        theirs = load(cfg.teacher.config).model.copy() if cfg.teacher.get('config') else serving_config(cfg)
        cfg.teacher = {'conditioner': cfg.conditioner} if cfg.teacher.get('conditioner') else {}
    digest = json.dumps(plain([cfg, theirs]), sort_keys=True, default=str)
    seen = models_seen(request.function.__name__)
    if digest in seen:
        return None
    seen.add(digest)
    if theirs is not None:
        cfg.teacher.checkpoint = make_teacher(theirs, tmp_path / 'teacher')
    return cfg


def make_teacher(config, folder):
    model = MODELS.build(config)
    model.unet.save_pretrained(folder / 'unet')
    model.noise_scheduler.save_pretrained(folder / 'scheduler')
    return str(folder)


def test_every_name_and_argument_resolves(config):
    check_config(config)


def test_dump_and_reload_gives_the_same(config, tmp_path):
    config.dump(tmp_path / 'dumped.py')
    again = Config.fromfile(tmp_path / 'dumped.py')
    assert again.to_dict() == config.to_dict()


def test_it_trains_a_step_and_samples(model_config):
    if model_config is None:
        return
    torch.manual_seed(0)
    model = MODELS.build(model_config)
    images = torch.randn(2, *model.image_shape).clamp(-1, 1)
    labels = torch.tensor([0, 1]) if model.num_classes else None
    trained = {f'{name}.{key}': parameter for name, module in model.trained_modules().items()
               for key, parameter in module.named_parameters()}
    for parameter in trained.values():  # zero-initialised layers would let no gradient through
        torch.nn.init.normal_(parameter, std=0.1)
    model(images, labels, caption=['one', 'two'] if model.conditioner else None)['loss'].backward()
    dead = [k for k, p in trained.items() if not torch.isfinite(p.grad).all() or not p.grad.any()]
    assert not dead, f'no gradient reaches {dead}'
    out = model.sample([0, 1], num_steps=2)
    assert out.shape == images.shape and torch.isfinite(out).all()


def test_state_dict_reloads_strictly(model_config):
    if model_config is None:
        return
    first, second = MODELS.build(model_config), MODELS.build(model_config)
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
    for kind in ('conv_linear_macs', 'macs_with_attention'):
        sd, lite = (getattr(cost, kind) for cost in costs)
        assert abs(sd / lite - 1) <= 0.03, (kind, sd, lite)


#: batch on a GPU, GPUs, iterations, rate, guidance: tables 2 and 3 of the supplement
TABLES_2_AND_3 = dict(ffhq=(32, 8, 150_000, 5.12e-4, 1.0), celebahq=(32, 8, 150_000, 5.12e-4, 1.0),
                      lsun_bedroom=(32, 8, 150_000, 5.12e-4, 1.0), lsun_church=(64, 8, 150_000, 5.12e-4, 1.0),
                      imagenet=(32, 8, 300_000, 5.12e-4, 3.0), laion=(64, 32, 300_000, 4.096e-3, 2.0))


@pytest.mark.parametrize('layout', ['', '_ldm-layout'])
@pytest.mark.parametrize('name', TABLES_2_AND_3)
def test_hyperparameters_are_those_of_the_tables(name, layout):
    cfg = load_config(str(ROOT / f'configs/sd/{name}{layout}.py'))
    batch, gpus, iterations, rate, guidance = TABLES_2_AND_3[name]
    assert cfg.train_dataloader.batch_size == batch and cfg.auto_scale_lr.base_batch_size == batch * gpus
    assert cfg.train_cfg.max_iters == iterations and cfg.optim_wrapper.optimizer.lr == rate
    assert cfg.model.get('guidance_scale', 1.0) == guidance
    warmup, decay = cfg.param_scheduler
    assert (warmup.begin, warmup.end) == (0, 1000) and (decay.begin, decay.end) == (1000, iterations)
    assert decay.end_factor == 0.0
    assert {(loss.type, *loss.tap, loss.weight) for loss in cfg.model.losses} == {
        ('SpatialLoss', 'output', 'up1', 0.1), ('SpectralLoss', 'output', 'up1', 0.1)}


TEACHER = pytest.mark.slow  # a forward pass of 100 G MACs, and 1.6 GB of weights


@pytest.mark.parametrize('path, millions, giga', [
    pytest.param('ldm/ffhq', 274.1, 96.1, marks=TEACHER), pytest.param('ldm/celebahq', 274.1, 96.1, marks=TEACHER),
    pytest.param('ldm/lsun_bedroom', 274.1, 96.1, marks=TEACHER),
    pytest.param('ldm/lsun_church', 295.0, 18.7, marks=TEACHER),
    pytest.param('ldm/imagenet', 400.9, 99.8, marks=TEACHER),
    ('sd/ffhq_ldm-layout', 21.1, 6.7), ('sd/celebahq_ldm-layout', 21.1, 6.7), ('sd/lsun_bedroom_ldm-layout', 21.1, 6.7),
    ('sd/imagenet_ldm-layout', 45.4, 9.9)])
def test_published_counts_to_the_printed_digit(path, millions, giga):
    from slimdiff.evaluation.cost import count_cost
    from slimdiff.evaluation.unet_cost import unet_inputs
    model = load_config(str(ROOT / f'configs/{path}.py')).model
    unet = MODELS.build({**model.unet, 'num_classes': model.get('num_classes')})
    inputs, kwargs = unet_inputs(unet)
    cost = count_cost(unet, *inputs, **kwargs)
    tokens = unet.class_embedding.weight.numel() if unet.class_embedding is not None else 0  # LDM counts them apart
    assert round((cost.params - tokens) / 1e6, 1) == millions
    assert round(cost.ptflops / 1e9, 1) == giga


def test_the_base_lists_all_hooks_of_a_run():
    from slimdiff.configuration.known import DEFAULT_HOOKS
    listed = load_config(ROOT / 'configs/_base_/default_runtime.py').default_hooks
    assert list(listed)[:len(DEFAULT_HOOKS)] == list(DEFAULT_HOOKS)  # the order in which they are registered
    assert all(listed[name].type == hook['type'] for name, hook in DEFAULT_HOOKS.items())
