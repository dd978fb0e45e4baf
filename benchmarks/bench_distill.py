"""What distillation costs beyond its two parts, the student's step and the teacher's forward: time and memory.

    python benchmarks/bench_distill.py --out benchmarks/results/distill_cpu.json

Time: in one process, round by round in turn, (1) a step of the student alone (forward, backward, clip, AdamW), (2) the
teacher's forward alone, without gradient, in the precision of the config, (3) a step of the distillation. The ratio
(3) / ((1) + (2)) is taken in each round.

Memory: the weights, optimizer state and gradients, and above them the peak of what PyTorch's allocator hands out
within a step (on CPU counted by the profiler, on CUDA by max_memory_allocated). On CPU it is checked against the
system's count (VmHWM, Linux) of three processes that do one of the three each, less that of one that does nothing.

A teacher whose checkpoint isn't there gets random weights, which take the same time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timing
import torch

from slimdiff import UNet
from slimdiff.checkpoint import find_path
from slimdiff.configuration import load_config
from slimdiff.models.distillation import Teacher
from slimdiff.models.serving import serving_config
from slimdiff.registry import MODELS

PARTS = ('student', 'teacher', 'distillation')


class Part:
    """One of the three: what a turn does, and the tensors that it keeps between turns."""

    def __init__(self, name: str, cfg: Any, batch: int, device: torch.device, amp: bool = False) -> None:
        model_cfg = cfg.model if name == 'distillation' else serving_config(cfg.model)
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=amp)
        size, classes = cfg.model.unet.sample_size, cfg.model.get('num_classes')
        generator = torch.Generator().manual_seed(0)
        channels = cfg.model.unet.get('in_channels', 3)
        self.images = torch.randn(batch, channels, size, size, generator=generator).to(device)
        self.labels = None if classes is None else torch.randint(classes, (batch, ), generator=generator).to(device)
        self.kept: list[torch.Tensor] = [self.images]
        if name == 'teacher':
            self.teacher = Teacher(**cfg.model.teacher)
            self.teacher.to(device)
            self.t = torch.randint(1000, (batch, ), generator=generator).to(device)
            self.run: Callable[[], None] = self.forward
            self.kept += list(self.teacher.unet.parameters())
            return
        torch.manual_seed(0)
        self.model = MODELS.build(model_cfg).train().to(device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, fused=True)
        self.run = self.step
        self.kept += self.parameters
        self.key = 'inputs' if self.model.autoencoder.downsampling == 1 else 'latents'
        if hasattr(self.model, 'teacher'):
            self.kept += list(self.model.teacher.unet.parameters())

    def forward(self) -> None:
        self.teacher(self.images, self.t, self.labels)

    def step(self) -> None:
        with self.autocast:
            loss = self.model(**{self.key: self.images}, labels=self.labels)['loss']
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def kept_bytes(self) -> int:
        state = getattr(self, 'optimizer', None)
        tensors = [v for s in state.state.values() for v in s.values() if torch.is_tensor(v)] if state else []
        return sum(t.nbytes for t in [*self.kept, *tensors])


def peak_bytes(part: Part, device: torch.device) -> int:
    """What is kept, and the peak of what one turn allocates above it."""
    part.run()
    if device.type == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        part.run()
        torch.cuda.synchronize()
        return part.kept_bytes() + torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        part.run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == '[memory]']
    level = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    return part.kept_bytes() + peak


def measure_time(parts: dict[str, Part], rounds: int, steps: int, device: torch.device) -> dict[str, Any]:
    """Milliseconds of a turn by part, and the ratio round by round."""

    def turn(part: Part) -> Callable[[], None]:
        def run() -> None:
            for _ in range(steps):
                part.run()
            if device.type == 'cuda':
                torch.cuda.synchronize()
        return run

    seconds = timing.interleave({name: turn(part) for name, part in parts.items()}, rounds, warmup=3)
    ratio = [d / (s + t) for s, t, d in zip(*(seconds[name] for name in PARTS))]
    return dict(milliseconds={name: timing.spread([1000 * t / steps for t in times])
                              for name, times in seconds.items()}, ratio=timing.spread(ratio))


def peak_resident() -> int:
    """The largest resident size of this process so far. Not ru_maxrss, which a process inherits from its parent."""
    status = Path('/proc/self/status').read_text(encoding='utf-8')
    return 1024 * int(status.split('VmHWM:')[1].split()[0])


def resident_bytes(arguments: list[str]) -> int:
    """Peak resident size of a process of this file that does one part."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def load(args: argparse.Namespace, size: int | None, folder: Path) -> Any:
    """The config; at another image size with a teacher of that size, whose weights are random."""
    cfg = load_config(args.config)
    if find_path(cfg.model.teacher.checkpoint) is None and cfg.model.teacher.get('config'):
        cfg.model.teacher.checkpoint = serving_config(load_config(cfg.model.teacher.config).model)
    if size in (None, cfg.model.unet.sample_size):
        return cfg
    cfg.model.unet.sample_size = size
    teacher = folder / f'teacher_{size}px'
    if not teacher.exists():
        config = UNet.load_config(find_path(cfg.model.teacher.checkpoint) / 'unet')
        UNet.from_config({**config, 'sample_size': size}).save_pretrained(teacher)
    cfg.model.teacher.checkpoint = str(teacher)
    return cfg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default='configs/sd/photo_patches_16px.py')
    parser.add_argument('--cases', nargs='+', default=['16', '64', '16@32'], metavar='BATCH[@SIZE]')
    parser.add_argument('--rounds', type=int, default=25)
    parser.add_argument('--steps', type=int, default=4, help='in a turn')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--threads', type=int, help='CPU threads')
    parser.add_argument('--amp', action='store_true', help='bfloat16 autocast of the student')
    parser.add_argument('--out', help='JSON file')
    parser.add_argument('--only', choices=(*PARTS, 'nothing'), help=argparse.SUPPRESS)
    parser.add_argument('--folder', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        results = []
        for case in args.cases:
            batch, _, size = case.partition('@')
            cfg = load(args, int(size) if size else None, folder)
            if args.only:
                if args.only != 'nothing':
                    part = Part(args.only, cfg, int(batch), device, args.amp)
                    for _ in range(5):
                        part.run()
                print(peak_resident())
                return
            parts = {name: Part(name, cfg, int(batch), device, args.amp) for name in PARTS}
            result = dict(batch_size=int(batch), image_size=cfg.model.unet.sample_size,
                          **measure_time(parts, args.rounds, args.steps, device))
            peaks = {name: peak_bytes(part, device) for name, part in parts.items()}
            result['peak_bytes'] = peaks
            result['peak_ratio'] = peaks['distillation'] / (peaks['student'] + peaks['teacher'])
            if device.type == 'cpu' and Path('/proc/self/status').exists():
                options = ['--config', args.config, '--cases', case, '--folder', str(folder), '--device', 'cpu',
                           '--threads', str(torch.get_num_threads())]
                resident = {name: resident_bytes([*options, '--only', name]) for name in (*PARTS, 'nothing')}
                above = {name: resident[name] - resident['nothing'] for name in PARTS}
                result['resident_bytes'] = resident
                result['resident_ratio'] = above['distillation'] / (above['student'] + above['teacher'])
            results.append(result)
            describe(result)
    bf16_teacher = bool(load_config(args.config).model.teacher.get('bf16'))
    timing.write(args.out, dict(config=args.config, device=str(device), amp=args.amp, rounds=args.rounds,
                                steps_a_round=args.steps, bf16_teacher=bf16_teacher, cases=results))


def describe(result: dict[str, Any]) -> None:
    """Print a case."""
    print(f'batch {result["batch_size"]}, {result["image_size"]} pixels')
    for name, value in result['milliseconds'].items():
        print(f'  {name:13} {value["median"]:8.2f} ms  ({value["q25"]:.2f} - {value["q75"]:.2f}), '
              f'peak {result["peak_bytes"][name] / 1e6:.1f} MB')
    ratio = result['ratio']
    print(f'  distillation / (student + teacher): time {ratio["median"]:.3f} '
          f'({ratio["q25"]:.3f} - {ratio["q75"]:.3f}), '
          f'peak memory {result["peak_ratio"]:.3f}'
          + (f', by the system {result["resident_ratio"]:.3f}' if 'resident_ratio' in result else ''))


if __name__ == '__main__':
    main()
