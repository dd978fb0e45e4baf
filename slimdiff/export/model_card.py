"""A model card: what a published model is, what it costs, what its run measured. Nothing is in it that isn't known."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch

from slimdiff.configuration import config_source
from slimdiff.evaluation.cost import human
from slimdiff.evaluation.unet_cost import network_cost
from slimdiff.models.backbones.protocol import expected_context, input_shape
from slimdiff.tables import markdown_table
from slimdiff.version import __version__


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the card is made of.

    Args:
        name: of the model.
        model: a built :class:`~slimdiff.models.algorithms.DiffusionModel` with its weights.
        config: its config, with the teacher if it was distilled.
        config_name: the file's.
        meta: of the training checkpoint.
        weights: 'ema' or 'online'.
        files: file name -> SHA-256.
        pipeline: the name of the pipeline in the folder; None for a ``.pth``.
        metrics: the content of the run's ``metrics.json``.
        license: as the Hugging Face Hub names licences.
        repository: ``owner/name`` on the Hub, if it goes there.
        command: of ``slimdiff publish`` that made it.
    """
    name: str
    model: Any
    config: Mapping[str, Any]
    config_name: str
    meta: Mapping[str, Any]
    weights: str
    files: Mapping[str, str]
    pipeline: str | None = None
    metrics: Mapping[str, Any] | None = None
    license: str | None = None
    repository: str | None = None
    command: str | None = None


def model_card(facts: Facts) -> str:
    """The text of ``README.md``."""
    parts = [_front_matter(facts), f'# {facts.name}', _summary(facts), '## Use', _use(facts), '## The network',
             _network(facts), '## Measured', _measured(facts), '## How it was made', _made(facts),
             '## Files', _files(facts), '## Config', _config(facts)]
    return '\n\n'.join(parts) + '\n'


def run_metrics(checkpoint: Path, meta: Mapping[str, Any], weights: str,
                averaged: bool) -> tuple[dict[str, Any] | None, str]:
    """The ``metrics.json`` beside a checkpoint, or None and why it isn't about these weights.

    Args:
        averaged: the run kept averaged weights, which are those that it measured.
    """
    path = checkpoint.with_name('metrics.json')
    if not path.is_file():
        return None, f'there is no {path}'
    try:
        metrics = json.loads(path.read_text(encoding='utf-8'))
        last = metrics['history'][-1]['iter']
        final = metrics['final']
    except (ValueError, KeyError, IndexError, TypeError):
        return None, f'{path} is not what a training run of slimdiff writes'
    if last != meta.get('iter'):
        return None, f'{path} is of iteration {last}, the checkpoint of {meta.get("iter")}'
    if averaged and weights != 'ema':
        return None, f'{path} is of the averaged weights'
    return (metrics, '') if final else (None, f'{path} holds no metrics')


# ---- sections ---------------------------------------------------------------------------------------------------


def condition_of(model: Any) -> str:
    """'text', 'classes' or 'none'; 'context' for a network that reads one without a text encoder."""
    if model.conditioner is not None:
        return 'text'
    if model.num_classes is not None:
        return 'classes'
    return 'none' if expected_context(model.unet) is None else 'context'


def _front_matter(facts: Facts) -> str:
    condition = condition_of(facts.model)
    lines = ['---', f'library_name: {"diffusers" if facts.pipeline else "slimdiff"}']
    if facts.license:
        lines.append(f'license: {json.dumps(facts.license)}')
    task = {'text': 'text-to-image', 'none': 'unconditional-image-generation'}.get(condition)
    if task:
        lines.append(f'pipeline_tag: {task}')
    tags = ['slimdiff', 'diffusion'] + (['class-conditional'] if condition == 'classes' else [])
    return '\n'.join([*lines, 'tags:', *(f'- {tag}' for tag in tags), '---'])


def _summary(facts: Facts) -> str:
    model = facts.model
    what = {'text': 'A text-to-image', 'classes': f'A class-conditional ({model.num_classes} classes)',
            'none': 'An unconditional', 'context': 'A context-conditional'}[condition_of(model)]
    channels, height, width = model.image_shape
    where = '' if model.autoencoder.downsampling == 1 else f' in the latents of a {type(model.autoencoder).__name__}'
    text = f'{what} diffusion model{where} for images of {width}x{height} pixels, {channels} channels.'
    teacher = (facts.config.get('teacher') or {}).get('checkpoint')
    if isinstance(teacher, str):
        text += f' It was distilled from the teacher `{teacher}`.'
    trained = [f'with slimdiff {facts.meta["slimdiff_version"]}' if facts.meta.get('slimdiff_version') else '',
               f'for {facts.meta["iter"]:,} iterations' if facts.meta.get('iter') is not None else '',
               f'seed {facts.meta["seed"]}' if facts.meta.get('seed') is not None else '']
    if any(trained):
        text += f' Trained {", ".join(filter(None, trained))}.'
    averaged = 'the moving average (EMA) of those that were trained'
    return f'{text} Its weights are {averaged if facts.weights == "ema" else "those that were trained, no average"}.'


