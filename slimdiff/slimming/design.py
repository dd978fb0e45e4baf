"""A student's network: the teacher's stages or blocks, narrower, for a given number of multiply-accumulates (MACs)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from slimdiff.arguments import plain
from slimdiff.models.converters import unet2d
from slimdiff.slimming import GATED, PLAIN

#: relative deviation from the MACs asked for
TOLERANCE = 0.03
#: of our UNet, what a narrower one has as well, where it isn't the default
KEPT = {'class_token': False, 'context_channels': None, 'mid_cross_attention': False, 'residual_resampling': False,
        'scale_shift_norm': False, 'flip_sin_to_cos': True, 'freq_shift': 0.0}

Config = dict[str, Any]
#: channels of each stage and of the middle, or (heads, channels of one, mlp_ratio) -> the arguments of a network
Make = Callable[[Sequence[float]], Config]


@dataclasses.dataclass(frozen=True)
class Family:
    """Networks that differ in size alone: ``sizes(share)`` are those near a share of the teacher's width, best first,
    and ``make`` gives the arguments of one."""
    make: Make
    sizes: Callable[[float], Iterator[Sequence[float]]]


def design(teacher: Mapping[str, Any], resamplers: Mapping[str, Any], full: int, part: float,
           count: Callable[[Config], int], widths: Sequence[float] = (1.0, )) -> tuple[Config, int]:
    """The network of a part of the teacher's MACs that is nearest in shape to it, and the MACs that it has.

    Args:
        teacher: the config of its network: a UNet of ours, of diffusers (``block_out_channels``), or a transformer
            (``patch_size`` and ``num_attention_heads``).
        resamplers: ``downsampler`` and ``upsampler``; {} keeps the teacher's. Of a transformer, those that merge tokens
            and split them again; {} makes it a plain one.
        full: the teacher's MACs.
        part: of them, for the student.
        count: the MACs of a network.
        widths: of a slimmable student: multiples of the narrowest one.

    Raises:
        ValueError: a network of another kind; no size within :data:`TOLERANCE` of the MACs asked for (the nearest two
            are named).
    """
    family = family_of(teacher, resamplers, round(1 / min(widths)))
    counted: dict[tuple[float, ...], int] = {}
    target = part * full

    def made(size: Sequence[float]) -> Config:
        network = family.make(size)
        slimmable = dict(type=f'Slimmable{network["type"]}', widths=list(widths)) if len(widths) > 1 else {}
        return {**network, **slimmable}

    def macs(size: Sequence[float]) -> int:
        if tuple(size) not in counted:
            counted[tuple(size)] = count(made(size))
        return counted[tuple(size)]

    low, high = 0.0, 1.0
    for _ in range(12):  # to 1/4096 of the width: finer than any network's channels
        share = (low + high) / 2
        found = macs(next(family.sizes(share)))
        if abs(found / target - 1) <= TOLERANCE:
            break
        low, high = (share, high) if found < target else (low, share)
    else:
        for size in family.sizes(share):
            if abs(macs(size) / target - 1) <= TOLERANCE:
                break
    best = min(counted, key=lambda size: abs(counted[size] / target - 1))
    if abs(counted[best] / target - 1) > TOLERANCE:
        below = max((n for n in counted.values() if n < target), default=None)
        above = min((n for n in counted.values() if n > target), default=None)
        nearest = ' and '.join(f'{n / full:.3g} of the teacher ({n:,} MACs)' for n in (below, above) if n)
        raise ValueError(f'No student has {part:.3g} of the {full:,} MACs within {TOLERANCE:.0%}. The nearest have '
                         f'{nearest}.')
    return made(best), counted[best]


def family_of(teacher: Mapping[str, Any], resamplers: Mapping[str, Any], shares: int = 1) -> Family:
    """The family of a network by its config; raises ValueError where it is neither a UNet nor a transformer.

    Args:
        shares: into so many equal ones channels, groups and heads must divide.
    """
    if teacher.get('stages'):
        return unet_family(plain({k: v for k, v in teacher.items() if not k.startswith('_')}), resamplers, shares)
    if teacher.get('block_out_channels'):
        return unet_family(unet2d.arguments_of(teacher), {**PLAIN, **resamplers}, shares)
    if teacher.get('patch_size') and teacher.get('num_attention_heads'):
        return transformer_family(teacher, resamplers, shares)
    raise ValueError("The teacher's network says neither stages (block_out_channels) nor blocks (patch_size, "
                     'num_attention_heads), so no student can be designed for it: write its config yourself, with the '
                     'teacher in model.teacher (docs/en/user_guides/distil_your_own_model.md).')


# ---- UNets --------------------------------------------------------------------------------------------------------


def unet_family(config: Config, resamplers: Mapping[str, Any], shares: int = 1) -> Family:
    """Narrower UNets: the channels of each stage and of the middle by about the same share, groups of a norm no larger.

    A size is the channels of the stages, then of the middle.
    """
    full = [*(stage['channels'] for stage in config['stages']),
            config.get('mid_channels') or config['stages'][-1]['channels']]
    least = 4 * shares  # an up-sampler may take its input for four bands

    def groups_at(share: float) -> int:
        """The largest power of two of norm groups that leaves each as large as the teacher's, or four channels."""
        size = max(2, min(4, full[0] // config.get('norm_groups', 32)))
        return 2**math.floor(math.log2(max(shares, min(32, full[0] * share / size))))

    def sizes(share: float) -> Iterator[list[int]]:
        step = math.lcm(groups_at(share), least)
        base = [max(step, min(c // step * step, round(c * share / step) * step)) for c in full]
        yield base
        last = len(base) - 1
        # The middle costs least: it moves first, and farthest.
        middles = [{last: d * step} for d in (-1, 1, -2, 2, -3, 3)]
        stages = [{i: d} for i in reversed(range(last)) for d in (step, -step)]
        pairs = [{**one, **other} for one in stages for other in stages if max(one) > max(other)]
        for moves in (*middles, *stages, *({**m, **s} for s in stages for m in middles), *pairs):
            moved = [c + moves.get(i, 0) for i, c in enumerate(base)]
            if all(step <= c <= max(step, most) for c, most in zip(moved, full)):
                yield moved

    def make(size: Sequence[float]) -> Config:
        *channels, mid = (int(c) for c in size)
        stages = []
        for stage, c in zip(config['stages'], channels):
            narrow = {**stage, 'channels': c, 'heads': narrow_heads(stage.get('heads'), stage['channels'], c)}
            defaults = {'heads': None, 'cross_attention': False, 'downsample': True}
            stages.append({key: value for key, value in narrow.items() if defaults.get(key, ...) != value})
        groups = groups_at(channels[0] / full[0])
        while any(c % groups for c in (*channels, mid)):
            groups //= 2
        unet = dict(type='UNet', **{key: config[key] for key in ('sample_size', 'in_channels', 'out_channels')})
        unet |= {key: config[key] for key, default in KEPT.items() if config.get(key, default) != default}
        unet |= dict(norm_groups=groups, time_channels=config.get('time_channels') or full[0],
                     mid_heads=narrow_heads(config.get('mid_heads'), full[-1], mid))
        unet |= {} if mid == channels[-1] else {'mid_channels': mid}
        kept = {key: config[key] for key in GATED if key in config}
        return {**unet, 'stages': stages, **{**kept, **resamplers}}

    return Family(make, sizes)


def narrow_heads(heads: int | None, channels: int, kept: int) -> int | None:
    """The heads of ``kept`` channels, each as near as can be to the size of one of ``heads`` in ``channels``."""
    if not heads:
        return None
    size = channels / heads
    divisors = [n for n in range(1, heads + 1) if kept % n == 0]
    return min(divisors, key=lambda n: abs(math.log(kept / n / size)))


# ---- transformers -------------------------------------------------------------------------------------------------


def transformer_family(config: Mapping[str, Any], resamplers: Mapping[str, Any], shares: int = 1) -> Family:
    """Narrower transformers: fewer heads of the teacher's size, and a feed-forward that meets the MACs.

    With resamplers it is U-shaped: an eighth of the blocks (at least one) before the tokens are merged, and as many
    after they are split.
    """
    heads, size = config['num_attention_heads'], config.get('attention_head_dim') or 64
    layers = config.get('layers')
    depth = sum(layers) if layers else config['num_layers'] + (config.get('num_single_layers') or 0)
    ratio = config.get('mlp_ratio') or 4.0
    side = config['sample_size'] // config['patch_size']
    outer = max(1, round(depth / 8))
    shape = [outer, depth - 2 * outer, outer] if resamplers and depth >= 3 and side % 2 == 0 else [depth]
    if not resamplers and layers:
        shape = list(layers)
    kept = dict(type='DiT', sample_size=config['sample_size'], in_channels=config['in_channels'],
                out_channels=config['in_channels'], patch_size=config['patch_size'], layers=shape)
    kept |= {key: config[key] for key in ('freq_shift', 'time_scale') if config.get(key) is not None}
    context = config.get('context_channels') or config.get('caption_channels')
    kept |= {'context_channels': context} if context else {}

    def sizes(share: float) -> Iterator[tuple[float, ...]]:
        whole = heads * share
        count = shares * max(1, round(whole / shares))
        # A head more or less is a large step for a network of few: there their size moves, too.
        channels = size if whole >= 4 * shares else max(4, min(size, round(size * whole / count / 4) * 4))
        # What whole heads leave over or lack goes to the feed-forward: a block's MACs go with width^2 (4 + 2 ratio).
        left = (size * whole / (count * channels))**2 * (4 + 2 * ratio)
        mlp = max(0.25, (left - 4) / 2)
        for k in range(13):  # 1, then 6 % more and less of it, ...
            for more in (1.06**k, 1.06**-k):
                yield count, channels, round(mlp * more, 3)

    def make(given: Sequence[float]) -> Config:
        count, channels, mlp = given
        return {**kept, 'num_attention_heads': int(count), 'attention_head_dim': int(channels), 'mlp_ratio': mlp,
                **(resamplers if len(shape) > 1 else {})}

    return Family(make, sizes)
