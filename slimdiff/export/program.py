"""The UNet as a program: ``torch.export`` and ONNX, of any batch size, checked against PyTorch and timed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from slimdiff.models.backbones.adapt import predict
from slimdiff.models.backbones.protocol import example_inputs
from slimdiff.optional import require_packages

Run = Callable[[dict[str, Tensor]], Tensor]

OUTPUT = 'out_sample'
BATCH_AXIS = 'batch'
#: largest difference from PyTorch's output, relative to the largest output (at least 1)
TOLERANCE = 1e-4
#: batch sizes that are compared; neither is the one that is traced
BATCHES = (1, 3)
TRACED_BATCH = 2
#: an ONNX file is a protocol buffer, of 2 GiB at most: beyond this the weights go into a file beside it
ONE_FILE_LIMIT = 1_800_000_000
#: the oldest operators that PyTorch's exporter writes; it goes on silently below it, to fail later
LEAST_OPSET = 18
ONNX_LIBRARIES = ('onnx', 'onnxscript', 'onnxruntime')


class ProgramError(ValueError):
    """A program that does not run, or whose output is not PyTorch's."""


class UNetProgram(nn.Module):
    """What is traced: tensors in, one tensor out."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None,
                encoder_hidden_states: Tensor | None = None) -> Tensor:
        return predict(self.unet, sample, timestep, class_labels, encoder_hidden_states)


def random_inputs(unet: nn.Module, batch: int, context_length: int = 77, timesteps: int = 1000) -> dict[str, Tensor]:
    """Inputs of a batch, by the names that the program has for them: those that this UNet needs."""
    return example_inputs(unet, batch, context_length, timesteps, random=True)


def trace(unet: nn.Module, make_inputs: Callable[[int], dict[str, Tensor]]) -> torch.export.ExportedProgram:
    """Export a UNet with a batch axis of any size (see :func:`largest_batch`); the other axes are those of
    ``make_inputs(batch)``."""
    inputs = make_inputs(TRACED_BATCH)

    def export(most: int | None = None) -> torch.export.ExportedProgram:
        batch = torch.export.Dim(BATCH_AXIS, min=1, max=most)
        return torch.export.export(UNetProgram(unet.eval()), (), inputs, strict=False,
                                   dynamic_shapes={name: {0: batch} for name in inputs})

    with torch.no_grad(), quiet():
        try:
            return export()
        except torch._dynamo.exc.UserError:
            return export(63)  # diffusers' up-samplers take another way from 64 images on


def largest_batch(program: torch.export.ExportedProgram) -> int | None:
    """The most images that a program takes at once; None for any number."""
    upper = min((bounds.upper for bounds in program.range_constraints.values()), default=None)
    return int(upper) if upper is not None and upper < 2**20 else None


# ---- torch.export -----------------------------------------------------------------------------------------------


def write_torch(program: torch.export.ExportedProgram, path: Path, info: Mapping[str, Any]) -> None:
    """Write a ``.pt2``; ``info`` comes back by ``torch.export.load(path, extra_files={'slimdiff.json': ''})``."""
    with quiet():
        torch.export.save(program, path, extra_files={'slimdiff.json': json.dumps(info)})


def open_torch(path: Path) -> Run:
    """A ``.pt2`` as a function of the inputs by name."""
    module = torch.export.load(path).module()
    return lambda inputs: module(**inputs)


# ---- ONNX -------------------------------------------------------------------------------------------------------


def require_onnx() -> None:
    """Raise MissingPackageError unless the libraries of the extra ``onnx`` are there."""
    require_packages(ONNX_LIBRARIES, 'onnx', 'ONNX')


def check_opset(opset: int | None) -> None:
    """Raise ValueError for an opset that is too old for PyTorch's exporter; None is its own choice."""
    if opset is not None and opset < LEAST_OPSET:
        raise ValueError(f"--opset {opset}: {LEAST_OPSET} is the least that PyTorch's ONNX exporter writes; "
                         'without --opset it takes the one that it recommends.')


