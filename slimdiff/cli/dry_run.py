"""``slimdiff train CONFIG --dry-run``: three real iterations on random data, and what the whole schedule would take."""

from __future__ import annotations

import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmengine.config import Config

ITERATIONS = 3


def dry_config(cfg: Config, work_dir: str) -> tuple[Config, list[str]]:
    """The config of a dry run, and what in it stands in for something that isn't there.

    Everything that trains is kept: network, teacher, losses, optimizer, EMA, batch size. Data are random; a teacher, a
    first stage or a text encoder that is not on this machine has random weights.
    """
    from slimdiff.arguments import plain
    from slimdiff.checkpoint import find_path
    from slimdiff.configuration import load_config
    cfg, replaced = cfg.copy(), []
    model = cfg.model
    teacher = model.get('teacher')
    if teacher is not None and isinstance(teacher.checkpoint, str) and find_path(teacher.checkpoint) is None:
        if not teacher.get('config'):
            raise ValueError(f"The teacher's checkpoint '{teacher.checkpoint}' is not here, and the config doesn't say "
                             "what network it is: give teacher=dict(config='configs/ldm/....py').")
        replaced.append(f'teacher: random weights for {teacher.checkpoint}')
        theirs = plain(load_config(teacher.config).model)
        theirs['conditioner'] = None
        teacher.checkpoint = without_files(theirs)
    if isinstance(start := model.get('start_from'), str) and find_path(start) is None:
        replaced.append(f'start: random weights for {start}')
        model.start_from = None
    for owner, whose in ((model, ''), (teacher or {}, "the teacher's ")):
        conditioner = owner.get('conditioner')
        if conditioner is not None and find_path(conditioner.get('checkpoint', '')) is None:
            replaced.append(f'{whose}text encoder: random context for {conditioner.get("checkpoint")}')
            owner['conditioner'] = dict(type='RandomText', channels=conditioner.channels)
    cfg._cfg_dict['model'] = type(cfg._cfg_dict)(without_files(plain(model)))
    return short_run(cfg, work_dir), replaced


def without_files(model: dict[str, Any]) -> dict[str, Any]:
    """A model's config whose first stage asks for no file: a dry run brings latents, and decodes nothing."""
    first_stage = model.get('autoencoder')
    if first_stage and 'checkpoint' in first_stage:
        scale = first_stage.get('latent_scale', 1.0)
        model['autoencoder'] = {**first_stage, 'checkpoint': None, 'latent_scale': 1.0 if scale is None else scale}
    return model


def short_run(cfg: Config, work_dir: str) -> Config:
    """Three iterations, and nothing but training in them."""
    model = cfg.model
    latent = (model.get('autoencoder') or {}).get('type', 'IdentityAutoencoder') != 'IdentityAutoencoder'
    cfg.train_dataloader.dataset = dict(  # of the shape of the network's input, which is known when that is built
        type='RandomSamples', key='latents' if latent else 'inputs', shape=[],
        num_classes=model.get('num_classes'), captions=model.get('conditioner') is not None)
    cfg.train_dataloader.num_workers = 0
    cfg.train_dataloader.pop('persistent_workers', None)
    cfg.train_dataloader.pop('prefetch_factor', None)
    for key in ('val_cfg', 'val_dataloader', 'val_evaluator', 'test_cfg', 'test_dataloader', 'test_evaluator'):
        cfg.pop(key, None)
    cfg.train_cfg = dict(type='IterTrainLoop', max_iters=ITERATIONS * cfg.optim_wrapper.get('accumulative_counts', 1))
    kept = cfg.get('default_hooks', {}).get('ema')
    cfg.default_hooks = dict(progress=None, checkpoint=None) | (dict(ema=kept) if kept else {})
    cfg.custom_hooks = []
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])  # no tracker
    cfg.work_dir, cfg.load_from, cfg.resume = work_dir, None, False
    return cfg


