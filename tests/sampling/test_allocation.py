"""StepAllocation against hand computation and a timestep-by-timestep list."""

import dataclasses
import json
import random

import pytest
import torch

from slimdiff.functional.process import RectifiedFlow, VariancePreserving
from slimdiff.sampling import Reuse, Run, Segment, StepAllocation
from slimdiff.sampling.allocation import _apart


@pytest.fixture
def mixed():
    """Wide, reuse, narrow: of 1000 timesteps."""
    return StepAllocation((Segment(0, 300, Run(1.0)), Segment(300, 340, Reuse('prediction')),
                           Segment(340, 1000, Run(0.5))))


def test_actions_by_hand(mixed):
    assert mixed.action_at(0) == mixed.action_at(299.9) == Run(1)
    assert mixed.action_at(300) == Reuse('prediction')
    assert mixed.actions([999, 340, 339.5, 0]) == [Run(.5), Run(.5), Reuse(), Run(1)]
    assert mixed.widths == (0.5, 1.0) and mixed.uses_reuse
    with pytest.raises(ValueError, match=r'timestep 1000 is out of range.*0\.\.999'):
        mixed.action_at(1000)


def test_macs_by_hand():
    allocation = StepAllocation.from_steps(
        [Run(.5), Reuse('features'), Run(1), Reuse('features'), Reuse('prediction')], [900, 700, 500, 300, 100])
    macs = allocation.macs([900, 700, 500, 300, 100], {.5: 3.0, 1: 10.0}, {.5: 1.0, 1: 2.0})
    assert macs == 3 + 1 + 10 + 2 + 0
    # Nothing to reuse yet: the next noisier width runs. So it does at a repeated timestep.
    assert allocation.macs([700, 500, 100], {.5: 3.0, 1: 10.0}, {}) == 3 + 10 + 0
    assert allocation.macs([500, 300, 300, 100], {.5: 3.0, 1: 10.0}, {1: 2.0}) == 10 + 2 + 10 + 0
    assert allocation.taken([700, 500, 500, 300, 300, 100]) == [
        Run(.5), Run(1), Run(1), Reuse('features'), Run(1), Reuse('prediction')]
    with pytest.raises(ValueError, match='macs_of has no cost for width 0.5; it has 1'):
        allocation.macs([900], {1: 10.0})
    with pytest.raises(ValueError, match='shallow_of has no cost'):
        allocation.macs([900, 700], {.5: 3.0, 1: 10.0})


def test_agrees_with_a_list_of_timesteps():
    """Brute force: one action for each of 60 timesteps, drawn; segments must give every one back."""
    draw = random.Random(3)
    for _ in range(50):
        steps = [draw.choice([Run(.5), Run(1), Reuse('prediction'), Reuse('features')]) for _ in range(59)] + [Run(1)]
        allocation = StepAllocation.from_steps(steps, range(60), 60)
        assert allocation.actions(range(60)) == steps
        assert all(a.action != b.action for a, b in zip(allocation.segments, allocation.segments[1:]))
        again = StepAllocation.from_dict(json.loads(json.dumps(allocation.to_dict())))
        assert again == allocation and hash(again) == hash(allocation)


@pytest.mark.parametrize('num_steps', [1, 7, 50, 1000])
def test_from_steps_keeps_every_step(num_steps):
    draw = random.Random(num_steps)
    times = sorted(draw.sample(range(1000), num_steps), reverse=True)
    steps = [Run(draw.choice([.25, .5, 1])) for _ in times]
    assert StepAllocation.from_steps(steps, times).actions(times) == steps


