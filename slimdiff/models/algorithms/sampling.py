"""Images from a diffusion model: what it samples with, and the loop that does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from slimdiff.models.algorithms import batches
from slimdiff.models.algorithms.draws import CLASS_DROPOUT
from slimdiff.models.backbones.protocol import input_shape
from slimdiff.sampling import build_scheduler, denoise, guided, image_generators, initial_noise
from slimdiff.sampling.denoise import Predict, prepared


class Sampling:
    """The part of a :class:`~slimdiff.models.algorithms.DiffusionModel` that draws images."""

    def check_guidance(self, guidance_scale: float | None = None) -> None:
        """Raise ValueError for guidance (the model's own by default) away from a null class that was never trained, or
        by no number."""
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        if not math.isfinite(scale):
            raise ValueError(f'guidance_scale must be a number, got {scale}; 1 is no guidance.')
        if scale != 1 and not self.class_dropout and (self.num_classes is not None or self.conditioner is not None):
            raise ValueError(f'guidance_scale={scale:g}: guidance leads away from the null class (of a text model, the '
                             'empty caption), which class_dropout=0 never trained. Sample with guidance 1, or train '
                             f'with class_dropout={CLASS_DROPOUT}.')

    def sample(self,
               indices: Sequence[int],
               seed: int = 0,
               labels: Tensor | None = None,
               context: Tensor | None = None,
               caption: Sequence[str] | None = None,
               scheduler: Mapping[str, Any] | SchedulerMixin | None = None,
               num_steps: int | None = None,
               guidance_scale: float | None = None,
               on_step: Callable[[], None] | None = None) -> Tensor:
        """Generate the images of these indices: image i of a seed is always the same, in whichever batch it comes.

        Args:
            indices: one for each image.
            labels: (N,); ``index % num_classes`` by default. The label ``num_classes`` is the null class.
            context: (N, S, D), for a network with cross-attention.
            caption: N texts, for a model with a conditioner (``sample_captions`` by default); guidance leads away
                from the empty one.
            scheduler, num_steps, guidance_scale: in place of the model's own. A scheduler keeps what the model's own
                sets, where it has that; without a ``type`` it is the model's own with other settings.
            on_step: called after each denoising step.

        Returns:
            (N, 3, H, W) in [-1, 1].
        """
        sampler = self.sampler_of(scheduler, num_steps)
        num_steps = self.num_steps if num_steps is None else num_steps
        predict, noise, generators = self.sampling_inputs(indices, seed, labels, context, caption, guidance_scale)
        training, _ = self.training, self.eval()
        try:
            with torch.inference_mode():
                images = self.decode(denoise(predict, sampler, noise, num_steps, generators, on_step=on_step))
        finally:
            self.train(training)
        return images.clone()  # an ordinary tensor: inference tensors can't enter autograd

    def sampler_of(self, scheduler: Mapping[str, Any] | SchedulerMixin | None = None,
                   num_steps: int | None = None) -> SchedulerMixin:
        """What :meth:`sample` samples with, at the timesteps of the network's allocation if that has some. Commands and
        loops ask before anything runs.

        Raises:
            ValueError: a scheduler that doesn't fit the network, can't take so many steps, or not at those timesteps.
        """
        sampler = self.sampler if scheduler is None else build_scheduler(scheduler, base=self.sampler)
        timesteps = getattr(getattr(self.unet, 'allocation', None), 'timesteps', None)
        if timesteps is not None and scheduler is not None:
            sampler = build_scheduler({'timesteps': list(timesteps)}, base=sampler)
        prepared(sampler, self.num_steps if num_steps is None else num_steps)
        return sampler

    def sampling_inputs(self,
                        indices: Sequence[int],
                        seed: int = 0,
                        labels: Tensor | None = None,
                        context: Tensor | None = None,
                        caption: Sequence[str] | None = None,
                        guidance_scale: float | None = None) -> tuple[Predict, Tensor, list[torch.Generator]]:
        """What :meth:`sample` denoises with: the guided network as ``predict(x_t, t)``, noise (N, C, h, w), generators.

        Arguments as for :meth:`sample`.
        """
        generators = image_generators(seed, indices)
        if self.num_classes is None:
            labels = None
        else:
            if labels is None:
                labels = torch.tensor([int(i) % self.num_classes for i in indices])
            labels = torch.as_tensor(labels)
            batches.check_labels(labels, self.num_classes, null=True)  # before they are on a GPU, where it doesn't look
            labels = labels.to(self.device)
            if not self.class_dropout and (labels == self.num_classes).any():
                raise ValueError(f'Label {self.num_classes} is the null class, which class_dropout=0 never trained. '
                                 f'Labels lie in 0..{self.num_classes - 1}.')
        if self.conditioner is not None and caption is None and context is None:
            caption = [self.sample_captions[int(i) % len(self.sample_captions)] for i in indices]
        given, context = context, self.context_of(caption, context)
        noise = initial_noise(input_shape(self.unet), generators, self.device)

        # A context that was given is nobody's to drop: both halves of a guided batch keep it.
        null_context = self.context_of([''] * len(indices), None) if caption is not None and given is None else context
        null_labels = None if labels is None else torch.full_like(labels, self.num_classes)
        droppable = labels is not None or null_context is not context
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        if droppable:
            self.check_guidance(scale)
        elif guidance_scale not in (None, 1) and context is not None:
            raise ValueError(f'guidance_scale={scale:g}: guidance leads away from the null class or the empty caption, '
                             'and a context of your own has neither. Sample with guidance 1.')
        predict = guided(self.predict, (labels, context), (null_labels, null_context) if droppable else None, scale)
        return lambda x, t: predict(x, t).float(), noise, generators
