"""Evaluators against a model whose errors and samples are known in closed form."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch
from closed_form import COSTS, OneWidth, error, make_model, make_problem, shrink

from slimdiff.checkpoint.tensor_store import TensorStore
from slimdiff.evaluation.metrics.frechet import frechet_distance, gaussian_moments
from slimdiff.models.backbones import StepAwareUNet
from slimdiff.registry import EVALUATORS
from slimdiff.sampling import Reuse, Run, StepAllocation, build_scheduler, image_generators, initial_noise
from slimdiff.search import (
    DivergenceEvaluator,
    DynamicProgramming,
    Evaluator,
    FrechetEvaluator,
    LossGapEvaluator,
    NetworkCosts,
    SearchSpace,
    SensitivityEvaluator,
    count_macs,
    pareto,
)

WIDTHS = (.25, .5, 1.)


def allocations(problem, sequences):
    return [StepAllocation.from_steps([a if isinstance(a, Reuse) else Run(a) for a in s], problem.timesteps)
            for s in sequences]


# ---- loss gap -------------------------------------------------------------------------------------------------------


def test_loss_gap_table_in_closed_form():
    """gap = mean over timesteps of (error(w, t)^2 - error(1, t)^2) |eps|^2, with |eps|^2 = 1 in the mean."""
    evaluator = LossGapEvaluator(num_bins=4, draws=8, seed=1).bind(make_problem())
    assert evaluator.table.shape == evaluator.stderr.shape == (4, 3) and evaluator.edges == [0, 250, 500, 750, 1000]
    for b, (start, stop) in enumerate(itertools.pairwise(evaluator.edges)):
        for i, width in enumerate(WIDTHS):
            t = torch.arange(start, stop)
            expected = (error(width, t)**2 - error(1., t)**2 * torch.ones(len(t))).mean()
            assert abs(evaluator.table[b, i] - expected) <= 4 * evaluator.stderr[b, i] + 1e-12
    assert (evaluator.table[:, -1] == 0).all() and (evaluator.table[:, 0] > evaluator.table[:, 1]).all()
    assert evaluator.work.images == 0 and evaluator.work.calls == 3 * 12 * 4 * 8
    assert evaluator.work.macs == 12 * 4 * 8 * (10 + 30 + 100)
    assert evaluator.describe().splitlines()[1].split()[0] == '0..249'


def test_loss_gap_weighs_bins_and_bands():
    plain = LossGapEvaluator(num_bins=2).bind(make_problem())
    twice = LossGapEvaluator(num_bins=2, band_weights=(2, 2, 2), bin_weights=(0, 1)).bind(make_problem())
    torch.testing.assert_close(twice.table, 2 * plain.table)
    one = allocations(plain.problem, [(.25, .25, .25, 1, 1)])
    # Two of five steps lie in the noisy bin: 800 and 600.
    assert plain.problem.timesteps == (800, 600, 400, 200, 0)
    assert twice.evaluate(one)[0].quality == pytest.approx(2 * 2 / 5 * plain.table[1, 0].item())
    assert plain.evaluate(one)[0].quality == pytest.approx((2 * plain.table[1, 0] + plain.table[0, 0]).item() / 5)


def test_loss_gap_is_additive_and_dynamic_programming_agrees_with_its_enumeration():
    problem = make_problem(num_steps=6)
    evaluator = LossGapEvaluator(num_bins=5).bind(problem)
    space = SearchSpace(WIDTHS, 3, 1000, problem.timesteps)
    genomes = list(space.enumerate())
    found = evaluator.evaluate([space.decode(g) for g in genomes])
    points = [(e.macs, e.quality) for e in found]
    front = DynamicProgramming().bind(space, [evaluator], COSTS).surrogate_front
    assert [c for c, _, _ in front] == [points[i][0] for i in pareto(points)]
    torch.testing.assert_close([q for _, q, _ in front], [points[i][1] for i in pareto(points)])
    assert found[0].macs == 6 * 10


def test_loss_gap_refuses_reuse_and_wrong_weights():
    evaluator = LossGapEvaluator().bind(make_problem())
    found = evaluator.evaluate(allocations(evaluator.problem, [(1., Reuse(), 1., 1., 1.), (1., ) * 5]))
    assert [e.failed for e in found] == [True, False]
    assert found[0].reason == 'LossGapEvaluator gave nan for 1 x width 1, 1 x reuse prediction, 3 x width 1'
    with pytest.raises(ValueError, match='bin_weights=.* must be 10 numbers'):
        LossGapEvaluator(bin_weights=(1, 2))


# ---- sensitivity ----------------------------------------------------------------------------------------------------


def test_sensitivity_is_the_divergence_of_one_part_and_a_sum_over_more():
    problem = make_problem(num_steps=6)
    evaluator = SensitivityEvaluator(num_images=4, num_bins=3, seed=2).bind(problem)
    divergence = DivergenceEvaluator(num_images=4, seed=2).bind(problem)
    one, other, both, full = allocations(problem, [(1, 1, .25, .25, 1, 1), (.5, .5, 1, 1, 1, 1),
                                                   (.5, .5, .25, .25, 1, 1), (1, ) * 6])
    first, second = (divergence.evaluate([a])[0].quality for a in (one, other))
    assert evaluator.evaluate([one])[0].quality == pytest.approx(first, rel=1e-6) and first > 0
    assert evaluator.evaluate([both])[0].quality == pytest.approx(first + second, rel=1e-6)
    assert evaluator.evaluate([full])[0].quality == 0
    # Half of a part has half of its share.
    half = allocations(problem, [(1, 1, .25, 1, 1, 1)])
    assert evaluator.evaluate(half)[0].quality == pytest.approx(first / 2, rel=1e-6)
    assert evaluator.table.shape == (3, 3) and (evaluator.table[:, -1] == 0).all()
    # The reference, and two narrower widths in three parts.
    assert evaluator.work.images == 4 * (1 + 6) and evaluator.work.calls_saved > 0
    assert SensitivityEvaluator(num_images=4, num_bins=99).bind(problem).table.shape == (6, 3)
    assert evaluator.evaluate(allocations(problem, [(1, Reuse(), 1, 1, 1, 1)]))[0].failed
    with pytest.raises(ValueError, match='num_bins=0 must be at least 1'):
        SensitivityEvaluator(num_bins=0)


def test_dynamic_programming_on_the_sensitivity_agrees_with_its_enumeration():
    problem = make_problem(num_steps=6)
    evaluator = SensitivityEvaluator(num_images=2, num_bins=6).bind(problem)
    space = SearchSpace(WIDTHS, 3, 1000, problem.timesteps)
    found = evaluator.evaluate([space.decode(g) for g in space.enumerate()])
    points = [(e.macs, e.quality) for e in found]
    front = DynamicProgramming().bind(space, [evaluator], COSTS).surrogate_front
    assert [c for c, _, _ in front] == [points[i][0] for i in pareto(points)]
    torch.testing.assert_close([q for _, q, _ in front], [points[i][1] for i in pareto(points)])


def test_sensitivity_is_kept(tmp_path):
    cache = TensorStore(tmp_path / 'x.sqlite')
    first = SensitivityEvaluator(num_images=2, num_bins=2).bind(make_problem(cache=cache))
    again = SensitivityEvaluator(num_images=2, num_bins=2).bind(make_problem(cache=cache))
    assert torch.equal(first.table, again.table) and first.work.images == 2 * 5 and again.work.images == 0
    problem = make_problem(cache=cache)
    problem.costs = NetworkCosts({.5: 30., 1.: 100.})  # other widths have another table
    other = SensitivityEvaluator(num_images=2, num_bins=2).bind(problem)
    torch.testing.assert_close(other.table, first.table[:, 1:])


# ---- sampling -------------------------------------------------------------------------------------------------------


def test_divergence_in_closed_form():
    """DDIM multiplies the noise by a number: the distance is the squared difference of the numbers times |noise|^2."""
    model = make_model()
    problem = make_problem(model)
    evaluator = DivergenceEvaluator(num_images=6, batch_size=4, seed=3).bind(problem)
    noise = initial_noise((3, 4, 4), image_generators(3, range(6)), 'cpu').double()
    full = shrink(model, problem, [Run(1.)] * 5)
    sequences = [(1., ) * 5, (.25, ) * 5, (1., 1., .5, .5, .25), (.25, .5, 1., 1., 1.), (1., 1., .5, .5, 1.)]
    for allocation, found in zip(allocations(problem, sequences), evaluator.evaluate(allocations(problem, sequences))):
        own = shrink(model, problem, allocation.actions(problem.timesteps))
        assert found.quality == pytest.approx((own - full)**2 * noise.square().mean().item(), rel=1e-3, abs=1e-9)
        assert found.macs == sum(COSTS.macs_of[a.width] for a in allocation.actions(problem.timesteps))


def test_shared_prefixes_run_once():
    """Counted by hand: each sequence adds the steps after those that it shares with one before it."""
    model = make_model()
    evaluator = DivergenceEvaluator(num_images=6, batch_size=4).bind(make_problem(model))
    before, model.unet.calls = evaluator.work.calls, 0
    assert before == 6 * 5 and evaluator.work.images == 6  # the reference
    sequences = [(1., 1., 1., 1., 1.), (1., 1., .5, .5, .25), (1., 1., .5, .5, 1.), (.25, .5, 1., 1., 1.),
                 (.25, ) * 5]
    together = evaluator.evaluate(allocations(evaluator.problem, sequences))
    prefixes = {s[:k + 1] for s in sequences for k in range(5)}
    assert len(prefixes) == 5 + 3 + 1 + 5 + 4
    assert model.unet.calls == evaluator.work.calls - before == 6 * len(prefixes)
    assert evaluator.work.calls_saved == 6 * (25 - len(prefixes)) and evaluator.work.images == 6 * 6
    assert evaluator.work.macs == 6 * (5 * 100 + sum(COSTS.macs_of[p[-1]] for p in prefixes))
    alone = [evaluator.evaluate(allocations(evaluator.problem, [s]))[0] for s in sequences]
    assert [e.quality for e in alone] == [e.quality for e in together]


@pytest.mark.parametrize('sampler', ['DDPMScheduler', 'DPMSolverMultistepScheduler', 'HeunDiscreteScheduler',
                                     'UniPCMultistepScheduler', 'EulerAncestralDiscreteScheduler'])
def test_a_branch_is_a_sampling_of_its_own(sampler):
    """Multi-step history and random generators are each branch's own: bit for bit what ``sample`` gives."""
    model = make_model()
    scheduler = build_scheduler(dict(type=sampler), base=model.noise_scheduler)
    problem = make_problem(model, scheduler=scheduler)
    evaluator = DivergenceEvaluator(num_images=3).bind(problem)
    length = len(problem.timesteps)
    sequences = [(.5, ) * length, (1., 1.) + (.5, ) * (length - 2), (1., ) * length]
    if sampler.startswith('Heun'):  # two calls at a timestep have one width
        sequences[1] = (1., 1., 1.) + (.5, ) * (length - 3)
    each = allocations(problem, sequences)
    found = {i: x0 for members, x0 in evaluator.samples(each, range(3)) for i in members}
    for i, allocation in enumerate(each):
        unet, forward = model.unet, model.unet.forward
        unet.forward = lambda x, t, a=allocation, f=forward, **k: f(x, t, width=a.action_at(float(t)).width)
        expected = model.sample(range(3), scheduler=scheduler, num_steps=5)
        del unet.forward
        torch.testing.assert_close(model.decode(found[i]), expected, rtol=0, atol=0)


