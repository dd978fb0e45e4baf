"""StepAwareUNet against calling the network of each step by hand."""

import copy
import math

import diffusers
import pytest
import torch
from torch import nn

from slimdiff import PreconditionedBackbone, SlimmableUNet, StepAwareUNet, UNet
from slimdiff.models.backbones import make_step_aware
from slimdiff.models.backbones.network_set import size_of
from slimdiff.registry import MODELS
from slimdiff.sampling import build_scheduler
from slimdiff.sampling.actions import Reuse, Run
from slimdiff.sampling.allocation import StepAllocation

PREDICTION, FEATURES = Reuse('prediction'), Reuse('features')
LADDER = StepAllocation.from_pieces([300, 600], [Run(1.0), Run(0.5), Run(0.25)])
#: from the noisiest: 0.5, its prediction, 1.0, its features, 0.5
REUSING = StepAllocation.from_pieces([200, 400, 600, 800], [Run(0.5), FEATURES, Run(1.0), PREDICTION, Run(0.5)])
#: a network that is not ours
DIFFUSERS = dict(norm_num_groups=4, layers_per_block=1, attention_head_dim=4, down_block_types=('DownBlock2D', ),
                 up_block_types=('UpBlock2D', ))


def preconditioned(network, num_train_timesteps=1000):
    return PreconditionedBackbone(network, preconditioning=dict(
        schedule=dict(num_train_timesteps=num_train_timesteps), prediction_type='epsilon', sigma_data=0.5)).eval()


