"""What a network starts from: all weights of another one, or its most important channels."""

from __future__ import annotations

from typing import Any

from mmengine.logging import print_log

from slimdiff.checkpoint.weights import check_finite
from slimdiff.models import computation
from slimdiff.models.backbones.adapt import described
from slimdiff.models.backbones.protocol import Orderable, bare, input_shape, offers
from slimdiff.models.backbones.slimmable.pruning import start_from_channels
from slimdiff.models.distillation.loading import load_teacher


def start_from(model: Any, checkpoint: str) -> None:
    """Give the network of a :class:`~slimdiff.models.algorithms.DiffusionModel` the weights of a checkpoint.

    Of a network of the same size it takes all; a slimmable one then puts its important channels first, so that its
    narrower widths have them. Of a wider one it takes the most important channels.

    Args:
        checkpoint: see :func:`~slimdiff.models.distillation.loading.load_teacher`.

    Raises:
        ValueError: weights that aren't finite, of the same size but trained to compute something else, or that the two
            networks hardly share (:func:`~slimdiff.models.backbones.slimmable.pruning.start_from_channels`).
    """
    loaded, network = load_teacher(checkpoint), model.unet
    given, own = loaded.unet.state_dict(), network.state_dict()
    check_finite(given, checkpoint)
    if {name: value.shape for name, value in given.items()} == {name: value.shape for name, value in own.items()}:
        computation.check_same(loaded.computes, model, f'start_from: {checkpoint}')
        network.load_state_dict(given)
        if offers(network, Orderable):
            network.order_by_importance()
            network.register_to_config(**described(bare(network)))  # the wrapper's copy, too
        return
    wide = bare(loaded.unet)
    if getattr(wide.config, 'sample_size', ()) is None:  # of diffusers; its weights are of any size
        wide.register_to_config(sample_size=input_shape(network)[-1])
    from slimdiff.models.converters.ours import as_ours  # imports networks of diffusers: seconds
    fresh = start_from_channels(network, as_ours(loaded.unet))
    print_log(f'The network starts from the most important channels of {checkpoint}; {len(fresh)} of its parameter '
              f'tensors start at random{": " if fresh else ""}{", ".join(fresh[:3])}{", ..." * (len(fresh) > 3)}',
              logger='current')