def test_baselines():
    assert StepAllocation.uniform(.25).segments == (Segment(0, 1000, Run(.25)), )
    assert StepAllocation.prefix(.5, 1, .4).segments == (Segment(0, 600, Run(1)), Segment(600, 1000, Run(.5)))
    assert StepAllocation.prefix(.5, 1, 0) == StepAllocation.uniform(1)
    assert StepAllocation.prefix(.5, 1, 1) == StepAllocation.uniform(.5)
    linear = StepAllocation.linear([.5, 1, .25, .75])
    assert [s.action.width for s in linear.segments] == [1, .75, .5, .25] and linear.segments[1].start == 250
    assert [s.action.width for s in StepAllocation.linear([.5, 1], reverse=True).segments] == [.5, 1]
    first = StepAllocation.random([.25, .5, .75, 1], 10, seed=1)
    assert first == StepAllocation.random([.25, .5, .75, 1], 10, seed=1)
    assert first != StepAllocation.random([.25, .5, .75, 1], 10, seed=2)
    assert {s.start % 100 for s in first.segments} == {0}


def test_random_draws_each_width_equally():
    widths = [StepAllocation.random([.25, 1], 1, seed).widths[0] for seed in range(400)]
    assert abs(widths.count(.25) - 200) < 4 * 10  # four standard deviations


def test_file(mixed, tmp_path):
    path = tmp_path / 'new/allocation.json'
    mixed.save(path)
    assert json.loads(path.read_text()) == {
        'version': 1, 'num_train_timesteps': 1000,
        'segments': [{'start': 0, 'stop': 300, 'width': 1.0}, {'start': 300, 'stop': 340, 'reuse': 'prediction'},
                     {'start': 340, 'stop': 1000, 'width': .5}]}
    assert StepAllocation.load(path) == mixed
    assert [p.name for p in path.parent.iterdir()] == ['allocation.json']
    path.write_text('{"version": 1,')
    with pytest.raises(ValueError, match='allocation.json'):
        StepAllocation.load(path)


def test_describe(mixed):
    assert mixed.describe([900, 500, 320, 10, 0]) == (
        'timesteps  action            steps\n'
        '999..340   width 0.5             2\n'
        '339..300   reuse prediction      1\n'
        '299..0     width 1               2')
    assert str(mixed) == mixed.describe() and mixed.describe().splitlines()[0] == 'timesteps  action'


@pytest.mark.parametrize('pieces, message', [
    ([(0, 300, Run(1)), (400, 1000, Run(.5))], 'a gap between 0..300 and 400..1000'),
    ([(0, 300, Run(1)), (200, 1000, Run(.5))], 'an overlap between'),
    ([(0, 300, Run(1)), (700, 1000, Run(.5)), (300, 700, Run(1))], 'gap|must rise'),
    ([(500, 1000, Run(1)), (0, 500, Run(.5))], 'must start at 0'),
    ([(0, 300, Run(1))], 'must stop at num_train_timesteps=1000'),
    ([(0, 300, Run(1)), (300, 1000, Reuse())], 'nothing to reuse yet'),
    ([], 'one or more Segment'),
])
def test_invalid_segments(pieces, message):
    with pytest.raises(ValueError, match=message):
        StepAllocation(tuple(Segment(*piece) for piece in pieces))


