"""What a Runner's config may hold: its keys, and the registry that each place is built from."""

from __future__ import annotations

import ast
import functools
import importlib
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import mmengine
import mmengine.registry
from mmengine.registry import Registry

import slimdiff.registry
from slimdiff.configuration.values import Argument, arguments_of

Dict = Mapping[str, Any]

#: hooks of a run whose config lists none (configs/_base_/default_runtime.py lists all); ``default_hooks`` changes or
#: removes (``name=None``) them by name
DEFAULT_HOOKS = dict(
    guard=dict(type='NonFiniteGuardHook'),
    speed=dict(type='SpeedHook'),
    log=dict(type='TrainLogHook'),
    progress=dict(type='ProgressHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook'))

# Keys that the Runner takes from `cfg` itself, beside the arguments of its constructor, and what these take; then
# those of its constructor whose annotations there say too little.
EXTRA_TOP_KEYS = {
    'activation_checkpointing': Any, 'compile': bool | Dict | None, 'custom_imports': Dict | None,
    'efficient_conv_bn_eval': Any, 'find_unused_parameters': bool, 'model_wrapper_cfg': Dict | None,
    'overwrite': bool,
    'runner_type': str, 'search': Dict | None,
    'strategy': Any, 'sync_bn': str | None, 'trust_config': bool, '_base_': Any, '_scope_': str | None,
}
TOP_KEYS = {
    'auto_scale_lr': Dict | None, 'custom_hooks': Sequence[Dict] | None,
    'default_hooks': Mapping[str, Dict | None] | None,
    'log_level': int | Literal['DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL'],
    'param_scheduler': Dict | Sequence[Dict] | None,
    'val_evaluator': Dict | Sequence[Dict] | None, 'test_evaluator': Dict | Sequence[Dict] | None,
    'work_dir': str | None, 'model': Dict | None,
}

# A place in the config -> the kinds of registry that it is built from. '*' stands for one key or list index.
PLACES = {
    'model': ('model', ),
    'data_preprocessor': ('model', ),
    'model_wrapper_cfg': ('model_wrapper', ),
    'optim_wrapper': ('optim_wrapper', ),
    'optim_wrapper.optimizer': ('optimizer', ),
    'optim_wrapper.constructor': ('optimizer wrapper constructor', ),
    'param_scheduler': ('parameter scheduler', ),
    'param_scheduler.*': ('parameter scheduler', ),
    'default_hooks.*': ('hook', ),
    'custom_hooks.*': ('hook', ),
    'visualizer': ('visualizer', ),
    'visualizer.vis_backends.*': ('vis_backend', ),
    'log_processor': ('log_processor', ),
    'search.searcher': ('searcher', ),
    'search.evaluators.*': ('step evaluator', ),
    'search.sampler': ('scheduler', ),
}
for _phase in ('train', 'val', 'test'):
    PLACES[f'{_phase}_cfg'] = ('loop', )
    PLACES[f'{_phase}_dataloader.dataset'] = ('dataset', )
    PLACES[f'{_phase}_dataloader.sampler'] = ('data sampler', )
    PLACES[f'{_phase}_dataloader.batch_sampler'] = ('data sampler', )
    PLACES[f'{_phase}_dataloader.collate_fn'] = ('function', )
    PLACES[f'{_phase}_dataloader.worker_init_fn'] = ('function', )
    PLACES[f'{_phase}_evaluator'] = ('evaluator', 'metric')
    PLACES[f'{_phase}_evaluator.*'] = ('evaluator', 'metric')
    PLACES[f'{_phase}_evaluator.metrics.*'] = ('metric', )

# Arguments of slimdiff's own classes -> the kind of registry that they are built from.
ARGUMENTS = {
    'autoencoder': 'model', 'dataset': 'dataset', 'datasets': 'dataset', 'downsampler': 'resampler',
    'extractor': 'extractor', 'loss_weight': 'loss', 'losses': 'loss', 'metric': 'metric', 'metrics': 'metric',
    'noise_scheduler': 'scheduler', 'pipeline': 'transform', 'sampler': 'scheduler', 'scheduler': 'scheduler',
    'source': 'dataset', 'transforms': 'transform', 'unet': 'model', 'upsampler': 'resampler',
}

