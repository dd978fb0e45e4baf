"""The config of a student: what the teacher says, the network that was designed, the data, and a schedule."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimdiff.arguments import accepted_arguments, plain
from slimdiff.checkpoint import find_path
from slimdiff.configuration import load_config
from slimdiff.configuration.source import value_source
from slimdiff.evaluation.extractors import random_extractor
from slimdiff.evaluation.unet_cost import network_cost
from slimdiff.models.algorithms.draws import CLASS_DROPOUT
from slimdiff.models.backbones.classes import find_class
from slimdiff.models.backbones.load import build_backbone
from slimdiff.models.backbones.protocol import class_rows, input_shape
from slimdiff.models.backbones.slimmable.pruning import has_channels_for
from slimdiff.registry import DATASETS, MODELS
from slimdiff.slimming import GATED, RECIPES
from slimdiff.slimming.design import Config, design
from slimdiff.slimming.teacher import TeacherModel
from slimdiff.spelling import did_you_mean

#: widths of a step-aware student, and of one that has fewer than NARROWEST channels at a quarter
FOUR, TWO = (0.25, 0.5, 0.75, 1.0), (0.5, 1.0)
NARROWEST = 8
#: characters of a line
LINE = 118


def resamplers_of(recipe: str, transformer: bool) -> Mapping[str, Any]:
    """For :func:`~slimdiff.slimming.design.design`: of a plain transformer none, it has no stages to resample."""
    given = RECIPES[recipe][0]
    return {} if given is None or (transformer and given is not GATED) else given


def default_recipe(teacher: TeacherModel) -> str:
    """The one that was the best after equal time, or one that learns from a teacher that it can't start from."""
    return 'gated' if has_channels_for(type(teacher.ours), teacher.ours) else 'spectral'


def design_student(teacher: TeacherModel, recipe: str, part: float, step_aware: bool) -> tuple[Config, int, int]:
    """The student's network, its MACs and the teacher's, with those of attention.

    Args:
        part: of the teacher's MACs.
        step_aware: one of several widths.

    Raises:
        ValueError: see :func:`~slimdiff.slimming.design.design`.
    """
    classes, dropout = teacher.settings.get('num_classes'), teacher.settings.get('class_dropout', 0.0)
    tokens = 77 if teacher.text else 1

    def count(network: Config) -> int:
        return network_cost(build_backbone(network, classes, dropout), tokens).macs_with_attention

    full, shape = network_cost(teacher.network, tokens).macs_with_attention, teacher.ours.config
    resamplers = resamplers_of(recipe, not (shape.get('stages') or shape.get('block_out_channels')))
    if step_aware:
        with contextlib.suppress(ValueError):
            network, macs = design(shape, resamplers, full, part, count, FOUR)
            if stem_of(network) * min(FOUR) >= NARROWEST:
                return network, macs, full
    return (*design(shape, resamplers, full, part, count, TWO if step_aware else (1.0, )), full)


def stem_of(network: Mapping[str, Any]) -> float:
    """Channels of a UNet's first stage; of a transformer a quarter, what a first stage would have."""
    if 'stages' in network:
        return network['stages'][0]['channels']
    return network['num_attention_heads'] * network['attention_head_dim'] / 4


def model_config(teacher: TeacherModel, network: Mapping[str, Any], recipe: str) -> Config:
    """``model`` of the config.

    Args:
        network: arguments of the student's; one with ``widths`` is trained at all of them.
    """
    _, distilled, starts = RECIPES[recipe]
    model: Config = dict(type='Distiller' if distilled else 'DiffusionModel')
    if 'widths' in network:
        model['type'] = 'SlimmableDistiller' if distilled else 'SlimmableDiffusion'
        model['num_random'] = min(1, len(network['widths']) - 2)  # beside the widest and the narrowest
    if distilled:
        # On a CPU the teacher is most of the cost of a step: it sees a quarter of each batch. With these weights the
        # gradients of that quarter, which are noisier, don't drown those of the whole batch (with weights of 3 and 1
        # the error was 4 % higher after a thousand iterations).
        model['teacher'] = dict(checkpoint=teacher.checkpoint, bf16=True, share=0.25)
        model['losses'] = [dict(type='SpatialLoss', tap='output', weight=0.5),
                           dict(type='SpectralLoss', tap='output', weight=0.2)]
    if starts and has_channels_for(find_class(network['type']), teacher.ours):
        # With the student's preconditioning also where the teacher has none: that learns no slower.
        model['start_from'] = teacher.checkpoint
    return {**model, **plain(teacher.settings), 'unet': dict(network)}


