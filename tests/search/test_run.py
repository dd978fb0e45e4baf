"""The loop: one outcome, however often it is killed and on however many ranks; refusals; costs."""

import csv
import json
import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from closed_form import COSTS, make_model
from tiny_search import make_search
from tqdm import std

from slimdiff import UNet, progress
from slimdiff.checkpoint.lock import FolderInUseError
from slimdiff.registry import SEARCHERS
from slimdiff.sampling import StepAllocation
from slimdiff.search import SearchDirError, SearchInterrupted
from slimdiff.search.searchers.base import Searcher
from slimdiff.search.state import save_state

SCRIPT = Path(__file__).parent / 'tiny_search.py'
FILES = ('allocation.json', 'front.json', 'front.csv')


def files(work_dir):
    return {name: (work_dir / name).read_text() for name in FILES}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The work dir and the outcome of a search that nothing interrupts."""
    torch.manual_seed(0)
    work_dir = tmp_path_factory.mktemp('whole')
    return work_dir, make_search(work_dir, dict(fraction=.5)).run(progress=False)


def test_files_and_figures(whole):
    work_dir, outcome = whole
    front = json.loads((work_dir / 'front.json').read_text())
    assert front['full_macs'] == 800 and front['timesteps'] == [875, 750, 625, 500, 375, 250, 125, 0]
    costs, qualities = zip(*((row['macs'], row['quality']) for row in front['front']))
    assert list(costs) == sorted(costs) and list(qualities) == sorted(qualities, reverse=True)
    for row in front['front']:
        allocation = StepAllocation.from_dict(row['allocation'])
        assert COSTS.macs(allocation, front['timesteps']) == row['macs'] == pytest.approx(800 * row['fraction'])
    with open(work_dir / 'front.csv') as file:
        rows = list(csv.DictReader(file))
    assert [float(row['quality']) for row in rows] == list(qualities) and rows[-1]['steps'] == '8 x width 1'
    # The best within half of the MACs.
    chosen = StepAllocation.load(work_dir / 'allocation.json')
    best = min((e.quality, e.macs) for _, e in outcome.candidates if e.macs <= 400)
    assert COSTS.macs(chosen, front['timesteps']) == best[1] and outcome.chosen[1].quality == best[0]
    assert qualities[-1] == 0  # the full network's distance to itself


def test_cost_is_counted_and_printed(whole):
    work_dir, outcome = whole
    cost = json.loads((work_dir / 'search_cost.json').read_text())
    assert cost['candidates'] == len(outcome.candidates) == 12 + 4 * 12 + 1  # and the optimum for the budget
    divergence = cost['by_evaluator']['2 DivergenceEvaluator']
    # Four images for each candidate and for the reference; shared prefixes leave fewer calls than steps.
    assert divergence['images'] == 4 * (61 + 1) and cost['by_evaluator']['1 LossGapEvaluator']['images'] == 0
    assert divergence['calls'] + divergence['calls_saved'] == 4 * 8 * (61 + 1) and divergence['calls_saved'] > 400
    assert cost['by_evaluator']['1 LossGapEvaluator']['macs'] == 12 * 5 * 140
    assert -1 <= cost['rank_correlation']['LossGapEvaluator and DivergenceEvaluator'] <= 1
    text = outcome.describe()
    assert '61 candidates, 0 failed' in text and 'rank correlation of LossGapEvaluator and Div' in text
    assert f'{divergence["images"]} generated images' in text


class Killed(Exception):
    pass


def test_killed_after_every_chunk(whole, tmp_path):
    """Each process judges one chunk and dies; the outcome is that of the search that nothing interrupts."""
    count = 0
    while True:
        def die(search, count=count):
            raise Killed
        try:
            make_search(tmp_path, dict(fraction=.5)).run(die, progress=False)
            break
        except Killed:
            count += 1
    assert count >= 20 and files(tmp_path) == files(whole[0])


def test_sigkill(whole, tmp_path, tiny_process):
    process = tiny_process(tmp_path, '--pause', '.2', command=[sys.executable, str(SCRIPT)])
    assert any(int(line) >= 20 for line in process.stdout if line.strip().isdigit())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / 'front.json').exists()
    make_search(tmp_path, dict(fraction=.5)).run(progress=False)
    assert files(tmp_path) == files(whole[0])


def test_ctrl_c_saves_and_says_so(whole, tmp_path, capsys):
    def press(search):
        if len(search.judged) == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(SearchInterrupted) as stopped:
        make_search(tmp_path, dict(fraction=.5)).run(press, progress=False)
    assert stopped.value.code == 130 and not (tmp_path / 'front.json').exists()
    search = make_search(tmp_path, dict(fraction=.5))
    # The signal comes after a chunk, so it is seen when the next one is done.
    assert len(search.partial) in (3, 6)
    search.run(progress=False)
    assert files(tmp_path) == files(whole[0])


def test_two_ranks(whole, tmp_path, tiny_process):
    """Candidates are sharded; the outcome is that of one process."""
    ranks = tiny_process(tmp_path, command=[sys.executable, SCRIPT], ranks=2)
    printed = [process.communicate(timeout=120)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], printed
    assert files(tmp_path) == files(whole[0])
    cost = [json.loads((d / 'search_cost.json').read_text())['by_evaluator'] for d in (tmp_path, whole[0])]
    assert cost[0]['1 LossGapEvaluator']['macs'] == cost[1]['1 LossGapEvaluator']['macs']


def test_a_rank_that_dies_ends_all_and_the_search_goes_on(whole, tmp_path):
    """Also on another number of ranks."""
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', str(SCRIPT)]
    done = subprocess.run([*command, str(tmp_path), '--rank-1-dies'], capture_output=True, text=True, timeout=600)
    assert done.returncode != 0 and not (tmp_path / 'front.json').exists()
    search = make_search(tmp_path, dict(fraction=.5))
    assert len(search.judged) >= 18
    search.run(progress=False)
    assert files(tmp_path) == files(whole[0])


def test_another_budget_needs_no_search(whole, tmp_path):
    """At most one candidate more: what the loss gap's exact front has for that budget."""
    shutil.copytree(whole[0], tmp_path / 'run')
    for budget in (dict(macs=300.), dict(macs=333.), dict(macs=300.)):
        before = len(make_search(tmp_path / 'run').judged)
        outcome = make_search(tmp_path / 'run', budget).run(progress=False)
        assert outcome.chosen[1].macs <= budget['macs'] and len(outcome.candidates) - before in (0, 1)
    assert len(outcome.candidates) == before


