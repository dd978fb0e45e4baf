"""Our UNet against diffusers' ``UNet2DModel`` of the same architecture (so the same MACs), side by side.

    python benchmarks/bench_unet.py --json benchmarks/results/unet_cpu.json

Three rivals take turns in one process: ours; diffusers as it comes; diffusers put into channels_last by hand. For
bf16, ours and diffusers both run under autocast.
"""

from __future__ import annotations

import argparse
import contextlib

import torch
from diffusers import UNet2DModel
from timing import interleave, ratios, spread, write

from slimdiff import UNet

WIDTHS = (64, 128, 128)


def build() -> dict[str, torch.nn.Module]:
    last = len(WIDTHS) - 1
    ours = UNet(sample_size=32, norm_groups=32, mid_heads=4, stages=[
        dict(channels=c, blocks=2, up_blocks=3, downsample=i < last, heads=4 if i == 1 else None)
        for i, c in enumerate(WIDTHS)])
    theirs = dict(sample_size=32, block_out_channels=WIDTHS, layers_per_block=2, attention_head_dim=32,
                  down_block_types=('DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D'),
                  up_block_types=('UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'))
    rivals = {'slimdiff': ours, 'diffusers': UNet2DModel(**theirs),
              'diffusers channels_last': UNet2DModel(**theirs).to(memory_format=torch.channels_last)}
    counts = {name: sum(p.numel() for p in m.parameters()) for name, m in rivals.items()}
    assert len(set(counts.values())) == 1, f'the rivals are not the same network: {counts}'
    return rivals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--json')
    args = parser.parse_args()
    x, t = torch.randn(args.batch, 3, 32, 32), torch.randint(0, 1000, (args.batch, ))
    result = {'batch': args.batch, 'rounds': args.rounds, 'widths': WIDTHS}
    for precision in ('float32', 'bfloat16'):
        rivals = build()
        optimizers = {name: torch.optim.AdamW(m.parameters(), lr=1e-4, fused=True) for name, m in rivals.items()}

        def cast(precision=precision):
            return torch.autocast('cpu', torch.bfloat16) if precision == 'bfloat16' else contextlib.nullcontext()

        def given(name):
            return x.contiguous(memory_format=torch.channels_last) if name.endswith('channels_last') else x

        def infer(name, rivals=rivals, cast=cast):
            with torch.inference_mode(), cast():
                rivals[name].eval()(given(name), t).sample

        def step(name, rivals=rivals, optimizers=optimizers, cast=cast):
            with cast():
                loss = rivals[name].train()(given(name), t).sample.float().square().mean()
            loss.backward()
            optimizers[name].step()
            optimizers[name].zero_grad()

        for kind, function in (('inference', infer), ('training step', step)):
            seconds = interleave({name: (lambda n=name, f=function: f(n)) for name in rivals}, args.rounds)
            row = {'seconds': {name: spread(v) for name, v in seconds.items()},
                   'times as long as slimdiff': ratios(seconds, 'slimdiff')}
            result[f'{kind}, {precision}'] = row
            print(f'{kind}, {precision}: slimdiff {row["seconds"]["slimdiff"]["median"] * 1e3:.0f} ms')
            for name, r in row['times as long as slimdiff'].items():
                print(f'    {name}: {r["median"]:.2f} x as long (quartiles {r["q25"]:.2f} .. {r["q75"]:.2f})')
    write(args.json, result)


if __name__ == '__main__':
    main()
