"""From a loader's config to a ``DataLoader``."""

from __future__ import annotations

from functools import partial

from mmengine.dataset import worker_init_fn as seed_worker
from mmengine.dist import get_rank
from mmengine.registry import DATA_SAMPLERS, FUNCTIONS
from torch.utils.data import DataLoader

from slimdiff.arguments import check_arguments
from slimdiff.datasets.samplers import ResumableSampler
from slimdiff.registry import DATASETS, RegistryError, build_checked, building, known_names
from slimdiff.spelling import did_you_mean


def _function(cfg):
    """A function from its config ``dict(type=name, **arguments)``; a callable passes through."""
    if callable(cfg):
        return cfg
    arguments = dict(cfg)
    name = arguments.pop('type')
    function = FUNCTIONS.get(name) if isinstance(name, str) else name
    if function is None:
        names = known_names(FUNCTIONS)
        raise RegistryError(f"There is no function '{name}'.{did_you_mean(name, names)} Known: {', '.join(names)}.")
    return partial(function, **arguments)


def _sampler(cfg, dataset, seed: int | None, batch_size: int | None):
    """Build the sampler; a :class:`ResumableSampler` learns the loader's batch size, to cut the ranks' shares by."""
    if not isinstance(cfg, dict):
        return cfg
    arguments = dict(cfg)
    if arguments.get('type') in ('ResumableSampler', ResumableSampler) \
            and arguments.setdefault('batch_size', batch_size) != batch_size:
        raise ValueError(f"dataloader: batch_size is {batch_size} but its sampler was given "
                         f"{arguments['batch_size']}. Leave it out of the sampler.")
    return build_checked(arguments, DATA_SAMPLERS, dataset=dataset, seed=seed)


def build_dataloader(dataloader: DataLoader | dict, seed: int | None = None,
                     diff_rank_seed: bool = False) -> DataLoader:
    """Build a loader from a config like those of mmengine's ``Runner.build_dataloader`` (same arguments).

    What differs:

    - A misspelt type or argument names the nearest right one.
    - A :class:`ResumableSampler` learns the loader's ``batch_size``.
    - The default ``collate_fn`` makes tensors (``default_collate``), not lists.
    - ``persistent_workers`` and ``prefetch_factor`` are left out where there are no workers: torch refuses them, and
      ``--cfg-options train_dataloader.num_workers=0`` should be enough to debug a dataset.
    - A dataset or sampler that is an object already is used as it is, not copied.
    - There is no ``num_batch_per_epoch``: training counts iterations.

    Raises:
        ValueError: no batch size, one below 1, or a sampler that was given another; what a class refuses.
        RegistryError: an unknown type or argument.
    """
    if isinstance(dataloader, DataLoader):
        return dataloader
    cfg = dict(dataloader)
    for key in ('dataset', 'sampler'):
        if cfg.get(key) is None:
            raise ValueError(f"dataloader: '{key}' is missing; it has {sorted(cfg)}.")
    check_arguments(DataLoader, cfg)
    batch_size = cfg.get('batch_size')
    batch_sampler_cfg = cfg.pop('batch_sampler', None)
    if (batch_sampler_cfg is None or isinstance(batch_sampler_cfg, dict)) \
            and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f'dataloader: batch_size must be an integer of at least 1, got {batch_size!r}.')

    dataset = DATASETS.build(cfg.pop('dataset'))
    if hasattr(dataset, 'full_init'):  # mmengine's BaseDataset, if lazy
        dataset.full_init()
    sampler = _sampler(cfg.pop('sampler'), dataset, None if diff_rank_seed else seed, batch_size)
    if batch_sampler_cfg is None:
        cfg['sampler'] = sampler
    else:
        cfg['batch_sampler'] = build_checked(batch_sampler_cfg, DATA_SAMPLERS, sampler=sampler, batch_size=batch_size)
        cfg.pop('batch_size', None)

    workers = cfg.setdefault('num_workers', 0)
    if workers == 0:
        cfg.pop('persistent_workers', None)
        cfg.pop('prefetch_factor', None)
    if cfg.get('worker_init_fn') is not None:
        cfg['worker_init_fn'] = _function(cfg['worker_init_fn'])
    elif seed is not None:  # our datasets need no seeded workers; a user's may
        cfg['worker_init_fn'] = partial(seed_worker, num_workers=workers, rank=get_rank(), seed=seed)
    cfg['collate_fn'] = _function(cfg.get('collate_fn') or dict(type='default_collate'))
    with building('dataloader'):
        return DataLoader(dataset, **cfg)