@pytest.mark.parametrize('searcher', [dict(type='TwoStageSearch', population=2, generations=0),
                                      dict(type='DynamicProgramming', points=2)])
def test_what_is_chosen_is_no_worse_than_the_first_stage_alone(tmp_path, searcher):
    """Two candidates, the ends of the front, leave a budget of 60 % at 10 %; the exact optimum for it does not."""
    found = make_search(tmp_path / 'budget', dict(fraction=.6), searcher=searcher)
    outcome = found.run(progress=False)
    stage = getattr(found.searcher, 'first_stage', found.searcher)
    best = [genome for cost, _, genome in stage.surrogate_front if cost <= 480][-1]
    assert outcome.chosen[0] == found.space.decode(best) and len(outcome.candidates) == 3
    assert 'of the budget' not in outcome.describe()
    without = make_search(tmp_path / 'none', searcher=searcher).run(progress=False)
    assert len(without.candidates) == 2
    outcome.chosen = min(outcome.candidates, key=lambda judged: judged[1].macs)
    assert '83% of the budget is unused' in outcome.describe()


def test_a_work_dir_of_another_search_is_refused(whole):
    work_dir, _ = whole
    kept = files(work_dir)
    with pytest.raises(SearchDirError, match=r'(?s)another search.*search\.searcher\.seed: 1 -> 2.*Nothing was'):
        make_search(work_dir, searcher=dict(type='TwoStageSearch', population=12, generations=4, seed=2))
    with pytest.raises(SearchDirError, match=r'num_steps: 8 -> 4\n +timesteps: .8 steps: 875, 750.* -> .4 steps: 750'):
        make_search(work_dir, num_steps=4)
    other = make_model()
    with torch.no_grad():
        other.unet.scale += .1
    with pytest.raises(SearchDirError, match=r'sampling\.unet\.weights: '):
        make_search(work_dir, model=other)
    assert files(work_dir) == kept