def test_reuse_takes_the_last_prediction():
    model = make_model()
    problem = make_problem(model)
    evaluator = DivergenceEvaluator(num_images=2).bind(problem)
    before = evaluator.work.calls
    both = allocations(problem, [(1., Reuse(), 1., Reuse(), Reuse()), (1., 1., 1., 1., 1.)])
    found = evaluator.evaluate(both)
    assert found[0].quality > 0 == found[1].quality and found[0].macs == 200
    assert evaluator.work.calls - before == 2 * (2 + 4)  # they share the first


@pytest.mark.parametrize('sampler', ['DDIMScheduler', 'HeunDiscreteScheduler', 'PNDMScheduler'])
def test_samples_with_reuse_are_those_of_the_step_aware_network(sampler):
    """Some samplers call twice at a timestep; there nothing is reused."""
    model = make_model()
    problem = make_problem(model, scheduler=build_scheduler(dict(type=sampler), base=model.noise_scheduler))
    allocation = StepAllocation.from_pieces([300, 700], [Run(1.), Reuse(), Run(.5)])
    evaluator = DivergenceEvaluator(num_images=2).bind(problem)
    calls = evaluator.work.calls
    (_, found), = evaluator.samples([allocation], range(2))
    model.unet.calls = 0
    served = make_model()
    served.unet = StepAwareUNet({w: OneWidth(model.unet, w) for w in (.5, 1.)}, allocation)
    expected = served.sample(range(2), scheduler=problem.scheduler, num_steps=5)
    torch.testing.assert_close(model.decode(found), expected, rtol=0, atol=0)
    runs = [a for a in allocation.taken(problem.timesteps) if isinstance(a, Run)]
    assert evaluator.work.calls - calls == model.unet.calls == 2 * len(runs) < 2 * len(problem.timesteps)
    assert evaluator.problem.judged(allocation, 0.).macs == sum(COSTS.macs_of[run] for run in runs)


