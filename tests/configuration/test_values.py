import numbers
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Optional, Union

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from torch import nn

from slimdiff.arguments import plain
from slimdiff.configuration import ConfigError, check_config, load_config
from slimdiff.configuration.known import runner_keys
from slimdiff.configuration.values import arguments_of, in_words, misfit
from slimdiff.registry import HOOKS, MODELS

FITS = [
    (bool, True), (int, 3), (int, np.int64(3)), (float, 3), (float, 1e-3), (float, np.float32(1)), (str, 'a'),
    (float, float('nan')), (numbers.Number, 2.5), (Any, [1]), (object, 3), (int | None, None), (Optional[int], 3),  # noqa: UP045
    (Union[int, Sequence[int]], (1, 2)),  # noqa: UP007
    (Literal['a', 1], 1), (Sequence[int], [1, 2]), (Sequence[int], ()),
    (list[int], (1, 2)), (tuple[int, ...], [1, 2, 3]),
    (tuple[int], (1, 2)), (tuple[float, float], [0.9, 1]), (Sequence, ['a', 1]),
    (Mapping[str, Any], {'type': 3}), (dict, ConfigDict(a=1)), (Mapping[str, float], dict(a=1)), (Path, 'a/b'),
    (str | Path, Path('a')), (Callable[..., int], len), (Callable, dict(type='f')), (nn.Module, dict(type='UNet')),
    (nn.Module, nn.Identity()), (torch.dtype, 'bfloat16'), (Sequence[Mapping[str, Any]], [dict(a=[1])]),
    (float | torch.Tensor, 0.1), ('a name that nothing resolves', 3),
]
MISFITS = [
    (bool, 1, 'True or False'), (bool, 3.7, 'True or False'), (bool, 'yes', 'True or False'), (int, True, 'an integer'),
    (int, 3.0, 'an integer'), (int, 'ten', 'an integer'), (int, None, 'an integer'), (float, '1', 'a number'),
    (float, True, 'a number'), (float, np.bool_(True), 'a number'), (str, 2024, 'a string'), (str, None, 'a string'),
    (int | None, 'x', 'an integer or None'), (Literal['a', 1], True, "'a' or 1"), (Literal['a', 1], 'b', "'a' or 1"),
    (Sequence[int], 'abc', 'a list, each item an integer'), (Sequence[int], 3, 'a list, each item an integer'),
    (Sequence[int], dict(a=1), 'a list, each item an integer'), (Sequence[int], [1, 'x'], 'an integer'),
    (tuple[float, float], [0.9], 'a list of 2: a number, a number'), (Mapping[str, Any], [], 'a dict'),
    (Mapping[str, float], dict(a='b'), 'a number'), (Path, 3, 'a path'), (float | torch.Tensor, [4], 'a number'),
    (float | torch.Tensor, {}, 'a number'), (Callable[..., int], 'f', 'a dict (of a Callable)'),
    (nn.Module, 'x', 'a dict (of a Module)'), (nn.Module, [], 'a dict (of a Module)'),
]


@pytest.mark.parametrize('hint, value', FITS)
def test_what_fits(hint, value):
    assert misfit(value, hint) is None


@pytest.mark.parametrize('hint, value, wanted', MISFITS)
def test_what_does_not_fit(hint, value, wanted):
    found = misfit(value, hint)
    assert found is not None and found.wanted == wanted, found
    if not found.path:
        assert in_words(hint) == wanted


def test_the_place_within_a_value():
    assert misfit(dict(a=[1, dict(b='x')]), Mapping[str, Sequence[int | Mapping[str, int]]]).path == ('a', '1', 'b')


class Annotated(nn.Module):

    def __init__(self, channels: 'int', rate: float = None, *, names: 'Sequence[str]' = (), free=3,  # noqa: RUF013
                 module: 'NotImported' = None):  # noqa: F821 (as under TYPE_CHECKING)
        super().__init__()


class Bare(nn.Module):

    def __init__(self, channels, rate=0.1, **more):
        super().__init__()


def test_the_arguments_of_a_class():
    found = arguments_of(Annotated)
    assert found['channels'] == (int, True) and found['names'] == (Sequence[str], False)
    assert misfit(None, found['rate'].hint) is None and misfit('x', found['rate'].hint)  # None is its default
    assert found['free'].hint is Any and found['module'].hint is Any
    assert {argument.hint for argument in arguments_of(Bare).values()} == {Any}
    assert misfit('ten', arguments_of(torch.optim.AdamW)['lr'].hint).wanted == 'a number'


