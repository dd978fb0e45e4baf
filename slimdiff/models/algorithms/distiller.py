"""Distillation: a diffusion model that also learns from a large one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimdiff.arguments import check_arguments, plain
from slimdiff.models.algorithms.batches import check_classes
from slimdiff.models.algorithms.diffusion_model import DiffusionModel
from slimdiff.models.algorithms.draws import NoisedBatch
from slimdiff.models.backbones.protocol import bare, context_shape, example_inputs
from slimdiff.models.distillation import OUTPUT, FeatureProjector, TapRecorder, Teacher, find_tap
from slimdiff.models.losses.distillation import DistillationLoss, resize
from slimdiff.registry import LOSSES, MODELS


@MODELS.register_module()
class Distiller(DiffusionModel):
    """L = L_ddpm + sum_i lambda_i d_i(teacher, student): spectral diffusion's training (Yang et al. 2023).

    The teacher sees the student's very input (x_t, t, condition), without gradient. Student and teacher are compared
    at *taps*: ``output``, the prediction (the teacher's is converted to the student's prediction type), or the output
    of any module, such as the stages ``down4``, ``mid``, ``up2``, ``up1``. Where the channels differ a learned 1x1
    convolution projects the student's to the teacher's; it is trained, saved for resuming, and not part of the
    exported student. The teacher is in none of parameters, checkpoints and EMA.

    Args:
        unet: config of the student.
        teacher: arguments of :class:`~slimdiff.models.distillation.Teacher`: ``dict(checkpoint=..., bf16=...)``.
        losses: configs of distillation losses, as ``dict(type='SpectralLoss', tap=['output', 'up1'], weight=0.1)``.
            One of weight 0 costs nothing; if all are 0, the teacher does not run.
        **settings: arguments of :class:`DiffusionModel`.

    Raises:
        ValueError: no losses; a tap that one of the networks lacks, or whose maps can't be brought to one shape; a
            teacher that can't teach this student (the message says which setting differs).
        RegistryError: an unknown loss or argument.
    """

    training_keys = (*DiffusionModel.training_keys, 'teacher', 'losses')

    def __init__(self, unet: Mapping[str, Any], teacher: Mapping[str, Any], losses: Sequence[Mapping[str, Any]],
                 **settings: Any) -> None:
        super().__init__(unet=unet, **settings)
        if not losses:
            raise ValueError("Distiller: losses is empty; give such as dict(type='SpatialLoss', tap='output'), or "
                             'train a DiffusionModel.')
        self.distillation_losses = nn.ModuleList(LOSSES.build(plain(loss), kind=DistillationLoss) for loss in losses)
        # Every tap is checked, also that of a loss of weight 0: a misspelt name should not wait for its turn.
        pairs = dict.fromkeys(pair for loss in self.distillation_losses for pair in loss.taps.items())
        self.student_paths = {tap: find_tap(self.unet, tap, 'student') for tap, _ in pairs if tap != OUTPUT}
        check_arguments(Teacher, teacher)
        self.teacher = Teacher(**plain(teacher))
        self.teacher.check_fits(self)
        self.teacher.record(dict.fromkeys(tap for _, tap in pairs))
        self.recorder = TapRecorder(bare(self.unet), self.student_paths.values())
        self.projections = nn.ModuleDict()
        self._make_projectors(list(pairs))
        self._teacher_was_finite: Tensor | None = None

    @classmethod
    def serving_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The student's config as a plain :class:`DiffusionModel`: sampling needs neither teacher nor projections."""
        return {**super().serving_config(config), 'type': 'DiffusionModel'}

    def check_classes(self, names: Sequence[str] | None, source: str) -> None:
        """As of any model; the teacher's classes are compared, too."""
        super().check_classes(names, source)
        if names and self.num_classes is not None and self.teacher.classes:
            check_classes(names, source, self.teacher.classes, f'the teacher ({self.teacher.source})')

    def trained_modules(self) -> dict[str, nn.Module]:
        """The student, and projections and losses that have something to learn."""
        more = {name: getattr(self, name) for name in ('projections', 'distillation_losses')}
        return {'unet': self.unet} | {name: part for name, part in more.items() if any(True for _ in part.parameters())}

    def _apply(self, fn: Any, recurse: bool = True) -> Distiller:
        """The teacher moves along with the student, but keeps its own precision."""
        super()._apply(fn, recurse)
        self.teacher.to(self.device)
        return self

    # ---- taps -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _make_projectors(self, pairs: list[tuple[str, str]]) -> None:
        """Run both networks once on zeros to learn the shapes at the taps."""
        mine, shape = example_inputs(self.unet), context_shape(self.teacher.unet)
        context = None if shape is None else torch.zeros(1, *shape)
        x, labels = mine['sample'], None if self.num_classes is None else torch.zeros(1, dtype=torch.long)
        t = self.noise_process.timesteps(mine['timestep'].double())
        batch = NoisedBatch(x, x, t, x, labels, mine.get('encoder_hidden_states'))
        training, _ = self.unet.training, self.unet.eval()
        student, teacher = self.student_outputs(batch), self._teacher_outputs(batch, context)
        self.unet.train(training)
        self.projectors: dict[tuple[str, str], FeatureProjector] = {}
        for pair in pairs:
            projector = FeatureProjector(pair[0], tuple(student[pair[0]].shape), tuple(teacher[pair[1]].shape))
            self.projectors[pair] = projector
            if projector.project is not None:
                name = pair[0] if pair[0] == pair[1] else '__'.join(pair)
                self.projections[name.replace('.', '_')] = projector.project

    def student_outputs(self, batch: NoisedBatch) -> dict[str, Tensor]:
        """Prediction and features of the student by tap."""
        with self.recorder:
            prediction = self.predict(batch.x_t, batch.t, batch.labels, batch.context)
        features = self.recorder.take()
        return {OUTPUT: prediction} | {tap: features[path] for tap, path in self.student_paths.items()}

    def teacher_outputs(self, batch: NoisedBatch) -> dict[str, Tensor]:
        """As :meth:`student_outputs`, of the teacher on what the student sees; {} if no loss counts."""
        if not any(loss.weight > 0 for loss in self.distillation_losses):
            return {}
        batch = batch.first(math.ceil(self.teacher.share * len(batch.x0)))
        return self._teacher_outputs(batch, self.teacher.context_for(batch.caption, batch.context))

    def _teacher_outputs(self, batch: NoisedBatch, context: Tensor | None) -> dict[str, Tensor]:
        prediction, features = self.teacher(*self.teacher.own_input(batch.x_t, batch.t, self), batch.labels, context)
        self._check_teacher(prediction, batch)
        return {OUTPUT: self.teacher.convert(prediction, batch.x_t, batch.t, self)} | features

    def _check_teacher(self, prediction: Tensor, batch: NoisedBatch) -> None:
        """Raise ValueError for a prediction of the teacher with NaN or infinity in it, which its input has not.

        A batch that has is not the teacher's fault: it makes the loss NaN, as without a teacher, and
        :class:`~slimdiff.engine.hooks.NonFiniteGuardHook` names its samples.
        """
        finite = torch.isfinite(prediction).flatten(1).all(1)
        for given in (batch.x_t, batch.context):
            if given is not None:
                finite = finite | ~torch.isfinite(given).flatten(1).all(1)
        if finite.device.type == 'cpu':
            if bool(finite.all()):
                return
            where = f'for t = {", ".join(str(int(v)) for v in batch.t[~finite][:4])}'
        else:
            # That of the iteration before is on the host by now: to read this one would make the device wait.
            before, self._teacher_was_finite = self._teacher_was_finite, finite.all()
            if before is None or bool(before):
                return
            where = 'in the iteration before this one'
        raise ValueError(f'The teacher ({self.teacher.source}) predicts NaN or infinity {where}. Its weights are '
                         'damaged, or they overflow in the precision that it runs in; try it with tools/sample.py, or '
                         'with bf16=False and without --amp.')

    # ---- losses -----------------------------------------------------------------------------------------------

    def loss_terms(self, batch: NoisedBatch) -> dict[str, Tensor]:
        """``denoising``, and one weighted term a loss and tap: ``spatial_output``, ``spectral_up1``, ..."""
        teacher = self.teacher_outputs(batch)  # first: what its forward needs is free again then
        return self.compare(batch, self.student_outputs(batch), teacher)

    def compare(self, batch: NoisedBatch, student: dict[str, Tensor],
                teacher: dict[str, Tensor]) -> dict[str, Tensor]:
        """The terms of what student and teacher gave at the taps; each dict is emptied when it has been read."""
        terms = {'denoising': self.denoising_loss(student[OUTPUT], batch)}
        active = [loss for loss in self.distillation_losses if loss.weight > 0]
        # What several losses need is made once: maps of one shape in float32, and the input at their sizes.
        seen = len(teacher[OUTPUT]) if teacher else 0  # the teacher's share of the batch, the first ones
        projected = {pair: [x.float() for x in self.projectors[pair](student[pair[0]][:seen], teacher[pair[1]])]
                     for pair in dict.fromkeys(pair for loss in active for pair in loss.taps.items())}
        x0 = batch.x0[:seen].float()
        inputs = {size: resize(x0, size) for size in {maps[1].shape[-2:] for maps in projected.values()}}
        student.clear()  # the maps at the taps are large: they are not kept while the losses are computed
        teacher.clear()
        for loss in active:
            for pair in loss.taps.items():
                name = f'{loss.name}_{pair[0].replace(".", "_")}'
                while name in terms:  # two losses of one class at one tap
                    name += '_'
                student_map, teacher_map = projected[pair]
                terms[name] = loss.weight * loss(student_map, teacher_map, inputs[teacher_map.shape[-2:]])
        if torch.is_grad_enabled() and len(self.projections):
            # DDP wants every parameter in the graph; a projection whose losses all weigh 0 is not in it.
            unused = [projector.project.weight for pair, projector in self.projectors.items()
                      if projector.project is not None and pair not in projected]
            terms['denoising'] = terms['denoising'] + sum(0 * weight.sum() for weight in unused)
        return terms