class ImageMean(torch.nn.Module):
    def forward(self, images):
        return images.mean((2, 3))


def test_frechet_is_the_distance_of_the_samples():
    model = make_model()
    problem = make_problem(model)
    evaluator = FrechetEvaluator(dict(type='FrechetDistance', extractor=ImageMean()), num_images=8, batch_size=3)
    evaluator.bind(problem)
    both = allocations(problem, [(1., ) * 5, (.25, ) * 5])
    for allocation, found in zip(both, evaluator.evaluate(both)):
        factor = shrink(model, problem, allocation.actions(problem.timesteps))
        x0 = initial_noise((3, 4, 4), image_generators(0, range(8)), 'cpu') * factor
        rounded = ((x0.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
        expected = frechet_distance(torch.zeros(3), torch.zeros(3, 3), *gaussian_moments(rounded.mean((2, 3))))
        assert found.quality == pytest.approx(expected.item(), rel=1e-2)
    assert evaluator.work.images == 16
    with pytest.raises(ValueError, match='too few for FrechetDistance'):
        FrechetEvaluator(num_images=1).bind(problem)
    with pytest.raises(ValueError, match='does not compare sets'):
        FrechetEvaluator(dict(type='BandwiseDenoisingError'), 4).bind(problem)


@pytest.mark.parametrize('evaluator', [DivergenceEvaluator(4), LossGapEvaluator(),
                                       FrechetEvaluator(dict(type='FrechetDistance', extractor=ImageMean()), 4)])
def test_nan_is_a_failed_candidate_with_a_name(evaluator):
    problem = make_problem(make_model(broken=(.5, )))
    both = allocations(problem, [(1., .5, .5, .5, 1.), (1., 1., 1., 1., .25)])
    found = evaluator.bind(problem).evaluate(both)
    assert [e.failed for e in found] == [True, False] and math.isnan(found[0].quality)
    assert found[0].reason.endswith('gave nan for 1 x width 1, 3 x width 0.5, 1 x width 1')


# ---- the cache ------------------------------------------------------------------------------------------------------


def test_cache_is_by_content(tmp_path):
    def calls(model, allocation, **settings):
        """Network calls that it takes to judge one allocation in a new process."""
        problem = make_problem(model, cache=TensorStore(tmp_path / 'cache.sqlite'))
        model.unet.calls = 0
        evaluator = DivergenceEvaluator(**{'num_images': 2, **settings}).bind(problem)
        return model.unet.calls, evaluator.evaluate([allocation])[0], model.unet.calls

    model = make_model()
    one = StepAllocation.prefix(.25, 1., .5)
    first = calls(model, one)
    assert first[0] == 10 and first[2] == 20
    again = calls(model, one)
    assert again[2] == 0 and again[1] == first[1]
    # Equal at all sampled steps (800, 600, 400, 200, 0), though not as files.
    assert calls(make_model(), StepAllocation.prefix(.25, 1., .45))[2] == 0
    assert calls(model, StepAllocation.prefix(.25, 1., .7))[2] == 10  # the reference was there
    assert calls(model, one, seed=1)[2] == 20
    with torch.no_grad():
        model.unet.scale += 1
    assert calls(model, one)[2] == 20


def test_loss_gap_table_is_cached(tmp_path):
    model = make_model()
    for expected in (3 * 12 * 10, 0):
        model.unet.calls = 0
        evaluator = LossGapEvaluator().bind(make_problem(model, cache=TensorStore(tmp_path / 'c.sqlite')))
        assert model.unet.calls == evaluator.work.calls == expected


def test_equal_candidates_are_measured_once():
    seen = []

    class Counting(Evaluator):
        def measure(self, allocations):
            seen.extend(allocations)
            return [float(a.segments[0].action.width) for a in allocations]

    evaluator = Counting().bind(make_problem())
    found = evaluator.evaluate([StepAllocation.uniform(.5), StepAllocation.uniform(1.), StepAllocation.uniform(.5)])
    assert [e.quality for e in found] == [.5, 1, .5] and len(seen) == 2
    Counting.measure = lambda self, allocations: []
    with pytest.raises(ValueError, match='gave 0 qualities for 1 allocations'):
        evaluator.evaluate([StepAllocation.uniform(.25)])
    with pytest.raises(ValueError, match=r'call bind\(problem\) first'):
        DivergenceEvaluator().problem  # noqa: B018


# ---- the real network -----------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def real():
    from slimdiff.models.algorithms import DiffusionModel
    torch.manual_seed(0)
    model = DiffusionModel(unet=dict(
        type='SlimmableUNet', sample_size=8, widths=(.5, 1.), norm_groups=4,
        stages=[dict(channels=16, blocks=1), dict(channels=16, blocks=1, downsample=False)])).eval()
    torch.nn.init.normal_(model.unet.conv_out.weight, std=.1)
    return model


def test_slimmable_unet_step_by_step(real):
    """The tree's samples are those of StepAwareUNet, for widths and both kinds of reuse; so are the MACs."""
    from slimdiff.evaluation.cost import count_cost
    from slimdiff.models.backbones.step_aware import StepAwareUNet
    costs = count_macs(real, (.5, 1.), features=True)
    x, t = torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.long)
    assert costs.macs_of[.5] == count_cost(real.unet.extract(.5), x, t).conv_linear_macs < costs.macs_of[1.]
    assert 0 < costs.shallow_of[1.] < costs.macs_of[1.]
    problem = make_problem(real)
    problem.costs = costs
    evaluator = DivergenceEvaluator(num_images=2).bind(problem)
    sequences = [(1., 1., .5, .5, 1.), (1., Reuse('features'), .5, Reuse('features'), Reuse('prediction')),
                 (.5, Reuse('prediction'), Reuse('prediction'), 1., 1.)]
    each = allocations(problem, sequences)
    found = {i: x0 for members, x0 in evaluator.samples(each, range(2)) for i in members}
    supernet = real.unet
    for i, allocation in enumerate(each):
        real.unet = StepAwareUNet.from_supernet(supernet, allocation)
        expected = real.sample(range(2), num_steps=5)
        real.unet = supernet
        torch.testing.assert_close(real.decode(found[i]), expected, rtol=0, atol=1e-5)
    judged = evaluator.evaluate(each)[1]
    assert judged.macs == costs.macs_of[1.] + costs.shallow_of[1.] + costs.macs_of[.5] + costs.shallow_of[.5]


def test_a_network_in_bf16(real):
    """Its inputs are cast as its pipeline casts them, and it stays what it is."""
    model = copy.deepcopy(real)
    torch.nn.Module.to(model.unet, torch.bfloat16)
    costs = count_macs(model, (.5, ), features=True).with_latency(model, batch_size=1, rounds=1)
    assert costs.macs_of[.5] > costs.shallow_of[.5] > 0 < costs.shallow_seconds_of[.5]
    allocation = StepAllocation.from_pieces([300], [Reuse('features'), Run(.5)])
    problems = [dataclasses.replace(make_problem(own, num_steps=2), costs=costs) for own in (model, real)]
    found, wanted = (next(DivergenceEvaluator(num_images=1).bind(problem).samples([allocation], [0]))[1]
                     for problem in problems)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.05)
    assert model.unet.dtype == torch.bfloat16 and not torch.equal(found, wanted)


def test_latency_of_the_real_network(real):
    costs = count_macs(real, (.5, 1.), features=True).with_latency(real, batch_size=2, rounds=1)
    uniform = StepAllocation.uniform(.5)
    assert costs.latency(uniform, (900, 500, 100)) == pytest.approx(3 * costs.seconds_of[.5]) and \
        costs.seconds_of[.5] > 0 < costs.shallow_seconds_of[1.]
    again = type(costs).from_dict(costs.to_dict())
    assert again == costs


def test_registered():
    assert EVALUATORS.build(dict(type='DivergenceEvaluator', num_images=3)).num_images == 3
