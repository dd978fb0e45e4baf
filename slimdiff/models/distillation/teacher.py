"""The frozen teacher of a distillation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from slimdiff.checkpoint.tensor_store import network_fingerprint
from slimdiff.checkpoint.weights import check_finite
from slimdiff.functional.precision import has_bf16_products
from slimdiff.functional.process import translate
from slimdiff.models import computation
from slimdiff.models.backbones.adapt import predict
from slimdiff.models.backbones.protocol import (
    bare,
    class_rows,
    expected_context,
    input_dtype,
    input_shape,
    output_channels,
)
from slimdiff.models.conditioners import build_conditioner
from slimdiff.models.distillation.loading import load_teacher
from slimdiff.models.distillation.taps import OUTPUT, TapRecorder, find_tap
from slimdiff.models.distillation.teacher_cache import TeacherCache

#: prediction, and features by tap
Outputs = tuple[Tensor, dict[str, Tensor]]
#: share of the student's timesteps whose signal-to-noise ratio a teacher of another process must know
COVERED = 0.9


class Teacher:
    """A frozen network: its predictions, and some of its features.

    It is not an ``nn.Module``: a student that holds one has it neither in its parameters nor in its state dict,
    checkpoints, EMA or export.

    Args:
        checkpoint, weights, scheduler, config: see :func:`~slimdiff.models.distillation.loading.load_teacher`.
        bf16: keep the weights in bfloat16, half the memory and faster. On a device without bfloat16 products
            (:func:`~slimdiff.functional.precision.has_bf16_products`) the teacher stays in float32: there it is slower.
        micro_batch: samples that run at once; None takes the whole batch. Less memory, the same features.
        share: of each batch that the teacher sees: the losses are means over its first samples, so each of those
            counts 1 / share times as much, and their weights should fall with it. On a CPU the teacher is most of the
            cost of a step.
        compile: ``torch.compile`` the network (one to two minutes at the start). It needs a C++ compiler on CPU.
        conditioner: config of the teacher's own text encoder
            (:class:`~slimdiff.models.conditioners.TextConditioner`), if it isn't the student's: both then read the
            same captions.
        cache: a folder that keeps the outputs, for other students of the same seed and data (see
            :class:`~slimdiff.models.distillation.teacher_cache.TeacherCache`); 4 bytes a value, for as long as the
            folder is there. It pays where the teacher is slow and runs share their seeds, as in a study on a CPU.

    Raises:
        ValueError: see ``load_teacher``; a micro-batch below 1; a share out of (0, 1]; a cache that can't be written.
    """

    def __init__(self, checkpoint: str | Mapping[str, Any], weights: str = 'ema',
                 scheduler: Mapping[str, Any] | None = None, config: str | None = None,
                 bf16: bool = False, micro_batch: int | None = None, share: float = 1.0, compile: bool = False,
                 conditioner: Mapping[str, Any] | None = None, cache: str | None = None) -> None:
        if micro_batch is not None and micro_batch < 1:
            raise ValueError(f'teacher: micro_batch must be at least 1 (or None), got {micro_batch}.')
        if not 0 < share <= 1:
            raise ValueError(f'teacher: share must lie in (0, 1], the part of each batch that it sees, got {share}.')
        self.share = share
        loaded = load_teacher(checkpoint, weights, scheduler, config)
        check_finite(loaded.unet.state_dict(), loaded.source)
        # Before its precision is settled, which is the machine's. Checkpoints have it: another teacher at the same path
        # makes another run.
        self.fingerprint = network_fingerprint(loaded.unet)
        self.source, self.computes = loaded.source, loaded.computes
        self.noise_process = loaded.noise_process
        self.translates = False  # between the student's process and another one: check_fits
        self.prediction_type = loaded.prediction_type
        self.classes, self.null_class = loaded.classes, loaded.null_class
        self.unet = loaded.unet.eval().requires_grad_(False)
        if all(weight.dim() < 5 for weight in self.unet.parameters()):  # else PyTorch refuses
            self.unet.to(memory_format=torch.channels_last)
        self.micro_batch, self.compile = micro_batch, compile
        self.conditioner = build_conditioner(conditioner, self.unet, f'conditioner of the teacher ({self.source})')
        self.wants_bf16, self.bf16 = bf16, False
        self._settle_precision()
        self.recorder: TapRecorder | None = None
        self.paths: dict[str, str] = {}
        self.cache, self._store = cache, None
        if cache is not None:
            self._open_cache()

    # ---- what kind of network it is ---------------------------------------------------------------------------

    @property
    def config(self) -> Any:
        return self.unet.config

    @property
    def num_classes(self) -> int | None:
        """Classes, without the null class of ours; diffusers' networks don't say whether their last one is it."""
        return getattr(self.config, 'num_classes', None) or class_rows(self.unet) or None

    @property
    def class_rows(self) -> int:
        """Labels that the network was trained on, as far as it says, the null class included."""
        ours = getattr(self.config, 'num_classes', None)
        return ours + self.null_class if ours else class_rows(self.unet)

    @property
    def context_channels(self) -> int | None:
        """Width of ``encoder_hidden_states``; None if the network takes none."""
        return expected_context(self.unet)

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    def to(self, device: torch.device) -> None:
        """Move to the student's device."""
        if device != self.device:
            nn.Module.to(self.unet, device)
            self._settle_precision()

    def _settle_precision(self) -> None:
        """Turn to bfloat16 if that is wanted, and the device is one for it."""
        if self.bf16 or not self.wants_bf16:
            return
        if has_bf16_products(self.device):
            nn.Module.to(self.unet, torch.bfloat16)
            self.bf16 = True
        elif not torch.cuda.is_available():  # else it is likely to move there
            print_log('This CPU has no fast bfloat16 (it lacks AVX-512): the teacher stays in float32.',
                      logger='current')

    def check_fits(self, model: Any) -> None:
        """Raise ValueError if it can't teach a :class:`~slimdiff.models.algorithms.DiffusionModel`; the message says
        which setting differs.

        A teacher that doesn't say its schedule, prediction type or first stage is taken to have the student's. Another
        prediction type is no obstacle: predictions are converted.
        """
        unet, num_classes, class_dropout = model.unet, model.num_classes, model.class_dropout
        theirs = input_shape(unet)
        unsized = getattr(self.config, 'sample_size', None) is None  # it takes any
        mine = (self.config.in_channels, *theirs[1:]) if unsized else input_shape(self.unet)

        def refuse(what: str, teacher: Any, student: Any, advice: str) -> None:
            raise ValueError(f'The teacher ({self.source}) and the student differ in {what}: teacher {teacher}, '
                             f'student {student}. {advice}')

        outputs = [output_channels(network) for network in (self.unet, unet)]
        for what, teacher, student in (('input', mine[0], theirs[0]), ('output', *outputs)):
            if teacher != student and None not in (teacher, student):
                refuse(f'channels of the {what}', teacher, student,
                       'They must share the autoencoder, or both work on pixels.')
        if mine[1:] != theirs[1:]:
            refuse('image size', *(' x '.join(map(str, dict.fromkeys(shape[1:]))) for shape in (mine, theirs)),
                   "Train the student at the teacher's size (model.unet.sample_size and the dataset's image_size), or "
                   'fine-tune the teacher at the new size first.')
        if self.noise_process is None:
            self.noise_process, self.prediction_type = model.noise_process, model.prediction_type
        self.translates = model.noise_process.name != self.noise_process.name
        covered = self.noise_process.covers(model.noise_process) if self.translates else 1.0
        if covered < COVERED:
            refuse('noise process', self.noise_process.name, model.noise_process.name,
                   f"The teacher was trained at {covered:.0%} of the student's signal-to-noise ratios; it takes "
                   f'{COVERED:.0%} to convert between the two. Take a teacher of the same process, or one that was '
                   'trained down to noise.')
        own = computation.of_model(model)
        for key, what, advice in (
                ('schedule', 'noise schedule', "Give the student's noise_scheduler the teacher's values: at another "
                                               'noise level its features mean something else.'),
                ('first_stage', 'first stage', "Give the student's autoencoder the teacher's first stage: in another "
                                               'one the same latents are other images.')):
            # At the same signal-to-noise ratio a flow and a diffusion hold the same images and noise.
            if key == 'schedule' and self.translates:
                continue
            for name, teacher, student in computation.differences(self.computes, own, [key]):
                refuse(f'{what} ({name.removeprefix("first_stage.")})', teacher, student, advice)
        if self.num_classes is not None and num_classes is None:
            refuse('conditioning', f'conditional on {self.num_classes} classes', 'unconditional',
                   f'Give the student num_classes={self.num_classes}, or take an unconditional teacher.')
        if self.num_classes is None and num_classes is not None:
            refuse('conditioning', 'unconditional', f'conditional on {num_classes} classes',
                   'Set num_classes=None for the student: such a teacher would teach it to ignore the class.')
        if num_classes is not None and self.class_rows < num_classes + (class_dropout > 0):
            refuse('classes', f'{self.class_rows} (the null class of guidance included)',
                   f'{num_classes} and the null class' if class_dropout else num_classes,
                   "Take the teacher's num_classes; for a teacher without a null class also class_dropout=0.")
        if self.conditioner is None and self.context_channels != expected_context(unet):
            refuse('conditioning', f'{_context(self.context_channels)}', f'{_context(expected_context(unet))}',
                   "Set the student's unet.context_channels and cross_attention to the teacher's, and give the batch "
                   "'context'; or take another teacher; for text, give the teacher its own conditioner.")

    def context_for(self, caption: Sequence[str] | None, context: Tensor | None) -> Tensor | None:
        """What the teacher reads: the student's context, or its own reading of the captions.

        Raises:
            ValueError: it has a conditioner, but there are no captions.
        """
        if self.conditioner is None:
            return context
        if caption is None:
            raise ValueError("The teacher has a conditioner of its own, so it needs the batch's 'caption': the "
                             "student's context does not fit it.")
        return self.conditioner(caption, self.device)

    # ---- features ---------------------------------------------------------------------------------------------

    def record(self, taps: Iterable[str]) -> dict[str, str]:
        """Choose the taps to record; returns tap -> module path (``output`` is not a module).

        Raises:
            ValueError: an unknown tap; names the nearest.
        """
        paths = {tap: find_tap(self.unet, tap, 'teacher') for tap in taps if tap != OUTPUT}
        if self.recorder is not None:
            self.recorder.remove()
        self.recorder = TapRecorder(bare(self.unet), paths.values())
        self.paths = paths
        if self.compile:  # after the hooks are on: the compiler reads them
            self.unet.compile()
        return paths

    @torch.no_grad()
    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, context: Tensor | None = None) -> Outputs:
        """Prediction (N, C, H, W) float32, of the teacher's own type, and features by tap.

        Args:
            x_t: (N, C, H, W) noisy inputs; t (N,); labels (N,); context (N, S, D).
        """
        return (self._forward if self.cache is None else self._cached)(x_t, t, labels, context)

    def _cached(self, x_t: Tensor, t: Tensor, labels: Tensor | None, context: Tensor | None) -> Outputs:
        """The outputs in the cache, or else the network's, which are then kept there."""
        store = self._open_cache()
        kind = x_t.device.type
        cast = [str(torch.get_autocast_dtype(kind))] if torch.is_autocast_enabled(kind) and not self.bf16 else []
        key = store.key(x_t, t, labels, context, *cast)
        found = store.get(key, [OUTPUT, *self.paths], x_t.device)
        if found is None:
            prediction, features = self._forward(x_t, t, labels, context)
            found = {OUTPUT: prediction} | features
            store.put(key, found)
        return found.pop(OUTPUT), found

    def _open_cache(self) -> TeacherCache:
        """The store of this network in its present precision."""
        if self._store is None or self._store[0] != self.bf16:
            self._store = (self.bf16, TeacherCache(self.cache, self.unet))
        return self._store[1]

    def _forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None, context: Tensor | None) -> Outputs:
        """Run the network."""
        size = self.micro_batch or len(x_t)
        outputs, features = [], []
        for start in range(0, len(x_t), size):
            part = slice(start, start + size)
            outputs.append(self._run(x_t[part], t[part], *(v if v is None else v[part] for v in (labels, context))))
            features.append(self.recorder.take() if self.recorder else {})
        if len(outputs) == 1:
            merged = features[0]
        else:
            merged = {path: torch.cat([f[path] for f in features]) for path in features[0]}
        return torch.cat(outputs).float(), {tap: merged[path] for tap, path in self.paths.items()}

    def _run(self, x: Tensor, t: Tensor, labels: Tensor | None, context: Tensor | None) -> Tensor:
        labels = None if self.num_classes is None else labels
        if self.context_channels is None:
            context = None
        if self.bf16:
            x = x.to(input_dtype(self.unet))
            context = None if context is None else context.bfloat16()
        # bfloat16 weights need no autocast, whose casts would only cost time.
        precision = torch.autocast(x.device.type, enabled=False) if self.bf16 else contextlib.nullcontext()
        with precision, self.recorder or contextlib.nullcontext():
            return predict(self.unet, x, t, labels, context)

    def own_input(self, x_t: Tensor, t: Tensor, model: Any) -> tuple[Tensor, Tensor]:
        """x_t and t of a model's process as the teacher knows them: it may be a flow and the model none, or the
        reverse."""
        if not self.translates:
            return x_t, t
        return translate(x_t, t, model.noise_process, self.noise_process)

    def convert(self, prediction: Tensor, x_t: Tensor, t: Tensor, model: Any) -> Tensor:
        """The teacher's prediction for :meth:`own_input` of ``x_t`` and t (N,), in the model's prediction type."""
        if not self.translates:
            return model.noise_process.convert(prediction, x_t, t, self.prediction_type, model.prediction_type)
        # x_t determines x0 and the noise together with either of them: go by the one that is safe at all levels.
        own_x, own_t = self.own_input(x_t, t, model)
        x0 = self.noise_process.convert(prediction, own_x, own_t, self.prediction_type, 'sample')
        eps = self.noise_process.convert(prediction, own_x, own_t, self.prediction_type, 'epsilon')
        return model.noise_process.target(x0, eps, t, model.prediction_type)


def _context(channels: int | None) -> str:
    return 'without cross-attention' if channels is None else f'cross-attention to {channels} channels'
