"""``slimdiff benchmark CONFIG [CONFIG ...]``: time steps per second of configs' networks, side by side.

Throughput as the Spectral Diffusion paper defines it, latency percentiles, peak memory and counts; and of every config
after the first the speed-up over it, next to what the MACs promise. Only UNets run: no file of an autoencoder, a
teacher or a text encoder is needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slimdiff.cli.common import KeyValues, add_trust_argument, check_files, load_checked_config, runs_cleanly

if TYPE_CHECKING:
    import torch

    from slimdiff.evaluation.cost import Cost
    from slimdiff.evaluation.throughput import Step, Timing

DTYPES = ('fp32', 'bf16', 'bf16-autocast')
COMPILE_MODES = ('default', 'reduce-overhead', 'max-autotune')
SEED = 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='slimdiff benchmark',
        description='Time the denoising networks of several configs in turns, in one process. Speed-ups are those over '
        'the first config: medians of ratios within a round. Ctrl-C prints what was measured so far.')
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='the first one is what the others are compared '
                        'with')
    parser.add_argument('--batch-size', type=int, nargs='+', default=[8], help='several are measured one after the '
                        'other (default: 8)')
    parser.add_argument('--rounds', type=int, default=20, help='turns of each config (default: 20)')
    parser.add_argument('--steps', type=int, default=1, help='denoising steps in a turn (default: 1)')
    parser.add_argument('--warmup', type=int, default=2, help='steps before the clock runs (default: 2)')
    parser.add_argument('--dtype', choices=DTYPES, default='fp32', help='bf16 casts weights and inputs; bf16-autocast '
                        'keeps float32 weights, as `slimdiff sample --amp` does')
    parser.add_argument('--compile', nargs='?', const='default', choices=COMPILE_MODES, metavar='MODE',
                        help=f'torch.compile the networks; MODE is one of {", ".join(COMPILE_MODES)}')
    parser.add_argument('--device', help='cpu, cuda or cuda:N (default: a GPU if there is one)')
    parser.add_argument('--threads', type=int, help='of PyTorch on the CPU')
    parser.add_argument('--checkpoint', nargs='+', metavar='FILE', help='weights of each config in turn (default: '
                        'random ones, which take the same time)')
    parser.add_argument('--json', metavar='FILE', help='also write everything there')
    parser.add_argument('--cfg-options', nargs='+', action=KeyValues, metavar='KEY=VALUE',
                        help='override all of the configs')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    add_trust_argument(parser)
    args = parser.parse_args(argv)
    for name in ('batch_size', 'rounds', 'steps', 'warmup', 'threads'):
        given = getattr(args, name)
        if given is not None and min(given if isinstance(given, list) else [given]) < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1, got {given}')
    if args.checkpoint is not None and len(args.checkpoint) != len(args.configs):
        parser.error(f'--checkpoint takes one file for each config: got {len(args.checkpoint)} for '
                     f'{len(args.configs)} configs')
    return args


@dataclass
class Entry:
    """A network that takes part."""

    name: str
    digest: str
    checkpoint: str | None
    cost: Cost
    class_params: int
    unet: torch.nn.Module
    context_length: int
    weight_bytes: int = 0
    step: Step | None = None
    timing: Timing | None = None
    rise_bytes: int = 0

    def set_batch(self, size: int, dtype: str, device: torch.device) -> None:
        """Make the step for a batch of ``size``, and forget what was timed."""
        import torch

        from slimdiff.evaluation import throughput
        from slimdiff.evaluation.unet_cost import unet_inputs
        from slimdiff.models.backbones.network_set import size_of
        inputs, kwargs = unet_inputs(self.unet, self.context_length, size)
        generator = torch.Generator().manual_seed(SEED)
        inputs = [torch.randn(x.shape, generator=generator) if x.is_floating_point() else x for x in inputs]
        self.step = throughput.denoising_step(self.unet, inputs, kwargs, dtype, device)
        self.timing, self.weight_bytes, self.rise_bytes = throughput.Timing(), size_of(self.unet), 0

    def to_dict(self, batch_size: int) -> dict[str, Any]:
        """Plain data for JSON."""
        from slimdiff.evaluation.record import rounded
        cost, latency = self.cost, self.timing.latency()
        return dict(
            digest=self.digest, checkpoint=self.checkpoint, params=cost.params, class_params=self.class_params,
            macs_published=cost.conv_linear_macs, macs_with_attention=cost.macs_with_attention,
            activations=cost.activations, weight_bytes=self.weight_bytes,
            peak_bytes=self.weight_bytes + self.rise_bytes,
            time_steps_per_second=rounded(self.timing.throughput(batch_size)), num_steps=len(self.timing.seconds),
            latency_seconds=rounded(latency), turns_seconds=rounded(self.timing.turns))


def pick_device(name: str | None) -> torch.device:
    import torch
    name = name or ('cuda' if torch.cuda.is_available() else 'cpu')
    if name.split(':')[0] not in ('cpu', 'cuda'):
        raise ValueError(f"--device: got '{name}'; give cpu, cuda or cuda:N.")
    device = torch.device(name)
    if device.type == 'cuda':
        device = torch.device('cuda', device.index or 0)  # set_device wants an index
        if device.index >= torch.cuda.device_count():
            raise ValueError(f'--device {name}: PyTorch sees {torch.cuda.device_count()} GPUs here. Give --device cpu.')
        torch.cuda.set_device(device)
    return device


def shown_name(config: str) -> str:
    """``configs/sd/ffhq.py`` from wherever it was found; a user's own file as it was given."""
    from slimdiff.checkpoint import installation_roots
    from slimdiff.configuration import find_config
    path = find_config(config).resolve()
    for root in installation_roots():
        if path.is_relative_to(root.resolve() / 'configs'):
            return path.relative_to(root.resolve()).as_posix()
    return config


