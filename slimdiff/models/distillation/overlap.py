"""A network's forward on a CUDA stream of its own, beside what the current stream is given to do meanwhile.

A stream is a queue: kernels of one run in order, those of two may run at once. Between two streams nothing is in order
but what one of them was told to wait for, and the allocator, which reuses memory by the order of the stream that it
was allocated on, does not know of another one's use unless ``record_stream`` says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

#: prediction, and features by tap
Outputs = tuple[Tensor, dict[str, Tensor]]


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream beside the usual one of a GPU."""
    return torch.cuda.Stream(device)


def beside(function: Callable[..., Outputs], *inputs: Tensor | None) -> Callable[[], Outputs]:
    """Begin ``function(*inputs)`` on the side stream of the GPU that the inputs are on.

    Returns:
        A function that gives the outputs. The current stream, not the host, then waits for it.
    """
    tensors = [value for value in inputs if value is not None]
    device = tensors[0].device
    side = side_stream(device)
    side.wait_stream(torch.cuda.current_stream(device))  # which may still have to write the inputs
    with torch.cuda.stream(side):
        outputs = function(*inputs)
    for tensor in tensors:  # the caller may drop them before they are read
        tensor.record_stream(side)

    def finish() -> Outputs:
        current = torch.cuda.current_stream(device)
        current.wait_stream(side)
        prediction, features = outputs
        for tensor in (prediction, *features.values()):  # they are of the side stream's memory
            tensor.record_stream(current)
        return outputs

    return finish