# ---- data ---------------------------------------------------------------------------------------------------------


def data_config(data: str, teacher: TeacherModel, out: Path) -> dict[str, dict[str, Any]]:
    """Data sets by split: ``train``, for a latent teacher the latents that are encoded into ``out``, and ``test``, the
    images to compare with; without it where the data are latents already.

    Args:
        data: a folder of images (``train/`` and ``test/`` or ``val/`` in it are the splits), a zip archive, a folder of
            encoded latents, the name of a registered data set, or a config file with data loaders.

    Raises:
        ValueError: none of these; captions that a folder doesn't have.
    """
    scale = _downsampling(teacher) if teacher.latent else 1
    size = input_shape(teacher.network)[-1] * scale
    path = Path(data).expanduser()
    if data.endswith('.py') and (found := find_path(data)):
        cfg = load_config(str(found))
        sets = {split: plain(cfg[f'{split}_dataloader']['dataset'])
                for split in ('train', 'test') if cfg.get(f'{split}_dataloader')}
        sets.setdefault('test', sets.get('train'))
        if sets['test'] is None:
            raise ValueError(f'--data: {data} has no train_dataloader.')
    elif (path / 'index.json').is_file():
        return dict(train=dict(type='LatentDataset', data_root=str(path.resolve())))
    elif path.exists():
        sets = _images(path.resolve(), size, bool(teacher.settings.get('num_classes')))
        if teacher.text:
            raise ValueError(f"--data: the teacher reads texts, and '{data}' has no captions. Give a config with a "
                             'data set of captions (configs/_base_/datasets/coco_256.py), or latents that were encoded '
                             'with theirs.')
    elif data in DATASETS and (needed := _needed(data)):
        raise ValueError(f'--data: {data} needs {", ".join(needed)}: give a config with data loaders that say so.')
    elif data in DATASETS:
        sets = _registered(data, size)
    else:
        names = [name for name in sorted(DATASETS.module_dict) if not _needed(name)]
        raise ValueError(f"--data: '{data}' is neither a file, a folder nor a data set that needs no path."
                         f'{did_you_mean(data, names)} These are: {", ".join(names)}.')
    if not teacher.latent:
        return sets
    return dict(train=dict(type='LatentDataset', data_root=str((out / 'latents').resolve()), source=sets['train']),
                test=sets['test'])


def with_classes_of(sets: Mapping[str, Any], teacher: TeacherModel) -> TeacherModel:
    """The teacher, whose null class is known then, after one sample of the training data was read.

    A UNet of diffusers doesn't say whether its last class is the null class: data of one class less mean that it is.

    Raises:
        ValueError: no images, or other channels or classes than the teacher's.
    """
    classes = teacher.settings.get('num_classes')
    try:
        dataset = DATASETS.build(sets['train'].get('source') or sets['train'])
    except ValueError as error:
        raise ValueError(f'--data: {error}' + (f' The teacher has {classes} classes.' if classes else '')) from error
    found = len(getattr(dataset, 'classes', None) or ())
    if classes and found == classes - 1 and class_rows(teacher.network) == classes:
        settings = {**teacher.settings, 'num_classes': found, 'class_dropout': CLASS_DROPOUT}
        teacher = dataclasses.replace(teacher, settings=settings)
    elif classes and found not in (0, classes):
        raise ValueError(f'--data: {found} classes, but the teacher has {classes}.')
    images, channels = dataset[0].get('inputs'), teacher.network.config.in_channels
    if images is not None and not teacher.latent and len(images) != channels:
        raise ValueError(f'--data: images of {len(images)} channel{"s" * (len(images) > 1)}, but the teacher takes '
                         f'{channels}.')
    return teacher


def _images(path: Path, size: int, classes: bool) -> dict[str, dict[str, Any]]:
    labels = {'class_from_folder': True} if classes else {}
    if path.is_file():
        one = dict(type='ImageZip', data_root=str(path), image_size=size, **labels)
        return dict(train=one, test=one)
    test = next((name for name in ('test', 'val') if (path / 'train').is_dir() and (path / name).is_dir()), None)
    roots = (path / 'train', path / test) if test else (path, path)
    return {split: dict(type='ImageFolder', data_root=str(root), image_size=size, **labels)
            for split, root in zip(('train', 'test'), roots)}