def test_a_user_s_classes():
    for cls in (Annotated, Bare):
        MODELS.register_module(name=f'{cls.__name__}OfATest', module=cls)
    try:
        check_config(dict(model=dict(type='BareOfATest', channels='any', rate=[], more=dict(a=dict(type='mine')))))
        check_config(dict(model=dict(type='AnnotatedOfATest', channels=2, free='x', module=3, rate=None)))
        for wrong, message in ((dict(channels='2'), "model.channels: must be an integer, got '2'"),
                               (dict(rate=1.0), "model: Annotated needs 'channels'"),
                               (dict(channels=2, names='ab'), 'model.names: must be a list, each item a string')):
            with pytest.raises(ConfigError, match=message):
                check_config(dict(model=dict(type='AnnotatedOfATest', **wrong)))
    finally:
        for cls in (Annotated, Bare):
            MODELS.module_dict.pop(f'{cls.__name__}OfATest')


WRONG = [
    ("resume = 'yes'", "resume: must be True or False, got 'yes'"),
    ("work_dir = 2024", "work_dir: must be a string or None, got 2024. A string needs quotes"),
    ("model = []", 'model: must be a dict or None, got'),
    ("train_cfg = dict(type='IterTrainLoop', max_iters=9, val_before_train=3.7)", 'train_cfg.val_before_train: must'),
    ("train_cfg = dict(type='IterTrainLoop')", "train_cfg: IterTrainLoop needs 'max_iters'"),
    ("default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=5000.5))",
     'default_hooks.checkpoint.interval: must be an integer, got 5000.5'),
    ('default_hooks = dict(emaa=None)', "default_hooks.emaa: there is no hook of this name.*mean 'ema'"),
    ('default_hooks = dict(checkpoint=[4])', 'default_hooks.checkpoint: must be a dict or None'),
    ('custom_hooks = [3]', 'custom_hooks.0: must be a dict'),
    ("optim_wrapper = dict(type='SlimOptimWrapper')", "SlimOptimWrapper needs 'optimizer'"),
    ("optim_wrapper = dict(optimizer=dict(type='AdamW', lr=dict()))", 'optim_wrapper.optimizer.lr: must be a number'),
    ("optim_wrapper = dict(optimizer=dict(type='AdamW'), clip_grad=dict(max_norm='x'))", 'clip_grad.max_norm: must be'),
    ("train_dataloader = dict(num_workers='ten')", "train_dataloader.num_workers: must be an integer, got 'ten'"),
    ("train_dataloader = dict(dataset=dict(type='PhotoPatches', photos='[brick]'))",
     'train_dataloader.dataset.photos: must be a list.*words in a list need quotes'),
    ("model = dict(type='DiffusionModel', unet=dict(type='SlimmableUNet', stages=[dict(channels=[8])]))",
     'model.unet.stages.0.channels: must be an integer, got'),
    ("model = dict(type='DiffusionModel', unet=dict(type='SlimmableUNet', stages=[dict(blocks=1)]))",
     "model.unet.stages.0: A stage needs 'channels'"),
    ("model = dict(type='DiffusionModel')", "model: DiffusionModel needs 'unet'"),
    ("model = dict(type='DiffusionModel', unet=dict(type='UNet', downsampler=dict(combine='sum')))",
     "model.unet.downsampler: needs a 'type'"),
    ("model = dict(type='DiffusionModel', unet=dict(type='UNet'), noise_scheduler=dict(type='DDPMScheduler', "
     "clip_sample='no'))", 'model.noise_scheduler.clip_sample: must be True or False'),
    ("search = dict(space=dict(num_segments='x'), searcher=dict(type='RandomSearch'))", 'search.space.num_segments'),
    ('param_scheduler = [3]', 'param_scheduler.0: must be a dict'),
    ("optim_wrapper = dict(optimizer=dict(type='SGD'))\nparam_scheduler = dict(gamma=1)", "needs a 'type', or must be"),
]


@pytest.mark.parametrize('text, message', WRONG)
def test_wrong_values(text, message, tmp_path):
    (tmp_path / 'config.py').write_text(text, encoding='utf-8')
    with pytest.raises(ConfigError, match=message) as caught:
        check_config(load_config(tmp_path / 'config.py'))
    assert len(caught.value.problems) == 1 and 'config.py' in str(caught.value), str(caught.value)


