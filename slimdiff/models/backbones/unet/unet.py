"""The UNet of slimdiff: stages as data, resamplers from the registry, a diffusers model.

Three layouts are written with the same three words (``up_blocks``, ``skips``, ``downsample`` of a stage):

* the tables of the SD paper: ``dict(channels=64, blocks=3)`` four times;
* LDM (CompVis) and DDPM: ``up_blocks=blocks + 1``, and ``downsample=False`` in the last stage.

``down1`` is the highest resolution, as the papers number them; then ``down2`` ... ``mid`` ... ``up2``, ``up1``.
Those module names are the distillation positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from slimdiff.models.backbones.adapt import Prediction
from slimdiff.models.backbones.unet.stages import DownStage, MidStage, Stage, UpStage, plan_blocks
from slimdiff.models.layers import ResidualBlock
from slimdiff.models.layers.labels import labels_or_null
from slimdiff.models.layers.residual import group_norm, silu, zero_init
from slimdiff.registry import MODELS, RESAMPLERS


@MODELS.register_module()
class UNet(ModelMixin, ConfigMixin):
    """UNet for diffusion models (Ho et al. 2020; Rombach et al. 2022; Yang et al. 2023, tables 4-7).

    Args:
        sample_size: height and width that pipelines sample at; must divide by ``size_multiple``.
        in_channels, out_channels: of the images or latents.
        stages: one dict for each resolution, highest first; the keys are those of
            :class:`~slimdiff.models.backbones.unet.stages.Stage`.
        mid_channels: width of the middle stage; that of the last stage by default.
        mid_heads: attention heads of the middle stage; None for no attention.
        mid_cross_attention: the middle attention is a transformer block with cross-attention.
        downsampler, upsampler: configs of registered resamplers; ``channels`` is filled in.
        residual_resampling: the resamplers work inside a residual block (LDM's ``resblock_updown``, BigGAN).
        embedding_channels: width of the timestep embedding; four times the first stage's by default.
        time_channels: width of the sinusoids that the embedding is made of; the first stage's by default.
        num_classes: of ``class_labels``; label ``num_classes`` is the null class of classifier-free guidance.
        class_token: the class enters by cross-attention, as one token of ``context_channels``, in place of being added
            to the timestep embedding (LDM's ImageNet model; table 6 of Yang et al. 2023).
        context_channels: width of ``encoder_hidden_states``, for stages with cross-attention.
        scale_shift_norm, dropout, norm_groups, norm_eps: see :class:`~slimdiff.models.layers.ResidualBlock`.
        flip_sin_to_cos, freq_shift: of the sinusoidal embedding: (True, 0) in LDM, (False, 1) in DDPM.

    Raises:
        ValueError: channels that norm groups, heads or bands don't divide, a sample size that the stages don't halve
            evenly, or a stage that makes no sense.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self,
                 sample_size: int = 32,
                 in_channels: int = 3,
                 out_channels: int = 3,
                 stages: Sequence[Mapping[str, Any]] = (dict(channels=64), dict(channels=128)),
                 mid_channels: int | None = None,
                 mid_heads: int | None = None,
                 mid_cross_attention: bool = False,
                 downsampler: Mapping[str, Any] = dict(type='ConvDown'),
                 upsampler: Mapping[str, Any] = dict(type='NearestConvUp'),
                 residual_resampling: bool = False,
                 embedding_channels: int | None = None,
                 time_channels: int | None = None,
                 num_classes: int | None = None,
                 class_token: bool = False,
                 context_channels: int | None = None,
                 scale_shift_norm: bool = False,
                 dropout: float = 0.0,
                 norm_groups: int = 32,
                 norm_eps: float = 1e-5,
                 flip_sin_to_cos: bool = True,
                 freq_shift: float = 0.0) -> None:
        super().__init__()
        if not stages:
            raise ValueError('UNet needs at least one stage.')
        parsed = [Stage.parse(f'down{i}', stage) for i, stage in enumerate(stages, 1)]
        self.num_stages = len(parsed)
        self.size_multiple = 2**sum(stage.downsample for stage in parsed)
        self.check_size(sample_size, sample_size)
        stem = parsed[0].channels
        width = embedding_channels or 4 * stem

        def residual(cin: int, cout: int, make_resampler=None) -> ResidualBlock:
            return ResidualBlock(cin, cout, width, norm_groups, norm_eps, dropout, scale_shift_norm, make_resampler)

        def make_resampler(cfg: Mapping[str, Any], channels: int) -> nn.Module:
            if residual_resampling:
                return residual(channels, channels, lambda c: RESAMPLERS.build({**cfg, 'channels': c}, kind=nn.Module))
            return RESAMPLERS.build({**cfg, 'channels': channels}, kind=nn.Module)

        sinusoids = time_channels or stem
        self.time_proj = Timesteps(sinusoids, flip_sin_to_cos, freq_shift)
        self.time_embedding = TimestepEmbedding(sinusoids, width)
        if class_token and not (num_classes and context_channels):
            raise ValueError(f'class_token=True needs num_classes and context_channels, the width of the token; got '
                             f'num_classes={num_classes}, context_channels={context_channels}.')
        class_width = context_channels if class_token else width
        self.class_embedding = nn.Embedding(num_classes + 1, class_width) if num_classes else None
        self.stem = nn.Conv2d(in_channels, stem, 3, padding=1)

        middle = Stage.parse('mid', dict(channels=mid_channels or parsed[-1].channels, heads=mid_heads,
                                         cross_attention=mid_cross_attention))
        plan, widths = plan_blocks(parsed), [stage.channels for stage in (*parsed, middle)]

        def blocks_of(name: str) -> list[ResidualBlock]:
            return [residual(widths[b.main] + (0 if b.skip is None else widths[b.skip]), widths[b.out])
                    for b in plan[name]]

        def attentions_of(stage: Stage, count: int) -> list[nn.Module | None]:
            return [stage.attention(norm_groups, norm_eps, context_channels) for _ in range(count)]

        # The order in which parts are made decides which random weights a seed gives them.
        for i, stage in enumerate(parsed, 1):
            self.add_module(f'down{i}', DownStage(
                stage, blocks_of(f'down{i}'), attentions_of(stage, stage.blocks),
                make_resampler(downsampler, stage.channels) if stage.downsample else None))
        self.mid = MidStage(blocks_of('mid'), attentions_of(middle, 1))
        for i, stage in reversed(list(enumerate(parsed, 1))):
            entering = widths[plan[f'up{i}'][0].main]
            resampler = make_resampler(upsampler, entering) if stage.downsample else None
            self.add_module(f'up{i}', UpStage(stage, blocks_of(f'up{i}'), attentions_of(stage, stage.up_blocks),
                                              resampler))

        self.norm_out = group_norm('UNet output', stem, norm_groups, norm_eps)
        self.conv_out = zero_init(nn.Conv2d(stem, out_channels, 3, padding=1))
        # Convolutions on CPU are about 3x faster in this layout, and Tensor Cores want it too.
        self.to(memory_format=torch.channels_last)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **kwargs: Any) -> UNet:
        """As in diffusers.

        Raises:
            ValueError: a config of a preconditioned network, or of slimdiff 0.1, whose UNet held that itself.
        """
        if isinstance(config, Mapping) and config.get('preconditioning'):
            if 'network_class' in config:
                raise ValueError('This is the config of a PreconditionedBackbone around a UNet: open it with '
                                 'slimdiff.PreconditionedBackbone.')
            raise ValueError('This folder was written by slimdiff 0.1, whose UNet held its output preconditioning; it '
                             'is a wrapper now (PreconditionedBackbone), and the files of 0.1 are not read. Train and '
                             'export again.')
        return super().from_config(config, **kwargs)

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError unless the stages can halve an image of this size evenly."""
        m = self.size_multiple
        if height < 1 or width < 1 or height % m or width % m:
            raise ValueError(f'Image size {height}x{width} does not fit this UNet: it halves the image '
                             f'{m.bit_length() - 1} times, so height and width must be multiples of {m} '
                             f'(such as {m}, {2 * m}, {4 * m}).')

    def embed(self, timestep: Tensor, class_labels: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return the activated embedding (N, E) of timestep (N,) and class (N,)."""
        embedding = self.time_embedding(self.time_proj(timestep).to(dtype))
        if self.class_embedding is not None and not self.config.class_token:
            labels = labels_or_null(class_labels, timestep, self.config.num_classes)
            embedding = embedding + self.class_embedding(labels)
        elif self.class_embedding is None and class_labels is not None:
            raise ValueError('class_labels were given, but this UNet is unconditional (num_classes=None).')
        return silu(embedding)

    def context_of(self, timestep: Tensor, class_labels: Tensor | None, given: Tensor | None) -> Tensor | None:
        """What cross-attention attends to, (N, S, context_channels): the class's token, or what was given."""
        if not self.config.class_token:
            return given
        if given is not None:
            raise ValueError('encoder_hidden_states were given, but this UNet attends to its class token '
                             '(class_token=True): give class_labels alone.')
        return self.class_embedding(labels_or_null(class_labels, timestep, self.config.num_classes))[:, None]

    def forward(self,
                sample: Tensor,
                timestep: Tensor | float | int,
                class_labels: Tensor | None = None,
                encoder_hidden_states: Tensor | None = None,
                return_dict: bool = True) -> Prediction | tuple[Tensor]:
        """Predict noise, x0 or v, whichever the network was trained for.

        Args:
            sample: (N, C, H, W) noisy images.
            timestep: scalar or (N,).
            class_labels: (N,) integers; None is the null class.
            encoder_hidden_states: (N, S, context_channels), for cross-attention; not with ``class_token``.
            return_dict: False for a plain tuple.

        Returns:
            ``Prediction`` with ``.sample`` of (N, out_channels, H, W).

        Raises:
            ValueError: an image size that the stages can't halve, a label out of range.
        """
        output, _ = self.with_features(sample, timestep, class_labels, encoder_hidden_states)
        return output if return_dict else (output.sample, )

    def with_features(self,
                      sample: Tensor,
                      timestep: Tensor | float | int,
                      class_labels: Tensor | None = None,
                      encoder_hidden_states: Tensor | None = None) -> tuple[Prediction, Tensor]:
        """:meth:`forward`, and the deep features: what enters ``up1``, before its up-sampler.

        They change little from one denoising step to the next, so a later step may take them for its own (DeepCache,
        Ma et al., CVPR 2024): see :meth:`shallow`.
        """
        x, embedding, context = self._enter(sample, timestep, class_labels, encoder_hidden_states)
        skips: list[Tensor] = []
        for i in range(1, self.num_stages + 1):
            x = self.get_submodule(f'down{i}')(x, embedding, context, skips)
        x = self.mid(x, embedding, context)
        for i in range(self.num_stages, 1, -1):
            x = self.get_submodule(f'up{i}')(x, embedding, context, skips)
        return self._leave(self.up1(x, embedding, context, skips)), x

    def shallow(self,
                sample: Tensor,
                timestep: Tensor | float | int,
                class_labels: Tensor | None,
                encoder_hidden_states: Tensor | None,
                features: Tensor) -> Prediction:
        """Run the first stage alone, around deep features of :meth:`with_features`.

        With those of the same input this is :meth:`forward`; with an earlier step's an approximation, which sees
        ``sample`` through the skips of the first stage. Forward hooks on ``down1`` do not fire: its output, which the
        down-sampler makes, is not computed.
        """
        x, embedding, context = self._enter(sample, timestep, class_labels, encoder_hidden_states)
        skips: list[Tensor] = []
        self.down1.run_blocks(x, embedding, context, skips)
        return self._leave(self.up1(features, embedding, context, skips))

    def _enter(self, sample: Tensor, timestep: Tensor | float | int, class_labels: Tensor | None,
               encoder_hidden_states: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The stem's output, and what every stage is given beside it."""
        self.check_size(*sample.shape[2:])
        timestep = torch.as_tensor(timestep, device=sample.device).expand(sample.shape[0])
        x = sample.contiguous(memory_format=torch.channels_last)
        embedding = self.embed(timestep, class_labels, x.dtype)
        return self.stem(x), embedding, self.context_of(timestep, class_labels, encoder_hidden_states)

    def _leave(self, x: Tensor) -> Prediction:
        """The output head on what ``up1`` gave."""
        return Prediction(sample=self.conv_out(silu(self.norm_out(x))))


# diffusers writes a model's module path into model_index.json; `slimdiff` is the path that will not move.
UNet.__module__ = 'slimdiff'
