"""What mmengine's distributed set-up lacks: CPU processes, and errors that reach every rank."""

from __future__ import annotations

import atexit
import datetime
import os
import subprocess
import time
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import get_world_size, init_dist, is_distributed
from torch import distributed


def init_cpu_process_group(launcher: str, timeout: float = 1800) -> None:
    """Join a gloo process group, where there is no GPU: mmengine's own set-up calls ``torch.cuda.set_device``.

    Does nothing with a GPU, without a launcher, under MPI, or when a group exists.

    Raises:
        ValueError: the variables that torchrun or SLURM set are missing.
    """
    if torch.cuda.is_available() or launcher not in ('pytorch', 'slurm') or distributed.is_initialized():
        return
    if launcher == 'slurm':
        for name, source in (('RANK', 'SLURM_PROCID'), ('WORLD_SIZE', 'SLURM_NTASKS'), ('LOCAL_RANK', 'SLURM_LOCALID')):
            os.environ.setdefault(name, os.environ.get(source, ''))
        os.environ.setdefault('MASTER_PORT', '29500')
        if 'MASTER_ADDR' not in os.environ:
            nodes = subprocess.run(['scontrol', 'show', 'hostnames', os.environ.get('SLURM_NODELIST', '')],
                                   capture_output=True, text=True, check=True)
            os.environ['MASTER_ADDR'] = nodes.stdout.split()[0]
    missing = [name for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT') if not os.environ.get(name)]
    if missing:
        raise ValueError(f"launcher='{launcher}' but the environment lacks {', '.join(missing)}: use torchrun "
                         '(tools/dist_train.sh) or srun (tools/slurm_train.sh).')
    distributed.init_process_group('gloo', timeout=datetime.timedelta(seconds=timeout))


def join_processes(launcher: str) -> None:
    """Join the process group of a command's ``--launcher``, and leave it when Python ends."""
    init_cpu_process_group(launcher)
    if launcher != 'none' and not is_distributed():
        init_dist(launcher)
    leave_at_exit()


def leave_at_exit() -> None:
    """Close the process group before Python ends: threads of gloo that outlive it abort the process."""

    def leave() -> None:
        if distributed.is_initialized():
            # gloo's thread needs the GIL to let go of its last work, and the destructor holds it while it waits for
            # that thread: PyTorch 2.13 hangs in a process that ends right after a reduction.
            time.sleep(0.1)
            distributed.destroy_process_group()

    if distributed.is_available() and distributed.is_initialized():
        atexit.register(leave)


def any_rank(value: int, device: torch.device | str = 'cpu') -> int:
    """The largest ``value`` of all ranks. Collective."""
    if get_world_size() == 1:
        return value
    tensor = torch.tensor(value, device=device)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return int(tensor)


def wrapper_config(config: Mapping[str, Any] | None, accumulates: bool = False) -> dict[str, Any] | None:
    """``model_wrapper_cfg`` that also works on CPU, where DDP takes no device ids, and with accumulated gradients.

    DDP's static graph learns its order from the first backward pass, which must then be a synchronised one: with
    accumulation it isn't, and DDP fails.
    """
    config = None if config is None else dict(config)
    if config and accumulates:
        config.pop('static_graph', None)
    if torch.cuda.is_available() or (config or {}).get('type') == 'FullyShard':
        return config
    return {'type': 'MMDistributedDataParallel', **(config or {}), 'device_ids': None}
