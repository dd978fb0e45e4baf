"""The stages of a UNet: what a config says of one, and the two modules that it becomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from slimdiff.models.layers import CrossAttentionBlock, ResidualBlock, SelfAttentionBlock
from slimdiff.spelling import did_you_mean


@dataclasses.dataclass(frozen=True)
class Stage:
    """One resolution of the UNet, as data.

    Args:
        channels: width of every residual block of the stage, down and up.
        blocks: residual blocks on the way down.
        up_blocks: residual blocks on the way up; ``blocks`` by default (the papers' tables), ``blocks + 1`` in the
            DDPM and LDM layouts, where the stage's own input (the stem's or the last down-sampler's output) is a
            skip as well.
        skips: how many outputs of the way down are concatenated on the way up, the latest first; ``up_blocks`` by
            default, 0 for a UNet without skip connections. At most ``blocks + 1``.
        downsample: a down-sampler ends the way down and an up-sampler begins the way up. False for the lowest stage
            of the DDPM and LDM layouts.
        heads: attention heads after every residual block; None for no attention.
        cross_attention: the attention is a transformer block that also attends to ``encoder_hidden_states``.
    """
    channels: int
    blocks: int = 2
    up_blocks: int | None = None
    skips: int | None = None
    downsample: bool = True
    heads: int | None = None
    cross_attention: bool = False

    @classmethod
    def parse(cls, name: str, given: Mapping) -> Stage:
        """Make a stage from a config dict, with the defaults filled in; ValueError names what is wrong."""
        fields = [f.name for f in dataclasses.fields(cls)]
        for key in given:
            if key not in fields:
                raise ValueError(f"Stage {name} takes no '{key}'.{did_you_mean(key, fields)} "
                                 f"It takes: {', '.join(fields)}.")
        if 'channels' not in given:
            raise ValueError(f"Stage {name} needs 'channels'.")
        stage = cls(**given)
        up_blocks = stage.blocks if stage.up_blocks is None else stage.up_blocks
        skips = min(up_blocks, stage.blocks + 1) if stage.skips is None else stage.skips
        stage = dataclasses.replace(stage, up_blocks=up_blocks, skips=skips)
        for key in ('channels', 'blocks', 'up_blocks'):
            if getattr(stage, key) < 1:
                raise ValueError(f'Stage {name}: {key} must be at least 1, got {getattr(stage, key)}.')
        if not 0 <= skips <= min(up_blocks, stage.blocks + 1):
            raise ValueError(f'Stage {name}: skips must lie in 0..{min(up_blocks, stage.blocks + 1)} '
                             f'(at most up_blocks, and at most blocks + 1 outputs exist), got {skips}.')
        if stage.cross_attention and stage.heads is None:
            raise ValueError(f'Stage {name}: cross_attention needs heads.')
        return stage

    def attention(self, norm_groups: int, norm_eps: float, context_channels: int | None) -> nn.Module | None:
        """Build the attention block that follows each residual block, or None."""
        if self.heads is None:
            return None
        if not self.cross_attention:
            return SelfAttentionBlock(self.channels, self.heads, norm_groups, norm_eps)
        if context_channels is None:
            raise ValueError('A stage has cross_attention=True: the UNet needs context_channels, the width of '
                             'encoder_hidden_states.')
        return CrossAttentionBlock(self.channels, self.heads, context_channels, norm_groups)


@dataclasses.dataclass(frozen=True)
class BlockPlan:
    """Where a residual block's input ``[main | skip]`` comes from, and whose width its output has.

    Stages are numbered from 0; the stem has the first one's width, and the middle comes after the last.
    """
    main: int
    skip: int | None
    out: int


def plan_blocks(stages: list[Stage]) -> dict[str, list[BlockPlan]]:
    """The residual blocks of a UNet by the name of their stage, in the order in which they run."""
    plan: dict[str, list[BlockPlan]] = {}
    skips: list[int] = []
    current, middle = 0, len(stages)
    for i, stage in enumerate(stages):
        outputs = [current] + [i] * stage.blocks
        skips += outputs[len(outputs) - stage.skips:]
        plan[f'down{i + 1}'] = [BlockPlan(main, None, i) for main in outputs[:-1]]
        current = i
    plan['mid'] = [BlockPlan(current, None, middle), BlockPlan(middle, None, middle)]
    current = middle
    for i, stage in reversed(list(enumerate(stages))):
        plan[f'up{i + 1}'] = []
        for block in range(stage.up_blocks):
            plan[f'up{i + 1}'].append(BlockPlan(current, skips.pop() if block < stage.skips else None, i))
            current = i
    return plan


class BlockSequence(nn.Module):
    """Residual blocks, each with the attention block that follows it (if any)."""

    #: ``enable_gradient_checkpointing`` of diffusers sets it wherever a module has it
    gradient_checkpointing = False

    def __init__(self, blocks: list[ResidualBlock], attentions: list[nn.Module | None]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList([a for a in attentions if a is not None])

    def step(self, i: int, x: Tensor, embedding: Tensor, context: Tensor | None) -> Tensor:
        """Run block ``i`` and its attention."""
        x = self.run(self.blocks[i], x, embedding)
        if i < len(self.attentions):
            x = self.run(self.attentions[i], x, context)
        return x

    def run(self, module: nn.Module, *inputs: Tensor | None) -> Tensor:
        """Call a module, which is computed again in the backward pass under gradient checkpointing."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(module, *inputs)
        return module(*inputs)

    def resample(self, resampler: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
        """Call a resampler; a residual one also wants the embedding."""
        return self.run(resampler, x, *([embedding] if isinstance(resampler, ResidualBlock) else []))


class DownStage(BlockSequence):
    """Residual blocks, then the down-sampler. The output is a tensor, so a forward hook can tap it."""

    def __init__(self, stage: Stage, blocks, attentions, downsampler: nn.Module | None) -> None:
        super().__init__(blocks, attentions)
        self.num_skips = stage.skips
        self.downsampler = downsampler

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None, skips: list[Tensor]) -> Tensor:
        """Append the stage's skips to ``skips`` and return its (down-sampled) output."""
        x = self.run_blocks(x, embedding, context, skips)
        return x if self.downsampler is None else self.resample(self.downsampler, x, embedding)

    def run_blocks(self, x: Tensor, embedding: Tensor, context: Tensor | None, skips: list[Tensor]) -> Tensor:
        """The stage without its down-sampler; what a shallow pass needs, which wants the skips alone."""
        outputs = [x]
        for i in range(len(self.blocks)):
            x = self.step(i, x, embedding, context)
            outputs.append(x)
        skips.extend(outputs[len(outputs) - self.num_skips:])
        return x


class MidStage(BlockSequence):
    """Residual block, attention, residual block, at the lowest resolution."""

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None) -> Tensor:
        for i in range(len(self.blocks)):
            x = self.step(i, x, embedding, context)
        return x


class UpStage(BlockSequence):
    """The up-sampler that enters the stage, then residual blocks over the concatenated skips."""

    def __init__(self, stage: Stage, blocks, attentions, upsampler: nn.Module | None) -> None:
        super().__init__(blocks, attentions)
        self.num_skips = stage.skips
        self.upsampler = upsampler

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None, skips: list[Tensor]) -> Tensor:
        """Consume the stage's skips from the end of ``skips``."""
        if self.upsampler is not None:
            x = self.resample(self.upsampler, x, embedding)
        for i in range(len(self.blocks)):
            if i < self.num_skips:
                x = torch.cat([x, skips.pop()], dim=1)
            x = self.step(i, x, embedding, context)
        return x
