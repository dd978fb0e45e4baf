"""What a Runner's config may hold: its keys, and the registry that each place is built from."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
from collections import ChainMap
from collections.abc import Callable, Mapping

import mmengine.registry
from mmengine.registry import Registry

import slimdiff.registry
from slimdiff.registry import declared_arguments

# Keys that the Runner takes from `cfg` itself, beside the arguments of its constructor.
EXTRA_TOP_KEYS = {
    'activation_checkpointing', 'compile', 'custom_imports', 'efficient_conv_bn_eval', 'find_unused_parameters',
    'model_wrapper_cfg', 'overwrite', 'runner_type', 'strategy', 'sync_bn', '_base_', '_scope_'
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

# Dicts without a `type` that mmengine reads key by key.
PLAIN_DICTS = {
    'env_cfg': {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'},
    'env_cfg.mp_cfg': {'mp_start_method', 'opencv_num_threads'},
    'randomness': {'seed', 'diff_rank_seed', 'deterministic'},
    'auto_scale_lr': {'base_batch_size', 'enable'},
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
NEED_TYPE = ('model', 'optim_wrapper.optimizer', 'default_hooks.*', 'custom_hooks.*', 'train_dataloader.dataset',
             'val_dataloader.dataset', 'test_dataloader.dataset', 'search.searcher', 'search.evaluators.*')

# Keys that the builder of a kind of registry takes out before it calls the class.
BUILDER_KEYS = {
    'hook': {'priority'},
    'parameter scheduler': {'convert_to_iter_based', 'epoch_length'},
    'optim_wrapper': {'constructor', 'paramwise_cfg'},
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
    from slimdiff.engine.runner import DEFAULT_HOOKS
    return {'runtime_info', 'timer', 'sampler_seed', 'logger', *DEFAULT_HOOKS}


def _stage_keys() -> frozenset[str]:
    from slimdiff.models.unets.stages import Stage
    return frozenset(field.name for field in dataclasses.fields(Stage))


def _sampling_keys() -> frozenset[str]:
    from slimdiff.models.algorithms.diffusion_model import DiffusionModel
    return frozenset(inspect.signature(DiffusionModel.sample).parameters) - {'self', 'indices', 'seed', 'on_step'}


def _teacher_keys() -> frozenset[str]:
    from slimdiff.models.distillation import Teacher
    return frozenset(inspect.signature(Teacher).parameters)


def _architecture_keys(name: str) -> frozenset[str]:
    from slimdiff.models import autoencoders
    return declared_arguments(getattr(autoencoders, name).find_network_class())[0]


# Arguments of slimdiff's classes that are dicts (or lists of dicts) without a `type` -> what these are, their keys.
UNTYPED_ARGUMENTS = {
    ('UNet', 'stages'): ('A stage', _stage_keys),
    ('Distiller', 'teacher'): ('teacher', _teacher_keys),
    ('EvaluationLoop', 'sampling'): ('sampling', _sampling_keys),
    ('VQAutoencoder', 'architecture'): ('architecture', functools.partial(_architecture_keys, 'VQAutoencoder')),
    ('KLAutoencoder', 'architecture'): ('architecture', functools.partial(_architecture_keys, 'KLAutoencoder')),
}


def runner_keys() -> set[str]:
    """The top-level keys of a config that a Runner reads."""
    from mmengine.runner import Runner
    return (set(inspect.signature(Runner.__init__).parameters) | EXTRA_TOP_KEYS) - {'self', 'cfg'}