def prepare(config: str, checkpoint: str | None, args: argparse.Namespace) -> Entry:
    """Build, count and compile one config's network."""
    from slimdiff.evaluation.unet_cost import class_parameters, context_length_of, unet_cost
    from slimdiff.models.serving import network_digest, serving_config
    from slimdiff.registry import MODELS
    cfg = load_checked_config(argparse.Namespace(config=config, cfg_options=args.cfg_options))
    if checkpoint is None:
        model = MODELS.build(serving_config(cfg.model))
    else:
        from slimdiff.cli.sample import build_model
        model = build_model(cfg, checkpoint, 'ema', trust_config=args.trust_config).to('cpu')
    unet, length = model.unet, context_length_of(model)
    cost, tokens = unet_cost(model, length), class_parameters(unet)
    if args.compile:
        unet.compile(mode=None if args.compile == 'default' else args.compile, dynamic=False)
    return Entry(shown_name(config), network_digest(cfg.model), checkpoint, cost, tokens, unet, length)


def warm_up(entry: Entry, args: argparse.Namespace, device: torch.device) -> None:
    """Steps before the clock runs, in which memory is measured."""
    from slimdiff.evaluation.throughput import memory_rise
    try:
        for _ in range(max(args.warmup - 1, 1)):
            entry.step()
        entry.rise_bytes = memory_rise(entry.step, device)
    except Exception as error:
        if not args.compile or isinstance(error, ValueError):
            raise
        text = str(error).strip().splitlines()[0]
        raise ValueError(f'{entry.name} could not be compiled ({type(error).__name__}: {text}). torch.compile wants a '
                         'C++ compiler on the CPU, and Triton on a GPU. Run without --compile.') from error


def comparison(first: Entry, other: Entry) -> dict[str, Any]:
    from slimdiff.evaluation.throughput import compare
    macs = {'published': (first.cost.conv_linear_macs, other.cost.conv_linear_macs),
            'with_attention': (first.cost.macs_with_attention, other.cost.macs_with_attention)}
    return compare(first.timing, other.timing, macs)


def report(entries: Sequence[Entry], batch_size: int, setting: str) -> str:
    """The tables that are printed."""
    from slimdiff.evaluation.cost import human
    from slimdiff.tables import text_table
    rows = [('config', 'params', 'MACs published', 'with attention', 'activations', 'peak memory', 'steps/s', 'p50 ms',
             'p90 ms', 'p99 ms')]
    for e in entries:
        cost = e.cost
        rows.append((e.name, human(cost.params), human(cost.conv_linear_macs), human(cost.macs_with_attention),
                     human(cost.activations), f'{(e.weight_bytes + e.rise_bytes) / 2**20:.4g} MiB',
                     f'{e.timing.throughput(batch_size):.4g}',
                     *(milliseconds(s) for s in e.timing.latency().values())))
    lines = [setting, '', text_table(rows[0], rows[1:], rule=True), '',
             'steps/s: denoising time steps (of one image) per second, batch / p50; latencies are of a batch. Peak '
             'memory: weights,', 'and what one step adds to them in PyTorch\'s allocator.']
    if len(entries) > 1:
        rows = [(f'against {entries[0].name}', 'speed-up', '(quartiles)', 'MACs ratio', '(with attention)',
                 'efficiency', '(with attention)')]
        for other in entries[1:]:
            result = comparison(entries[0], other)
            gain, ratio, efficiency = (result[k] for k in ('speed_up', 'macs_ratio', 'efficiency'))
            rows.append((other.name, f'{gain["median"]:.2f} x', f'{gain["q25"]:.2f} .. {gain["q75"]:.2f}',
                         f'{ratio["published"]:.2f}', f'{ratio["with_attention"]:.2f}',
                         f'{efficiency["published"]:.2f}', f'{efficiency["with_attention"]:.2f}'))
        lines += ['', text_table(rows[0], rows[1:], rule=True), '', 'efficiency: speed-up / MACs ratio.']
    return '\n'.join(lines)


