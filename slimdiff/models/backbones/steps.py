"""One denoising step of a network that has several widths: it runs one, or reuses what an earlier step has left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from slimdiff.models.backbones.adapt import as_tensor
from slimdiff.sampling.actions import Action, Run


class State(NamedTuple):
    """What a step leaves to the next one.

    Args:
        run: the last one.
        prediction: the network's output, (N, C, H, W).
        features: the deep features of the last run, where they are kept.
    """
    run: Run
    prediction: Tensor
    features: Tensor | None


def take_step(method: Callable[[Run, str], Callable[..., Any]],
              action: Action,
              last: State | None,
              sample: Tensor,
              timestep: Tensor | float | int,
              conditions: Mapping[str, Tensor],
              keeps_features: bool = False) -> State:
    """Do what ``action`` says; what it returns is the next step's ``last``.

    ``Reuse('features')`` runs the first stage alone, around the deep features of the last run (DeepCache, Ma et
    al., CVPR 2024); ``Reuse('prediction')`` runs nothing, and shares its tensor with ``last``.

    Args:
        method: ``method(run, name)`` is the method of the dense network of that width and depth: ``'__call__'``,
            ``'with_features'`` or ``'shallow'``.
        action: of this step.
        last: of the step before; None at the first.
        sample, timestep: as :meth:`slimdiff.UNet.forward` takes them.
        conditions: see :func:`~slimdiff.models.backbones.adapt.given`.
        keeps_features: keep deep features for a later ``Reuse('features')``.

    Raises:
        ValueError: a reuse where there is nothing to reuse yet.
    """
    if isinstance(action, Run):
        if keeps_features:
            output, features = method(action, 'with_features')(sample, timestep, **conditions)
            return State(action, as_tensor(output, 'with_features'), features)
        output = method(action, '__call__')(sample, timestep, **conditions)
        return State(action, as_tensor(output, 'network'), None)
    if last is None:
        raise ValueError(f"The first step is to '{action}', but there is nothing to reuse yet: let a width run first.")
    if action.what == 'features':
        output = method(last.run, 'shallow')(sample, timestep, conditions.get('class_labels'),
                                               conditions.get('encoder_hidden_states'), last.features)
        return last._replace(prediction=as_tensor(output, 'shallow'))
    return last