# Hooks of configs/_base_/default_runtime.py: a config over it, and its copy in a work dir, may switch them off.
RUNTIME_HOOKS = {'ema', 'samples', 'spectra', 'report'}

# Dicts without a `type` that are read key by key: what each key takes.
PLAIN_DICTS = {
    'env_cfg': {'cudnn_benchmark': bool, 'mp_cfg': Dict | None, 'dist_cfg': Dict | None, 'resource_limit': int},
    'env_cfg.mp_cfg': {'mp_start_method': str | None, 'opencv_num_threads': int | None},
    'env_cfg.dist_cfg': {'backend': str, 'timeout': int | None, 'init_backend': str, 'port': int | str,
                         'init_method': str, 'world_size': int, 'rank': int, 'device_id': Any, 'pg_options': Any},
    'randomness': {'seed': int | None, 'diff_rank_seed': bool, 'deterministic': bool},
    'auto_scale_lr': {'base_batch_size': int, 'enable': bool},
    'optim_wrapper.clip_grad': {'type': Literal['norm', 'value'], 'max_norm': float, 'norm_type': float | str,
                                'error_if_nonfinite': bool, 'foreach': bool | None, 'clip_value': float},
    'search': {'space': Dict, 'evaluators': Sequence[Dict], 'searcher': Dict, 'sampler': Dict | None,
               'num_steps': int | None, 'latency': bool | Dict | None, 'budget': Dict | None, 'compare': int,
               'chunk': int, 'cache': str | None},
    'search.space': {'widths': Sequence[float], 'depths': Sequence[float], 'num_segments': int, 'reuse': Sequence[str],
                     'cells': int | None, 'levels': int | None},
    'search.budget': {'fraction': float, 'macs': float, 'latency': float},
    'search.latency': {'batch_size': int, 'rounds': int},
}

# Places whose dict may leave the `type` out -> the types that are built then.
DEFAULT_TYPES = {
    'optim_wrapper': ('OptimWrapper', ),
    'log_processor': ('LogProcessor', ),
    'model_wrapper_cfg': ('MMDistributedDataParallel', ),
    'train_cfg': ('EpochBasedTrainLoop', 'IterBasedTrainLoop'),
    'val_cfg': ('ValLoop', ),
    'test_cfg': ('TestLoop', ),
    'val_evaluator': ('Evaluator', ),
    'test_evaluator': ('Evaluator', ),
}

# Places where a dict is of no use without a `type`.
NEED_TYPE = ('model', 'data_preprocessor', 'visualizer', 'visualizer.vis_backends.*', 'optim_wrapper.optimizer',
             'param_scheduler.*', 'default_hooks.*', 'custom_hooks.*', 'search.searcher', 'search.evaluators.*',
             'search.sampler', *(place for place in PLACES if '_dataloader.' in place or '_evaluator.' in place))

# Arguments that the builder of a kind of registry gives itself: a config need not have them.
SUPPLIED = {
    'data sampler': {'dataset', 'sampler', 'batch_size', 'seed'},
    'loop': {'runner', 'dataloader', 'evaluator'},
    'model_wrapper': {'module'},
    'optimizer': {'params'},
    'parameter scheduler': {'optimizer', 'param_name'},
    'resampler': {'channels'},
    'vis_backend': {'save_dir'},
}
# Kinds whose classes get arguments that only their builders know.
SUPPLIED_ANYTHING = ('function', 'optimizer wrapper constructor', 'weight initializer')

# Keys that the builder of a kind of registry takes out before it calls the class.
BUILDER_KEYS = {
    'hook': {'priority'},
    'parameter scheduler': {'convert_to_iter_based', 'epoch_length'},
    'optim_wrapper': {'constructor', 'paramwise_cfg'},
    'scheduler': {'eta'},
}


