"""What the spinning of OpenMP's threads costs on a machine that is shared, and what less of it costs on one that isn't.

    python benchmarks/bench_shared_machine.py --out benchmarks/results/shared_machine_cpu.json

GNU OpenMP, which PyTorch's Linux wheels bring, lets a thread that waits for another one spin for 300,000 rounds, some
milliseconds, before it sleeps. Beside another process the thread that it waits for may have no core in that time. With
``GOMP_SPINCOUNT=1000``, which GNU OpenMP takes itself where there are more threads than cores, it sleeps soon; but to
be woken costs time too. Each turn is a process that does training iterations; all settings take turns, on the machine
as it is and beside a process that keeps one core busy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

#: environments by name
SETTINGS = {
    'as PyTorch comes': {},
    'GOMP_SPINCOUNT=1000': {'GOMP_SPINCOUNT': '1000'},
    'OMP_WAIT_POLICY=passive': {'OMP_WAIT_POLICY': 'passive'},
}


def child(config: str, iterations: int) -> None:
    """Print the median seconds of an iteration on random data, after two that don't count."""
    import torch

    from slimdiff.configuration import load_config
    from slimdiff.registry import MODELS
    cfg = load_config(config)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    size = cfg.train_dataloader.batch_size
    side = model.unet.config.sample_size
    batch = dict(inputs=torch.rand(size, 3, side, side) * 2 - 1, labels=torch.zeros(size, dtype=torch.long))
    seconds = []
    for _ in range(iterations + 2):
        start = time.perf_counter()
        sum(value for name, value in model(**batch).items() if 'loss' in name).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    print(statistics.median(seconds[2:]))


def turn(name: str, config: str, iterations: int) -> float:
    """Seconds of an iteration in a process of its own."""
    environment = {key: value for key, value in os.environ.items()
                   if key not in ('OMP_NUM_THREADS', 'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')}
    words = [sys.executable, __file__, '--child', str(iterations), '--config', config]
    done = subprocess.run(words, env={**environment, **SETTINGS[name]}, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default='configs/sd/photo_patches.py')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--iterations', type=int, default=8, help='of a turn')
    parser.add_argument('--child', type=int, help=argparse.SUPPRESS)
    parser.add_argument('--out', help='JSON file')
    args = parser.parse_args()
    if args.child:
        return child(args.config, args.child)

    import timing
    result: dict[str, object] = dict(config=args.config, rounds=args.rounds, iterations_a_round=args.iterations)
    for title, busy in (('alone', False), ('beside a busy process', True)):
        neighbour = subprocess.Popen([sys.executable, '-c', 'while True: pass']) if busy else None
        seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
        try:
            for i in range(args.rounds):
                for name in list(SETTINGS)[::1 if i % 2 == 0 else -1]:
                    seconds[name].append(turn(name, args.config, args.iterations))
                print(title, json.dumps({name: round(1000 * times[-1]) for name, times in seconds.items()}), flush=True)
        finally:
            if neighbour is not None:
                neighbour.kill()
                neighbour.wait()
        ratios = timing.ratios(seconds, 'as PyTorch comes')
        result[title] = dict(milliseconds={name: timing.spread([1000 * t for t in times])
                                           for name, times in seconds.items()}, ratio=ratios)
        for name, value in result[title]['milliseconds'].items():
            ratio = ratios.get(name)
            print(f'{title}, {name:23} {value["median"]:7.0f} ms ({value["q25"]:.0f} - {value["q75"]:.0f})' + (
                f', {ratio["median"]:.2f} ({ratio["q25"]:.2f} - {ratio["q75"]:.2f}) of the time' if ratio else ''))
    timing.write(args.out, result)


if __name__ == '__main__':
    main()