def milliseconds(seconds: float) -> str:
    """Four digits: 0.1234, 12.34, 24,500."""
    return f'{1000 * seconds:.4g}' if seconds < 1 else f'{1000 * seconds:,.0f}'


def settings_of(args: argparse.Namespace, batch_size: int, device: torch.device) -> dict[str, Any]:
    import torch

    from slimdiff.evaluation.record import cpu_name
    from slimdiff.evaluation.throughput import DTYPES as MEANINGS
    hardware = torch.cuda.get_device_name(device) if device.type == 'cuda' else cpu_name()
    return dict(device=device.type, hardware=hardware, threads=torch.get_num_threads(), batch_size=batch_size,
                dtype=args.dtype, dtype_means=MEANINGS[args.dtype], compile=args.compile, rounds=args.rounds,
                steps=args.steps, warmup=args.warmup)


def measure(entries: Sequence[Entry], batch_size: int, args: argparse.Namespace,
            device: torch.device) -> tuple[dict[str, Any], bool]:
    """Time the networks in turns with batches of one size and print the tables; what goes into the JSON file, and
    whether Ctrl-C cut it short."""
    from slimdiff.evaluation.throughput import seconds_of, take_turns
    from slimdiff.progress import Progress
    for entry in entries:
        entry.set_batch(batch_size, args.dtype, device)
        warm_up(entry, args, device)
    interrupted = False
    clocks = {e.name: lambda step=e.step: seconds_of(step, device) for e in entries}
    with Progress(args.rounds * args.steps * len(entries), 'timing', unit='step') as bar:
        try:
            take_turns(clocks, {e.name: e.timing for e in entries}, args.rounds, args.steps, bar.update)
        except KeyboardInterrupt:
            interrupted = True
            if not all(e.timing.turns for e in entries):
                raise  # not one whole round: nothing to tell
    settings = settings_of(args, batch_size, device)
    done = min(len(e.timing.turns) for e in entries)
    threads = f', {settings["threads"]} threads' if device.type == 'cpu' else ''
    print('\n' + report(entries, batch_size, f'batch {batch_size}, {settings["dtype_means"]}'
                        + (f', compiled ({args.compile})' if args.compile else '')
                        + f', {settings["hardware"]}{threads}; rounds: {done}, steps in a round: {args.steps}'))
    result = dict(settings=settings, interrupted=interrupted, configs={e.name: e.to_dict(batch_size) for e in entries},
                  against_first={e.name: comparison(entries[0], e) for e in entries[1:]})
    if interrupted:
        print(f'Interrupted after {done} of {args.rounds} rounds.', file=sys.stderr)
    return result, interrupted


@runs_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = parse(argv)
    checkpoints = args.checkpoint or [None] * len(args.configs)
    for config, checkpoint in zip(args.configs, checkpoints):
        check_files(argparse.Namespace(config=config, checkpoint=checkpoint))
    import torch

    from slimdiff.checkpoint import write_json
    from slimdiff.evaluation.cost import human
    from slimdiff.evaluation.record import provenance
    if args.threads:
        torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    entries: list[Entry] = []
    for config, checkpoint in zip(args.configs, checkpoints):
        entry = prepare(config, checkpoint, args)
        if any(entry.name == other.name for other in entries):  # the same one twice shows the noise of the machine
            entry.name += f' ({1 + sum(entry.name == other.name.split(" (")[0] for other in entries)})'
        print(f'{entry.name}: {human(entry.cost.params)} parameters, {human(entry.cost.conv_linear_macs)} MACs',
              flush=True)
        entries.append(entry)
    results, interrupted = [], False
    for batch_size in args.batch_size:
        result, interrupted = measure(entries, batch_size, args, device)
        results.append(result)
        if interrupted:
            break
    if args.json:
        source = provenance('benchmark.py', sys.argv[1:] if argv is None else argv)
        write_json(args.json, {**source, **(results[0] if len(args.batch_size) == 1 else dict(batches=results))})
        print(f'wrote {args.json}')
    return 130 if interrupted else 0
