"""Comparisons of allocations against what evaluate() measures, costs and tables by hand."""

import re

import pytest
import torch
from torch.utils.data import DataLoader

from slimdiff.datasets import PhotoPatches
from slimdiff.evaluation import evaluate
from slimdiff.registry import METRICS, MODELS
from slimdiff.sampling import StepAllocation, build_scheduler
from slimdiff.sampling.actions import FULL
from slimdiff.search import DivergenceEvaluator, Evaluation, NetworkCosts, Outcome, Problem, count_macs
from slimdiff.search.comparison import Rival, baselines, compare, comparison_table, judge_fronts
from slimdiff.search.comparison.rivals import merged, random_within

#: MACs that grow with the square of the width
COSTS = NetworkCosts({.25: 1., .5: 4., .75: 9., 1.: 16.})
TIMES = list(range(990, -1, -10))
DDIM = dict(type='DDIMScheduler')


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    unet = dict(type='SlimmableUNet', sample_size=8, widths=(.5, 1.), norm_groups=4,
                stages=[dict(channels=16, blocks=1, downsample=False)])
    model = MODELS.build(dict(type='DiffusionModel', unet=unet, sigma_data=None)).eval()
    torch.nn.init.normal_(model.unet.conv_out.weight, std=.1)
    return model


@pytest.fixture(scope='module')
def loader():
    return DataLoader(PhotoPatches(split='val', image_size=8, length=40), batch_size=20)


def metric():
    return METRICS.build(dict(type='LaplacianSWD', min_size=8))


def test_baselines_that_use_the_budget():
    found = baselines(COSTS, TIMES, 1000, .5, seed=3)
    assert list(found) == ['uniform 0.75', 'uniform 0.5', 'prefix', 'random']
    # A third of the steps at 16, two thirds at 4: 8, half of 16.
    assert found['prefix'] == StepAllocation.prefix(.5, 1., 2 / 3)
    assert found['prefix'].action_at(999).width == .5 and found['prefix'].action_at(0).width == 1
    for seed in range(5):
        assert .48 <= COSTS.macs(random_within(COSTS, TIMES, 1000, .5, seed), TIMES) / 1600 <= .5
    assert random_within(COSTS, TIMES, 1000, .5, 3) == found['random'] != random_within(COSTS, TIMES, 1000, .5, 4)
    for budget in (1 / 16, 1.):
        with pytest.raises(ValueError, match=r'between 0.062.* and 1; got'):
            baselines(COSTS, TIMES, 1000, budget)
    with pytest.raises(ValueError, match='None of 200 random allocations'):
        random_within(NetworkCosts({.5: 1., 1.: 1000.}), TIMES, 1000, .0005, 0)
    with pytest.raises(ValueError, match="Two rivals are called 'a'"):
        merged(dict(a=1), dict(b=2), dict(a=3))


def test_figures_are_those_of_evaluate(model, loader):
    costs = count_macs(model, (.5, 1.))
    rivals = Rival.under(model, costs, dict(full=StepAllocation.uniform(1.), half=StepAllocation.uniform(.5),
                                            both=StepAllocation.prefix(.5, 1., .5)))
    widths = {name: dict(rival.network.networks.items()) for name, rival in rivals.items()}
    both = rivals.pop('both').network.networks
    assert [*both.values()] == [*widths['half'].values(), *widths['full'].values()]  # not copies of them
    rivals['as it is'] = Rival.dense(model)
    unet = model.unet
    found = compare(rivals, DDIM, 3, [metric()], loader, num_images=6, batch_size=4, seed=5)
    assert model.unet is unet and unet.active == FULL
    for name, width in (('full', 1.), ('half', .5), ('as it is', 1.)):
        with unet.at(width):
            expected = evaluate(model, loader, [metric()], 6, seed=5, sampling=dict(num_steps=3, scheduler=DDIM),
                                progress=False)
        assert found[name]['figures'] == pytest.approx(expected, rel=1e-4)
        assert found[name]['macs'] == 3 * costs.macs_of[width]
        assert found[name]['seconds'] > 0 and found[name]['speed_up']['q25'] <= found[name]['speed_up']['q75']
    assert found['full']['speed_up'] == dict(median=1, q25=1, q75=1)
    assert abs(found['half']['figures']['swd/mean'] - found['full']['figures']['swd/mean']) > 1e-3
    with pytest.raises(ValueError, match="must be called 'full'"):
        compare({'a': rivals['full']}, DDIM, 3, [metric()], loader)
    with pytest.raises(ValueError, match='at least 2 images, got 1'):
        extractor = dict(type='RandomConvExtractor', channels=(4, ))
        frechet = METRICS.build(dict(type='FrechetDistance', extractor=extractor))
        compare(rivals, DDIM, 3, [frechet], loader, num_images=1)


