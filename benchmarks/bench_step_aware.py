"""What a step allocation saves in seconds, against what it saves in multiply-accumulates (MACs).

    python benchmarks/bench_step_aware.py --json benchmarks/results/step_aware_cpu.json
    python benchmarks/bench_step_aware.py --allocation work_dirs/ddsm/cifar10/search/allocation.json
    python benchmarks/bench_step_aware.py --config configs/ddsm_dit/imagenet_small.py --batch-size 8 --training-rounds 0

*Inference.* Rivals take turns at the same denoising steps:

- ``full``: the dense network of full width at every step;
- ``step-aware``: :class:`slimdiff.StepAwareUNet`, one dense network a width;
- ``slimmable``: the slimmable network, whose size is set at every step: it cuts all weights in each call;
- ``DDSM``, of a UNet: the way of DDSM's released code, written here once more: at every step all modules are told the
  width, and each layer cuts a prefix of its own weight when it is called. Its concatenations meet other weights than
  ours; the shapes, and so the work, are the same.

The figure is speed-up over ``full`` divided by the ratio of MACs: 1 if time follows MACs.

*Training.* Forward and backward of the slimmable network at each width against the dense network that is extracted at
that width: what slicing costs beyond the network itself.
"""

from __future__ import annotations

import argparse
import functools

import torch
import torch.nn.functional as F
from timing import interleave, ratios, spread, write
from torch import Tensor, nn

from slimdiff import SlimmableUNet, StepAwareUNet
from slimdiff.configuration import load_config
from slimdiff.evaluation.cost import count_cost
from slimdiff.evaluation.unet_cost import unet_inputs
from slimdiff.models.backbones.protocol import Slimmable, at_run, network_of, offers, runs_of
from slimdiff.models.serving import serving_config
from slimdiff.registry import MODELS
from slimdiff.sampling import Run, StepAllocation, build_scheduler
from slimdiff.sampling.actions import FULL


def cut(size: int, layer: nn.Module, fixed: bool) -> int:
    return size if fixed else round(size * layer.width_mult)


class CutConv2d(nn.Conv2d):
    """Takes as many input channels as come; ``fixed`` output channels are the images'."""

    def forward(self, x: Tensor) -> Tensor:
        size = cut(self.out_channels, self, self.fixed)
        return F.conv2d(x, self.weight[:size, :x.shape[1]], self.bias[:size], self.stride, self.padding)


class CutLinear(nn.Linear):

    def forward(self, x: Tensor) -> Tensor:
        size = cut(self.out_features, self, self.fixed)
        return F.linear(x, self.weight[:size, :x.shape[-1]], self.bias[:size])


class CutGroupNorm(nn.GroupNorm):

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1]
        groups = self.num_groups * size // self.num_channels
        return F.group_norm(x, groups, self.weight[:size], self.bias[:size], self.eps)


class ModuleWalk(nn.Module):
    """One network that is cut again at every step, as DDSM does it.

    Args:
        dense: the network of full width; it is changed.
        allocation: the width of each step.
    """

    def __init__(self, dense: nn.Module, allocation: StepAllocation) -> None:
        super().__init__()
        self.dense, self.allocation = dense, allocation
        for module in dense.modules():
            for kind, slim in ((nn.Conv2d, CutConv2d), (nn.Linear, CutLinear), (nn.GroupNorm, CutGroupNorm)):
                if isinstance(module, kind):
                    module.__class__ = slim
            module.fixed = module is dense.conv_out

    def forward(self, sample: Tensor, timestep: int, **conditions: Tensor) -> object:
        width = self.allocation.action_at(timestep).width
        self.dense.apply(lambda module: setattr(module, 'width_mult', width))
        return self.dense(sample, timestep, **conditions)


def supernet_of(config: str) -> tuple[nn.Module, int]:
    """The network of a config with random weights, and its number of training timesteps."""
    model = MODELS.build(serving_config(load_config(config).model))
    if not offers(model.unet, Slimmable):
        raise SystemExit(f'{config}: its network, a {type(model.unet).__name__}, has one size; give a slimmable one.')
    for parameter in model.unet.parameters():
        nn.init.normal_(parameter, std=0.02)
    return model.unet, model.num_train_timesteps


def at_size(supernet: nn.Module, run: Run, sample: Tensor, t: float, conditions: dict) -> Tensor:
    with at_run(supernet, run):
        return supernet(sample, t, **conditions)


