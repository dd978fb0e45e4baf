"""The pipeline of diffusers that samples as slimdiff does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ImagePipelineOutput, SchedulerMixin, VQModel
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor, nn

from slimdiff.models.autoencoders.loading import normalisation
from slimdiff.models.backbones.adapt import predict
from slimdiff.models.backbones.protocol import expected_context, input_dtype, input_shape, num_classes
from slimdiff.sampling import check_sampler, denoise, guided, image_generators, process_of
from slimdiff.sampling.images import to_uint8
from slimdiff.spelling import did_you_mean

OUTPUT_TYPES = ('pil', 'np', 'pt', 'latent')
#: latents decoded at once: it bounds the memory of a batch
DECODE_BATCH = 16


class SlimDiffusionPipeline(DiffusionPipeline):
    """Images from a :class:`~slimdiff.UNet`, unconditional, of classes or of texts, in pixels or latents.

    ``DiffusionPipeline.from_pretrained`` opens a folder of ``slimdiff export`` as this class after ``import slimdiff``.
    With ``seed``, or ``generator=slimdiff.sampling.image_generators(seed, indices)``, the images are those of
    ``slimdiff sample``.

    Args:
        unet: the network; its config says whether it knows classes or reads a context.
        scheduler: one that :func:`slimdiff.sampling.build_scheduler` builds for the network's noise process. To sample
            with another, ``pipeline.scheduler = build_scheduler(dict(type='UniPCMultistepScheduler'),
            base=pipeline.scheduler)``.
        vae, vqvae: the first stage, whichever the model has; without one the model works on pixels.
        text_encoder, tokenizer: for texts; without them a network with cross-attention takes ``prompt_embeds``.
        latent_scale: the network sees the first stage's latents times this, once their mean and standard deviation
            are taken out where its config has them (``shift_factor``, or ``latents_mean`` and ``latents_std``).
        num_inference_steps, guidance_scale: what a call takes if it doesn't say.
        max_length: tokens that a text is padded or cut to.
        num_classes: without the null class; by default what the network's config says.
        null_class: whether the null class (of texts, the empty one) was trained; without it there is no guidance.
        id2label: name of each class.
        process: what the network was trained with (:mod:`slimdiff.sampling.process`), which each call compares with
            the scheduler; by default what the network's preconditioning says, else the scheduler.

    Raises:
        ValueError: a scheduler without a discrete noise schedule, if nothing else says the process.
    """

    model_cpu_offload_seq = 'text_encoder->unet->vae->vqvae'
    _optional_components = ['vae', 'vqvae', 'text_encoder', 'tokenizer']

    def __init__(self, unet: nn.Module, scheduler: SchedulerMixin, vae: AutoencoderKL | None = None,
                 vqvae: VQModel | None = None, text_encoder: nn.Module | None = None, tokenizer: object = None,
                 latent_scale: float = 1.0, num_inference_steps: int = 50, guidance_scale: float = 1.0,
                 max_length: int = 77, num_classes: int | None = None, null_class: bool = True,
                 id2label: dict | None = None, process: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, vae=vae, vqvae=vqvae, text_encoder=text_encoder,
                              tokenizer=tokenizer)
        self.register_to_config(latent_scale=float(latent_scale), num_inference_steps=num_inference_steps,
                                guidance_scale=float(guidance_scale), max_length=max_length, num_classes=num_classes,
                                null_class=null_class, id2label=id2label,
                                process=dict(process or _process_of(unet, scheduler)))

    @torch.no_grad()
    def __call__(self,
                 prompt: str | Sequence[str] | None = None,
                 labels: int | Sequence[int] | Tensor | None = None,
                 num_images: int | None = None,
                 num_inference_steps: int | None = None,
                 guidance_scale: float | None = None,
                 generator: torch.Generator | Sequence[torch.Generator] | None = None,
                 negative_prompt: str | None = None,
                 prompt_embeds: Tensor | None = None,
                 negative_prompt_embeds: Tensor | None = None,
                 output_type: str = 'pil',
                 return_dict: bool = True,
                 seed: int | None = None) -> ImagePipelineOutput | tuple[Any]:
        """Generate images.

        Args:
            prompt: a text or several, for a model with a text encoder.
            labels: a class or several, for a model that knows classes; None, and the label ``num_classes``, are the
                null class.
            num_images: how many in all; one of each prompt or label by default. More than there are prompts or labels
                take these in turn.
            num_inference_steps: denoising steps.
            guidance_scale: w of classifier-free guidance, ``u + w (c - u)``; 1 is none. Both halves are one forward.
            generator: one for all images, or one for each.
            negative_prompt: what guidance leads away from; the empty text by default.
            prompt_embeds, negative_prompt_embeds: context (1 or N, S, D) in place of texts; without the latter, it
                isn't guided.
            output_type: 'pil'; 'np' (N, H, W, C) or 'pt' (N, C, H, W) in [0, 1]; 'latent', what the network works on.
            return_dict: False for a plain tuple.
            seed: in place of generators: image i of a seed is always the same, and that of ``slimdiff sample --seed``.

        Raises:
            ValueError: a condition that this model doesn't have, a class out of range, as many generators as neither 1
                nor the number of images, a scheduler that doesn't fit the network or can't take so many steps.
        """
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type: got '{output_type}'.{did_you_mean(output_type, OUTPUT_TYPES)} Allowed: "
                             f'{", ".join(OUTPUT_TYPES)}.')
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if labels is not None:
            try:
                labels = torch.as_tensor(labels).reshape(-1).tolist()
            except (TypeError, ValueError):
                raise ValueError(f'labels are integers, the numbers of classes; got {labels!r}.') from None
        self._check(prompts, labels, prompt_embeds, negative_prompt, negative_prompt_embeds)
        given = next((len(v) for v in (prompts, prompt_embeds, labels) if v is not None), 1)
        count = given if num_images is None else num_images
        if count < 1 or given < 1:
            raise ValueError(f'num_images must be at least 1, and there must be a prompt or label for it; got {count} '
                             f'images of {given}.')
        device = self._execution_device
        if seed is not None:
            if generator is not None:
                raise ValueError('Give seed or generator, not both.')
            generator = image_generators(seed, range(count))
        if isinstance(generator, Sequence):
            generator = list(generator)
            if len(generator) != count:
                raise ValueError(f'generator: got {len(generator)} for {count} images; give one, or one for each.')

        turn = [i % given for i in range(count)]
        labels, null_labels = self._class_conditions(labels, turn, device)
        context, null_context = self._contexts(prompts, negative_prompt, prompt_embeds, negative_prompt_embeds, turn,
                                               device)
        droppable = null_labels is not None or null_context is not context
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        if droppable and scale != 1 and not self.config.null_class and (negative_prompt, negative_prompt_embeds) == (
                None, None):
            raise ValueError(f'guidance_scale={scale:g}: guidance leads away from the null class (of a text model, the '
                             'empty text), which this model was not trained on. Pass guidance_scale=1.')
        predict = guided(self.predict, (labels, context), (null_labels, null_context) if droppable else None, scale)

        check_sampler(self.scheduler, self.config.process)
        noise = randn_tensor((count, *input_shape(self.unet)), generator=generator, device=device)
        steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        streams = [generator] * count if isinstance(generator, torch.Generator) else generator
        with self.progress_bar(total=steps) as bar:
            latents = denoise(lambda x, t: predict(x, t).float(), self.scheduler, noise, steps, streams,
                              on_step=bar.update)
        images = latents if output_type == 'latent' else self._as_type(self.decode(latents), output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images, )

    @property
    def num_classes(self) -> int | None:
        """Classes that the network knows, without the null class; None for none."""
        return self.config.num_classes or num_classes(self.unet)

    # ---- the parts ----------------------------------------------------------------------------------------------

    def predict(self, x: Tensor, t: Tensor, labels: Tensor | None, context: Tensor | None) -> Tensor:
        """The network's output, in the precision of its weights; a preconditioned one wants x itself in float32."""
        context = None if context is None else context.to(self.unet.dtype)
        return predict(self.unet, x.to(input_dtype(self.unet)), t, labels, context)

    def encode_prompt(self, prompts: Sequence[str], device: torch.device) -> Tensor:
        """Texts to context (N, max_length, D); each different text is encoded once."""
        unique = list(dict.fromkeys(prompts))
        tokens = self.tokenizer(unique, padding='max_length', max_length=self.config.max_length, truncation=True,
                                return_tensors='pt').input_ids
        context = self.text_encoder(tokens.to(device))[0]
        return context[[unique.index(prompt) for prompt in prompts]]

    def decode(self, latents: Tensor) -> Tensor:
        """What the network works on to images (N, C, H, W) in [-1, 1]."""
        first_stage = self.vae if self.vae is not None else self.vqvae
        if first_stage is None:
            return latents.clamp(-1, 1)
        mean, std = (value.to(latents.device) for value in normalisation(first_stage.config))
        raw = (latents.float() / (self.config.latent_scale / std) + mean).to(first_stage.dtype)
        return torch.cat([first_stage.decode(part).sample for part in raw.split(DECODE_BATCH)]).float().clamp(-1, 1)

    @staticmethod
    def _as_type(images: Tensor, output_type: str) -> Any:
        if output_type == 'pil':
            arrays = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
            return [Image.fromarray(a.squeeze(-1) if a.shape[-1] == 1 else a) for a in arrays]
        images = images / 2 + 0.5
        return images if output_type == 'pt' else images.permute(0, 2, 3, 1).cpu().numpy()

    # ---- conditions ---------------------------------------------------------------------------------------------

    def _check(self, prompts: Sequence[str] | None, labels: list[int] | None, embeds: Tensor | None,
               negative: str | None, negative_embeds: Tensor | None) -> None:
        """Raise ValueError for a condition that this model doesn't have, or one that it lacks."""
        classes, width = self.num_classes, expected_context(self.unet)
        texts = self.text_encoder is not None and self.tokenizer is not None
        if labels is not None:
            if not classes:
                raise ValueError('labels: this model knows no classes.')
            null = int(self.config.null_class)
            wrong = [label for label in labels if not isinstance(label, int) or not 0 <= label < classes + null]
            if wrong:
                which = f'{classes}, or None, is the null class' if null else 'the null class was not trained'
                raise ValueError(f'labels must lie in 0..{classes - 1} ({which}), got {wrong[0]}.')
        elif classes and not self.config.null_class:
            raise ValueError(f'labels: give them, from 0..{classes - 1}; this model was not trained on the null class.')
        for name, value, wanted in (('prompt', prompts, texts), ('negative_prompt', negative, texts),
                                    ('prompt_embeds', embeds, width is not None),
                                    ('negative_prompt_embeds', negative_embeds, width is not None)):
            if value is not None and not wanted:
                why = 'its network reads no context' if width is None else 'it has no text encoder: give prompt_embeds'
                raise ValueError(f'{name}: this model takes none; {why}.')
        if width is not None and (prompts is None) == (embeds is None):
            raise ValueError(f'This model needs {"prompt or prompt_embeds, one of them" if texts else "prompt_embeds"}'
                             '.')
        for name, value in (('prompt_embeds', embeds), ('negative_prompt_embeds', negative_embeds)):
            if value is not None and (value.dim() != 3 or value.shape[-1] != width):
                raise ValueError(f'{name}: got the shape {tuple(value.shape)}, it must be (N, tokens, {width}).')
        if embeds is not None and negative_embeds is not None and embeds.shape[1] != negative_embeds.shape[1]:
            raise ValueError(f'prompt_embeds has {embeds.shape[1]} tokens and negative_prompt_embeds '
                             f'{negative_embeds.shape[1]}: they must have as many.')

    def _class_conditions(self, labels: list[int] | None, turn: list[int],
                          device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """Labels (N,) of the images and of the unguided half; None and None without classes to guide to."""
        if self.num_classes is None:
            return None, None
        null = torch.full((len(turn), ), self.num_classes, device=device)
        if labels is None:
            return null, None
        return torch.tensor([labels[i] for i in turn], device=device), null

    def _contexts(self, prompts: Sequence[str] | None, negative: str | None, embeds: Tensor | None,
                  negative_embeds: Tensor | None, turn: list[int],
                  device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """Context of the images and of the unguided half; the very same where there is nothing to guide away from."""
        if prompts is not None:
            context = self.encode_prompt([prompts[i] for i in turn], device)
        elif embeds is not None:
            context = embeds.to(device)[turn]
        else:
            return None, None
        if negative_embeds is not None:
            null = negative_embeds.to(device)
            return context, null[[i % len(null) for i in range(len(turn))]]
        if prompts is None and negative is None:
            return context, context
        return context, self.encode_prompt([negative or ''] * len(turn), device)


def _process_of(unet: nn.Module, scheduler: SchedulerMixin) -> dict[str, Any]:
    known = getattr(unet.config, 'preconditioning', None)
    return {key: known[key] for key in ('schedule', 'prediction_type')} if known else process_of(scheduler)


# The path that users and folders name; it will not move.
SlimDiffusionPipeline.__module__ = 'slimdiff'
