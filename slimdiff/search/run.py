"""The loop of a search: ask, evaluate on all ranks, tell, save; and what is written at the end."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, barrier, get_rank, get_world_size, is_main_process
from mmengine.logging import print_log
from torch.utils.data import DataLoader

from slimdiff.arguments import check_arguments, plain
from slimdiff.checkpoint.files import remove_temporary_files
from slimdiff.evaluation.common import check_classes, locked, run_on_rank0
from slimdiff.evaluation.cost import human
from slimdiff.interrupts import Interrupts
from slimdiff.models.backbones.protocol import ReusableFeatures, name_of, require, runs_of
from slimdiff.progress import Progress
from slimdiff.registry import EVALUATORS, SEARCHERS
from slimdiff.sampling import Run, StepAllocation
from slimdiff.search.budget import Budget
from slimdiff.search.costs import NetworkCosts, count_macs
from slimdiff.search.evaluation import Evaluation, Work, rank_correlation
from slimdiff.search.evaluators.base import Evaluator
from slimdiff.search.journal import JournalledStore
from slimdiff.search.outcome import Outcome, write_outcome
from slimdiff.search.problem import Problem
from slimdiff.search.searchers.base import Searcher
from slimdiff.search.searchers.dynamic_programming import evenly
from slimdiff.search.space import Genome, SearchSpace
from slimdiff.search.state import SearchDirError, load_state, save_state
from slimdiff.search.supernet import check_runs
from slimdiff.spelling import did_you_mean

#: keys of the config's ``search``
KEYS = ('space', 'evaluators', 'searcher', 'sampler', 'num_steps', 'latency', 'budget', 'compare', 'chunk', 'cache')


def default_config(with_data: bool) -> dict[str, Any]:
    """What a config without ``search`` gets: the loss gap on real images, or without any the sensitivity, then the
    divergence from the full network."""
    surrogate = dict(type='LossGapEvaluator', num_images=1000) if with_data else dict(type='SensitivityEvaluator')
    return dict(evaluators=[surrogate, dict(type='DivergenceEvaluator')], searcher=dict(type='TwoStageSearch'))


def wanted_runs(space: Mapping[str, Any] | None, model: Any) -> set[Run]:
    """The widths and depths that a search may use: those of ``search.space``, by default all that the model has."""
    space, own = space or {}, runs_of(model.unet)
    return {Run(width, depth) for width in space.get('widths') or {run.width for run in own}
            for depth in space.get('depths') or {run.depth for run in own}}


class SearchInterrupted(SystemExit):
    """A signal ended the search after its state was saved. ``code`` is 130 (Ctrl-C) or 143 (SIGTERM)."""


class Search:
    """One search: a model, its config, a work dir.

    All ranks make it and call :meth:`run`; each judges a part of every batch of candidates, and the outcome is that of
    one process.

    Args:
        model: an algorithm; its ``unet`` is slimmable, or ``space`` has something to reuse.
        config: the config's ``search``: ``space`` (arguments of :class:`SearchSpace` but for the timesteps),
            ``evaluators`` (cheapest first), ``searcher``, ``sampler`` and ``num_steps`` (the model's by default),
            ``latency`` (``dict(batch_size=..., rounds=...)`` to measure seconds), ``budget`` (of ``allocation.json``),
            ``compare`` (candidates that all evaluators judge in the end, for the rank correlation), ``chunk``
            (candidates of a rank between two saves), ``cache`` (a folder for qualities; in the work dir by default).
        work_dir: of the state and all results.
        dataloader: of real images.
        budget: in place of the config's.
        costs: of the network; counted by default.

    Raises:
        ValueError: an unknown key, widths that the network lacks, a budget out of range, classes of the real images
            that are not those of the model's training.
        SearchDirError: the work dir holds another search, or a damaged state.
        FolderInUseError: another process searches there.
    """

    def __init__(self,
                 model: Any,
                 config: Mapping[str, Any],
                 work_dir: str | Path,
                 dataloader: DataLoader | None = None,
                 budget: Budget | Mapping[str, float] | None = None,
                 costs: NetworkCosts | None = None) -> None:
        config = plain(config)
        for key in config:
            if key not in KEYS:
                raise ValueError(f"search has no key '{key}'.{did_you_mean(key, KEYS)} It takes: {', '.join(KEYS)}.")
        if not config.get('evaluators') or 'searcher' not in config:
            raise ValueError("search needs 'evaluators', a list of one or more, and a 'searcher'.")
        self.model, self.config, self.work_dir = model, config, Path(work_dir)
        if dataloader is not None:
            check_classes(model, dataloader.dataset)
        if hasattr(model, 'check_guidance'):
            model.check_guidance()
        self.chunk, self.compare = config.get('chunk', 8), config.get('compare', 24)
        if self.chunk < 1:
            raise ValueError(f'search: chunk={self.chunk} must be at least 1.')
        space = dict(config.get('space') or {})
        check_arguments(SearchSpace, space)
        runs = wanted_runs(space, model)
        space |= {axis: sorted({getattr(run, axis[:-1]) for run in runs}) for axis in ('widths', 'depths')}
        check_runs(model, runs)
        if len(runs) == 1 and not space.get('reuse') and space.get('levels') is None:
            raise ValueError(f'{name_of(model.unet)} has one width, and search.space.reuse names nothing to reuse: '
                             "there is nothing to search. Set search.space.reuse=['prediction'], or train a network "
                             'of several widths (SlimmableUNet, or one with widths, at, extract).')
        num_steps = model.num_steps if config.get('num_steps') is None else config['num_steps']
        scheduler = model.sampler_of(config.get('sampler'), num_steps)
        features = 'features' in space.get('reuse', ())
        if features:
            require(model.unet, ReusableFeatures, 'To reuse features', "leave 'features' out of search.space.reuse")
        costs = costs or count_macs(model, sorted({runs_of(model.unet)[-1], *runs}), features)
        self.problem = Problem(model, scheduler, num_steps, costs, dataloader)
        self.space = SearchSpace(num_train_timesteps=model.num_train_timesteps, process=model.noise_process.name,
                                 timesteps=self.problem.timesteps, **{'num_segments': 8, **space})
        self.evaluators: list[Evaluator] = [EVALUATORS.build(cfg) for cfg in config['evaluators']]
        self.searcher: Searcher = SEARCHERS.build(config['searcher'])
        if self.space.levels:
            self._check_levels()
        self.identity = self._identity()
        self.partial: dict[Genome, Evaluation] = {}
        self.work = [Work() for _ in self.evaluators]
        self.seconds = 0.0
        self.failures: list[str] = []
        self.correlations: dict[str, float | None] = {}
        self.saves = 0
        state = run_on_rank0(lambda: load_state(self.work_dir, self.identity))
        self._bind(state, Budget.parse(budget if budget is not None else config.get('budget')))

    def _check_levels(self) -> None:
        """Raise ValueError unless sampler, searcher and evaluators can do with other timesteps than the sampler's."""
        self.problem.scheduler_of(self.space.decode(self.space.uniforms()[0]))
        for part in (self.searcher, *self.evaluators):
            if not part.moves_timesteps:
                raise ValueError(f'search.space.levels: {type(part).__name__} takes the timesteps as the sampler has '
                                 f'them. {part.moves_timesteps_if}')

    def _identity(self) -> dict[str, Any]:
        """What the outcome depends on. The budget only picks from it, the others change nothing at all."""
        settings = {key: value for key, value in self.config.items()
                    if key not in ('budget', 'chunk', 'cache', 'compare')}
        return dict(search=settings, sampling=self.problem.identity, data=self.problem.data_fingerprint,
                    timesteps=list(self.problem.timesteps))

    def _bind(self, state: dict[str, Any] | None, budget: Budget | None) -> None:
        """Costs, budget, evaluators and searcher in their order; the state of before, if there is one."""
        problem = self.problem
        if state is not None:
            problem.costs = NetworkCosts.from_dict(state['costs'])
        elif self.config.get('latency'):
            settings = {} if self.config['latency'] is True else self.config['latency']
            problem.costs = NetworkCosts.from_dict(
                run_on_rank0(lambda: problem.costs.with_latency(self.model, **settings).to_dict()))
        self.budget = budget
        if budget is not None:
            self.budget = budget.bound(problem.costs, self.space)
            self.budget.check(self.space, problem.costs)
        if state is not None:
            self.partial = {Genome.from_plain(parts): Evaluation.from_dict(e) for *parts, e in state['partial']}
            self.work = [Work(**work) for work in state['work']]
            self.seconds, self.saves = state['seconds'], state['saves']
            self.failures, self.correlations = state['failures'], state['correlations']
        self._since = time.perf_counter()
        self._seen = [Work() for _ in self.evaluators]
        folder = Path(self.config.get('cache') or self.work_dir / 'cache')
        problem.cache = JournalledStore(folder / 'qualities.sqlite', str(self.work_dir.resolve()), get_rank(),
                                        self._unsaved)
        earlier, seconds = problem.cache.unsaved(self.saves, get_world_size() if state is None else state['world'],
                                                 len(self.evaluators))
        self._carried = earlier if is_main_process() else [Work() for _ in earlier]
        self.seconds += seconds
        with locked(self.work_dir, 'search'):
            for evaluator in self.evaluators:
                evaluator.bind(problem)
            self.searcher.bind(self.space, self.evaluators, problem.costs)
        if state is not None:
            self.searcher.load_state_dict(state['searcher'])
        self.seconds += time.perf_counter() - self._since
        self._since = time.perf_counter()

    def _spent(self) -> list[Work]:
        """By evaluator: what is not in :attr:`work` yet, of this process and of those before it."""
        return [carried + evaluator.work - seen for carried, evaluator, seen in zip(
            self._carried, self.evaluators, self._seen)]

    def _unsaved(self) -> tuple[int, list[Work], float]:
        return self.saves, self._spent(), time.perf_counter() - self._since

    # ---- the loop ---------------------------------------------------------------------------------------------

    def run(self, on_batch: Callable[[Search], None] | None = None, progress: bool = True) -> Outcome:
        """Search to the end, from where the state is; write ``front.json``, ``front.csv``, ``allocation.json``.

        Args:
            on_batch: called on the main process when candidates have been judged (a plot).
            progress: show it.

        Raises:
            SearchInterrupted: by Ctrl-C or SIGTERM, after saving.
            ValueError: all candidates failed.
        """
        done = len(self.searcher.archive) + len(self.partial)
        with locked(self.work_dir, 'search'), Interrupts(debounce=5.0 * (get_world_size() > 1)) as interrupts, \
                Progress(self.searcher.total, 'searching', 'candidates', enabled=progress, initial=done) as bar:
            run_on_rank0(self._take_work_dir)
            self._gather([], interrupts)
            self._save()
            while not self.searcher.done:
                genomes = self.searcher.ask()
                self._judge(genomes, interrupts, bar, on_batch)
                self.searcher.tell(genomes, [self.partial[genome] for genome in genomes])
                self.partial = {}
                self._save()
            if self.budget is not None:
                self._judge_finalists(interrupts, bar, on_batch)
            if not self.correlations:
                self._compare(interrupts)
            outcome = self.outcome()
            if is_main_process():
                write_outcome(outcome, self.work_dir)
            barrier()
        return outcome

    def _take_work_dir(self) -> None:
        """Remove what killed processes left.

        Raises:
            SearchDirError: another process has gone on with this search since it was read.
        """
        state = load_state(self.work_dir, self.identity)
        if (0 if state is None else state['saves']) != self.saves:
            raise SearchDirError(f'Another process has gone on with the search in {self.work_dir}. Nothing was '
                                 'changed; run the same command again, which reads what is there now.')
        remove_temporary_files(self.work_dir)

    def _judge(self, genomes: Sequence[Genome], interrupts: Interrupts, bar: Progress,
               on_batch: Callable[[Search], None] | None) -> None:
        """Evaluate what of a batch is not in :attr:`partial` yet, a chunk at a time, saving after each."""
        # Neighbours in this order agree on most of their first steps, which a sampling evaluator then shares.
        todo = sorted((g for g in genomes if g not in self.partial), key=self.space.per_cell)
        size = self.chunk * get_world_size()
        for start in range(0, len(todo), size):
            part = todo[start:start + size]
            found = self._evaluate(-1, [self.space.decode(genome) for genome in part], interrupts)
            self.partial.update(zip(part, found))
            for evaluation in found:
                if evaluation.failed:
                    self.failures.append(evaluation.reason)
                    print_log(f'failed: {evaluation.reason}', logger='current')
            self._save()
            if is_main_process():
                bar.set_postfix_str(self.best_so_far(), refresh=False)
                bar.update(len(part))
                if on_batch is not None:
                    on_batch(self)
            self._leave_if_asked(interrupts)

    def _judge_finalists(self, interrupts: Interrupts, bar: Progress,
                         on_batch: Callable[[Search], None] | None) -> None:
        """Judge what the searcher holds to be best within the budget. The next budget may have others."""
        archive = self.searcher.archive
        self._judge([genome for genome in self.searcher.finalists(self.budget) if genome not in archive],
                    interrupts, bar, on_batch)
        archive.update(self.partial)
        self.partial = {}
        self._save()

    def _evaluate(self, rung: int, allocations: Sequence[StepAllocation], interrupts: Interrupts) -> list[Evaluation]:
        """Evaluations of all, each made on one rank; the signals and the work of all ranks are gathered with them."""
        start = time.perf_counter()
        world, rank, count = get_world_size(), get_rank(), len(allocations)
        mine = allocations[count * rank // world:count * (rank + 1) // world]
        found = self.evaluators[rung].evaluate(mine) if mine else []
        found = self._gather(found, interrupts)
        self.seconds += time.perf_counter() - start
        return found

    def _gather(self, found: list[Evaluation], interrupts: Interrupts) -> list[Evaluation]:
        """The evaluations of all ranks, in rank order; what they have spent goes into :attr:`work`."""
        mine = (found, self._spent(), interrupts.signum)
        self._seen = [dataclasses.replace(evaluator.work) for evaluator in self.evaluators]
        self._carried = [Work() for _ in self.evaluators]
        gathered = all_gather_object(mine) if get_world_size() > 1 else [mine]
        for _, parts, _ in gathered:
            self.work = [total + part for total, part in zip(self.work, parts)]
        self._signum = max(signum for _, _, signum in gathered)
        return [evaluation for part, _, _ in gathered for evaluation in part]

    def _leave_if_asked(self, interrupts: Interrupts) -> None:
        if self._signum:
            print_log(f'The search is saved in {self.work_dir}; the same command goes on from there.', logger='current')
            raise SearchInterrupted(128 + self._signum)

    def _compare(self, interrupts: Interrupts) -> None:
        """Rank correlations of each cheaper evaluator with the last, on some of the candidates."""
        if len(self.evaluators) == 1 or self.compare < 3:
            return
        judged = sorted(((e.macs, g) for g, e in self.searcher.archive.items() if not e.failed))
        genomes = evenly(judged, self.compare)
        last = [self.searcher.archive[genome].quality for genome in genomes]
        allocations = [self.space.decode(genome) for genome in genomes]
        for rung, evaluator in enumerate(self.evaluators[:-1]):
            qualities = [e.quality for e in self._evaluate(rung, allocations, interrupts)]
            name = f'{type(evaluator).__name__} and {type(self.evaluators[-1]).__name__}'
            value = rank_correlation(qualities, last)
            self.correlations[name] = None if math.isnan(value) else value
        self._save()

    def _save(self) -> None:
        self.saves, self._since = self.saves + 1, time.perf_counter()
        if is_main_process():
            partial = [[*g.plain, e.to_dict()] for g, e in self.partial.items()]
            save_state(self.work_dir, self.identity, costs=self.problem.costs.to_dict(),
                       searcher=self.searcher.state_dict(), partial=partial,
                       work=[dataclasses.asdict(work) for work in self.work], seconds=self.seconds,
                       failures=self.failures, correlations=self.correlations, saves=self.saves,
                       world=get_world_size())

    # ---- results ----------------------------------------------------------------------------------------------

    @property
    def judged(self) -> dict[Genome, Evaluation]:
        """All candidates so far."""
        return {**self.searcher.archive, **self.partial}

    @property
    def full_macs(self) -> float:
        """Of the widest width at every step, for one image."""
        return self.problem.costs.full(self.problem.timesteps)

    def best(self) -> tuple[Genome, Evaluation] | None:
        """The candidate of best quality within the budget; None if there is none yet."""
        within = [(e.quality, e.macs, g) for g, e in self.judged.items()
                  if not e.failed and (self.budget is None or self.budget.excess(e) == 0)]
        return (min(within)[2], self.judged[min(within)[2]]) if within else None

    def best_so_far(self) -> str:
        """In words, for the progress bar."""
        best = self.best()
        if best is None:
            return 'none within the budget yet'
        return f'best {best[1].quality:.4g} at {human(best[1].macs)} MACs ({best[1].macs / self.full_macs:.0%})'

    def outcome(self) -> Outcome:
        """What was found.

        Raises:
            ValueError: all candidates failed, or none is within the budget.
        """
        front = self.searcher.front
        if not front:
            first = self.failures[0] if self.failures else 'none was asked for'
            raise ValueError(f'All {len(self.failures)} candidates failed; the first: {first}.')
        best = self.best()
        if best is None:
            raise ValueError('No candidate within the budget was found: search longer, or give the searcher the budget '
                             '(search.searcher.budget), too.')
        return Outcome(
            front=[(self.space.decode(g), e) for g, e in front],
            candidates=[(self.space.decode(g), e) for g, e in self.searcher.archive.items()],
            chosen=(self.space.decode(best[0]), best[1]),
            budget=self.budget,
            timesteps=self.problem.timesteps,
            full_macs=self.full_macs,
            evaluator=type(self.evaluators[-1]).__name__,
            work={f'{i + 1} {type(e).__name__}': work for i, (e, work) in enumerate(zip(self.evaluators, self.work))},
            seconds=self.seconds,
            failures=list(self.failures),
            correlations=dict(self.correlations))
