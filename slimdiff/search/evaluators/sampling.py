"""What evaluators that sample share: images of common noise, prefixes run once, work counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from slimdiff.evaluation.common import evaluating
from slimdiff.models.backbones.steps import State
from slimdiff.progress import Progress
from slimdiff.sampling import Action, Reuse, Run, StepAllocation
from slimdiff.search.evaluators.base import Evaluator
from slimdiff.search.prefix import sample_tree
from slimdiff.search.problem import Problem
from slimdiff.search.supernet import ActionNetwork, in_place


class SamplingEvaluator(Evaluator):
    """Samples the same images (indices 0 ... num_images - 1 of a seed) under every allocation.

    Args:
        num_images: for each allocation.
        batch_size: images that go through the network at once.
        seed: of the noise.
        amp: bf16 autocast.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, num_images: int = 64, batch_size: int = 64, seed: int = 0, amp: bool = False) -> None:
        if num_images < 1 or batch_size < 1:
            raise ValueError(f'{type(self).__name__}: num_images={num_images} and batch_size={batch_size} must be at '
                             'least 1.')
        self.num_images, self.batch_size, self.seed, self.amp = num_images, batch_size, seed, amp

    def prepare(self) -> None:
        features = self.problem.costs.shallow_of is not None
        self._network = ActionNetwork(self.problem.model.unet, features)

    def batches(self) -> list[range]:
        """Indices of the images, batch by batch."""
        return [range(start, min(start + self.batch_size, self.num_images))
                for start in range(0, self.num_images, self.batch_size)]

    def shown_batches(self, name: str) -> Iterator[range]:
        """As :meth:`batches`, showing the progress under this name."""
        with Progress(self.num_images, name) as bar:
            for batch in self.batches():
                yield batch
                bar.update(len(batch))

    def samples(self, allocations: Sequence[StepAllocation], batch: Sequence[int],
                problem: Problem | None = None) -> Iterator[tuple[list[int], Tensor]]:
        """Clean samples x0 (N, C, h, w) of these image indices, each with the allocations (indices) it is for.

        In ``problem``, by default the evaluator's own.

        They come in the order of a walk through the tree of allocations, before the autoencoder's decoding.
        """
        problem, model, network = problem or self.problem, self.problem.model, self._network
        sequences = [tuple(problem.actions(allocation)) for allocation in allocations]
        calls = 0
        # One tree for all that are sampled at the same timesteps.
        trees: dict[tuple[float, ...] | None, list[int]] = {}
        for i, allocation in enumerate(allocations):
            trees.setdefault(allocation.timesteps, []).append(i)

        def call(action: Action, x: Tensor, t: Tensor, state: State | None) -> tuple[Tensor, State]:
            nonlocal calls
            network.action, network.state = action, state
            with in_place(model, network):
                prediction = predict(x, t)
            calls += self._count(action, network.state.run, len(batch))
            return prediction, network.state

        with evaluating(model, self.amp):
            for tree in trees.values():
                predict, noise, generators = model.sampling_inputs(list(batch), seed=self.seed)
                scheduler = problem.scheduler_of(allocations[tree[0]])
                for members, x0 in sample_tree(call, scheduler, noise, problem.num_steps,
                                               [sequences[i] for i in tree], generators):
                    self._work.images += len(batch) * len(members)
                    yield [tree[i] for i in members], x0
        network.state = None
        alone = sum(self.runs_network(action) for sequence in sequences for action in sequence)
        self._work.calls_saved += (alone * problem.costs.calls_per_step * len(batch)) - calls

    @staticmethod
    def runs_network(action: Action) -> bool:
        return action != Reuse('prediction')

    def _count(self, action: Action, run: Run, images: int) -> int:
        """Add a step to the work; returns its network calls."""
        costs = self.problem.costs
        if not self.runs_network(action):
            return 0
        calls = images * costs.calls_per_step
        self._work.calls += calls
        self._work.macs += calls * (costs.macs_of if isinstance(action, Run) else costs.shallow_of)[run]
        return calls