def test_a_broken_state_is_no_search(whole, tmp_path):
    """Whatever was done to it, the file is named, and what to do."""
    good = json.loads((whole[0] / 'search_state.json').read_text())
    damaged = ['{"version":', '[]', '{}', '[' * 100_000, json.dumps({**good, 'costs': {}}),
               json.dumps({**good, 'work': 'much'}), json.dumps({**good, 'identity': None}),
               *(json.dumps({k: v for k, v in good.items() if k != key}) for key in good)]
    for text in damaged:
        (tmp_path / 'search_state.json').write_text(text)
        with pytest.raises(SearchDirError, match=r'search_state\.json (is damaged|has version).*--work-dir') as refused:
            make_search(tmp_path)
        assert '\n' not in str(refused.value)
    (tmp_path / 'search_state.json').write_text(json.dumps(good))
    assert len(make_search(tmp_path).judged) == 61


def test_a_damaged_cache_is_searched_again(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / 'run')
    database = sqlite3.connect(tmp_path / 'run/cache/qualities.sqlite')
    database.execute("UPDATE tensors SET dtype = 'float23', shape = '[7]'")
    database.commit()
    database.close()
    for name in ('search_state.json', *FILES):
        (tmp_path / 'run' / name).unlink()
    make_search(tmp_path / 'run', dict(fraction=.5)).run(progress=False)
    assert files(tmp_path / 'run') == files(whole[0])


