"""Which term of the loss moves the weights."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from torch import Tensor, nn

from slimdiff.datasets.seeding import seed32
from slimdiff.registry import HOOKS


def gradient_norms(terms: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> dict[str, float]:
    """Euclidean norm of the gradient of each scalar term with respect to all of ``parameters`` together.

    Their ``.grad`` is neither read nor written. A term without graph has the norm 0.
    """
    norms = {name: 0.0 for name in terms}
    open_terms = [name for name, term in terms.items() if term.requires_grad]
    for name in open_terms:
        gradients = torch.autograd.grad(terms[name], parameters, retain_graph=name != open_terms[-1],
                                        allow_unused=True)
        found = [torch.linalg.vector_norm(g.float()) for g in gradients if g is not None]
        norms[name] = float(torch.linalg.vector_norm(torch.stack(found))) if found else 0.0
    return norms


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Afterwards the generators of torch, numpy and random, and the buffers of ``model``, are as they were."""
    devices = {p.device for p in model.parameters() if p.device.type == 'cuda'}
    states = random.getstate(), np.random.get_state()
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


@HOOKS.register_module()
class GradientShareHook(Hook):
    """Log each loss term's share of the gradient, as ``grad_share/<term>``.

    The terms of a distillation loss can differ in scale by orders of magnitude: features are not normalised as
    predictions are. The share of term i is |g_i| / sum_j |g_j|, with g_i its gradient with respect to the student
    (``model.unet``). It is taken every ``interval`` iterations before the step, on the step's own batch and draws; a
    log line has the mean since the last one. It costs a forward and a backward pass for each term.

    Training goes on as if the hook were not there: draws, random generators, gradients and buffers are put back, and
    the weights are the same bit by bit. In a distributed run the log has the main process, of its part of the batch.

    Args:
        interval: iterations between two measurements.
        limit: warn, once, when the share of a distillation term exceeds it.
        base: the term that is not distillation, which may exceed the limit (or how its name ends, of several widths).

    Raises:
        ValueError: an argument out of range; before training, a model without ``noised_batch`` and
            ``loss_terms`` (a DiffusionModel has them).
    """

    # Before SpeedHook starts its clock.
    priority = 'HIGHEST'

    def __init__(self, interval: int = 500, limit: float = 0.8, base: str = 'denoising') -> None:
        if not isinstance(interval, int) or interval < 1:
            raise ValueError(f'GradientShareHook: interval must be an integer of at least 1, got {interval!r}.')
        if not 0 < limit <= 1:
            raise ValueError(f'GradientShareHook: limit is a share in (0, 1], got {limit}; 1 never warns.')
        self.interval, self.limit, self.base = interval, limit, base
        self.sums: dict[str, float] = {}
        self.count = 0
        self.warned = False

    def before_train(self, runner: Any) -> None:
        model = runner.unwrapped_model
        lacking = [name for name in ('noised_batch', 'loss_terms', 'unet') if not hasattr(model, name)]
        if lacking:
            raise ValueError(f"GradientShareHook: the model {type(model).__name__} has no {' and no '.join(lacking)}. "
                             'The hook is for a model whose loss has several terms, such as Distiller; remove it from '
                             "the config's custom_hooks, or give the model noised_batch(**batch) and "
                             'loss_terms(noised_batch) -> {name: term}.')

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        # Not at the first iteration: a zero-initialised output layer shields the network from some terms.
        if (batch_idx + 1) % self.interval == 0:
            self._add(self.shares(runner, data_batch), runner, batch_idx)

    def shares(self, runner: Any, data_batch: Any) -> dict[str, float]:
        """Share of each term in the step that is about to be done; all 0 where no term has a gradient."""
        model = runner.unwrapped_model
        with undisturbed(model), runner.optim_wrapper.optim_context(model):
            data = model.data_preprocessor(data_batch, True)
            batch = model.noised_batch(**data) if isinstance(data, Mapping) else model.noised_batch(*data)
            terms = model.loss_terms(batch)
            norms = gradient_norms(terms, [p for p in model.unet.parameters() if p.requires_grad])
        if hasattr(model, 'seed_step'):  # the draws were used up: give them to the step again, as the loop did
            model.seed_step(seed32(runner.seed, runner.iter))
        total = sum(norms.values())
        return {name: norm / total if total else 0.0 for name, norm in norms.items()}

    def _add(self, shares: Mapping[str, float], runner: Any, batch_idx: int) -> None:
        for name, share in shares.items():
            self.sums[name] = self.sums.get(name, 0.0) + share
            if not name.endswith(self.base) and share > self.limit and not self.warned:
                self.warned = True
                runner.logger.warning(
                    f"The term '{name}' has {share:.0%} of the gradient at iteration {batch_idx + 1} (limit "
                    f'{self.limit:.0%}): the others hardly count. Lower its weight, or normalise it (relative=True). '
                    'This is said once.')
        self.count += 1

    def log_values(self, runner: Any) -> dict[str, float]:
        """Mean shares since the last call; none if nothing was measured. ``loss`` in a name becomes ``term``: what
        holds that word is summed into the loss elsewhere."""
        values = {f'grad_share/{name.replace("loss", "term")}': total / self.count
                  for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return values

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint['grad_share'] = dict(sums=dict(self.sums), count=self.count, warned=self.warned)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get('grad_share', {})
        self.sums, self.count = dict(state.get('sums', {})), state.get('count', 0)
        self.warned = state.get('warned', False)