def test_what_a_base_names_can_be_switched_off(tmp_path):
    (tmp_path / 'base.py').write_text("default_hooks = dict(plots=dict(type='SpectrumPlotHook'))")
    (tmp_path / 'mine.py').write_text("_base_ = './base.py'\ndefault_hooks = dict(plots=None, checkpoint=None)")
    check_config(load_config(tmp_path / 'mine.py'))
    (tmp_path / 'mine.py').write_text("_base_ = './base.py'\ndefault_hooks = dict(plotz=None)")
    with pytest.raises(ConfigError, match="default_hooks.plotz: .*mean 'plots'"):
        check_config(load_config(tmp_path / 'mine.py'))


@pytest.mark.parametrize('schedule, moves', [
    ("dict(type='LinearLR')", False), ("dict(type='LinearLR', by_epoch=True)", False),
    ("dict(type='LinearLR', by_epoch=False)", True), ("dict(type='CosineAnnealingMomentum', T_max=9)", False),
    ("dict(type='StepLR', step_size=3, by_epoch=True, convert_to_iter_based=True)", True),
    ("dict(type='ReduceOnPlateauLR')", True)])
def test_schedules_that_would_never_move(schedule, moves, tmp_path):
    for text, place in ((f'[{schedule}]', 'param_scheduler.0'), (schedule, 'param_scheduler')):
        (tmp_path / 'c.py').write_text(f"train_cfg = dict(type='IterTrainLoop', max_iters=9)\nparam_scheduler = {text}")
        cfg = load_config(tmp_path / 'c.py')
        if moves:
            check_config(cfg)
            continue
        with pytest.raises(ConfigError, match=rf'{place}: counts epochs.*Add by_epoch=False'):
            check_config(cfg)
        cfg.train_cfg = dict(by_epoch=True, max_epochs=3)
        check_config(cfg)


# ---- all places of shipped configs --------------------------------------------------------------------------------

FUZZED = ('sd/photo_patches', 'ddsm/photo_patches_16px', 'sd/laion', 'lite_ldm/photo_patches_16px')
#: by the type of a value, what cannot stand in its place whatever the annotation
WRONG_TYPES = {bool: (3.7, 'yes', [8], {'a': 1}, None), int: ('ten', 5000.5, [4], {'a': 1}, True),
               float: ('ten', [4], {'a': 1}, True), str: (3.5, [7], False), list: (3.5, 'ten', {'a': 1}),
               dict: (3.5, 'ten', [7], [])}


def places(value, path=()):
    """Every (path, value) below a config's value, but for a teacher's checkpoint, which may also be a dict."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, item in items:
        if item is not None and (path or key in runner_keys()):  # else a variable: what uses it has its value by now
            yield (*path, key), item
            yield from places(item, (*path, key))


def mutated(config, rng):
    """A copy of a config with one mistake, and the key that it is in."""
    config = Config(plain(config._cfg_dict), filename=config.filename)
    path, value = rng.choice(list(places(config._cfg_dict)))
    node = config._cfg_dict
    for key in path[:-1]:
        if isinstance(node[key], tuple):
            node[key] = list(node[key])
        node = node[key]
    kind = list if isinstance(value, tuple) else next(kind for kind in WRONG_TYPES if isinstance(value, kind))
    if rng.random() < 0.15:
        hook = rng.choice([name for name in config.default_hooks if len(name) > 2])
        config.default_hooks[f'{hook}{hook[-1]}'] = None
        return config, f'default_hooks.{hook}{hook[-1]}', None
    if path[-1] == 'type' and path[0] not in ('optim_wrapper', 'model_wrapper_cfg', 'train_cfg') and rng.random() < 0.5:
        del node['type']
        return config, '.'.join(map(str, path[:-1])), 'no type'
    wrong = rng.choice(WRONG_TYPES[kind])
    node[path[-1]] = wrong
    return config, '.'.join(map(str, path)), wrong


@pytest.mark.parametrize('name', FUZZED)
def test_no_mistake_is_silent_or_a_traceback(name):
    """50 mistakes in each of four configs: each a ConfigError (any other error fails) that has the key's path."""
    config, rng = load_config(f'configs/{name}.py'), random.Random(name)
    check_config(config)
    for _ in range(50):
        wrong, path, value = mutated(config, rng)
        try:
            check_config(wrong)
        except ConfigError as error:
            assert path in str(error), (path, value, str(error))
        else:
            pytest.fail(f'{path} = {value!r} was accepted')


def test_every_hook_of_ours_has_annotations():
    """What the checker can't see, it can't check: slimdiff's own classes are annotated throughout."""
    for registry in (HOOKS, MODELS):
        registry.import_from_location()
        for name, cls in registry.module_dict.items():
            if cls.__module__.startswith('slimdiff.'):
                bare = [key for key, argument in arguments_of(cls).items() if argument.hint is Any]
                assert not bare, (name, bare)
