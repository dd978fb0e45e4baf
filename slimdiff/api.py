"""The front door in Python: what the commands ``sample``, ``get_flops``, ``search`` and ``train`` do, as functions.

Each is an attribute of ``slimdiff``, which imports this file when one of them is first used.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from mmengine.device import get_device
from torch import nn
from torch.utils.data import DataLoader, Dataset

from slimdiff.checkpoint.files import list_checkpoints
from slimdiff.datasets import build_dataloader
from slimdiff.evaluation.cost import Cost, count_cost
from slimdiff.evaluation.unet_cost import network_cost
from slimdiff.export.folder import as_pipeline, model_of
from slimdiff.export.load import load_model, load_pipeline
from slimdiff.installation import find_path, zoo, zoo_weights
from slimdiff.models.backbones.classes import check_forward
from slimdiff.models.backbones.load import adapted
from slimdiff.models.backbones.protocol import StepAllocated, example_inputs, offers
from slimdiff.registry import DATASETS
from slimdiff.sampling import StepAllocation
from slimdiff.spelling import did_you_mean


def load(source: str | Path, device: str | torch.device | None = None, weights: str | None = None) -> DiffusionPipeline:
    """A trained model as a pipeline of diffusers, ready to be called for images.

    Args:
        source: a ``.pth`` of ``train`` or ``publish``, which holds its config (classes are looked up by their
            registered names, and nothing in it is run); the work dir of a training, for its newest checkpoint; a folder
            of ``export``, or of a pipeline of diffusers; or the name of a model that came with slimdiff, such as
            ``'sd/fashion_mnist'``.
        device: the GPU if there is one, by default.
        weights: of a ``.pth``: ``'ema'`` or ``'online'``; the averaged ones by default, if it has any.

    Returns:
        A :class:`~slimdiff.SlimDiffusionPipeline`, or the pipeline that a folder names.

    Raises:
        FileNotFoundError: no such file, folder or name.
        CheckpointError: a file that can't be read, or one whose model is not here.
        ValueError: a folder of something else, or a damaged one.
    """
    path = find_path(source) or zoo_weights(str(source))
    if path is None:
        names = zoo()
        raise FileNotFoundError(f"'{source}' is not a file, a folder or a model shipped with slimdiff."
                                f'{did_you_mean(str(source), names)} Shipped models: {", ".join(names)}.')
    if path.is_dir():
        path = next(iter(list_checkpoints(path)), path)
    pipeline = load_pipeline(path) if path.is_dir() else as_pipeline(load_model(path, weights))
    return pipeline.to(device or get_device())


def count_macs(network: nn.Module, *inputs: Any, context_length: int = 1, **kwargs: Any) -> Cost:
    """Parameters, multiply-accumulates (MACs, in both conventions) and activations of one call of a network.

    The result prints as a summary; ``.conv_linear_macs``, ``.macs_with_attention`` and ``.params`` are the numbers, and
    ``.table(depth)`` splits them by module.

    Args:
        network: any module. One that denoises and says its input (``config.in_channels`` and ``config.sample_size``)
            needs nothing more: it is called on one sample.
        inputs, kwargs: an example of its arguments, for any other module; MACs are of this whole batch.
        context_length: tokens of ``encoder_hidden_states``, for a network with cross-attention.

    Raises:
        ValueError: a network whose input is not known; one that has another network for each step.
    """
    if inputs or kwargs:
        return count_cost(network, *inputs, **kwargs)
    if offers(network, StepAllocated):
        raise ValueError(f'A {type(network).__name__} has a network for each step, of the widths '
                         f'{", ".join(run.size for run in network.allocation.runs)}: count each, as '
                         'slimdiff.count_macs(network.network(width)).')
    try:
        check_forward(type(network))
        network = adapted(network)
        example_inputs(network, 1, context_length)
        return network_cost(network, context_length)
    except (TypeError, ValueError) as error:  # SDXL's UNet misses an argument only when it runs
        raise ValueError(f'{type(network).__name__}: give an example of its arguments, as slimdiff.count_macs(network, '
                         f'torch.zeros(1, 3, 32, 32), ...), because they are not known: {error}') from error


def search(pipe: DiffusionPipeline,
           data: Dataset | DataLoader | Mapping[str, Any] | None = None,
           budget: float | Mapping[str, float] | None = None,
           work_dir: str | Path | None = None,
           **settings: Any) -> StepAllocation:
    """Search the width that each denoising step gets, with the pipeline's own scheduler and number of steps.

    ``slimdiff.StepAwareUNet.from_supernet(pipe.unet, allocation)`` is the network that runs as the result says.

    Args:
        pipe: whose ``unet`` has several widths; or any, with ``space=dict(reuse=['prediction'])``.
        data: real images: a data set, a loader, or the config of either; None if no evaluator needs any, and the
            default ones then don't.
        budget: a fraction of the full network's MACs, or ``dict(macs=...)`` or ``dict(latency=...)`` for one image;
            None for the best quality at any cost.
        work_dir: keeps state and results, as those of ``slimdiff search``: the same call goes on from there, and
            ``report.html`` shows what was found. None keeps nothing.
        settings: of the config's ``search``: ``space``, ``evaluators``, ``searcher``, ``num_steps``, ...

    Raises:
        ValueError: one width and nothing to reuse; an unknown setting; a budget that can't be met.
    """
    from slimdiff.search import Budget, Search
    from slimdiff.search.run import default_config
    model, loader = model_of(pipe), _loader(data)
    limit = budget if budget is None or isinstance(budget, (Mapping, Budget)) else {'fraction': budget}
    with contextlib.ExitStack() as stack:
        folder = Path(work_dir or stack.enter_context(tempfile.TemporaryDirectory(prefix='slimdiff_search_')))
        found = Search(model, {**default_config(loader is not None), **settings}, folder, loader, limit)
        if work_dir is None:
            return found.run().chosen[0]
        from slimdiff.cli.search import run_and_report
        return run_and_report(found, f'Search: {type(pipe.unet).__name__}').chosen[0]


def _loader(data: Dataset | DataLoader | Mapping[str, Any] | None) -> DataLoader | None:
    if data is None or isinstance(data, DataLoader):
        return data
    if isinstance(data, Mapping) and 'dataset' in data:
        return build_dataloader(data)
    return DataLoader(DATASETS.build(data), batch_size=64)


def train(config: str | Path,
          work_dir: str | Path | None = None,
          resume: bool | str | Path = False,
          overwrite: bool = False,
          cfg_options: Mapping[str, Any] | None = None,
          **options: Any) -> DiffusionPipeline:
    """Train what a config describes, as ``slimdiff train`` does; returns the result as :func:`load` gives it.

    Args:
        config: a file, of your own or one of slimdiff's.
        work_dir: where the run's files go; ``work_dirs/<folder>/<config>`` by default.
        resume: go on from the newest checkpoint of the work dir, or from the one that is given.
        overwrite: start from scratch in a work dir that holds another run; if ``resume`` names a checkpoint, go on from
            it without those of later iterations.
        cfg_options: overrides, as ``{'train_cfg.max_iters': 100}``.
        options: further ones of the command: ``amp``, ``compile``, ``keep_batch``, ``auto_scale_lr``.

    Raises:
        ConfigError: a config that can't be read, or a wrong name or value in it.
        WorkDirError: the work dir holds another run.
        ValueError: an option that the command doesn't have.
    """
    from slimdiff.cli import train as command
    args = command.parse([str(config)])
    for name in options:
        if name not in vars(args):
            raise ValueError(f"slimdiff.train has no option '{name}'.{did_you_mean(name, vars(args))}")
    vars(args).update(work_dir=work_dir and str(work_dir), overwrite=overwrite, cfg_options=dict(cfg_options or {}),
                      resume='auto' if resume is True else str(resume) if resume else None, **options)
    return load(command.run(args).work_dir)