def make_clock() -> Any:
    """A hook that notes when every iteration began and ended."""
    from mmengine.hooks import Hook

    class Clock(Hook):
        priority = 'VERY_HIGH'

        def __init__(self) -> None:
            self.seconds: list[float] = []

        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            self.start = time.perf_counter()

        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            import torch
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds.append(time.perf_counter() - self.start)
            print(f'iteration {batch_idx + 1}: {self.seconds[-1]:.3g} s', file=sys.stderr, flush=True)

    return Clock()


def duration(seconds: float) -> str:
    """In words of two units: 3 d 4 h, 2 h 5 min, 40 s."""
    for unit, size, small, smaller in (('d', 86400, 'h', 3600), ('h', 3600, 'min', 60), ('min', 60, 's', 1)):
        if seconds >= size:
            return f'{int(seconds // size)} {unit} {int(seconds % size // smaller)} {small}'
    return f'{seconds:.0f} s'


def peak_memory() -> str:
    """Of this process, and of its GPU."""
    import torch

    from slimdiff.engine.hooks.speed import peak_resident_memory
    text = f'{peak_resident_memory() / 2**10:.2f} GiB of this process'
    if torch.cuda.is_available():
        text += f', {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB allocated on the GPU'
    return text


def dry_run(cfg: Config, compiled: bool = False) -> int:
    """Train three iterations of ``cfg`` on random data and print what they cost; returns the exit status."""
    from mmengine.dist import is_main_process
    total = cfg.train_cfg.max_iters
    seconds = measure(cfg, compiled)
    if is_main_process():
        _print_rows([('whole schedule', f'{total:,} iterations would take {duration(total * seconds)} on this '
                      'machine')])
    return 0


def measure(cfg: Config, compiled: bool = False) -> float:
    """The seconds of an iteration, of three on random data; prints them, and the networks' size before it begins."""
    from mmengine.dist import is_main_process

    from slimdiff.engine import SlimRunner
    from slimdiff.models.backbones.protocol import input_shape
    batch = cfg.train_dataloader.batch_size
    with tempfile.TemporaryDirectory(prefix='slimdiff_dry_run_') as work_dir:
        small, replaced = dry_config(cfg, work_dir)
        runner = SlimRunner.from_cfg(small)
        model, clock = runner.unwrapped_model, make_clock()
        runner._train_dataloader['dataset']['shape'] = input_shape(model.unet)
        if compiled:
            model.unet.compile()
        runner.register_hook(clock)
        if is_main_process():
            _print_rows([('stands in', line) for line in replaced] + [
                ('batch', f'{batch} on each of {runner.world_size}: {batch * runner.world_size} images an iteration'),
                *((name, _cost_of(owner)) for name in ('network', 'teacher')
                  if (owner := model if name == 'network' else getattr(model, name, None)) is not None)])
            iterations = small.train_cfg.max_iters
            print(f'training {iterations} iterations of batch {batch} on random data ...', file=sys.stderr, flush=True)
        runner.train()
        runner.visualizer.close()
    seconds = sorted(clock.seconds[1:])[len(clock.seconds[1:]) // 2]  # the first one warms up
    if is_main_process():
        _print_rows([('iterations', f'{len(clock.seconds)}, {1 / seconds:.3g} it/s after the first'),
                     ('peak memory', peak_memory())])
    return seconds


def _cost_of(owner: Any) -> str:
    from slimdiff.evaluation.cost import human
    from slimdiff.evaluation.unet_cost import context_length_of, unet_cost
    cost = unet_cost(owner, context_length_of(owner))
    return (f'{human(cost.params)} parameters, {human(cost.conv_linear_macs)} MACs ('
            f'{human(cost.macs_with_attention)} with the products of attention)')


def _print_rows(rows: list[tuple[str, str]]) -> None:
    print('\n'.join(f'{name:14}  {text}' for name, text in rows), flush=True)