def measure_inference(supernet: SlimmableUNet, allocation: StepAllocation, batch: int, steps: int,
                      rounds: int, device: torch.device, dtype: torch.dtype) -> dict:
    """Time the rivals over ``steps`` denoising steps; print and return the figures."""
    scheduler = build_scheduler(dict(type='DDIMScheduler', num_train_timesteps=allocation.num_train_timesteps))
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.tolist()
    (sample, _), conditions = unet_inputs(supernet, batch_size=batch)
    sample, conditions = torch.randn(sample.shape).to(device, dtype), {k: v.to(device) for k, v in conditions.items()}
    one, one_conditions = unet_inputs(supernet)
    costs = {run: count_cost(network_of(supernet, run), *one, **one_conditions) for run in {*allocation.runs, FULL}}
    supernet = nn.Module.to(supernet, device, dtype).eval()
    step_aware = nn.Module.to(StepAwareUNet.from_supernet(supernet, allocation).eval(), device, dtype)
    full = supernet.extract(1.0).eval()

    def run(call) -> None:
        with torch.inference_mode():
            for t in timesteps:
                call(t)

    rivals = {'full': lambda t: full(sample, t, **conditions),
              'step-aware': lambda t: step_aware(sample, t, **conditions),
              'slimmable': lambda t: at_size(supernet, allocation.action_at(t), sample, t, conditions)}
    if isinstance(supernet, SlimmableUNet):
        walk = ModuleWalk(supernet.extract(1.0).eval(), allocation)
        rivals['DDSM'] = lambda t: walk(sample, t, **conditions)
    macs = {'published': {run: cost.conv_linear_macs for run, cost in costs.items()},
            'with_attention': {run: cost.macs_with_attention for run, cost in costs.items()}}
    tolerance = 1e-3 if dtype == torch.float32 else 1e-1
    with torch.inference_mode():
        for t in timesteps:  # the same images from both, or the comparison is void
            torch.testing.assert_close(rivals['step-aware'](t).sample, rivals['slimmable'](t).sample, rtol=tolerance,
                                       atol=tolerance)
    saved = {name: len(timesteps) * macs_of[FULL] / allocation.macs(timesteps, macs_of)
             for name, macs_of in macs.items()}
    seconds = interleave({name: functools.partial(run, call) for name, call in rivals.items()}, rounds, warmup=1)
    speedups = {name: spread([f / t for f, t in zip(seconds['full'], seconds[name])])
                for name in rivals if name != 'full'}
    result = dict(
        allocation=allocation.to_dict(), batch=batch, timesteps=timesteps, rounds=rounds,
        macs={name: {run.size: value for run, value in sorted(found.items())} for name, found in macs.items()},
        times_fewer_macs=saved, seconds_a_step={name: spread([t / len(timesteps) for t in times])
                                                for name, times in seconds.items()},
        times_as_fast_as_full=speedups,
        share_of_the_saving={name: {convention: value['median'] / times for convention, times in saved.items()}
                             for name, value in speedups.items()},
        memory=dict(bytes=step_aware.memory().total, full_bytes=step_aware.memory().full))
    if 'DDSM' in seconds:
        result['times_as_fast_as_ddsm'] = spread([d / s for d, s in zip(seconds['DDSM'], seconds['step-aware'])])
    print(f'{allocation.describe(timesteps)}\n{saved["published"]:.2f} times fewer MACs (published convention), '
          f'{saved["with_attention"]:.2f} with attention; {step_aware.memory()}')
    for name, value in speedups.items():
        share = result['share_of_the_saving'][name]
        print(f'{name:11} {value["median"]:.2f} x as fast as full (quartiles {value["q25"]:.2f} .. '
              f'{value["q75"]:.2f}): {share["published"]:.2f} of the ratio of MACs, {share["with_attention"]:.2f} with '
              'attention')
    return result


def measure_training(supernet: SlimmableUNet, batch: int, rounds: int, device: torch.device) -> dict:
    """Time forward and backward at each width, sliced and extracted; print and return the figures."""
    (sample, _), conditions = unet_inputs(supernet, batch_size=batch)
    sample, times = torch.randn(sample.shape, device=device), torch.randint(0, 1000, (batch, ), device=device)
    conditions = {key: value.to(device) for key, value in conditions.items()}
    supernet = nn.Module.to(supernet, device, torch.float32).train()

    def step(network: nn.Module, **width: float) -> None:
        loss = network(sample, times, **conditions, **width).sample.square().mean()
        loss.backward()
        network.zero_grad(set_to_none=True)

    result = {}
    for width in supernet.widths:
        dense = supernet.extract(width).train().requires_grad_(True)
        rivals = {'extracted': functools.partial(step, dense),
                  'slimmable': functools.partial(step, supernet, width=width)}
        seconds = interleave(rivals, rounds)
        over = {key: 100 * (value - 1) for key, value in ratios(seconds, 'extracted')['slimmable'].items()}
        result[f'{width:g}'] = dict(seconds={name: spread(values) for name, values in seconds.items()},
                                    overhead_percent=over)
        print(f'training at width {width:g}: slicing costs {over["median"]:+.1f} % (quartiles {over["q25"]:+.1f} .. '
              f'{over["q75"]:+.1f}) of {1000 * result[f"{width:g}"]["seconds"]["extracted"]["median"]:.0f} ms')
    return dict(batch=batch, rounds=rounds, widths=result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default='configs/ddsm/cifar10.py', help='with a SlimmableUNet or SlimmableDiT')
    parser.add_argument('--allocation', help='JSON file; default: as many equal segments as there are sizes, the '
                        'largest at the clean end')
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--steps', type=int, default=8, help='denoising steps a turn')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--training-rounds', type=int, default=7, help='0: no training')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--dtype', choices=['float32', 'bfloat16'], default='float32', help='of inference')
    parser.add_argument('--json')
    args = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(args.device)
    supernet, total = supernet_of(args.config)
    allocation = StepAllocation.linear(runs_of(supernet), num_train_timesteps=total) if args.allocation is None \
        else StepAllocation.load(args.allocation)
    if allocation.uses_reuse:
        raise SystemExit('--allocation: DDSM has no reuse; give an allocation of widths alone.')
    result = dict(config=args.config, inference=measure_inference(
        supernet, allocation, args.batch_size, args.steps, args.rounds, device, getattr(torch, args.dtype)),
                  device=args.device, dtype=args.dtype)
    if args.training_rounds:
        result['training'] = measure_training(supernet, args.batch_size, args.training_rounds, device)
    write(args.json, result)


if __name__ == '__main__':
    main()
