"""A search for a network of flow matching: real timesteps up to 1000.0, judged and saved as such."""

import copy

import pytest
import torch

from slimdiff.models import DiffusionModel
from slimdiff.models.backbones import make_step_aware
from slimdiff.sampling import StepAllocation, denoise
from slimdiff.search import Search

FLOW = dict(type='FlowMatchEulerDiscreteScheduler')


def flow_model(sampler=FLOW):
    torch.manual_seed(0)
    unet = dict(type='SlimmableUNet', sample_size=8, norm_groups=4, widths=(0.5, 1.0),
                stages=[dict(channels=8, blocks=1), dict(channels=16, blocks=1, downsample=False)])
    model = DiffusionModel(unet=unet, noise_scheduler=FLOW, sampler=sampler, num_steps=4)
    with torch.no_grad():
        for parameter in model.unet.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
def samples(model):
    """Of two images, before they are cut off at +-1."""
    predict, noise, generators = model.sampling_inputs(range(2), 0)
    return denoise(predict, model.sampler, noise, 4, generators)


@pytest.mark.parametrize('name', ['FlowMatchEulerDiscreteScheduler', 'DPMSolverMultistepScheduler'])
def test_what_a_search_says_of_an_allocation_is_what_it_samples(name, tmp_path):
    model = flow_model(dict(type=name))
    images = [dict(inputs=torch.randn(3, 8, 8).clamp(-1, 1)) for _ in range(4)]
    loader = torch.utils.data.DataLoader(images, 4)
    config = dict(space=dict(widths=[0.5, 1.0], num_segments=2),
                  evaluators=[dict(type='LossGapEvaluator'), dict(type='DivergenceEvaluator', num_images=2)],
                  searcher=dict(type='TwoStageSearch', population=6, generations=1))
    outcome = Search(model, config, tmp_path, loader).run()
    first, *_, last = outcome.timesteps
    if name == FLOW['type']:
        assert (first, last) == pytest.approx((1000.0, 1.0))
    else:
        assert first == pytest.approx(999.0) and any(t != round(t) for t in outcome.timesteps)
    full = samples(model)
    assert len(outcome.front) > 1
    for allocation, evaluation in outcome.front:
        assert allocation.process == 'rectified_flow'
        again = StepAllocation.from_dict(allocation.to_dict())
        found = samples(make_step_aware(copy.deepcopy(model), again))
        distance = (found - full).double().square().mean().item()
        assert evaluation.quality == pytest.approx(distance, rel=1e-3, abs=1e-10)
