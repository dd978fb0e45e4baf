"""The call of a pipeline that a calibration repeats: the same conditions and the same noise every time."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from typing import Any

from diffusers import DiffusionPipeline

from slimdiff.calibration.plan import denoiser_of
from slimdiff.sampling import image_generators

#: what is drawn where the user gives no prompts
PROMPTS = ('a photograph of a mountain lake at dawn', 'a portrait of an old fisherman, oil painting',
           'a red bicycle leaning against a brick wall', 'a bowl of ripe peaches on a wooden table',
           'a city street at night in the rain', 'a cat asleep on a stack of books',
           'an aerial view of green rice terraces', 'a paper sailing boat on a blue background')


def _classes(pipe: DiffusionPipeline) -> int | None:
    """How many classes the pipeline knows."""
    config = denoiser_of(pipe)[1].config
    own = getattr(type(pipe), 'num_classes', None)
    return own.fget(pipe) if isinstance(own, property) else getattr(config, 'num_embeds_ada_norm', None)


def call_of(pipe: DiffusionPipeline, images: int | None = None, steps: int | None = None,
            prompts: Sequence[str] | None = None, labels: Sequence[int] | None = None, guidance: float | None = None,
            size: tuple[int, int] | None = None, seed: int = 0) -> tuple[Callable[[], dict[str, Any]], dict, float]:
    """The arguments of a pipeline's call.

    Args:
        images: how many at once; by default as many as there are prompts or labels, at most 8.
        steps: of the sampler; the pipeline's default by default.
        prompts, labels: one for each image; a few built-in texts, or random classes, by default.
        guidance: scale of it; the pipeline's default by default.
        size: height and width in pixels.

    Returns:
        A function that gives the arguments with fresh generators, what they are as plain data, and the guidance scale.

    Raises:
        ValueError: a condition or an option that the pipeline doesn't take, or fewer conditions than images.
    """
    takes = inspect.signature(type(pipe).__call__).parameters
    name = type(pipe).__name__
    given: dict[str, Any] = {}
    if 'prompt' in takes and getattr(pipe, 'tokenizer', None) is not None:
        conditions, key = list(prompts or PROMPTS), 'prompt'
    elif (key := next((k for k in ('labels', 'class_labels') if k in takes), None)) and (classes := _classes(pipe)):
        draw = random.Random(seed)
        conditions = list(labels if labels is not None else (draw.randrange(classes) for _ in range(images or 8)))
        wrong = [label for label in conditions if not 0 <= label < classes]
        if wrong:
            raise ValueError(f'--labels must lie in 0..{classes - 1}, got {wrong[0]}.')
    else:
        conditions, key = None, None
    for option, value, wanted in (('--prompts', prompts, key == 'prompt'),
                                  ('--labels', labels, key in ('labels', 'class_labels'))):
        if value is not None and not wanted:
            raise ValueError(f'{option}: {name} takes none.')
    if conditions is not None:
        images = images or min(len(conditions), 8)
        if len(conditions) < images:
            raise ValueError(f'{len(conditions)} {"prompts" if key == "prompt" else "labels"} are too few for '
                             f'{images} images: give one for each, or a smaller --images.')
        given[key] = conditions[:images]
    else:
        images = images or 8
        given |= {k: images for k in ('num_images', 'batch_size') if k in takes}
    default = takes['num_inference_steps'].default if 'num_inference_steps' in takes else None
    given['num_inference_steps'] = steps or default or pipe.config.get('num_inference_steps', 50)
    if guidance is not None:
        if 'guidance_scale' not in takes:
            raise ValueError(f'--guidance: {name} takes none.')
        given['guidance_scale'] = guidance
    if size is not None:
        if not {'height', 'width'} <= set(takes):
            raise ValueError(f'--size: {name} has a size of its own.')
        given |= dict(height=size[0], width=size[1])
    if 'output_type' in takes:
        given['output_type'] = 'latent'
    weight = guidance
    if weight is None and 'guidance_scale' in takes:
        weight = takes['guidance_scale'].default or pipe.config.get('guidance_scale', 1.0)
    identity = dict(given, seed=seed, images=images)

    def arguments() -> dict[str, Any]:
        return dict(given, generator=image_generators(seed, range(images)))

    return arguments, identity, float(weight or 1.0)