@pytest.mark.parametrize('make, message', [
    (lambda: Run(0), r'in \(0, 1\]'),
    (lambda: Run(1.5), r'in \(0, 1\]'),
    (lambda: Run(True), r'in \(0, 1\]'),
    (lambda: Reuse('feature'), "Did you mean 'features'"),
    (lambda: Segment(0, 1000, 'full'), 'must be a Run or a Reuse'),
    (lambda: Segment(5, 5, Run(1)), 'below stop=5'),
    (lambda: Segment(0.5, 5, Run(1)), 'whole training timestep'),
    (lambda: StepAllocation((Segment(0, 9, Run(1)), ), num_train_timesteps=0), 'num_train_timesteps=0'),
    (lambda: StepAllocation.prefix(.5, 1, 1.2), r'fraction=1.2'),
    (lambda: StepAllocation.random([1], 0, 0), '0 segments do not fit 1000'),
    (lambda: StepAllocation.from_steps([Run(1)], [1, 2]), '1 actions for 2 timesteps'),
    (lambda: StepAllocation.from_steps([Run(1), Run(.5)], [7.2, 7]), 'timestep 7 have two actions'),
    (lambda: StepAllocation.uniform(.3).check_runs([.25, 1]), 'width 0.3, but the network has 0.25, 1'),
])
def test_errors_say_what_is_allowed(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize('change, message', [
    (dict(version=2), 'version 2 is unknown; this slimdiff reads 1'),
    (dict(segmnts=[]), "unknown key 'segmnts'. Did you mean 'segments'"),
    (dict(segments=[dict(start=0, stop=1000, widht=1.0)]), "segment 0: unknown key 'widht'. Did you mean 'width'"),
    (dict(segments=[dict(start=0, stop=1000)]), r"either 'width' \(and 'depth'\) or 'reuse'"),
    (dict(segments=[dict(start=0, stop=1000, width=1, reuse='features')]), r"either 'width' \(and 'depth'\) or"),
    (dict(segments=[dict(start=0, stop=1000, reuse='features', depth=.5)]), r"either 'width' \(and 'depth'\) or"),
    (dict(segments=[dict(start=0, stop=1000, width=1, depth=0)]), r'depth=0 must be a number in \(0, 1\]'),
    (dict(segments=[dict(stop=1000, width=1)]), 'segment 0: lacks start'),
    (dict(segments=[7]), 'segment 0: expected an object'),
    (dict(segments=5), 'must be a list'),
])
def test_bad_files(change, message):
    data = StepAllocation.uniform(1).to_dict() | change
    with pytest.raises(ValueError, match=message):
        StepAllocation.from_dict(data)


# ---- noise processes ------------------------------------------------------------------------------------------------

FLOW = dict(process='rectified_flow')
VP = VariancePreserving(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0))


def test_a_flow_has_real_timesteps_up_to_the_last():
    allocation = StepAllocation.from_steps([Run(.5), Run(1), Run(.25)], [1000.0, 667.3, 8.9], **FLOW)
    assert allocation.actions([1000.0, 999.99, 667.3, 0.0]) == [Run(.5), Run(.5), Run(1), Run(.25)]
    assert allocation.run_at(1000.0) == Run(.5)
    assert allocation.macs([1000.0, 667.3, 8.9], {.25: 1.0, .5: 3.0, 1: 10.0}) == 14
    table = [row.split() for row in allocation.describe([1000.0, 667.3, 8.9]).splitlines()]
    assert table[1:] == [['1000..833', 'width', '0.5', '1'], ['833..338', 'width', '1', '1'],
                         ['338..0', 'width', '0.25', '1']]
    for t in (1000.1, -0.5):
        with pytest.raises(ValueError, match=r'out of range.*0\.\.1000'):
            allocation.action_at(t)


def test_the_file_says_the_process_and_old_ones_need_not(tmp_path, mixed):
    allocation = StepAllocation.prefix(.5, 1.0, 0.4, **FLOW)
    allocation.save(tmp_path / 'flow.json')
    assert json.loads((tmp_path / 'flow.json').read_text())['process'] == 'rectified_flow'
    assert StepAllocation.load(tmp_path / 'flow.json') == allocation != StepAllocation.prefix(.5, 1.0, 0.4)
    mixed.save(tmp_path / 'old.json')
    assert 'process' not in json.loads((tmp_path / 'old.json').read_text())
    assert StepAllocation.load(tmp_path / 'old.json').process == 'variance_preserving'
    with pytest.raises(ValueError, match="process='flow' is unknown; choose one of variance_preserving, rectified"):
        StepAllocation.from_dict({**allocation.to_dict(), 'process': 'flow'})