def convert_onnx(program: torch.export.ExportedProgram, info: Mapping[str, Any], opset: int | None = None) -> Any:
    """A ``torch.onnx.ONNXProgram``.

    Args:
        info: goes into the model's metadata, as ``slimdiff``.
        opset: of ONNX's operators; the one that PyTorch's exporter recommends by default.

    Raises:
        MissingPackageError: see :func:`require_onnx`.
        ValueError: an opset that the exporter doesn't know.
    """
    require_onnx()
    check_opset(opset)
    with quiet():
        try:
            converted = torch.onnx.export(program, (), dynamo=True, opset_version=opset, output_names=[OUTPUT],
                                          verbose=False)
        except Exception as error:
            if opset is None:
                raise
            raise ValueError(f'ONNX: with opset {opset} the export fails ({error}). Leave --opset out for the one that '
                             'PyTorch recommends.') from error
    converted.model.metadata_props['slimdiff'] = json.dumps(info)
    name_batch_axis(converted.model)
    return converted


def name_batch_axis(model: Any) -> None:
    """Call the batch axis BATCH_AXIS in all shapes of an ``onnx_ir.Model``, where the exporter has a symbol ('s53').

    Shapes that are computed from it ('16*s53') are renamed within.
    """
    symbol = re.compile(rf'\b{re.escape(model.graph.inputs[0].shape[0].value)}\b')
    values = [*model.graph.inputs, *(value for node in model.graph.all_nodes() for value in node.outputs)]
    for value in values:
        for axis, size in enumerate(value.shape or ()):
            if isinstance(getattr(size, 'value', None), str):
                value.shape[axis] = symbol.sub(BATCH_AXIS, size.value)


def write_onnx(converted: Any, path: Path) -> int:
    """Write an ``.onnx``, with its weights in ``<name>.data`` where they are too large for it; returns the opset."""
    size = sum(value.const_value.nbytes for value in converted.model.graph.initializers.values())
    with quiet():
        converted.save(path, external_data=size > ONE_FILE_LIMIT)
    return converted.model.opset_imports['']


def open_onnx(path: Path) -> Run:
    """An ``.onnx`` in ONNX Runtime, on the CPU with as many threads as PyTorch has, as a function of the inputs.

    Raises:
        ProgramError: it opens none of this opset.
    """
    require_onnx()
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    except Exception as error:  # each of its error codes has a class of its own
        raise ProgramError(f'ONNX Runtime {onnxruntime.__version__} cannot open the program: {error}. Leave --opset '
                           'out, or update onnxruntime.') from error
    return lambda inputs: torch.from_numpy(
        session.run([OUTPUT], {name: value.numpy() for name, value in inputs.items()})[0])


# ---- comparison -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Compared:
    """A program against PyTorch at one batch size."""
    batch: int
    difference: float
    eager_seconds: float
    program_seconds: float
    runs: int


def compare(unet: nn.Module, run: Run, make_inputs: Callable[[int], dict[str, Tensor]], seconds: float = 2.0,
            max_runs: int = 20) -> list[Compared]:
    """Run both on the same inputs, at batch sizes that were not traced, and time them in turn.

    Args:
        seconds: about how long to time a batch size; three runs of each at least.
        max_runs: of each, at most.

    Raises:
        ProgramError: outputs that differ by more than the tolerance, or are not finite.
    """
    eager = UNetProgram(unet.eval())
    found = []
    for batch in BATCHES:
        inputs = make_inputs(batch)
        with torch.no_grad():
            expected, given = eager(**inputs), run(inputs)  # also the warm-up
            difference = float((expected - given).abs().max())
            limit = TOLERANCE * max(1.0, float(expected.abs().max()))
            if given.shape != expected.shape or not difference <= limit:
                raise ProgramError(f'The exported program differs from PyTorch by {difference:.3g} at batch {batch} '
                                   f'(allowed: {limit:.3g}); it was not written. Please report this with the config.')
            times: tuple[list[float], list[float]] = ([], [])
            while len(times[0]) < 3 or (sum(map(sum, times)) < seconds and len(times[0]) < max_runs):
                for call, taken in zip((lambda x: eager(**x), run), times):
                    start = time.perf_counter()
                    call(inputs)
                    taken.append(time.perf_counter() - start)
        found.append(Compared(batch, difference, median(times[0]), median(times[1]), len(times[0])))
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' remarks on libraries that aren't installed, and on Python's own deprecations."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)