def _use(facts: Facts) -> str:
    condition = condition_of(facts.model)
    call = {'text': "'a photo of a cat'", 'classes': 'labels=[0, 1]', 'none': 'num_images=4',
            'context': 'prompt_embeds=context'}[condition]
    if facts.pipeline is None:
        file = next(iter(facts.files))
        command = f'slimdiff sample config.py {file} --out images.png'
        return f'With the config below as `config.py`:\n\n```bash\n{command}\n```'
    if facts.pipeline != 'SlimDiffusionPipeline':
        call = 'batch_size=4'
    return ('```python\nimport slimdiff  # tells diffusers of its classes\nfrom diffusers import DiffusionPipeline\n\n'
            f"pipeline = DiffusionPipeline.from_pretrained('{facts.repository or facts.name}')\n"
            f'pipeline({call}).images\n```')


def _network(facts: Facts) -> str:
    model = facts.model
    length = getattr(model.conditioner, 'max_length', 1)
    cost = network_cost(model.unet, length)
    rows = [('input', ' x '.join(map(str, input_shape(model.unet)))),
            ('parameters', f'{human(cost.params)} ({cost.params:,})'),
            ('MACs, convolutions and linear layers', human(cost.conv_linear_macs)),
            ('MACs, products of attention included', human(cost.macs_with_attention)),
            ('predicts', model.prediction_type),
            ('sampler', f'{type(model.sampler).__name__}, {model.num_steps} steps, guidance {model.guidance_scale:g}')]
    if model.autoencoder.downsampling > 1:
        rows.append(('first stage', f'`{getattr(model.autoencoder, "checkpoint", None)}`'))
    if model.conditioner is not None:
        rows.append(('text encoder', f'`{getattr(model.conditioner, "checkpoint", type(model.conditioner).__name__)}`'))
    versions = f'slimdiff {__version__} (PyTorch {torch.__version__}, diffusers {diffusers.__version__})'
    note = (f'MACs are multiply-accumulates of one forward pass on one sample, counted by {versions}; a FLOP count is '
            'twice as large.')
    return f'{markdown_table(("", ""), rows)}\n{note}'


def _measured(facts: Facts) -> str:
    if facts.metrics is None:
        return 'No measurement of these weights came with them.'
    final, untrained, real = (facts.metrics.get(key) or {} for key in ('final', 'untrained', 'real_against_real'))

    def show(value: Any) -> str:
        return '' if value is None else f'{value:.4g}'

    rows = [(name, show(value), show(untrained.get(name)), show(real.get(name))) for name, value in final.items()]
    version = facts.meta.get('slimdiff_version')
    made = f'slimdiff train {facts.metrics.get("config") or facts.config_name}'
    seed = facts.metrics.get('seed')
    return (f'{markdown_table(("metric", "these weights", "untrained", "real against real"), rows)}\n'
            f'By the validation at the end of the run, `{made}`'
            f'{"" if seed is None else f" (seed {seed})"}{f", slimdiff {version}" if version else ""}.')


def _made(facts: Facts) -> str:
    """The commands, and of the training's config what tells nothing of the machine."""
    meta, config = facts.meta, facts.meta.get('config') or {}
    loader, wrapper = config.get('train_dataloader') or {}, config.get('optim_wrapper') or {}
    data, optimizer = loader.get('dataset') or {}, wrapper.get('optimizer') or {}
    data = data.get('source') or data.get('dataset') or data  # within a wrapper
    classes = (meta.get('dataset_meta') or {}).get('classes') or ()
    ranks, window = meta.get('world_size') or 1, wrapper.get('accumulative_counts', 1)
    rows = []
    if data.get('type'):
        rows.append(('data', f'`{data["type"]}`' + (f', classes {", ".join(map(str, classes[:20]))}'
                                                   f'{", ..." if len(classes) > 20 else ""}' if classes else '')))
    if loader.get('batch_size'):
        rows.append(('batch', str(loader['batch_size'] * ranks * window)))
    if optimizer.get('type'):
        rows.append(('optimizer', f'{optimizer["type"]}, learning rate {optimizer.get("lr")}'))
        rows.append(('precision', 'bfloat16 autocast' if wrapper.get('type') == 'Bf16OptimWrapper' else 'float32'))
    lines = [f'slimdiff train {(facts.metrics or {}).get("config") or facts.config_name}', facts.command]
    table = f'\n\n{markdown_table(("", ""), rows).rstrip()}' if rows else ''
    return '```bash\n' + '\n'.join(filter(None, lines)) + f'\n```{table}'


def _files(facts: Facts) -> str:
    rows = [(f'`{name}`', f'`{value}`') for name, value in facts.files.items()]
    return markdown_table(('file', 'SHA-256'), rows).rstrip()


def _config(facts: Facts) -> str:
    text = config_source(dict(model=facts.config)).strip()
    return f'`model` of `{facts.config_name}`:\n\n```python\n{text}\n```'
