"""What evaluation and model metrics share: who does which images, evaluation mode, gathering."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from mmengine.dist import (
    all_gather,
    all_gather_object,
    broadcast_object_list,
    get_rank,
    get_world_size,
    is_main_process,
)
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader

from slimdiff.checkpoint.lock import FolderLock

#: per-image statistics: named tensors with one row for each image
Rows = dict[str, Tensor]

T = TypeVar('T')


def shard(total: int) -> range:
    """This rank's contiguous part of 0 ... total - 1: every index is in exactly one rank's part."""
    world, rank = get_world_size(), get_rank()
    return range(total * rank // world, total * (rank + 1) // world)


def representative(dataset: Any, count: int) -> Sequence[int]:
    """The numbers of ``count`` images that stand for a data set.

    They are spread evenly, for files come in the order of their classes. If the order is random already
    (``random_order``), or there are ever more images (``fresh_epochs``), they are the first ones.

    Raises:
        ValueError: more images than there are.
    """
    if getattr(dataset, 'fresh_epochs', False):
        return range(count)
    if count > len(dataset):
        raise ValueError(f'The data set {type(dataset).__name__} has {len(dataset)} images, {count} were asked for. '
                         'Lower num_real.')
    in_front = count == len(dataset) or getattr(dataset, 'random_order', False)
    return range(count) if in_front else [i * len(dataset) // count for i in range(count)]


def shard_loader(dataloader: DataLoader, total: int | None = None) -> tuple[Sequence[int], DataLoader]:
    """This rank's indices of ``dataloader.dataset``, and a loader that gives them in order, each once.

    The loader's own sampler is left aside: distributed samplers pad their parts to equal length, which counts images
    twice, and ours never end.

    Args:
        total: how many images, :func:`representative` ones; the whole data set by default. More than it has needs a
            data set with ``fresh_epochs``, all of whose images are others in the next epoch.

    Raises:
        ValueError: more images than there are, encoded latents, or images that are none (:func:`check_images`).
    """
    from slimdiff.datasets.check_images import check_images  # late: counting MACs needs no data sets
    dataset = dataloader.dataset
    if (getattr(dataset, 'metainfo', None) or {}).get('latents'):
        raise ValueError(f'{type(dataset).__name__} holds encoded latents, but metrics look at images: let '
                         'val_dataloader and test_dataloader read the images.')
    numbers = representative(dataset, len(dataset) if total is None else total)
    check_images(dataset)
    batch_size = dataloader.batch_size or getattr(dataloader.batch_sampler, 'batch_size', 1)
    part = shard(len(numbers))
    indices = numbers[part.start:part.stop]
    return indices, DataLoader(dataset, batch_size, sampler=indices, num_workers=dataloader.num_workers,
                               collate_fn=dataloader.collate_fn, pin_memory=dataloader.pin_memory)


def check_classes(model: Any, dataset: Any) -> None:
    """Raise ValueError if the labels of a data set mean other classes than those that a model has learned."""
    info = getattr(dataset, 'metainfo', None) or {}
    if info.get('classes') and hasattr(model, 'check_classes'):
        place = f" '{info['data_root']}'" if 'data_root' in info else ''
        model.check_classes(info['classes'], f'the data set {type(dataset).__name__}{place}')


def num_rows(rows: Mapping[str, Tensor]) -> int:
    return len(next(iter(rows.values()))) if rows else 0


def concatenate(chunks: Sequence[Mapping[str, Tensor]]) -> Rows:
    """Concatenate rows in the order given; empty ones count for nothing."""
    chunks = [chunk for chunk in chunks if chunk]
    return {key: torch.cat([chunk[key] for chunk in chunks]) for key in chunks[0]} if chunks else {}


def gather_rows(rows: Rows) -> Rows:
    """Concatenate the rows of all ranks in rank order; ranks may have different numbers of them, or none."""
    if get_world_size() == 1:
        return rows
    layouts = all_gather_object({key: (len(v), tuple(v.shape[1:]), v.dtype) for key, v in rows.items()})
    counts = [next(iter(layout.values()))[0] if layout else 0 for layout in layouts]
    layout = next((layout for layout in layouts if layout), {})
    gathered: list[Rows] = [{} for _ in layouts]
    for key, (_, shape, dtype) in layout.items():
        # Collectives want equal shapes: pad to the longest part.
        padded = torch.zeros(max(counts), *shape, dtype=dtype)
        padded[:num_rows(rows)] = rows.get(key, padded[:0])
        for part, count, values in zip(gathered, counts, all_gather(padded)):
            part[key] = values[:count].cpu()
    return concatenate(gathered)


def run_on_rank0(function: Callable[[], T]) -> T:
    """Call on the main process only; its result, or its ValueError or OSError, on all ranks: none waits for ever."""
    if get_world_size() == 1:
        return function()
    box: list[Any] = [None]
    if is_main_process():
        try:
            box = [function()]
        except (ValueError, OSError) as error:
            box = [error]
    broadcast_object_list(box)
    if isinstance(box[0], (ValueError, OSError)):
        raise box[0]
    return box[0]


@contextmanager
def locked(folder: str | Path, what: str) -> Iterator[None]:
    """No other run writes into ``folder`` meanwhile; the main process holds the lock for all ranks.

    Raises:
        FolderInUseError: another run does; on all ranks.
    """
    lock = FolderLock(folder, what)
    run_on_rank0(lock.acquire)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every submodule gets back the mode it had (a frozen part stays in its own)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating(model: nn.Module, amp: bool = False) -> Iterator[None]:
    """Evaluation mode and ``torch.inference_mode``, with bf16 autocast if asked."""
    autocast = torch.autocast(device_of(model).type, torch.bfloat16, enabled=amp)
    with eval_mode(model), torch.inference_mode(), autocast:
        yield


def device_of(model: nn.Module) -> torch.device:
    """Where the parameters (or else the buffers) of a model are; the CPU for one without."""
    tensor = next(model.parameters(), None)
    if tensor is None:
        tensor = next(model.buffers(), None)
    return torch.device('cpu') if tensor is None else tensor.device


def is_sharded(model: nn.Module) -> bool:
    """Whether each process has a part of the weights only."""
    return isinstance(model, FSDPModule)


def takes_part(model: nn.Module) -> bool:
    """Whether this process is needed for what the main one does with the weights: it is that one, or has a part."""
    return is_main_process() or is_sharded(model)


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """A sharded model's parameters are ordinary tensors inside, for use without its own forward. Collective."""
    if not is_sharded(model):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()