def test_what_was_spent_before_a_kill_is_counted(whole, tmp_path, monkeypatch):
    """Killed between the qualities in the cache and the state of them: once in the first batch, twice later on, and
    once while the evaluators are prepared."""
    from slimdiff.search import run as module
    from slimdiff.search.evaluators import DivergenceEvaluator

    def die(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        prepare = DivergenceEvaluator.prepare
        patch.setattr(DivergenceEvaluator, 'prepare', lambda self: (prepare(self), die()))
        make_search(tmp_path, dict(fraction=.5))
    for count in (1, 0, 6, 3):
        search, left = make_search(tmp_path, dict(fraction=.5)), [count]

        def save(*args, left=left, **content):
            left[0] -= 1
            return die() if left[0] < 0 else save_state(*args, **content)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(module, 'save_state', save)
            search.run(progress=False)
        (tmp_path / f'.search_state.json.99999999@{socket.gethostname()}.tmp').touch()
    make_search(tmp_path, dict(fraction=.5)).run(progress=False)
    assert files(tmp_path) == files(whole[0]) and not list(tmp_path.glob('.*'))
    killed, once = (json.loads((place / 'search_cost.json').read_text()) for place in (tmp_path, whole[0]))
    for name, work in once['by_evaluator'].items():
        assert {**killed['by_evaluator'][name], 'seconds': 0} == {**work, 'seconds': 0}
    assert killed['seconds'] > 0


def test_two_at_once(tmp_path):
    """One that runs there is named; one that has gone on in between is seen."""
    first, second = (make_search(tmp_path, dict(fraction=.5)) for _ in range(2))

    def look(search):
        with pytest.raises(FolderInUseError, match=rf'is in use by process {os.getpid()} on .*\(search\)'):
            make_search(tmp_path, dict(fraction=.5))
        with pytest.raises(FolderInUseError):
            second.run(progress=False)
        raise Killed

    with pytest.raises(Killed):
        first.run(look, progress=False)
    with pytest.raises(SearchDirError, match='Another process has gone on with the search'):
        second.run(progress=False)


def test_a_full_disk(tmp_path, monkeypatch):
    """The state of before is kept, and the error names the file."""
    from slimdiff.cli.common import is_expected

    def full(search):
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError) as refused:
            make_search(tmp_path, dict(fraction=.5)).run(full, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused.value.filename == str(tmp_path / 'search_state.json') and is_expected(refused.value)
    assert len(make_search(tmp_path, dict(fraction=.5)).judged) == 3


def test_failed_candidates_are_named_and_the_search_goes_on(tmp_path):
    outcome = make_search(tmp_path, model=make_model(broken=(.5, ))).run(progress=False)
    assert outcome.failures and all('gave nan for' in reason and 'width 0.5' in reason for reason in outcome.failures)
    assert len(outcome.candidates) == 60 and .5 not in {w for a, _ in outcome.front for w in a.widths}
    assert json.loads((tmp_path / 'search_cost.json').read_text())['failed'] == outcome.failures


@pytest.mark.parametrize('changes, message', [
    (dict(budget=dict(fraction=.05)), r'the cheapest allocation takes 80, the most expensive 800 \(0.100 to 1'),
    (dict(budget=dict(macs=801.)), 'out of range'),
    (dict(budget=dict(latency=1.)), r'set search.latency'),
    (dict(space=dict(widths=(.25, .75, 1.))), r'asks for width 0\.75, but the network was trained at 0\.25, 0\.5, 1'),
    (dict(space=dict(num_segment=3)), "no argument 'num_segment'. Did you mean 'num_segments'"),
    (dict(sercher=1), "no key 'sercher'. Did you mean 'searcher'"),
    (dict(num_steps=0), 'num_steps must lie in 1..'), (dict(chunk=0), 'chunk=0 must be at least 1'),
    (dict(evaluators=[]), "needs 'evaluators'"),
    (dict(searcher=dict(type='NSGA3Search')), "Did you mean 'NSGA2Search'"),
    (dict(evaluators=[dict(type='DivergenceEvaluator', num_image=3)]), "Did you mean 'num_images'"),
    (dict(space=dict(reuse=('features', ))), 'features'),
])
def test_refusals(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        make_search(tmp_path, **changes)


def test_a_dense_network_has_nothing_to_search(tmp_path):
    model = make_model()
    model.unet = UNet(sample_size=4, stages=[dict(channels=8, downsample=False)], norm_groups=4)
    with pytest.raises(ValueError, match=r'asks for width 0\.25, 0\.5, but the network was trained at 1\. Set'):
        make_search(tmp_path, model=model)
    with pytest.raises(ValueError, match=r'UNet has one width, and search\.space\.reuse names nothing to reuse'):
        make_search(tmp_path, model=model, space=dict(num_segments=3))


def test_random_search_with_reuse(tmp_path):
    """What the additive rung can't judge is left out of the correlation."""
    outcome = make_search(tmp_path, space=dict(num_segments=3, reuse=('prediction', )),
                          searcher=dict(type='RandomSearch', num_candidates=30)).run(progress=False)
    assert any(a.uses_reuse for a, _ in outcome.candidates) and len(outcome.candidates) == 30
    assert outcome.correlations['LossGapEvaluator and DivergenceEvaluator'] is not None


def test_a_searcher_need_not_know_its_total(tmp_path, monkeypatch):
    lines, now = [], [0.0]
    monkeypatch.setattr(progress, 'print_log', lambda line, **_: lines.append(line))

    def tick():
        now[0] += 11
        return now[0]

    monkeypatch.setattr(std, 'time', tick)

    class EachWidth(Searcher):
        def propose(self):
            return [genome for genome in self.space.uniforms() if genome not in self.archive][:2]

    monkeypatch.setitem(SEARCHERS._module_dict, 'EachWidth', EachWidth)
    make_search(tmp_path, searcher=dict(type='EachWidth')).run()
    found = [line for line in lines if line.startswith('searching')]
    assert [line.split(' candidates')[0] for line in found] == ['searching 2/?', 'searching 3/?']
    assert all('left' not in line and 'best' in line for line in found)
    # The evaluators show what they do, too: the errors of each width, the full network's reference, the candidates.
    shown = {line.split('/')[0] for line in lines}
    assert {'denoising error at width 0.5 12', 'sampling the full network 4', 'judging 4'} <= shown
