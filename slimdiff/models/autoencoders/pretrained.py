"""What the first stages from diffusers share."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from slimdiff.arguments import check_arguments
from slimdiff.checkpoint.tensor_store import network_fingerprint
from slimdiff.functional.precision import has_bf16_products
from slimdiff.models.autoencoders import loading


class PretrainedAutoencoder(nn.Module):
    """A frozen autoencoder of diffusers, loaded when it is first asked for an image or for latents.

    Its weights are in no state dict, checkpoint or EMA, and no optimizer or DDP sees them; they live where the input
    does. It works in float32 (or bfloat16, see ``bf16``) whatever autocast is on around it, so that latents encoded
    once are those that training would compute.

    Raw latents z are what the encoder gives; *scaled* ones are what a diffusion model sees: z times ``latent_scale``,
    and (z - mean) * latent_scale / std for a checkpoint whose config has a ``shift_factor``, or ``latents_mean`` and
    ``latents_std``.

    Args:
        checkpoint: a folder of ``save_pretrained`` (a pipeline's too, with ``vae/`` or ``vqvae/``), or a model on the
            Hub as ``owner/name``. It need not be there to build a model, only to encode or decode. None: random
            weights, the same every time.
        architecture: arguments of the diffusers class, over :attr:`layout`, for ``checkpoint=None`` or while the
            checkpoint isn't there; what the checkpoint's own config says goes first.
        latent_scale: factor on raw latents; None takes ``scaling_factor`` of the checkpoint's config.
        bf16: run in bfloat16 on a device with bfloat16 products
            (:func:`~slimdiff.functional.precision.has_bf16_products`).
        decode_batch: images decoded at once; None is all of a batch.

    Raises:
        ValueError: an argument out of range; a checkpoint of another class. Later, one that isn't there
            (:class:`~slimdiff.models.autoencoders.loading.FirstStageMissing`) or doesn't load.
        RegistryError: an unknown key of ``architecture``.
    """

    #: name of the class of diffusers
    network_name: ClassVar[str]
    #: arguments of the diffusers class that give LDM's layout
    layout: ClassVar[dict[str, Any]]
    #: submodules that run in bfloat16
    bf16_parts: ClassVar[tuple[str, ...]] = ('encoder', 'decoder', 'quant_conv', 'post_quant_conv')

    def __init__(self, checkpoint: str | None = None, architecture: Mapping[str, Any] | None = None,
                 latent_scale: float | None = 1.0, bf16: bool = False, decode_batch: int | None = 16) -> None:
        super().__init__()
        if latent_scale is not None and not latent_scale > 0:
            raise ValueError(f'{self.name}: latent_scale must be above 0 (or None), got {latent_scale}.')
        if decode_batch is not None and decode_batch < 1:
            raise ValueError(f'{self.name}: decode_batch must be at least 1 (or None), got {decode_batch}.')
        self.checkpoint, self.bf16, self.decode_batch = checkpoint, bf16, decode_batch
        self._scale = latent_scale
        self.folder: Path | None = None if checkpoint is None else loading.find_folder(checkpoint)
        self.config = self._layout_from(architecture) if self.folder is None \
            else loading.read_layout(self.folder, self.network_class)
        self._network: nn.Module | None = None
        self._dtype = torch.float32
        self._fingerprint: str | None = None
        self._description: tuple[Path | None, dict[str, Any]] | None = None

    @classmethod
    def around(cls, network: nn.Module, latent_scale: float) -> PretrainedAutoencoder:
        """The first stage of a network that is in memory already, such as a pipeline's."""
        stage = cls(latent_scale=latent_scale)
        stage.config = {key: value for key, value in network.config.items() if not key.startswith('_')}
        object.__setattr__(stage, '_network', network)
        stage._dtype, stage._fingerprint = network.dtype, network_fingerprint(network)
        return stage

    def _layout_from(self, architecture: Mapping[str, Any] | None) -> dict[str, Any]:
        given = dict(architecture or {})
        check_arguments(self.network_class, given)
        config = {**self.layout, **given}
        levels = len(config['block_out_channels'])
        for key, block in (('down_block_types', 'DownEncoderBlock2D'), ('up_block_types', 'UpDecoderBlock2D')):
            config[key] = given.get(key, (block, ) * levels)
        return config

    @classmethod
    def find_network_class(cls) -> type[nn.Module]:
        """The class of diffusers. Looked up when it is needed: to import all its autoencoders takes seconds."""
        import diffusers
        return getattr(diffusers, cls.network_name)

    @property
    def network_class(self) -> type[nn.Module]:
        return self.find_network_class()

    # ---- what it is -------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def downsampling(self) -> int:
        return 2**(len(self.config['block_out_channels']) - 1)

    @property
    def image_channels(self) -> int:
        return self.config.get('out_channels', 3)

    @property
    def latent_channels(self) -> int:
        return self.config.get('vq_embed_dim') or self.config.get('latent_channels', self.layout['latent_channels'])

    @property
    def latent_scale(self) -> float:
        if self._scale is not None:
            return self._scale
        if self.checkpoint is not None and self.folder is None:
            raise loading.missing(self.checkpoint)
        scale = self.config.get('scaling_factor')
        if scale is None:
            raise ValueError(f'{self.name}: latent_scale=None, but the config.json in {self.folder} has no '
                             'scaling_factor. Give latent_scale; slimdiff encode_latents prints one.')
        return float(scale)

    @property
    def loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._network is not None

    def require(self) -> None:
        """Raise FirstStageMissing unless the files of the checkpoint are here, or on the Hub (then download them)."""
        if self.checkpoint is None or self.folder is not None:
            return
        self.folder = loading.find_folder(self.checkpoint, fetch=True)
        if self.folder is None:
            raise loading.missing(self.checkpoint)
        self.config = loading.read_layout(self.folder, self.network_class)

    def fingerprint(self) -> str:
        """16 hexadecimal digits of the weights and architecture, from the files: nothing is loaded for it."""
        if self._fingerprint is None:
            self.require()
            if self.folder is None:
                self._fingerprint = f'random-{loading.fingerprint_of_layout(self.network_class, self.config)}'
            else:
                self._fingerprint = loading.fingerprint_of_folder(self.folder, self.network_class)
        return self._fingerprint

    def describe(self) -> dict[str, Any]:
        """The latents that it makes, as far as is known here (:func:`~slimdiff.models.autoencoders.loading.describe`);
        nothing is downloaded for it."""
        if self._description is None or self._description[0] != self.folder:
            scale = None if self._scale is None and self.config.get('scaling_factor') is None else self.latent_scale
            found = loading.describe(self.network_name, self.config, scale, self.folder)
            if self.checkpoint is not None and self.folder is None:  # what its config says is not known
                found = {key: found[key] for key in ('class', 'scale') if key in found}
            self._description = (self.folder, found)
        return self._description[1]

    # ---- the network ------------------------------------------------------------------------------------------

    def network(self, device: torch.device) -> nn.Module:
        """The network on a device, in its precision; loaded at the first call."""
        # It may be asked for in inference mode; what is made there could not be trained on later.
        with torch.inference_mode(False), torch.no_grad():
            if self._network is None:
                # Not as an attribute of this module: see the class.
                object.__setattr__(self, '_network', self.new_network())
                self._network.to(memory_format=torch.channels_last)
            if next(self._network.parameters()).device != device:
                nn.Module.to(self._network, device)
            if self.bf16 and self._dtype == torch.float32 and has_bf16_products(device):
                self._dtype = torch.bfloat16
                for part in self.bf16_parts:
                    if getattr(self._network, part, None) is not None:
                        getattr(self._network, part).to(torch.bfloat16)
        return self._network

    def new_network(self) -> nn.Module:
        """The network in float32, as its files have it, on the CPU: another one at each call."""
        with torch.random.fork_rng(devices=[]):  # no draw of training may depend on it
            return self._build().eval().requires_grad_(False)

    def _build(self) -> nn.Module:
        self.require()
        if self.folder is not None:
            return loading.load_network(self.folder, self.network_class)
        print_log(f'{self.name}: no checkpoint is given, so the first stage has random weights: good for a dry run '
                  'only.', logger='current', level=logging.WARNING)
        torch.default_generator.manual_seed(0)  # `torch.manual_seed` would reseed the GPUs as well
        return self.network_class(**self.config)

    # ---- images and latents -----------------------------------------------------------------------------------

    def scale(self, raw: Tensor) -> Tensor:
        """Raw latents, of any precision, to what the diffusion model sees, in float32."""
        mean, std = (value.to(raw.device) for value in loading.normalisation(self.config))
        return (raw.float() - mean) * (self.latent_scale / std)

    def unscale(self, latents: Tensor) -> Tensor:
        """The inverse of :meth:`scale`."""
        mean, std = (value.to(latents.device) for value in loading.normalisation(self.config))
        return latents.float() / (self.latent_scale / std) + mean

    @torch.no_grad()
    def encode_raw(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] to raw latents (N, C, H/f, W/f), float32.

        Args:
            noise: standard normal, of the latents' shape, where the posterior is to be sampled.

        Raises:
            ValueError: sides that ``downsampling`` doesn't divide.
        """
        if images.shape[-1] % self.downsampling or images.shape[-2] % self.downsampling:
            raise ValueError(f'{self.name}: the sides of an image must be multiples of {self.downsampling}, got '
                             f'{images.shape[-2]}x{images.shape[-1]}.')
        network = self.network(images.device)
        with torch.autocast(images.device.type, enabled=False):
            return self._encode(network, images.to(self._dtype), noise).float().contiguous()

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images to scaled latents, the input of a diffusion model."""
        return self.scale(self.encode_raw(images, noise))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents to images (N, 3, H, W), float32."""
        network, raw = self.network(latents.device), self.unscale(latents)
        with torch.autocast(latents.device.type, enabled=False):
            parts = [self._decode(network, part) for part in raw.split(self.decode_batch or max(len(raw), 1))]
            return torch.cat(parts).float().contiguous()

    def _encode(self, network: nn.Module, images: Tensor, noise: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _decode(self, network: nn.Module, raw: Tensor) -> Tensor:
        raise NotImplementedError
