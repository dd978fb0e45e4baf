"""Timesteps in the search: the exact denoiser of N(0, 0.5^2) data, whose sampling error is known at any timesteps."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from torch import nn

from slimdiff.export.folder import as_pipeline, export_pipeline
from slimdiff.export.load import load_pipeline, load_trained
from slimdiff.models.algorithms import DiffusionModel
from slimdiff.models.backbones import make_step_aware
from slimdiff.models.backbones.adapt import Prediction
from slimdiff.sampling import Run, StepAllocation
from slimdiff.search import NetworkCosts, Search, SearchSpace
from slimdiff.search.comparison.rivals import Rival
from slimdiff.search.space import Genome

STD = 0.5
FIRST_ORDER = dict(type='DPMSolverMultistepScheduler', solver_order=1)  # DDIM, and takes timesteps
REFERENCE = 200


class Exact(nn.Module):
    """Predicts the noise that the posterior mean of N(0, 0.5^2) data implies."""

    def __init__(self, alphas):
        super().__init__()
        self.config, self.alphas = FrozenDict(sample_size=4, in_channels=3, num_classes=None), alphas
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, sample, timestep, *args, **kwargs):
        a = self.alphas[torch.as_tensor(timestep).long().expand(len(sample))].to(sample)[:, None, None, None]
        return Prediction(sample=self.scale * (1 - a).sqrt() / (a * STD**2 + 1 - a) * sample)


def exact_model():
    model = DiffusionModel(unet=dict(type='UNet', sample_size=4, stages=[dict(channels=8, downsample=False)],
                                     norm_groups=4), sigma_data=None, sampler=FIRST_ORDER, num_steps=3)
    model.unet = Exact(model.noise_process.alphas_cumprod)
    return model.eval()


def factor(model, times):
    """What DDIM multiplies the noise by (Song et al. 2021, Eq. 12)."""
    alphas, x = model.noise_process.alphas_cumprod.double(), 1.0
    levels = [float(alphas[int(t)]) for t in times] + [1.0]
    for a, b in itertools.pairwise(levels):
        eps = math.sqrt(1 - a) / (a * STD**2 + 1 - a)
        x *= math.sqrt(b / a) * (1 - math.sqrt(1 - a) * eps) + math.sqrt(1 - b) * eps
    return x


def search(model, tmp_path, levels, searcher, **space):
    config = dict(space=dict(num_segments=1, levels=levels, **space), searcher=searcher,
                  evaluators=[dict(type='DivergenceEvaluator', num_images=2, reference_steps=REFERENCE)])
    return Search(model, config, tmp_path, costs=NetworkCosts({1.0: 10.0}))


def test_the_best_timesteps_are_those_of_brute_force(tmp_path):
    model = exact_model()
    run = search(model, tmp_path, 8, dict(type='RandomSearch', num_candidates=10_000))
    outcome = run.run(progress=False)
    assert len(outcome.candidates) == run.space.size == math.comb(len(run.space.levels), 3)
    expected = factor(model, np.linspace(999, 0, REFERENCE).round())
    power = torch.cat([model.sampling_inputs([i], 0)[1] for i in range(2)]).square().mean().item()
    by_hand = {times: (factor(model, times) - expected)**2 * power
               for times in itertools.combinations(run.space.levels, 3)}
    for allocation, evaluation in outcome.candidates:
        assert evaluation.quality == pytest.approx(by_hand[allocation.timesteps], rel=0.02, abs=1e-6)
    chosen = outcome.chosen[0]
    assert by_hand[chosen.timesteps] == pytest.approx(min(by_hand.values()), rel=0.02, abs=1e-6)
    # What is searched for: a standard deviation nearer to that of the data than the sampler's own timesteps give.
    assert abs(factor(model, chosen.timesteps) - STD) < 0.5 * abs(factor(model, run.problem.timesteps) - STD)
    written = StepAllocation.load(tmp_path / 'allocation.json')
    assert written == chosen and json.loads((tmp_path / 'allocation.json').read_text())['timesteps']
    assert f'sampled at {chosen.timesteps[0]:g}, ' in outcome.describe()


def test_an_evolution_finds_nearly_as_good_ones_with_few_candidates_and_resumes(tmp_path):
    model = exact_model()
    evolution = dict(type='NSGA2Search', population=10, generations=6, seed=0)
    whole = search(model, tmp_path / 'whole', 40, evolution).run(progress=False)
    own = next(e for a, e in whole.candidates if a.timesteps == tuple(map(math.floor, whole.timesteps)))
    assert whole.chosen[1].quality < own.quality / 8 and len(whole.candidates) == 70

    class Stop(Exception):
        pass

    def stop(search):
        if len(search.judged) > 30:
            raise Stop

    with pytest.raises(Stop):
        search(model, tmp_path / 'cut', 40, evolution).run(stop, progress=False)
    again = search(model, tmp_path / 'cut', 40, evolution).run(progress=False)
    assert [a for a, _ in again.candidates] == [a for a, _ in whole.candidates]


def space(levels=12, actions=(0.5, 1.0)):
    return SearchSpace(actions, 3, 1000, (900, 700, 500, 300, 100), levels=levels)


def test_the_space_holds_every_choice_once():
    s = space(6, (1.0, ))
    assert s.levels == (917.0, 900.0, 750.0, 700.0, 583.0, 500.0, 417.0, 300.0, 250.0, 100.0, 83.0)
    assert [s.levels[i] for i in s.own_times] == list(s.timesteps)
    genomes = list(s.enumerate())
    assert len(set(genomes)) == len(genomes) == s.size == math.comb(11, 5)
    two = space(5)
    assert len(set(two.enumerate())) == two.size


@pytest.mark.parametrize('operator', ['random', 'mutate', 'crossover'])
def test_operators_keep_timesteps_apart_and_in_order(operator):
    s, rng = space(), np.random.default_rng(0)
    one, two, moved = s.uniform(0), s.uniform(1), set()
    for _ in range(300):
        genome = (s.random(rng) if operator == 'random' else s.mutate(one, rng) if operator == 'mutate' else
                  s.crossover(one, two, rng))
        assert genome == s.repair(*genome) and len(genome.times) == 5 and genome.times[-1] < len(s.levels)
        assert all(a < b for a, b in itertools.pairwise(genome.times))
        assert Genome.from_plain(json.loads(json.dumps(genome.plain))) == genome
        allocation = s.decode(genome)
        assert StepAllocation.from_dict(allocation.to_dict()) == allocation
        moved |= set(genome.times)
        one, two = (s.random(rng), s.random(rng)) if operator == 'crossover' else (genome, two)
    assert moved == set(range(len(s.levels)))


def test_repair_moves_times_apart():
    s = space(10)
    assert len(s.levels) == 15
    assert s.repair([], [0], [3, 3, 3, -2, 99]).times == (0, 3, 4, 5, 14)
    assert s.repair([], [0], [14, 14, 14, 14, 14]).times == (10, 11, 12, 13, 14)
    assert s.repair([], [0]).times == s.own_times


def test_the_allocation_is_sampled_at_its_timesteps_wherever_it_goes(tmp_path):
    torch.manual_seed(0)
    unet = dict(type='SlimmableUNet', sample_size=8, norm_groups=4, widths=(0.5, 1.0),
                stages=[dict(channels=8, blocks=1), dict(channels=16, blocks=1, downsample=False)])
    model = DiffusionModel(unet=unet, sampler=dict(type='DPMSolverMultistepScheduler'), num_steps=7).eval()
    plain = model.sample([0, 1], num_steps=3)
    allocation = StepAllocation.from_pieces([500], [Run(1.0), Run(0.5)])
    mine = StepAllocation(allocation.segments, timesteps=(990, 400, 30))
    make_step_aware(model, mine)
    assert model.num_steps == 3
    images = model.sample([0, 1])
    assert not torch.allclose(images, plain)
    with pytest.raises(ValueError, match='it has 3 timesteps: set num_steps=3'):
        model.sample([0], num_steps=4)
    asked = model.sample([0, 1], scheduler=dict(type='DPMSolverMultistepScheduler'))
    torch.testing.assert_close(asked, images)
    with pytest.raises(ValueError, match='DDIMScheduler cannot take given timesteps'):
        model.sample([0], scheduler=dict(type='DDIMScheduler'))
    export_pipeline(model, tmp_path)
    reopened = load_pipeline(tmp_path)
    pipeline = as_pipeline(model)
    for pipe in (pipeline, reopened):
        found = pipe(num_images=2, generator=[torch.Generator().manual_seed(i) for i in (0, 1)], output_type='pt')
        assert found.images.shape == (2, 3, 8, 8)
    assert reopened.config.num_inference_steps == 3 and reopened.scheduler.config._timesteps == [990, 400, 30]
    other = DiffusionModel(unet=unet, sampler=dict(type='DPMSolverMultistepScheduler'), num_steps=7).eval()
    load_trained(other, tmp_path)
    torch.testing.assert_close(other.sample([0, 1]), images)


def test_it_is_compared_at_its_timesteps():
    torch.manual_seed(0)
    unet = dict(type='SlimmableUNet', sample_size=8, norm_groups=4, widths=(0.5, 1.0),
                stages=[dict(channels=8, blocks=1), dict(channels=16, blocks=1, downsample=False)])
    model = DiffusionModel(unet=unet, sampler=FIRST_ORDER, num_steps=3).eval()
    pieces = StepAllocation.from_pieces([500], [Run(1.0), Run(0.5)])
    mine = StepAllocation(pieces.segments, timesteps=(990, 600, 510))
    rivals = Rival.under(model, NetworkCosts({0.5: 1.0, 1.0: 10.0}), {'plain': pieces, 'mine': mine})
    macs = {name: rival.macs(rival.scheduler(FIRST_ORDER, 3), 3) for name, rival in rivals.items()}
    assert macs == {'plain': 1 + 1 + 10, 'mine': 1 + 1 + 1}
    with pytest.raises(ValueError, match=r'3 timesteps of its own, but is compared at 5 steps.*--samplers NAME:3'):
        rivals['mine'].scheduler(FIRST_ORDER, 5)
    with rivals['mine'].sampling():
        images = model.sample([0, 1], scheduler=FIRST_ORDER)
    torch.testing.assert_close(images, make_step_aware(model, mine).sample([0, 1]))


@pytest.mark.parametrize('changes, message', [
    (dict(evaluators=[dict(type='DivergenceEvaluator', num_images=2)]), r'DivergenceEvaluator\(reference_steps=\.\.\.'),
    (dict(evaluators=[dict(type='SensitivityEvaluator'), dict(type='DivergenceEvaluator', reference_steps=9)],
          searcher=dict(type='TwoStageSearch')), 'TwoStageSearch takes the timesteps as the sampler has them'),
    (dict(sampler=dict(type='DDIMScheduler')), 'DDIMScheduler cannot take given timesteps'),
    (dict(sampler=dict(type='HeunDiscreteScheduler')), 'several steps at one timestep'),
    (dict(space=dict(levels=2)), 'levels=2 must be at least 3')])
def test_what_cannot_search_timesteps_says_so_before_anything_runs(changes, message, tmp_path):
    config = dict(space=dict(num_segments=1, levels=8), searcher=dict(type='RandomSearch'),
                  evaluators=[dict(type='DivergenceEvaluator', num_images=2, reference_steps=9)]) | changes
    with pytest.raises(ValueError, match=message):
        Search(exact_model(), config, tmp_path, costs=NetworkCosts({1.0: 10.0}))
