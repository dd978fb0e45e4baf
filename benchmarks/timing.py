"""Interleaved timing: the machines are noisy, so rivals take turns and ratios are taken round by round."""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch


def interleave(functions: dict[str, Callable[[], object]], rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Time each function once a round, in turn; seconds by name. The order reverses every other round."""
    for _ in range(warmup):
        for function in functions.values():
            function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for i in range(rounds):
        names = list(functions)
        for name in names if i % 2 == 0 else names[::-1]:
            start = time.perf_counter()
            functions[name]()
            if torch.cuda.is_initialized():  # work on a GPU goes on when the call has returned
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {'median': middle, 'q25': low, 'q75': high}


def ratios(seconds: dict[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """How many times longer than ``base`` each one took, round by round."""
    return {name: spread([t / b for t, b in zip(times, seconds[base])])
            for name, times in seconds.items() if name != base}


def machine() -> dict[str, object]:
    """What a reader needs to compare: processor, threads, PyTorch."""
    model = platform.processor()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text(encoding='utf-8').splitlines() if line.startswith('model name')]
        flags = 'amx_bf16' in cpuinfo.read_text(encoding='utf-8')
        model = (lines[0].split(':')[1].strip() if lines else model) + (' (AMX)' if flags else '')
    gpu = {'gpu': torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {**gpu, 'cpu': model, 'threads': torch.get_num_threads(), 'torch': torch.__version__,
            'python': platform.python_version()}


def write(path: str | None, result: dict) -> None:
    """Write the result with the command and the machine that made it."""
    if path is None:
        return
    result = {'command': 'python ' + ' '.join(sys.argv), 'machine': machine(), **result}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    print(f'wrote {path}')