def randomised(unet, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in unet.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return unet.eval()


def network(channels, **changes):
    stages = [dict(channels=channels, blocks=1), dict(channels=channels, blocks=1, heads=1)]
    return randomised(UNet(**{**dict(sample_size=8, norm_groups=4, stages=stages), **changes}), channels)


def networks(**changes):
    return {width: network(round(16 * width), **changes) for width in (0.25, 0.5, 1.0)}


def supernet(**changes):
    stages = [dict(channels=16, blocks=1), dict(channels=16, blocks=1, heads=1)]
    return randomised(SlimmableUNet(**{**dict(sample_size=8, norm_groups=4, stages=stages, widths=(0.25, 0.5, 1.0)),
                                       **changes}))


def watch(unet):
    """The calls of each network, as they come: (width, batch size)."""
    calls = []
    for width in unet.allocation.widths:
        child = unet.networks[f'width_{width}'.replace('.', '_')]
        child.register_forward_hook(lambda m, args, out, width=width: calls.append((width, len(args[0]))))
    return calls


@torch.no_grad()
def by_hand(nets, allocation, sampler, x, steps):
    """Sampling written out: a loop, the network of each step, and what the step before left."""
    sampler = copy.deepcopy(sampler)
    sampler.set_timesteps(steps)
    parameters = {'generator': torch.Generator().manual_seed(1)} if 'generator' in sampler.step.__code__.co_varnames \
        else {}
    x, last, prediction, features = x * sampler.init_noise_sigma, None, None, None
    for t in sampler.timesteps:
        given = sampler.scale_model_input(x, t)
        action = allocation.action_at(float(t))
        if isinstance(action, Run):
            last = nets[action.width]
            output, features = last.with_features(given, t)
            prediction = output.sample
        elif action == FEATURES:
            prediction = last.shallow(given, t, None, None, features).sample
        x = sampler.step(prediction, t, x, **parameters, return_dict=False)[0]
    return x


def sample(unet, sampler, x, steps):
    sampler = copy.deepcopy(sampler)
    sampler.set_timesteps(steps)
    parameters = {'generator': torch.Generator().manual_seed(1)} if 'generator' in sampler.step.__code__.co_varnames \
        else {}
    x = x * sampler.init_noise_sigma
    with torch.inference_mode():
        for t in sampler.timesteps:
            x = sampler.step(unet(sampler.scale_model_input(x, t), t).sample, t, x, **parameters,
                             return_dict=False)[0]
    return x


@pytest.mark.parametrize('name', [
    'DDIMScheduler', 'DDPMScheduler', 'DPMSolverMultistepScheduler', 'UniPCMultistepScheduler',
    'EulerDiscreteScheduler', 'EulerAncestralDiscreteScheduler'])
@pytest.mark.parametrize('allocation', [LADDER, REUSING], ids=['ladder', 'reusing'])
def test_sampling_equals_the_loop_written_out(name, allocation):
    nets = networks()
    unet = StepAwareUNet(nets, allocation)
    sampler, x = build_scheduler(dict(type=name)), torch.randn(3, 3, 8, 8)
    expected = by_hand(nets, allocation, sampler, x, 10)
    for _ in range(2):  # the second trajectory starts from nothing
        torch.testing.assert_close(sample(unet, sampler, x, 10), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


def test_any_scheduler_runs(recwarn):
    """All of diffusers' that take a plain epsilon prediction, some of which repeat timesteps or jump back and forth."""
    names = ['DEISMultistepScheduler', 'DPMSolverSDEScheduler', 'DPMSolverSinglestepScheduler', 'HeunDiscreteScheduler',
             'KDPM2DiscreteScheduler', 'KDPM2AncestralDiscreteScheduler', 'LCMScheduler', 'LMSDiscreteScheduler',
             'PNDMScheduler', 'SASolverScheduler', 'TCDScheduler', 'DDIMParallelScheduler', 'DDPMParallelScheduler']
    unet, x = StepAwareUNet(networks(), REUSING), torch.randn(2, 3, 8, 8)
    for name in names:
        cls = getattr(diffusers, name)
        try:
            sampler = cls()
        except ImportError:  # some want packages that aren't installed
            continue
        unet.reset()
        sampler.set_timesteps(8)
        y = x * sampler.init_noise_sigma
        with torch.no_grad():
            for t in sampler.timesteps:
                y = sampler.step(unet(sampler.scale_model_input(y, t), t).sample, t, y, return_dict=False)[0]
        assert y.shape == x.shape and y.isfinite().all(), name


def test_a_mixed_batch_runs_each_width_once_on_its_samples():
    nets = networks(num_classes=5, stages=[dict(channels=8, heads=1, cross_attention=True)], context_channels=6)
    for width, net in nets.items():
        randomised(net, round(4 * width))
    unet = StepAwareUNet(nets, LADDER)
    calls = watch(unet)
    t = torch.tensor([999, 10, 450, 299, 700, 300])
    x, labels, context = torch.randn(6, 3, 8, 8), torch.arange(6), torch.randn(6, 4, 6)
    with torch.no_grad():
        expected = torch.cat([nets[LADDER.action_at(int(t[i])).width](
            x[i:i + 1], t[i], labels[i:i + 1], context[i:i + 1]).sample for i in range(6)])
        torch.testing.assert_close(unet(x, t, labels, context).sample, expected, rtol=1e-4, atol=1e-5)
    assert sorted(calls[-3:]) == [(0.25, 2), (0.5, 2), (1.0, 2)] and len(calls) == 9
    assert (expected[0] - nets[1.0](x[:1], t[0], labels[:1], context[:1]).sample).abs().max() > 1e-3


def test_reuse_in_a_mixed_batch_runs_the_next_noisier_width():
    nets = networks()
    unet = StepAwareUNet(nets, REUSING)
    calls = watch(unet)
    x, t = torch.randn(3, 3, 8, 8), torch.tensor([700, 300, 100])
    with torch.no_grad():
        expected = torch.cat([nets[w](x[i:i + 1], t[i]).sample for i, w in enumerate((0.5, 1.0, 0.5))])
        calls.clear()
        torch.testing.assert_close(unet(x, t).sample, expected, rtol=1e-4, atol=1e-5)
        assert sorted(calls) == [(0.5, 2), (1.0, 1)]
        # Equal timesteps of independent samples: nothing is reused either, whatever ran before.
        unet(x, 900)
        torch.testing.assert_close(unet(x, torch.full((3, ), 700)).sample, nets[0.5](x, 700).sample)


@torch.no_grad()
def test_when_a_trajectory_ends():
    nets = networks()
    unet = StepAwareUNet(nets, REUSING)
    x, y = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)

    def new(t, sample=x, width=0.5):
        """A step with nothing to reuse."""
        torch.testing.assert_close(unet(sample, t).sample, nets[width](sample, t).sample, rtol=1e-4, atol=1e-5)

    new(700)  # the very first
    first = unet(x, 690).sample
    assert torch.equal(unet(y, 680).sample, first)  # reused, although the input is another
    new(700, y)  # up
    new(700, x)  # the same timestep: perhaps a sampler of one step
    new(650, y[:1])  # another batch
    unet(x, 650)
    new(640, y.double()[:, :, :4, :4].float())  # another size
    unet(x, 650)
    unet.reset()
    new(640, y)
    unet(x, torch.tensor([650, 650]))  # independent samples in between
    new(640, y)
    with torch.inference_mode():
        unet(x, 700)
    with torch.enable_grad():  # what inference mode has left can't enter a graph
        unet(x, 690).sample.sum().backward()
    # What was returned is the caller's.
    unet.reset()
    kept = unet(x, 700).sample
    before = kept.clone()
    kept.zero_()
    again = unet(x, 690).sample
    assert torch.equal(again, before)
    again.zero_()
    assert torch.equal(unet(x, 680).sample, before)


@torch.no_grad()
def test_a_call_reuses_what_one_of_the_same_conditions_has_left():
    """Guidance by two calls a step: no half gets the other's prediction."""
    nets = networks(num_classes=3)
    unet = StepAwareUNet(nets, StepAllocation.from_pieces([500], [PREDICTION, Run(1.0)]))
    x, labels, null = torch.randn(2, 3, 8, 8), torch.tensor([0, 1]), torch.tensor([3, 3])
    for _ in range(2):  # of the first sampling nothing is left to the second
        wanted = {part: nets[1.0](x, 800, part).sample for part in (labels, null)}
        for t, order in ((800, (labels, null)), (400, (null, labels)), (200, (labels.clone(), null.clone()))):
            for part in order:
                torch.testing.assert_close(unet(x, t, part).sample, wanted[labels if part[0] == 0 else null])
        x = x.flip(0)
    with torch.no_grad():
        for label in range(3):  # other conditions at every step have nothing to reuse, and do not pile up
            unet(x, 900, torch.full((2, ), label))
            unet(x, 890, torch.full((2, ), label))
    assert len(unet._last) <= 4
    torch.testing.assert_close(unet(x, 400, null).sample, nets[1.0](x, 400, null).sample)


@torch.no_grad()
def test_reused_features_are_those_of_the_width_last_run():
    nets = networks()
    allocation = StepAllocation.from_pieces([200, 400, 600], [FEATURES, PREDICTION, FEATURES, Run(0.25)])
    unet = StepAwareUNet(nets, allocation)
    x, y, z = torch.randn(3, 2, 3, 8, 8)
    _, features = nets[0.25].with_features(x, 800)
    unet(x, 800)
    second = unet(y, 500).sample
    torch.testing.assert_close(second, nets[0.25].shallow(y, 500, None, None, features).sample)
    assert torch.equal(unet(z, 300).sample, second)
    torch.testing.assert_close(unet(z, 100).sample, nets[0.25].shallow(z, 100, None, None, features).sample)
    assert (second - nets[0.25](y, 500).sample).abs().max() > 1e-4


def model_of(unet, **changes):
    return MODELS.build(dict(type='DiffusionModel', num_steps=5, guidance_scale=2.5, unet=unet, **changes)).eval()


@pytest.mark.parametrize('allocation', [LADDER, REUSING], ids=['ladder', 'reusing'])
def test_guidance_and_the_model_around_it(allocation):
    """Both halves of a guided batch go through the network of the step, in one call."""
    stages = [dict(channels=16, blocks=1), dict(channels=16, blocks=1, heads=1)]
    model = model_of(dict(type='SlimmableUNet', sample_size=8, norm_groups=4, stages=stages, widths=(0.25, 0.5, 1.0)),
                     num_classes=4)
    randomised(model.unet)
    dense = {width: model.unet.extract(width) for width in allocation.widths}
    make_step_aware(model, allocation)
    calls = watch(model.unet)
    images = model.sample(range(3), seed=3)
    ran = [action.width for action in allocation.actions([801, 601, 401, 201, 1]) if isinstance(action, Run)]
    if allocation is LADDER:
        assert calls == [(width, 6) for width in ran]
    again = model.sample(range(2), seed=3)
    torch.testing.assert_close(again, images[:2], rtol=0, atol=1e-5)
    # Uniform at one width is that dense network.
    single = copy.deepcopy(model)
    single.unet = StepAwareUNet(dense, StepAllocation.uniform(0.5))
    plain = copy.deepcopy(model)
    plain.unet = dense[0.5]
    torch.testing.assert_close(single.sample(range(2), seed=3), plain.sample(range(2), seed=3), rtol=0, atol=1e-6)
    assert (again - plain.sample(range(2), seed=3)).abs().max() > 1e-3


def test_it_looks_like_a_unet():
    unet = StepAwareUNet.from_supernet(supernet(num_classes=3), LADDER)
    assert unet.config.sample_size == 8 and unet.config.num_classes == 3 and unet.config.widths == [0.25, 0.5, 1.0]
    assert unet.dtype == torch.float32 and unet.device.type == 'cpu'
    pipeline = diffusers.DDIMPipeline(StepAwareUNet.from_supernet(supernet(), LADDER), diffusers.DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(batch_size=2, num_inference_steps=3, output_type='np').images.shape == (2, 8, 8, 3)
    x = torch.randn(1, 3, 8, 8)
    output, = unet(x, 5, return_dict=False)
    assert torch.equal(output, unet(x, 5).sample)
    assert nn.Module.to(copy.deepcopy(unet), torch.bfloat16)(x.bfloat16(), 5).sample.dtype == torch.bfloat16


def test_networks_of_a_supernet_are_its_slices():
    wide = preconditioned(supernet())
    unet = StepAwareUNet.from_supernet(wide, LADDER)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        for t, width in ((700, 0.25), (400, 0.5), (100, 1.0)):
            with wide.at(width):
                torch.testing.assert_close(unet(x, t).sample, wide(x, t).sample, rtol=1e-4, atol=1e-5)
    assert unet.precondition is not None
    # A plain UNet is its own only width.
    plain = network(8)
    reusing = StepAllocation.from_pieces([500], [FEATURES, Run(1.0)])
    assert StepAwareUNet.from_supernet(plain, reusing).networks['width_1_0'] is plain


def test_memory_counts_parameters():
    wide = supernet()
    unet = StepAwareUNet.from_supernet(wide, StepAllocation.prefix(0.25, 0.5, 0.5))
    count = {w: 4 * sum(p.numel() for p in wide.extract(w).parameters()) for w in wide.widths}
    memory = unet.memory()
    assert memory.networks == {Run(0.25): count[0.25], Run(0.5): count[0.5]} and memory.full == count[1.0]
    assert memory.total == count[0.25] + count[0.5] == sum(4 * p.numel() for p in unet.parameters())
    assert f'{memory.total / memory.full:.2f} times' in str(memory)


@pytest.mark.parametrize('backend', ['eager', pytest.param('inductor', marks=pytest.mark.slow)])
@pytest.mark.parametrize('allocation, programs', [(StepAllocation.linear([0.5, 1.0]), 2), (REUSING, 3)])
def test_compiled_once_for_each_width(allocation, programs, backend):
    counters = torch._dynamo.utils.counters
    torch._dynamo.reset()
    # The smallest that has a deep part: tracing takes its time.
    nets = {width: network(4, stages=[dict(channels=round(4 * width), blocks=1, downsample=False)], norm_groups=1)
            for width in (0.5, 1.0)}
    unet = StepAwareUNet(nets, allocation)
    x, times = torch.randn(2, 3, 4, 4), torch.arange(999, 0, -50)

    def trajectory():
        with torch.inference_mode():
            return [unet(x + i, t if i % 2 else int(t)).sample for i, t in enumerate(times)]

    expected = trajectory()
    unet.compile(backend=backend)
    counters.clear()
    for output, wanted in zip(trajectory(), expected):
        torch.testing.assert_close(output, wanted, rtol=1e-4, atol=1e-5)
    # One program for each width, and one for the shallow part of the width that reuses features.
    assert counters['stats']['unique_graphs'] == programs and not counters['graph_break']
    made = dict(counters['stats'])
    trajectory()
    assert dict(counters['stats']) == made
    # A copy is not compiled.
    with torch.inference_mode():
        assert torch.equal(copy.deepcopy(unet)(x, int(times[0])).sample, expected[0])
    assert dict(counters['stats']) == made
    torch._dynamo.reset()


@pytest.mark.parametrize('arguments, message', [
    ((lambda: networks(), StepAllocation.uniform(0.75)), 'runs at width 0.75, but the network has 0.25, 0.5, 1'),
    ((lambda: {1.0: network(8), 0.5: network(4, num_classes=3)}, StepAllocation.prefix(0.5, 1.0, 0.5)),
     'num_classes is None at width 1, 3 at width 0.5'),
    ((lambda: {1.0: diffusers.UNet2DModel(8, block_out_channels=(8, ), **DIFFUSERS)},
      StepAllocation.from_pieces([500], [FEATURES, Run(1.0)])),
     "UNet2DModel lacks with_features, shallow.*'prediction'"),
    ((lambda: {1.0: preconditioned(network(8), 500)}, StepAllocation.uniform(1.0)),
     'for 1000 training timesteps .*the model has 500'),
])
def test_what_does_not_fit_is_refused(arguments, message):
    make, allocation = arguments
    with pytest.raises(ValueError, match=message):
        StepAwareUNet(make(), allocation)


def test_allocations_for_other_models_are_refused():
    with pytest.raises(ValueError, match='runs at width 0.25, 0.5, but the network has 1'):
        StepAwareUNet.from_supernet(network(8), LADDER)
    model = model_of(dict(type='UNet', sample_size=8, norm_groups=4, stages=[dict(channels=8)]), sigma_data=None,
                     noise_scheduler=dict(type='DDPMScheduler', num_train_timesteps=100))
    with pytest.raises(ValueError, match='for 1000 training timesteps .*the model has 100'):
        make_step_aware(model, StepAllocation.uniform(1.0))
    unet = make_step_aware(model, StepAllocation.uniform(1.0, num_train_timesteps=100)).unet
    with pytest.raises(ValueError, match=r'timestep 100 is out of range'):
        unet(torch.randn(1, 3, 8, 8), 100)


def test_diffusers_own_networks_work_too():
    nets = {w: diffusers.UNet2DModel(8, block_out_channels=(round(8 * w), ), **DIFFUSERS).eval() for w in (0.5, 1.0)}
    allocation = StepAllocation.from_pieces([300, 600], [PREDICTION, Run(1.0), Run(0.5)])
    unet, x = StepAwareUNet(nets, allocation), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(unet(x, 800).sample, nets[0.5](x, 800).sample)
        middle = unet(x, 500).sample
        torch.testing.assert_close(middle, nets[1.0](x, 500).sample)
        assert torch.equal(unet(x + 1, 100).sample, middle)


def test_saved_and_loaded(tmp_path):
    x, times = torch.randn(2, 3, 8, 8), (900, 700, 500, 300, 100)

    def outputs(unet):
        unet.reset()
        with torch.no_grad():
            return torch.stack([unet(x, t).sample for t in times])

    wide = supernet(num_classes=2)
    cases = {'supernet': StepAwareUNet.from_supernet(wide, REUSING),
             'narrow': StepAwareUNet.from_supernet(wide, StepAllocation.prefix(0.25, 0.5, 0.5)),
             'separate': StepAwareUNet(networks(), REUSING)}
    for name, unet in cases.items():
        unet.save_pretrained(tmp_path / name)
        loaded = StepAwareUNet.from_pretrained(tmp_path / name)
        assert loaded.allocation == unet.allocation and not loaded.training
        torch.testing.assert_close(outputs(loaded), outputs(unet.eval()), rtol=0, atol=0)
        size = sum(file.stat().st_size for file in (tmp_path / name).glob('*.safetensors'))
        weights = unet.memory().full if name == 'supernet' else unet.memory().total
        assert weights < size < weights + 50_000, name  # once, and a header
        again = StepAwareUNet.from_config(StepAwareUNet.load_config(tmp_path / name))
        assert again.memory().networks == unet.memory().networks
    # The folder of a supernet is one of the supernet, for another allocation.
    again = SlimmableUNet.from_pretrained(tmp_path / 'supernet')
    for key, value in wide.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    half = StepAwareUNet.from_pretrained(tmp_path / 'supernet', torch_dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    wide.save_pretrained(tmp_path / 'plain')
    with pytest.raises(ValueError, match='holds a SlimmableUNet, no StepAwareUNet'):
        StepAwareUNet.from_pretrained(tmp_path / 'plain')
    assert math.isclose(half.memory().total, cases['supernet'].memory().total / 2)


def test_widths_that_no_decimal_is(tmp_path):
    unet = StepAwareUNet.from_supernet(supernet(widths=(1 / 3, 2 / 3, 1.0), norm_groups=3, stages=[dict(channels=12)]),
                                       StepAllocation.prefix(1 / 3, 2 / 3, 0.5)).eval()
    unet.save_pretrained(tmp_path)
    again = StepAwareUNet.from_pretrained(tmp_path).eval()
    x = torch.randn(1, 3, 8, 8)
    for t in (800, 100):  # not bit for bit: PyTorch's convolutions depend on where the weights lie in memory
        torch.testing.assert_close(again(x, t).sample, unet(x, t).sample, rtol=0, atol=1e-6)


def test_bytes_of_weights():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert size_of(module) == 4 * (12 + 4 + 4 + 4 + 4 + 4) + 8  # and a 64-bit counter
