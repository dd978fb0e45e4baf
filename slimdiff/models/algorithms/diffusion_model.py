"""What a Runner trains: a network, a noise process and a loss. How it samples is in the file beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from slimdiff.arguments import check_arguments, plain
from slimdiff.models.algorithms import batches, start
from slimdiff.models.algorithms.draws import (
    CLASS_DROPOUT,
    NoisedBatch,
    draw_posterior,
    draw_step,
    draw_timesteps,
    drop_conditions,
)
from slimdiff.models.algorithms.sampling import Sampling
from slimdiff.models.backbones.adapt import predict
from slimdiff.models.backbones.load import build_backbone
from slimdiff.models.backbones.protocol import input_dtype, input_shape
from slimdiff.models.conditioners import build_conditioner
from slimdiff.registry import LOSSES, MODELS, building
from slimdiff.sampling import build_scheduler, noise_process, process_of


@MODELS.register_module()
class DiffusionModel(Sampling, BaseModel):
    """Denoising diffusion (Ho et al. 2020), in pixels or latents, with or without classes or text.

    Args:
        unet: config of the network: a registered class, or one of diffusers, by its name.
        noise_scheduler: config of a diffusers scheduler: x_t comes from its ``alphas_cumprod``, and its
            ``prediction_type`` says what the network predicts. ``FlowMatchEulerDiscreteScheduler`` makes it rectified
            flow: the network then predicts the velocity noise - x0.
        sampler: config of the scheduler that samples, and its ``eta``; what it leaves out comes from
            ``noise_scheduler``. On latents x0 is clipped at +-1 only if one of the two has ``clip_sample=True``.
        num_steps: denoising steps when sampling.
        guidance_scale: classifier-free guidance when sampling; 1 is none.
        sigma_data: standard deviation of the data, for the output preconditioning
            (:mod:`slimdiff.models.backbones.preconditioned`); None trains the bare network.
        loss_weight: config of a weight over timesteps (plain, min-SNR, P2, SD3).
        timestep_sampling: arguments of :func:`~slimdiff.models.algorithms.draws.draw_timesteps`, the density of the
            timesteps in training: ``dict(scheme='logit_normal', shift=3.0)``; uniform by default.
        autoencoder: config of the first stage.
        num_classes: None for an unconditional model. The null class is the label ``num_classes``.
        class_dropout: probability of training a sample on the null class, or on the empty caption.
        conditioner: config of a text encoder (:class:`~slimdiff.models.conditioners.TextConditioner`): captions become
            the context that the network's cross-attention reads.
        sample_captions: what :meth:`sample` draws without captions, image i the one at ``i % len``.
        start_from: a checkpoint or folder whose network this one starts from: with all of its weights where the two are
            of one size, else, a UNet or DiT of ours or of diffusers, with its most important channels
            (:func:`~slimdiff.models.algorithms.start.start_from`). A slimmable network puts those first.
        gradient_checkpointing: compute the network's blocks again in the backward pass, for less memory: the same
            gradients, more time.

    Raises:
        ValueError: an argument out of range, a prediction type that the process doesn't have, classes of the network
            that the model doesn't have, a text encoder of another width than the network's context, a network that
            can't start from the given one, or that has no gradient checkpointing.
        RegistryError: an unknown scheduler, network, loss weight or autoencoder.
    """

    #: prefixes of weights that only training needs: a served model does without them in a checkpoint.
    training_only = ('projections.', 'distillation_losses.')

    def __init__(self,
                 unet: Mapping[str, Any],
                 noise_scheduler: Mapping[str, Any] = dict(type='DDPMScheduler'),
                 sampler: Mapping[str, Any] = dict(type='DDIMScheduler'),
                 num_steps: int = 50,
                 guidance_scale: float = 1.0,
                 sigma_data: float | None = 0.5,
                 loss_weight: Mapping[str, Any] = dict(type='UniformWeight'),
                 timestep_sampling: Mapping[str, Any] = {},
                 autoencoder: Mapping[str, Any] = dict(type='IdentityAutoencoder'),
                 num_classes: int | None = None,
                 class_dropout: float = CLASS_DROPOUT,
                 conditioner: Mapping[str, Any] | None = None,
                 sample_captions: Sequence[str] = ('', ),
                 start_from: str | None = None,
                 gradient_checkpointing: bool = False,
                 data_preprocessor: Mapping[str, Any] | None = None,
                 init_cfg: Mapping[str, Any] | None = None) -> None:
        # Built here: mmengine's registry would import what a checkpoint's config names.
        preprocessor = MODELS.build(data_preprocessor or batches.CheckedBatches(num_classes), kind=nn.Module)
        super().__init__(data_preprocessor=preprocessor, init_cfg=init_cfg)
        if not 0 <= class_dropout < 1:
            raise ValueError(f'class_dropout is a probability in [0, 1), got {class_dropout}.')
        self.noise_scheduler = build_scheduler(noise_scheduler)
        self.process = process_of(self.noise_scheduler)
        self.prediction_type = self.process['prediction_type']
        self.noise_process = noise_process(self.process['schedule'])
        self.autoencoder = MODELS.build(autoencoder, kind=nn.Module).requires_grad_(False).eval()
        self.sampler = build_scheduler(sampler, base=self.noise_scheduler,
                                       clip=self.autoencoder.downsampling == 1)  # latents have no bounds
        self.num_steps = num_steps
        self.guidance_scale = guidance_scale
        self.num_classes = num_classes
        self.class_dropout = class_dropout
        self.loss_weight = LOSSES.build(loss_weight)
        check_arguments(draw_timesteps, timestep_sampling)
        self.timestep_sampling = plain(dict(timestep_sampling))
        with building('timestep_sampling or loss_weight', TypeError):  # tried now, not in the first iteration
            t = draw_timesteps(self.noise_process, 1, torch.Generator(), torch.device('cpu'), **self.timestep_sampling)
            self.loss_weight(self.noise_process.snr(t), self.prediction_type)
        self.unet = build_backbone(unet, num_classes, class_dropout,
                                   None if sigma_data is None else {**self.process, 'sigma_data': sigma_data})
        if start_from is not None:
            start.start_from(self, start_from)
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.sample_captions = list(sample_captions)
        self.conditioner = build_conditioner(conditioner, self.unet)
        #: names of the classes in the order of their labels and where they are from, once a data set or weights say so
        self.class_names: tuple[list[str], str] | None = None
        self._step_seed: int | None = None

    #: keys of the config that sampling doesn't need
    training_keys: tuple[str, ...] = ('start_from', )

    @classmethod
    def serving_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The config of what samples: without ``training_keys``."""
        return {key: value for key, value in plain(config).items() if key not in cls.training_keys}

    # ---- what it was trained on -------------------------------------------------------------------------------

    def trained_as(self, meta: Mapping[str, Any], source: str) -> None:
        """Take from a checkpoint's ``meta`` what decides on sampling and no weight tells: the names of the classes,
        and whether the null class was trained. :func:`~slimdiff.checkpoint.load_weights` calls it."""
        self.class_names = None
        self.check_classes((meta.get('dataset_meta') or {}).get('classes'), source)
        config = (meta.get('config') or {}).get('model')
        if config is not None:
            self.class_dropout = config.get('class_dropout', CLASS_DROPOUT)

    def check_classes(self, names: Sequence[str] | None, source: str) -> None:
        """Compare the classes of a data set or a checkpoint, by name, with the first ones that came here.

        Raises:
            ValueError: a label means one class there and another here.
        """
        if self.num_classes is None or not names:
            return
        if self.class_names is None:
            self.class_names = (list(names), source)
            return
        batches.check_classes(names, source, *self.class_names)

    @property
    def num_train_timesteps(self) -> int:
        return self.noise_process.num_train_timesteps

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a generated image."""
        (channels, *size), factor = input_shape(self.unet), self.autoencoder.downsampling
        channels = getattr(self.autoencoder, 'image_channels', 3 if factor > 1 else channels)
        return (channels, *(side * factor for side in size))

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    def train(self, mode: bool = True) -> DiffusionModel:
        """As in PyTorch, except that the frozen first stage stays in evaluation mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def trained_modules(self) -> dict[str, nn.Module]:
        """The modules that the optimizer trains and that an EMA covers."""
        return {'unet': self.unet}

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] to (scaled) latents, without gradient."""
        noise = draw_posterior(self.autoencoder, images, self._step_seed) if self.training else None
        return self.autoencoder.encode(images) if noise is None else self.autoencoder.encode(images, noise)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents to images in [-1, 1], without gradient."""
        return self.autoencoder.decode(latents).clamp(-1, 1)

    # ---- training ---------------------------------------------------------------------------------------------

    def seed_step(self, seed: int) -> None:
        """Make the draws of the next :meth:`forward` a function of ``seed``, the same on every rank
        (:mod:`slimdiff.models.algorithms.draws`): the train loop calls it every iteration."""
        self._step_seed = seed

    def draw(self, batch: int, shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Draw timesteps (N,), noise (N, *shape) and the condition-dropout mask (N,) of this rank's batch."""
        seed, self._step_seed = self._step_seed, None
        return draw_step(batch, shape, self.noise_process, self.class_dropout, seed, self.device,
                         **self.timestep_sampling)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha x0 + sigma noise of the process (:mod:`slimdiff.functional.process`)."""
        return self.noise_process.add_noise(x0, noise, t)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should predict (N, C, H, W): noise, x0, v, or the velocity of a flow."""
        return self.noise_process.target(x0, noise, t, self.prediction_type)

    def to_epsilon(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Convert a prediction of this model's type at x_t into the noise that it implies."""
        return self.noise_process.convert(prediction, x_t, t, self.prediction_type, 'epsilon')

    def predict(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """The network's output; ``labels`` are left out for an unconditional model.

        Raises:
            ValueError: integer timesteps for a flow network.
        """
        self.noise_process.check(t)
        x_t = x_t.to(input_dtype(self.unet))  # a served network may be in half precision
        return predict(self.unet, x_t, t, None if self.num_classes is None else labels, context)

    def predict_eps(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None,
                    context: Tensor | None = None) -> Tensor:
        """The predicted noise (N, C, H, W), whatever the prediction type; t is (N,)."""
        return self.to_epsilon(self.predict(x_t, t, labels, context), x_t, t)

    def conditions_of(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """What :meth:`predict` takes of a batch besides images, on its device: ``labels`` (N,), ``context`` (N, S, D).

        Raises:
            ValueError: the batch lacks what this model is conditioned on.
        """
        labels, context = batch.get('labels'), batch.get('context')
        batches.check_labels(labels, self.num_classes)
        context = self.context_of(batch.get('caption'), None if context is None else context.to(self.device))
        found = {} if self.num_classes is None else {'labels': labels.to(self.device)}
        return found if context is None else {**found, 'context': context}

    def noised_batch(self, inputs: Tensor | None = None, labels: Tensor | None = None, context: Tensor | None = None,
                     caption: Sequence[str] | None = None, latents: Tensor | None = None) -> NoisedBatch:
        """Check a batch, encode it (or scale its raw latents), and draw what :meth:`draw` draws."""
        batches.check_labels(labels, self.num_classes)
        x0 = self.clean_input(inputs, latents)
        t, noise, drop = self.draw(x0.shape[0], x0.shape[1:])
        labels, caption = drop_conditions(drop, labels, caption, self.num_classes)
        context = self.context_of(caption, context)
        return NoisedBatch(x0, noise, t, self.add_noise(x0, noise, t), labels, context, caption)

    def context_of(self, caption: Sequence[str] | None, context: Tensor | None) -> Tensor | None:
        """Context (N, S, D) of captions, by the conditioner, or the one given; checked."""
        if self.conditioner is not None:
            batches.check_text(caption, context)
            if context is None:
                context = self.conditioner(caption, self.device)
        batches.check_context(context, self.unet)
        return context

    def clean_input(self, inputs: Tensor | None, latents: Tensor | None) -> Tensor:
        """x0 from images, or from what the encoder made of them.

        Raises:
            ValueError: both or neither, or latents that the network has another shape for.
        """
        batches.check_images(inputs, latents)
        if latents is None:
            return self.encode(inputs)
        batches.check_latent_shape(latents.shape[1:], self.unet, self.autoencoder)
        return self.autoencoder.scale(latents)

    def check_data(self, metainfo: Mapping[str, Any], decodes: bool = False,
                   batch: Mapping[str, Any] | None = None) -> None:
        """Raise ValueError unless this model can be trained on a data set, of which ``batch`` is a batch: the Runner
        asks before it begins."""
        self.check_guidance()
        batches.check_data(metainfo, self.unet, self.autoencoder, decodes)
        if batch is not None:
            batches.check_keys(batch, self.num_classes, self.conditioner is not None)
            batches.check_image_shape(batch.get('inputs'), self.image_shape)

    def forward(self, inputs: Tensor | None = None, labels: Tensor | None = None, context: Tensor | None = None,
                caption: Sequence[str] | None = None, mode: str = 'loss',
                latents: Tensor | None = None) -> dict[str, Tensor] | Tensor:
        """Train on images (N, 3, H, W) in [-1, 1], labels (N,), and N captions or context (N, S, D).

        In place of ``inputs`` a batch may bring ``latents`` (N, C, h, w): raw ones, as the encoder gave them.

        Returns:
            For mode 'loss' ``dict(loss=...)``, the sum of :meth:`loss_terms`, and the terms where there are several;
            for mode 'tensor' the network's prediction on the noised input.
        """
        batch = self.noised_batch(inputs, labels, context, caption, latents)
        if mode == 'loss':
            terms = self.loss_terms(batch)
            logged = {name: term.detach() for name, term in terms.items()} if len(terms) > 1 else {}
            return {'loss': sum(terms.values())} | logged
        if mode != 'tensor':
            raise ValueError(f"mode '{mode}' is unknown; choose 'loss' or 'tensor', or call .sample(...).")
        return self.predict(batch.x_t, batch.t, batch.labels, batch.context)

    def loss_terms(self, batch: NoisedBatch) -> dict[str, Tensor]:
        """The weighted terms of the loss by name, with their graph; training minimises their sum.

        A subclass adds its own. mmengine adds up what it finds under a name with "loss" in it: avoid that word.
        """
        prediction = self.predict(batch.x_t, batch.t, batch.labels, batch.context)
        return {'denoising': self.denoising_loss(prediction, batch)}

    def denoising_loss(self, prediction: Tensor, batch: NoisedBatch) -> Tensor:
        """Mean over the batch of weight(t) * mean squared error."""
        target = self.target(batch.x0, batch.noise, batch.t)
        error = (prediction.float() - target.float()).square().mean(dim=(1, 2, 3))
        snr = self.noise_process.snr(batch.t)
        return (self.loss_weight(snr, self.prediction_type).to(error) * error).mean()