@functools.cache
def registries() -> dict[str, list[Registry]]:
    """Kind ('model', 'hook', ...) -> the registries of slimdiff and of mmengine of that kind, ours first, filled."""
    for module in ('runner', 'hooks', 'optim', 'dataset', 'visualization', 'evaluator', 'model'):
        importlib.import_module(f'mmengine.{module}')
    importlib.import_module('mmcv.transforms')
    found: dict[str, list[Registry]] = {}
    for home in (slimdiff.registry, mmengine.registry):
        for registry in vars(home).values():
            if isinstance(registry, Registry) and registry not in found.setdefault(registry.name, []):
                registry.import_from_location()
                found[registry.name].append(registry)
    for same_kind in found.values():
        same_kind.sort(key=lambda registry: registry.scope != 'slimdiff')
    return found


def kind_names(kinds: tuple[str, ...], scope: str | None = None, only: str | None = None) -> Mapping[str, Callable]:
    """Every name that the registries of these kinds resolve (those of another default scope too); ours first.

    Args:
        scope: the config's default scope.
        only: look in the registries of this scope alone, as ``mmengine.CheckpointHook`` does.
    """
    sources = []
    for kind in kinds:
        for registry in registries().get(kind, []):
            for source in (registry, registry.children.get(scope)):
                if source is not None and only in (None, source.scope):
                    sources.append(source.module_dict)
    return ChainMap(*sources)  # no copy: a class may be imported when it is asked for


@functools.cache
def default_hook_names() -> set[str]:
    """Names under ``default_hooks`` that mean something: those of mmengine's Runner and of ours."""
    return {'runtime_info', 'timer', 'sampler_seed', 'logger', *DEFAULT_HOOKS}


def _stage() -> Callable:
    from slimdiff.models.backbones.unet.stages import Stage
    return Stage


def _sampling() -> Callable:
    from slimdiff.models.algorithms.diffusion_model import DiffusionModel
    return DiffusionModel.sample


def _teacher() -> Callable:
    from slimdiff.models.distillation import Teacher
    return Teacher


def _architecture(name: str) -> Callable:
    from slimdiff.models import autoencoders
    return getattr(autoencoders, name).find_network_class()


# Arguments of slimdiff's classes that are dicts (or lists of dicts) without a `type` -> what these are, what takes
# them, and which of its arguments are not the config's.
UNTYPED_ARGUMENTS = {
    ('UNet', 'stages'): ('A stage', _stage, ()),
    ('SlimmableUNet', 'stages'): ('A stage', _stage, ()),
    ('Distiller', 'teacher'): ('teacher', _teacher, ()),
    ('SlimmableDistiller', 'teacher'): ('teacher', _teacher, ()),
    ('EvaluationLoop', 'sampling'): ('sampling', _sampling, ('self', 'indices', 'seed', 'on_step')),
    ('VQAutoencoder', 'architecture'): ('architecture', functools.partial(_architecture, 'VQAutoencoder'), ()),
    ('KLAutoencoder', 'architecture'): ('architecture', functools.partial(_architecture, 'KLAutoencoder'), ()),
}


@functools.cache
def dataloader_keys() -> dict[str, Argument]:
    """The keys of a dataloader's config."""
    from torch.utils.data import DataLoader
    built = {'dataset': Dict, 'sampler': Dict | None, 'batch_sampler': Dict | None, 'num_batch_per_epoch': int | None}
    keys = {name: Argument(argument.hint) for name, argument in arguments_of(DataLoader).items()}
    return keys | {name: Argument(hint) for name, hint in built.items()}


@functools.cache
def runner_key_names() -> frozenset[str]:
    """The names of :func:`runner_keys`, from the source of mmengine's Runner: to import it takes seconds."""
    source = (Path(mmengine.__file__).parent / 'runner/runner.py').read_text(encoding='utf-8')
    runner = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == 'Runner')
    init = next(node for node in runner.body if isinstance(node, ast.FunctionDef) and node.name == '__init__')
    names = {argument.arg for argument in (*init.args.args, *init.args.kwonlyargs)}
    return frozenset(names - {'self', 'cfg'} | EXTRA_TOP_KEYS.keys() | TOP_KEYS.keys())


@functools.cache
def runner_keys() -> dict[str, Argument]:
    """The top-level keys of a config that a Runner reads."""
    from mmengine.runner import Runner
    keys = {name: Argument(argument.hint) for name, argument in arguments_of(Runner).items() if name != 'cfg'}
    return keys | {name: Argument(hint) for name, hint in (EXTRA_TOP_KEYS | TOP_KEYS).items()}
