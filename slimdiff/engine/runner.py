"""mmengine's Runner with slimdiff's checkpoints, work dir rules and registries."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os.path as osp
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from slimdiff.arguments import plain
from slimdiff.checkpoint import files
from slimdiff.checkpoint import weights as checkpoint_weights
from slimdiff.checkpoint.same import listed
from slimdiff.configuration import config_source
from slimdiff.configuration.known import DEFAULT_HOOKS
from slimdiff.datasets import build_dataloader
from slimdiff.datasets.check_images import check_images
from slimdiff.engine import run_state, scope  # noqa: F401 (scope registers)
from slimdiff.engine import work_dir as rules
from slimdiff.engine.distributed import init_cpu_process_group, leave_at_exit, wrapper_config
from slimdiff.engine.sharding import like, optimizer_state_like, whole
from slimdiff.engine.tracking import check_trackers
from slimdiff.evaluation.common import check_classes, is_sharded, locked, run_on_rank0, takes_part
from slimdiff.models import computation
from slimdiff.registry import HOOKS, LOOPS, MODELS, RUNNERS, building


class _ConsoleFilter(logging.Filter):
    """Keep pages of environment, config and hook lists off the terminal; they are in the log file."""

    LONG = ('\n---', 'Config:\n', 'Hooks will be executed', 'Distributed training is not used')

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.LONG)


@RUNNERS.register_module()
class SlimRunner(Runner):
    """The Runner that trains and tests slimdiff's models. Arguments: as mmengine's Runner.

    What differs:

    - Checkpoints are written atomically, hold plain data only and load with ``weights_only=True``
      (:mod:`slimdiff.checkpoint.files`); a resumed run goes on bit for bit.
    - ``train`` refuses to write over another run's checkpoints (:mod:`slimdiff.engine.work_dir`); ``cfg.overwrite``
      removes them (in a run that is resumed, those of later iterations).
    - ``resume=True`` without ``load_from`` takes the newest checkpoint that is intact.
    - Hooks, loops and models are built from slimdiff's registries, which name the nearest right ``type`` or argument.
    - Distributed runs work on CPU (gloo) without further settings.

    Raises:
        CheckpointError: a checkpoint that cannot be used.
        ComputationError: one of a network that was trained for another computation.
        WorkDirError: the work dir holds another run.
        RegistryError: an unknown type or argument.
    """

    cfg: Config
    _log_names: ClassVar[set[str]] = set()
    _log_dir: str | None = None
    _started = False
    _settings_differ = False

    def __init__(self, model: nn.Module | dict[str, Any], work_dir: str, *args: Any, **kwargs: Any) -> None:
        self._new_folders = rules.missing_folders(work_dir)
        with self.starting(), building('The run'):
            super().__init__(model, work_dir, *args, **kwargs)

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Within this, an error removes the folders that this Runner made, unless its training has begun."""
        try:
            yield
        except BaseException:
            if is_main_process() and not self._started:
                rules.remove_traces(self._log_dir, self._new_folders)
            raise

    # ---- set-up ---------------------------------------------------------------------------------------------------

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        init_cpu_process_group(self._launcher, timeout=(env_cfg.get('dist_cfg') or {}).get('timeout', 1800))
        super().setup_env(env_cfg)
        leave_at_exit()
        # mmengine names logs and loggers by the second: two Runners of one process would share them, and two processes
        # the folder of their logs, which one that is refused removes.
        self._timestamp = run_on_rank0(self._free_name)
        SlimRunner._log_names.add(self._timestamp)

    def _free_name(self) -> str:
        """A name for the logs that no other run has in this process or this work dir; makes their folder."""
        for count in itertools.count(1):
            name = self._timestamp if count == 1 else f'{self._timestamp}_{count}'
            if name in self._log_names:  # maybe of a run that was refused, whose folder is gone
                continue
            with contextlib.suppress(FileExistsError):
                (Path(self.work_dir) / name).mkdir()
                self._log_dir = str(Path(self.work_dir) / name)
                return name
        raise AssertionError

    def build_logger(self, log_level: int | str = 'INFO', log_file: str | None = None, **kwargs: Any) -> Any:
        logger = super().build_logger(log_level, log_file, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(_ConsoleFilter())
        return logger

    def build_visualizer(self, visualizer: Any = None) -> Any:
        visualizer = super().build_visualizer(visualizer)
        check_trackers(visualizer)
        return visualizer

    def build_model(self, model: nn.Module | Mapping[str, Any]) -> nn.Module:
        return MODELS.build(model)

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        with building('optim_wrapper'):
            return super().build_optim_wrapper(optim_wrapper)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        with building('param_scheduler'):
            return super().build_param_scheduler(scheduler)

    def wrap_model(self, model_wrapper_cfg: Mapping[str, Any] | None, model: nn.Module) -> nn.Module:
        if self.distributed:
            window = (self.cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)
            model_wrapper_cfg = wrapper_config(model_wrapper_cfg, accumulates=window > 1)
        return super().wrap_model(model_wrapper_cfg, model)

    def _init_model_weights(self) -> None:
        if not is_sharded(self.model):  # FullyShard has done it
            super()._init_model_weights()

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, seed: int | None = None,
                         diff_rank_seed: bool = False) -> DataLoader:
        return build_dataloader(dataloader, seed=seed, diff_rank_seed=diff_rank_seed)

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: dict[str, Any] | None = None) -> None:
        """As in mmengine, with accumulated gradients as part of the batch (LDM's rule)."""
        if auto_scale_lr and auto_scale_lr.get('enable'):
            if not auto_scale_lr.get('base_batch_size'):
                raise ValueError('auto_scale_lr: the config does not say for which batch size its learning rate is: '
                                 'set auto_scale_lr=dict(base_batch_size=...).')
            window = getattr(optim_wrapper, '_accumulative_counts', 1)
            auto_scale_lr = {**auto_scale_lr, 'base_batch_size': auto_scale_lr['base_batch_size'] / window}
        super().scale_lr(optim_wrapper, auto_scale_lr)

    def build_train_loop(self, loop: BaseLoop | Mapping[str, Any]) -> BaseLoop:
        return self._build_loop(loop, self._train_dataloader)

    def build_val_loop(self, loop: BaseLoop | Mapping[str, Any]) -> BaseLoop:
        return self._build_loop(loop, self._val_dataloader, self._val_evaluator)

    def build_test_loop(self, loop: BaseLoop | Mapping[str, Any]) -> BaseLoop:
        return self._build_loop(loop, self._test_dataloader, self._test_evaluator)

    def _build_loop(self, loop: Any, dataloader: Any, evaluator: Any = None) -> BaseLoop:
        if isinstance(loop, BaseLoop):
            return loop
        extra = {} if evaluator is None else {'evaluator': evaluator}
        return LOOPS.build({**loop, 'runner': self, 'dataloader': dataloader, **extra})

    def register_hook(self, hook: Hook | Mapping[str, Any], priority: Any = None) -> None:
        if isinstance(hook, Mapping):
            hook = dict(hook)
            priority = hook.pop('priority', priority)
            hook = HOOKS.build(hook)
        super().register_hook(hook, priority)

    def register_default_hooks(self, hooks: Mapping[str, Any] | None = None) -> None:
        for hook in {**DEFAULT_HOOKS, **(hooks or {})}.values():
            if hook is not None:
                self.register_hook(hook)

    @property
    def unwrapped_model(self) -> nn.Module:
        """The model without a distributed wrapper."""
        return self.model.module if is_model_wrapper(self.model) else self.model

    def dump_config(self) -> None:
        """Do nothing when a Runner is built: a refused or a test run must not change a work dir (see train)."""

    def _write_config(self) -> None:
        name = Path(self.cfg.filename).with_suffix('.py').name if self.cfg.filename else 'config.py'
        text = config_source(self.cfg).encode()
        files.atomic_write(Path(self.work_dir) / name, lambda file: file.write(text))

    # ---- train: what to start from --------------------------------------------------------------------------------

    def train(self) -> nn.Module:
        """Train; returns the model. What goes wrong before the first iteration leaves the work dir as it was.

        Raises:
            TrainingInterrupted: (a SystemExit) Ctrl-C or SIGTERM, after saving.
            FolderInUseError: another process trains in the work dir.
        """
        with self.starting(), locked(self.work_dir, 'training'):
            # Before anything is built: a refusal should cost no time, and a resumed seed must reach the sampler.
            self._resume_path, seed, self._settings_differ = run_on_rank0(self._choose_start)
            if self._resume_path is not None and self._randomness_cfg.get('seed') is None:
                self._randomness_cfg = {**self._randomness_cfg, 'seed': seed}
                self.set_randomness(**self._randomness_cfg)
            return super().train()

    def _choose_start(self) -> tuple[str | None, int | None, bool]:
        """Check the work dir; return the checkpoint to resume from, its seed, and whether its config is another one.

        On the main process.
        """
        config = plain(self.cfg._cfg_dict)
        if not self._resume:
            if not self.cfg.get('overwrite'):
                rules.check_fresh_start(self.work_dir, config, self.world_size)
            return None, None, False
        if self._load_from is not None:
            meta = files.load_checkpoint(self._load_from)['meta']
            differences = rules.check_resume(self._load_from, meta, config, self.world_size,
                                             run_state.teacher_of(self))
            if not self.cfg.get('overwrite'):
                rules.check_no_later(self.work_dir, meta['iter'])
            if differences:
                self.logger.warning(f'Resuming from {self._load_from}, which was trained with other values of'
                                    f'{listed(differences)}\nThe new ones hold from here on.')
            return str(self._load_from), meta['seed'], bool(differences)
        path, found, complaints = files.newest_checkpoint(self.work_dir)
        for complaint in complaints:
            self.logger.warning(complaint)
        if path is None:
            if files.list_checkpoints(self.work_dir):
                raise files.CheckpointError(f'None of the checkpoints in {self.work_dir} can be read: '
                                            f'{"; ".join(complaints)}')
            self.logger.warning(f'--resume: there is no checkpoint in {self.work_dir}. Starting from the beginning.')
            return None, None, False
        if complaints:
            self.logger.warning(f'Going on from {path.name} instead.')
        differences = rules.check_resume(path, found['meta'], config, self.world_size, run_state.teacher_of(self))
        if differences:
            damaged = files.list_checkpoints(self.work_dir, above=found['meta']['iter'])
            raise rules.WorkDirError(
                f'The work dir {self.work_dir} belongs to another config: {path.name} was trained with other values of'
                f'{listed(differences)}\nNothing was changed. Choose another --work-dir, restore these '
                f'values, or name the checkpoint to go on from it with the new ones: --resume {path}'
                f'{" --overwrite" if damaged else ""}')
        return str(path), found['meta']['seed'], False

    def load_or_resume(self) -> None:
        """Resume or load what the config asks for. In a training run everything has been built by now, so this is
        also where the work dir becomes ours."""
        if isinstance(self._train_loop, BaseLoop) and hasattr(self, '_resume_path'):
            for loop in (self._train_loop, self._val_loop):
                if loop is not None:
                    check_classes(self.unwrapped_model, loop.dataloader.dataset)
            run_on_rank0(self._check_data)
            if self._resume_path is not None:
                self.resume(self._resume_path)
        if not self._has_loaded and self._load_from is not None and not self._resume:
            self.load_checkpoint(self._load_from)
        if isinstance(self._train_loop, BaseLoop) and hasattr(self, '_resume_path'):
            run_on_rank0(self._take_work_dir)
            self._started = True  # from here on the folders are the run's

    def _check_data(self) -> None:
        """Let the model refuse a data set, such as latents of another first stage, before anything is written."""
        if hasattr(self.unwrapped_model, 'check_data'):
            loader = self._train_loop.dataloader
            if not isinstance(loader.dataset, IterableDataset):
                check_images(loader.dataset)
            metainfo = getattr(loader.dataset, 'metainfo', None) or {}
            batch = None if isinstance(loader.dataset, IterableDataset) else loader.collate_fn([loader.dataset[0]])
            self.unwrapped_model.check_data(metainfo, decodes=self._val_loop is not None, batch=batch)

    def _take_work_dir(self) -> None:
        for name in files.remove_temporary_files(self.work_dir):
            self.logger.info(f'Removed {name}, left by a run that was killed while writing it.')
        if self.cfg.get('overwrite'):
            for name in rules.remove_run(self.work_dir, above=-1 if self._resume_path is None else self.iter):
                self.logger.warning(f'--overwrite: removed {name} of the earlier run.')
        self._write_config()

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def load_checkpoint(self, filename: str, map_location: Any = 'cpu', strict: bool = True,
                        revise_keys: Any = None) -> dict[str, Any]:
        """Load weights strictly, the averaged ones where there are some; returns the checkpoint.

        ``strict`` and ``revise_keys`` are mmengine's and must keep their defaults.
        """
        if not strict or revise_keys:
            raise ValueError('SlimRunner.load_checkpoint is strict: strict=False and revise_keys are not supported.')
        checkpoint = files.load_checkpoint(filename, map_location)
        try:
            self._check_classes(checkpoint, filename)
        except ValueError as error:  # a run may go on to other data, on purpose
            self.logger.warning(f'{error} The weights are loaded all the same: this run learns its own classes.')
        weights = 'ema' if 'ema' in checkpoint else 'online'
        self._load_state(checkpoint_weights.weights_of(checkpoint, weights, filename), filename)
        self._check_computation(checkpoint, filename)
        self._has_loaded = True
        self.logger.info(f'Loaded the {weights} weights of {filename}')
        return checkpoint

    def _check_classes(self, checkpoint: dict[str, Any], filename: str) -> None:
        """Raise ValueError if labels mean other classes in this run than in a checkpoint's."""
        if hasattr(self.unwrapped_model, 'check_classes'):
            classes = (checkpoint['meta'].get('dataset_meta') or {}).get('classes')
            self.unwrapped_model.check_classes(classes, filename)

    def _load_state(self, state: dict[str, Any], filename: str) -> None:
        checkpoint_weights.check_weights(state, self.unwrapped_model.state_dict(), filename)
        if is_sharded(self.model):
            own = self.model.state_dict()
            state = {name: like(value, own[name]) for name, value in state.items()}
        self.unwrapped_model.load_state_dict(state, strict=True)

    def _check_computation(self, checkpoint: Mapping[str, Any], filename: str) -> None:
        computation.check_same(computation.of_checkpoint(checkpoint, filename), self.unwrapped_model, filename,
                               bool(self.cfg.get('trust_config')))

    def resume(self, filename: str, resume_optimizer: bool = True, resume_param_scheduler: bool = True,
               map_location: Any = 'cpu') -> None:
        """Restore weights, optimizer, schedules, logs, the hooks' states and the iteration."""
        checkpoint = files.load_checkpoint(filename, map_location)
        self._check_classes(checkpoint, filename)
        self._load_state(checkpoint_weights.unprefixed(checkpoint['state_dict']), filename)
        self._check_computation(checkpoint, filename)
        if resume_optimizer:
            state = checkpoint['optimizer']
            if is_sharded(self.model):
                state = optimizer_state_like(state, self.optim_wrapper.optimizer)
            configured = [dict(group) for group in self.optim_wrapper.param_groups]
            self.optim_wrapper.load_state_dict(state)
        goes_on = not resume_param_scheduler or run_state.restore_schedulers(self.param_schedulers,
                                                                             checkpoint.get('param_schedulers'))
        if resume_optimizer and self._settings_differ:
            run_state.keep_settings(self.optim_wrapper.param_groups, configured, goes_on)
        run_state.restore_hub(self.message_hub, checkpoint['message_hub'])
        self.train_loop._iter = checkpoint['meta']['iter']
        self.train_loop._epoch = checkpoint['meta'].get('epoch', 0)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        self._has_loaded = True
        self.logger.info(f'Resumed from {filename} after iteration {self.train_loop._iter}.')

    def save_checkpoint(self, out_dir: str, filename: str, by_epoch: bool = False, meta: dict[str, Any] | None = None,
                        iteration: int | None = None, **unused: Any) -> None:
        """Write a checkpoint atomically; the main process does it, to which the others send their parts of a sharded
        model.

        Args:
            iteration: iterations done; by default that of the current iteration's end (mmengine's hooks call this
                within it).

        Raises:
            CheckpointWriteError: the disk is full, or refused otherwise.
        """
        if not takes_part(self.model):
            return
        done = self.iter + (0 if by_epoch else 1) if iteration is None else iteration
        state = self.unwrapped_model.state_dict()
        checkpoint = dict(
            meta={**run_state.description(self, done), **(meta or {})},
            state_dict=dict(state),
            optimizer=self.optim_wrapper.state_dict(),
            param_schedulers=run_state.scheduler_states(self.param_schedulers),
            message_hub=run_state.hub_state(self.message_hub))
        self.call_hook('before_save_checkpoint', checkpoint=checkpoint)
        if is_sharded(self.model):
            checkpoint = whole(checkpoint)
            if not is_main_process():
                return
        files.save_checkpoint(checkpoint, osp.join(out_dir, filename))

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call ``fn_name`` of all hooks that have it.

        As mmengine's, but a TypeError within a hook keeps its traceback.
        """
        for hook in self._hooks:
            method: Callable[..., None] | None = getattr(hook, fn_name, None)
            if method is not None:
                method(self, **kwargs)


