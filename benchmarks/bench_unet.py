"""Our UNet against diffusers' ``UNet2DModel`` of the same architecture (so the same MACs), side by side.

    python benchmarks/bench_unet.py --json benchmarks/results/unet_cpu.json

Three rivals take turns in one process: ours; diffusers as it comes; diffusers put into channels_last by hand. For
bf16, ours and diffusers both run under autocast.
"""

from __future__ import annotations

import argparse
import contextlib
import functools

import torch
from diffusers import UNet2DModel
from timing import interleave, ratios, spread, write

from slimdiff import UNet

# The first is configs/lite_ldm/photo_patches.py; the second has the widths of a CIFAR-10 model.
NETWORKS = {
    'lite_ldm/photo_patches': dict(widths=(16, 32, 48), blocks=1, attention_at=2, heads=4, groups=8, batch=64),
    '64-128-128': dict(widths=(64, 128, 128), blocks=2, attention_at=1, heads=4, groups=32, batch=16),
}


def build(widths, blocks, attention_at, heads, groups, batch) -> dict[str, torch.nn.Module]:
    last = len(widths) - 1
    ours = UNet(sample_size=32, norm_groups=groups, mid_heads=heads, stages=[
        dict(channels=c, blocks=blocks, up_blocks=blocks + 1, downsample=i < last,
             heads=heads if i == attention_at else None) for i, c in enumerate(widths)])
    down = ['AttnDownBlock2D' if i == attention_at else 'DownBlock2D' for i in range(len(widths))]
    up = [name.replace('Down', 'Up') for name in down[::-1]]
    theirs = dict(sample_size=32, block_out_channels=widths, layers_per_block=blocks, norm_num_groups=groups,
                  attention_head_dim=widths[attention_at] // heads, down_block_types=down, up_block_types=up)
    rivals = {'slimdiff': ours, 'diffusers': UNet2DModel(**theirs),
              'diffusers channels_last': UNet2DModel(**theirs).to(memory_format=torch.channels_last)}
    counts = {name: sum(p.numel() for p in m.parameters()) for name, m in rivals.items()}
    assert len(set(counts.values())) == 1, f'the rivals are not the same network: {counts}'
    return rivals


def measure(name: str, network: dict, precision: str, rounds: int) -> dict:
    """Time inference and a training step of one network; print and return the figures."""
    batch = network['batch']
    x, t = torch.randn(batch, 3, 32, 32), torch.randint(0, 1000, (batch, ))
    rivals = build(**network)
    optimizers = {rival: torch.optim.AdamW(m.parameters(), lr=1e-4, fused=True) for rival, m in rivals.items()}

    def cast():
        return torch.autocast('cpu', torch.bfloat16) if precision == 'bfloat16' else contextlib.nullcontext()

    def given(rival):
        return x.contiguous(memory_format=torch.channels_last) if rival.endswith('channels_last') else x

    def infer(rival):
        with torch.inference_mode(), cast():
            return rivals[rival].eval()(given(rival), t).sample

    def step(rival):
        with cast():
            loss = rivals[rival].train()(given(rival), t).sample.float().square().mean()
        loss.backward()
        optimizers[rival].step()
        optimizers[rival].zero_grad()

    figures = {}
    for kind, function in (('inference', infer), ('training step', step)):
        seconds = interleave({rival: functools.partial(function, rival) for rival in rivals}, rounds)
        row = {'seconds': {rival: spread(v) for rival, v in seconds.items()},
               'times as long as slimdiff': ratios(seconds, 'slimdiff')}
        figures[f'{kind}, {precision}'] = row
        ours = row['seconds']['slimdiff']['median']
        print(f'{name}, batch {batch}, {kind}, {precision}: slimdiff {ours * 1e3:.0f} ms')
        for rival, r in row['times as long as slimdiff'].items():
            print(f'    {rival}: {r["median"]:.2f} x as long (quartiles {r["q25"]:.2f} .. {r["q75"]:.2f})')
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--json')
    args = parser.parse_args()
    result = {'rounds': args.rounds}
    for name, network in NETWORKS.items():
        result[name] = {'network': network}
        for precision in ('float32', 'bfloat16'):
            result[name] |= measure(name, network, precision, args.rounds)
    write(args.json, result)


if __name__ == '__main__':
    main()