def test_nan_is_named(model, loader):
    broken = MODELS.build(dict(type='DiffusionModel', sigma_data=None, unet=dict(
        type='UNet', sample_size=8, norm_groups=4, stages=[dict(channels=8, downsample=False)])))
    torch.nn.init.constant_(broken.unet.conv_out.bias, float('nan'))
    with pytest.raises(ValueError, match="images of 'b' hold NaN"):
        compare({'full': Rival.dense(model), 'b': Rival.dense(broken)}, DDIM, 2, [metric()], loader, num_images=2)


def outcome(problem, allocations):
    judged = [(a, Evaluation(1 - k / 10, problem.costs.macs(a, problem.timesteps))) for k, a in enumerate(allocations)]
    full = problem.costs.macs(StepAllocation.uniform(1.), problem.timesteps)
    return Outcome(judged, judged, judged[0], None, problem.timesteps, full, 'DivergenceEvaluator', {}, 1., [], {})


def test_fronts_on_fresh_images(model):
    problem = Problem(model, build_scheduler(DDIM, base=model.noise_scheduler), 4, count_macs(model, (.5, 1.)))
    ends = [StepAllocation.uniform(.5), StepAllocation.uniform(1.)]
    middle = StepAllocation.prefix(.5, 1., .5)
    found = judge_fronts({'ends': outcome(problem, ends), 'three': outcome(problem, [ends[0], middle, ends[1]])},
                         problem, {'d': DivergenceEvaluator(num_images=3, seed=8)})
    # The ends lie on the border of the box; the middle takes half of the way in cost, and its divergence in quality.
    judge = DivergenceEvaluator(num_images=3, seed=8).bind(problem)
    narrow, mid = (judge.evaluate([a])[0].quality for a in (ends[0], middle))
    assert found['ends']['hypervolume'] == {'d': 0} and found['ends']['own_hypervolume'] == 0
    assert found['three']['hypervolume']['d'] == pytest.approx(.5 * max(0, 1 - mid / narrow))
    assert found['three']['own_hypervolume'] == pytest.approx(.5 * (1 - .9))
    other = outcome(problem, ends)
    other.timesteps = (1., )
    with pytest.raises(ValueError, match="'other' is of another sampler"):
        judge_fronts({'a': outcome(problem, ends), 'other': other}, problem, {})


def test_table_by_hand():
    rows = {name: dict(macs=macs, seconds=seconds, speed_up=dict(median=.02 / seconds), figures=dict(fd=fd, other=1.))
            for name, macs, seconds, fd in (('full', 4e6, .02, .10), ('half', 1e6, .01, .12))}
    table = re.sub(' +', ' ', comparison_table(dict(samplers={'DDIMScheduler:5': rows}), 'DDIMScheduler:5'))
    assert '| full | 4 M | 100 % | 20 | 1 | 100 |' in table
    assert '| half | 1 M | 25 % | 10 | 2 | 120 (+20.0 %) |' in table and 'other' not in table
