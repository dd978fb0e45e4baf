"""Wavelet gating against the plain "DWT, gate, sum" and against average pooling plus the same gate.

    python benchmarks/bench_resamplers.py --json benchmarks/results/resamplers_cpu.json

The rivals take turns in one process and ratios are taken round by round: other work on the machine then slows all of
them alike. ``plain sum`` writes the four Haar bands, weights them and adds them up, as one would type it; ``plain
sum, our dwt2`` takes the bands from this package's transform. ``pool + gate`` is ``F.avg_pool2d(x, 2)`` and the gate
computed beside it (nothing is weighted), with the resampler's own gate module; ``pool + gate, mean()`` has the gate's
global pooling typed as ``x.mean((2, 3))``.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from timing import interleave, ratios, spread, write
from torch import Tensor, nn

from slimdiff.functional.wavelet import dwt2
from slimdiff.models.resamplers import WaveletGatedDown

SHAPES = ((32, 64, 64, 64), (32, 256, 16, 16))


class PlainDown(nn.Module):
    """The wavelet-gated down-sampler as a reader of the paper would type it."""

    def __init__(self, like: WaveletGatedDown, ours: bool = False) -> None:
        super().__init__()
        self.like, self.ours = like, ours

    def bands(self, x: Tensor) -> Tensor:
        if self.ours:
            return dwt2(x)
        a, b = x[:, :, 0::2, 0::2], x[:, :, 0::2, 1::2]
        c, d = x[:, :, 1::2, 0::2], x[:, :, 1::2, 1::2]
        return torch.stack([a + b + c + d, a + b - c - d, a - b + c - d, a - b - c + d], 1) / 2

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        gated = self.bands(x) * self.like.gate(x)[..., None, None]
        if self.like.combine == 'sum':
            return (gated.sum(1), )
        return (self.like.project(gated.flatten(1, 2)), )


class PoolAndGate(nn.Module):
    """``F.avg_pool2d`` and the gate, one beside the other: what the cheapest down-sampler with that gate must do."""

    def __init__(self, gate: nn.Module, typed: bool = False) -> None:
        super().__init__()
        self.gate, self.typed = gate, typed

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.typed:
            hidden = F.silu(self.gate.reduce(x.mean((2, 3))))
            return F.avg_pool2d(x, 2), torch.sigmoid(self.gate.expand(hidden))
        return F.avg_pool2d(x, 2), self.gate(x)


class Single(nn.Module):
    """A module's output as a tuple of one."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.module(x), )


def rivals(combine: str, channels: int) -> dict[str, nn.Module]:
    ours = WaveletGatedDown(channels, combine=combine)
    found = {'slimdiff': Single(ours), f'plain {combine}': PlainDown(ours),
             f'plain {combine}, our dwt2': PlainDown(ours, ours=True)}
    if combine == 'sum':
        found['pool + gate'] = PoolAndGate(ours.gate)
        found['pool + gate, mean()'] = PoolAndGate(ours.gate, typed=True)
    return found


def timed(modules: dict[str, nn.Module], x: Tensor, backward: bool, rounds: int,
          calls: int = 1) -> dict[str, list[float]]:
    """Seconds of a call of each module by round; the gradients that start the backward pass are made beforehand."""
    def function(module: nn.Module):
        with torch.no_grad():
            starts = [torch.randn_like(y) for y in module(x)]
        wanted = [x, *module.parameters()]

        def forward_backward() -> None:
            for _ in range(calls):
                torch.autograd.grad(module(x), wanted, starts)

        def forward() -> None:
            with torch.no_grad():
                for _ in range(calls):
                    module(x)
        return forward_backward if backward else forward
    seconds = interleave({name: function(module) for name, module in modules.items()}, rounds)
    return {name: [t / calls for t in times] for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=31)
    parser.add_argument('--formats', nargs='+', default=['channels_last', 'contiguous'],
                        choices=['channels_last', 'contiguous'])
    parser.add_argument('--combine', nargs='+', default=['sum', 'concat'], choices=['sum', 'concat'])
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--dtype', choices=['float32', 'bfloat16'], default='float32')
    parser.add_argument('--calls', type=int, default=1, help='calls in a turn; a call on a GPU is too short to time')
    parser.add_argument('--json')
    args = parser.parse_args()
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    result = {'rounds': args.rounds, 'device': args.device, 'dtype': args.dtype, 'calls': args.calls,
              'unit': 'seconds a call'}
    print(f'{"":58s}{"ms":>8s}   times as long as slimdiff: median (quartiles), of the fastest rounds')
    for combine in args.combine:
        for shape in SHAPES:
            for memory in args.formats:
                layout = torch.channels_last if memory == 'channels_last' else torch.contiguous_format
                x = torch.randn(shape).to(args.device, dtype, memory_format=layout).requires_grad_()
                modules = {name: m.to(args.device, dtype, memory_format=layout)
                           for name, m in rivals(combine, shape[1]).items()}
                for backward in (False, True):
                    seconds = timed(modules, x, backward, args.rounds, args.calls)
                    kind = f'{combine}, {"x".join(map(str, shape))}, {memory}, {"fwd+bwd" if backward else "fwd"}'
                    against = ratios(seconds, 'slimdiff')
                    for name, r in against.items():
                        r['of minima'] = min(seconds[name]) / min(seconds['slimdiff'])
                    times = {name: {**spread(v), 'min': min(v)} for name, v in seconds.items()}
                    result[kind] = {'seconds': times, 'times as long as slimdiff': against}
                    print(kind)
                    for name, t in times.items():
                        line = f'    {name:54s}{t["median"] * 1e3:8.3f}'
                        if name in against:
                            r = against[name]
                            line += f'   {r["median"]:.2f} ({r["q25"]:.2f} .. {r["q75"]:.2f}), {r["of minima"]:.2f}'
                        print(line, flush=True)
    write(args.json, result)


if __name__ == '__main__':
    main()