def _needed(name: str) -> list[str]:
    """The arguments without which a registered data set can't be built."""
    return [p.name for p in inspect.signature(DATASETS.get(name)).parameters.values()
            if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def _registered(name: str, size: int) -> dict[str, dict[str, Any]]:
    """The splits of a data set that is found without being told where."""
    known = accepted_arguments(DATASETS.get(name))
    train = dict(type=name, **{key: value for key, value in (('split', 'train'), ('image_size', size)) if key in known})
    for split in ('test', 'val') if 'split' in known else ():
        with contextlib.suppress(ValueError):
            DATASETS.build({**train, 'split': split})
            return dict(train=train, test={**train, 'split': split})
    return dict(train=train, test=train)


def _downsampling(teacher: TeacherModel) -> int:
    return MODELS.build(plain(teacher.settings['autoencoder'])).downsampling


# ---- the file -----------------------------------------------------------------------------------------------------


def student_config(model: Mapping[str, Any], data: Mapping[str, Any], iterations: int, batch: int, seed: int,
                   amp: bool) -> dict[str, Any]:
    """All of the config but its ``_base_``. The schedule is that of a short run: warm up, then fall to 1 %."""
    # Adam's rate falls with the width (Yang et al. 2022, muP); 5e-3 at 8 and at 12 channels was measured.
    rate = float(f'{min(5e-3, 0.06 / stem_of(model["unet"])):.1e}')
    latent = data['train']['type'] == 'LatentDataset'
    workers = 0 if data['train']['type'] in ('FashionMNIST', 'MNIST', 'PhotoPatches') or latent else 2
    loader = dict(batch_size=batch, num_workers=workers, **(dict(persistent_workers=True) if workers else {}))
    warm = min(100, max(1, iterations // 20))
    extractor = dict(type='RandomConvExtractor') if latent else random_extractor(model['unet']['sample_size'])
    config = dict(
        model=dict(model),
        train_dataloader=dict(**loader, sampler=dict(type='ResumableSampler', shuffle=True), dataset=data['train']))
    if 'test' in data:
        config |= dict(
            test_dataloader=dict(**loader, sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
                                 dataset=data['test']),
            test_cfg=dict(type='EvaluationLoop', num_images=1000, num_real=1000, floor_splits=4),
            test_evaluator=[dict(type='FrechetDistance', extractor=extractor),
                            dict(type='BandwiseDenoisingError', num_images=1000)])
    return config | dict(
        train_cfg=dict(type='IterTrainLoop', max_iters=iterations),
        optim_wrapper=dict(type='Bf16OptimWrapper' if amp else 'SlimOptimWrapper', clip_grad=dict(max_norm=1.0),
                           optimizer=dict(type='AdamW', lr=rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True)),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=warm),
            dict(type='LinearLR', start_factor=1.0, end_factor=0.01, by_epoch=False, begin=max(warm, iterations // 3),
                 end=iterations)],
        default_hooks=dict(
            # Over a hundredth of the run, at most 10,000 iterations.
            ema=dict(decay=1 - max(1e-4, min(1e-2, float(f'{20 / iterations:.1g}')))),
            log=dict(interval=max(1, min(50, iterations // 10))),
            checkpoint=dict(interval=max(1, min(1000, iterations // 4))),
            samples=dict(interval=iterations), spectra=None),
        randomness=dict(seed=seed))


def source_of(config: Mapping[str, Any], header: str) -> str:
    """The text of ``student.py``."""
    base = find_path('configs/_base_/default_runtime.py')
    if base is None:
        raise ValueError('The configs of slimdiff are not installed here: install it from a wheel or a checkout.')
    comment = ''.join(f'# {line}\n' for line in header.splitlines())
    parts = [f'{key} = {render(value, len(key) + 3)}\n' for key, value in config.items()]
    return f"{comment}_base_ = {str(base.resolve())!r}\n\n{''.join(parts)}"


def render(value: Any, column: int = 0, indent: int = 0) -> str:
    """A value as Python source: on one line where it fits, else its items on lines of their own, as many as fit."""
    flat = value_source(value, ordered=False)
    if column + len(flat) <= LINE or not flat.startswith(('dict(', '[')):
        return flat
    inner = indent + 4
    items = [(f'{key}=', item) for key, item in value.items()] if isinstance(value, Mapping) else \
        [('', item) for item in value]
    lines: list[str] = []
    for name, item in items:
        text = name + render(item, inner + len(name) + 1, inner)
        if lines and '\n' not in lines[-1] + text and len(lines[-1]) + len(text) + 2 <= LINE - inner:
            lines[-1] += f', {text}'
        else:
            lines.append(text)
    space = ' ' * inner
    begin, end = ('dict(', ')') if isinstance(value, Mapping) else ('[', ']')
    return f'{begin}\n{space}' + f',\n{space}'.join(lines) + end