def test_translation_keeps_the_action_at_every_noise_level(mixed):
    """Brute force: the flow's timestep of the SNR of each timestep, half-way between its neighbours."""
    flow = mixed.translated(VP, RectifiedFlow())
    assert flow.process == 'rectified_flow' and flow.widths == mixed.widths
    for t in range(1000):
        if min(abs(t - 300), abs(t - 340)) > 2:
            a = VP.alphas_cumprod[t]
            s = (1 - a).sqrt() / (a.sqrt() + (1 - a).sqrt())
            assert flow.action_at(1000 * s.item()) == mixed.action_at(t), t
    back = flow.translated(RectifiedFlow(), VP)
    assert [s.action for s in back.segments] == [s.action for s in mixed.segments]
    assert all(abs(one.start - two.start) <= 2 for one, two in zip(back.segments, mixed.segments))
    # Below s = .0099 a flow has images cleaner than DDPM's first timestep: such a segment is left out.
    clean = StepAllocation.from_pieces([5], [Run(1.0), Run(.5)], **FLOW)
    assert clean.translated(RectifiedFlow(), VP) == StepAllocation.uniform(.5)
    with pytest.raises(ValueError, match='1000 timesteps of variance_preserving, but source has 1000 of rectified'):
        mixed.translated(RectifiedFlow(), VP)


def test_timesteps_of_its_own(tmp_path, mixed):
    mine = StepAllocation(mixed.segments, timesteps=[999, 400, 320, 10])
    mine.save(tmp_path / 'a.json')
    assert StepAllocation.load(tmp_path / 'a.json') == mine != mixed
    assert 'sampled at 999, 400, 320, 10' in mine.describe([500]) and ' 2' in mine.describe().splitlines()[1]
    for times, message in (([10, 400], 'must fall'), ([400.2, 10], 'must be whole'), ([1000, 3], 'out of range'),
                           ([], 'must fall'), ([5, 5], 'must fall')):
        with pytest.raises(ValueError, match=message):
            StepAllocation(mixed.segments, timesteps=times)
    with pytest.raises(ValueError, match='timesteps must be a list of numbers'):
        StepAllocation.from_dict({**mine.to_dict(), 'timesteps': 'all'})
    flow, diffusion = RectifiedFlow(), VariancePreserving(torch.linspace(0.9999, 0.005, 1000, dtype=torch.float64))
    there = mine.translated(diffusion, flow)
    for t, s in zip(mine.timesteps, there.timesteps):
        ratio = diffusion.snr(torch.tensor([t])) / flow.snr(torch.tensor([s], dtype=torch.float64))
        assert ratio.item() == pytest.approx(1, rel=1e-3)
    assert there.translated(flow, diffusion).timesteps == mine.timesteps


def test_timesteps_that_meet_in_another_process_are_moved_apart():
    flow, diffusion = RectifiedFlow(), VariancePreserving(torch.linspace(0.9999, 0.005, 1000, dtype=torch.float64))
    times = {(900, 600.0, 9.9, 9.6, 9.1): (900, 600.0, 11, 10, 9.1), (1000.0, 999.6, 999.2): (1000.0, 998, 997)}
    for given, wanted in times.items():
        assert tuple(_apart(given, 1000)) == wanted
    both = StepAllocation.from_pieces([600], [Run(.5), Run(1)])
    mine = dataclasses.replace(both, timesteps=(999, 998, 997, 20, 1, 0))
    there = mine.translated(diffusion, flow)
    assert len(there.timesteps) == 6 == len(there.translated(flow, diffusion).timesteps)
    flowing = StepAllocation(both.segments, 1000, 'rectified_flow', (1000.0, 500.0, 3.0, 2.0, 1.0))
    assert flowing.translated(flow, diffusion).timesteps[-3:] == (2, 1, 0)  # cleaner than it has them


def test_a_plan_of_calibrate_is_named(tmp_path):
    """Both commands write an allocation.json; each says whose the other is."""
    plan = dict(version=1, kind='per-step actions', actions=['full', 'prediction'])
    (tmp_path / 'allocation.json').write_text(json.dumps(plan))
    with pytest.raises(ValueError, match=r'allocation\.json is a plan of slimdiff calibrate.*slimdiff\.apply'):
        StepAllocation.load(tmp_path / 'allocation.json')
