"""``slimdiff.apply`` and ``remove`` on pipelines of diffusers: what runs, what is left behind, what is refused."""

import copy
import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    UNet2DModel,
)
from tiny_pipelines import ALL, STEPS, made
from torch import nn

import slimdiff
from slimdiff import SlimmableUNet
from slimdiff.calibration import Plan
from slimdiff.calibration.actions import Call, offered
from slimdiff.calibration.engine import Engine
from slimdiff.calibration.plan import architecture_of, denoiser_of
from slimdiff.sampling.denoise import prepared


def plan_of(pipe, *actions):
    return Plan(actions, architecture_of(denoiser_of(pipe)[1]), type(pipe.scheduler).__name__)


def half(pipe, action):
    return plan_of(pipe, *('full', action) * (STEPS // 2))


def counted(network):
    """The batches of the calls that the network itself answers."""
    batches = []
    handle = network.time_embedding if hasattr(network, 'time_embedding') else network
    handle.register_forward_hook(lambda module, args, output: batches.append(len(output)))
    return batches


@pytest.mark.parametrize('name', ALL)
def test_apply_and_remove(name):
    pipe, sample = made(name)
    network = denoiser_of(pipe)[1]
    plain = sample()
    before = {m: set(vars(m)) for m in network.modules()}
    classes = type(pipe), type(pipe.scheduler)
    for action in offered(network):
        slimdiff.apply(pipe, half(pipe, action))
        fast = sample()
        assert np.array_equal(sample(), fast)  # nothing of the call before is left
        unguided = action == 'unguided' and name in ('flux', 'dit')  # one has no guidance; one doubles the latents, too
        assert np.array_equal(fast, plain) == unguided and np.isfinite(fast).all()
        slimdiff.remove(pipe)
        assert (type(pipe), type(pipe.scheduler)) == classes
        assert {m: set(vars(m)) for m in network.modules()} == before
    assert np.array_equal(sample(), plain)
    slimdiff.remove(pipe)  # nothing to remove


def test_reuse_of_predictions_is_the_pipeline_with_a_network_that_repeats_itself():
    pipe, sample = made('sd15')
    slimdiff.apply(pipe, plan_of(pipe, 'full', 'prediction', 'prediction', 'full', 'full', 'prediction'))
    found = sample()
    slimdiff.remove(pipe)
    original, outputs = pipe.unet.forward, []

    def repeating(*args, **kwargs):
        fresh = len(outputs) in (0, 3, 4)
        outputs.append(original(*args, **kwargs) if fresh else outputs[-1])
        return outputs[-1]

    pipe.unet.forward = repeating
    assert np.array_equal(sample(), found)


def test_extrapolation_is_the_line_through_two_predictions():
    """By hand, in the scheduler's timesteps: 0 and 2 run, 3 and 4 lie on their line, 5 runs."""
    pipe, sample = made('sd15')
    batches = counted(pipe.unet)
    slimdiff.apply(pipe, plan_of(pipe, 'full', 'prediction', 'full', 'extrapolate', 'extrapolate', 'full'))
    found = sample()
    assert len(batches) == 3
    slimdiff.remove(pipe)
    original, outputs = pipe.unet.forward, []

    def extrapolating(x, t, *args, return_dict=True, **kwargs):
        step = len(outputs)
        if step in (0, 2, 5):
            outputs.append((float(t), original(x, t, *args, return_dict=False, **kwargs)[0]))
        elif step == 1:
            outputs.append(outputs[0])
        else:
            (t0, y0), (t1, y1) = outputs[0], outputs[2]
            outputs.append((float(t), y0 + (float(t) - t0) / (t1 - t0) * (y1 - y0)))
        return outputs[-1][1:]

    pipe.unet.forward = extrapolating
    assert np.allclose(sample(), found, atol=1e-5)
    pipe.unet.forward = original
    # With no two predictions the network runs.
    batches.clear()
    slimdiff.apply(pipe, plan_of(pipe, 'full', 'extrapolate', 'extrapolate', *['prediction'] * 3))
    sample()
    assert len(batches) == 2


def test_unguided_steps_are_those_of_a_pipeline_whose_guidance_ends():
    """diffusers' own way to switch guidance off: a callback that changes scale and conditions."""
    pipe, sample = made('sd15')
    plain = sample()

    def off(pipe, step, timestep, values):
        if step == 1:
            pipe._guidance_scale = 1.0
            values['prompt_embeds'] = values['prompt_embeds'].chunk(2)[-1]
        return values

    wanted = sample(callback_on_step_end=off, callback_on_step_end_tensor_inputs=['latents', 'prompt_embeds'])
    batches = counted(pipe.unet)
    slimdiff.apply(pipe, plan_of(pipe, *['full'] * 2, *['unguided'] * 4))
    assert np.allclose(sample(), wanted, atol=1e-6) and not np.allclose(plain, wanted, atol=1e-6)
    assert batches == [4, 4, 2, 2, 2, 2]


def test_another_network_at_every_step_is_its_pipeline():
    pipe, sample = made('sd15')
    other = made('sd15', seed=1)[0].unet
    slimdiff.apply(pipe, plan_of(pipe, *['also'] * STEPS), also=other)
    found = sample()
    slimdiff.remove(pipe)
    pipe.unet = other
    assert np.array_equal(sample(), found)


def test_a_narrower_width_is_the_extracted_network():
    torch.manual_seed(0)
    network = slimdiff.SlimmableUNet(sample_size=8, norm_groups=4, widths=(0.5, 1.0),
                                     stages=[dict(channels=8), dict(channels=16, downsample=False)])
    pipe = slimdiff.SlimDiffusionPipeline(network.eval(), DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    inputs = dict(num_images=2, seed=0, num_inference_steps=STEPS, output_type='latent')
    assert 'width:0.5' in offered(network)
    slimdiff.apply(pipe, plan_of(pipe, *['width:0.5'] * STEPS))
    found = pipe(**inputs).images
    slimdiff.remove(pipe)
    pipe.unet = network.extract(0.5)
    assert torch.equal(pipe(**inputs).images, found)


def test_a_width_is_found_by_its_name_and_follows_the_pipeline():
    widths = (1 / 3, 2 / 3, 1.0)
    unet = SlimmableUNet(widths=widths, sample_size=8, in_channels=1, out_channels=1, norm_groups=3,
                         stages=[dict(channels=12, blocks=1)]).eval()
    pipe = DDPMPipeline(unet, DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    narrow = [name for name in offered(unet) if name.startswith('width')]
    assert len(narrow) == 2
    slimdiff.apply(pipe, plan_of(pipe, 'full', *narrow))
    nn.Module.to(unet, torch.bfloat16)
    x = torch.randn(1, 1, 8, 8, dtype=torch.bfloat16)
    for width, action in zip(widths, unet._slimdiff_engine.policy.actions.values()):
        found = action.run(Call(unet, (x, torch.tensor(5)), {})).sample
        wanted = unet.extract(width)(x, torch.tensor(5)).sample
        assert found.dtype == torch.bfloat16 and torch.equal(found, wanted)
    slimdiff.remove(pipe)


def test_several_images_of_a_prompt():
    pipe, sample = made('sd15')
    batches = counted(pipe.unet)
    slimdiff.apply(pipe, half(pipe, 'prediction'))
    assert sample(num_images_per_prompt=3, count=6).shape[0] == 6 and batches == [12] * 3


@pytest.mark.parametrize('strength, full', [(0.5, [3, 4, 5]), (1.0, [0, 2, 4, 5])])
def test_image_to_image_takes_the_last_steps_of_the_plan(strength, full):
    """Of the 6 steps the last 3 run at a strength of 0.5. The first of them is to reuse, and can't: it runs."""
    pipe, _ = made('sd15')
    inputs = dict(prompt_embeds=torch.randn(1, 3, 8), guidance_scale=1.0, num_inference_steps=STEPS, strength=strength,
                  image=torch.rand(1, 3, 16, 16), output_type='latent')
    pipe = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    told, ran = [], []
    pipe.unet.conv_in.register_forward_hook(lambda *_: ran.append(told[-1]))
    pipe.unet.register_forward_pre_hook(lambda module, args: told.append(len(told)))
    slimdiff.apply(pipe, plan_of(pipe, 'full', 'prediction', 'full', 'prediction', 'full', 'full'))
    pipe(**inputs)
    assert [STEPS - len(told) + call for call in ran] == full


def test_nothing_keeps_a_pipeline_alive():
    """Caches of what a scheduler can do have its class for a key, and that closes over the pipeline."""
    alive = []
    for _ in range(2):
        pipe = made('sd15')[0]
        slimdiff.apply(pipe, half(pipe, 'features:1'))
        kept = copy.deepcopy(pipe.scheduler)
        prepared(pipe.scheduler, STEPS)
        slimdiff.remove(pipe)
        kept.set_timesteps(STEPS)  # a copy of its scheduler is an ordinary one
        alive.append(weakref.ref(pipe.unet))
        del pipe
        gc.collect()
    assert [ref() for ref in alive] == [None, None]


@pytest.mark.parametrize('strength, first', [(0.9, 1), (0.7, 2), (0.5, 3)])
def test_image_to_image_where_a_timestep_is_repeated(strength, first):
    """PNDM takes the second timestep twice, and does not say at which of them it begins."""
    class Watching:
        parts, steps = (), []

        def begin(self, times):
            assert len(times) == 7 and times[1] == times[2]

        def answer(self, step, call):
            self.steps = [*self.steps, step]
            return call.forward(*call.args, **call.kwargs)

        def after(self, step, sample):
            pass

    pipe, policy = made('sd15')[0], Watching()
    pipe = StableDiffusionImg2ImgPipeline(**{**pipe.components, 'scheduler': PNDMScheduler(skip_prk_steps=True)},
                                          requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    Engine(pipe, policy).install()
    pipe(prompt_embeds=torch.randn(1, 3, 8), guidance_scale=1.0, num_inference_steps=6, strength=strength,
         image=torch.rand(1, 3, 16, 16), output_type='latent')
    assert policy.steps == list(range(first, 7))


def test_a_copy_of_the_network_is_refused():
    pipe, _ = made('sd15')
    slimdiff.apply(pipe, half(pipe, 'features:1'))
    with pytest.raises(ValueError, match=r'cannot be copied or pickled with it: call slimdiff\.remove\(pipe\) before'):
        copy.deepcopy(pipe.unet)
    slimdiff.remove(pipe)
    copy.deepcopy(pipe.unet)


def test_a_broken_call_leaves_nothing():
    pipe, sample = made('sd15')
    slimdiff.apply(pipe, half(pipe, 'features:1'))
    wanted = sample()
    x, t, context = torch.randn(4, 4, 8, 8), torch.tensor(500), torch.randn(4, 3, 8)
    with torch.no_grad():
        direct = pipe.unet(x, t, context).sample

    def stop(pipe, step, timestep, values):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(callback_on_step_end=stop)
    with torch.no_grad():
        assert torch.equal(pipe.unet(x, t, context).sample, direct)  # outside of a call it is what it was
    assert np.array_equal(sample(), wanted)


def test_threads_take_turns():
    pipe, sample = made('sd15')
    slimdiff.apply(pipe, half(pipe, 'features:1'))
    embeds = [torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    wanted = [sample(prompt_embeds=value) for value in embeds]
    found = [None] * 3

    def run(i):
        found[i] = sample(prompt_embeds=embeds[i])

    threads = [threading.Thread(target=run, args=(i, )) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted))
    assert not np.array_equal(wanted[0], wanted[1])


@pytest.mark.parametrize('name, action, in_place', [('sd15', 'features:1', False), ('sd3', 'blocks:1', True)])
def test_torch_compile(name, action, in_place):
    torch._dynamo.reset()
    pipe, sample = made(name)
    part, network = denoiser_of(pipe)
    slimdiff.apply(pipe, half(pipe, action))
    wanted = sample()
    slimdiff.remove(pipe)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    if in_place:
        network.compile(backend=backend)
    else:
        setattr(pipe, part, torch.compile(network, backend=backend))
    slimdiff.apply(pipe, half(pipe, action))
    assert np.allclose(sample(), wanted, atol=1e-5)
    compiled = len(graphs)
    assert compiled >= 2  # the full network, and what the other steps run
    assert np.allclose(sample(), wanted, atol=1e-5) and len(graphs) == compiled
    slimdiff.remove(pipe)


def test_a_sampler_that_calls_twice_a_step():
    """Heun's: 2 n - 1 calls, at timesteps that come twice; each has its action."""
    pipe, sample = made('sd15')
    pipe.scheduler = HeunDiscreteScheduler()
    batches = counted(pipe.unet)
    slimdiff.apply(pipe, plan_of(pipe, 'full', 'prediction', 'full', 'prediction', 'prediction'))
    sample(num_inference_steps=3)
    assert batches == [4, 4]


class TwoCalls(DiffusionPipeline):
    """Guidance by two calls of a step, as CogView4 and Qwen-Image have it."""

    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, num_inference_steps):
        self.scheduler.set_timesteps(num_inference_steps)
        x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        for t in self.scheduler.timesteps:
            conditional = self.unet(x, t, torch.ones(1, 3, 8), return_dict=False)[0]
            without = self.unet(x, t, torch.zeros(1, 3, 8), return_dict=False)[0]
            x = self.scheduler.step(without + 3 * (conditional - without), t, x, return_dict=False)[0]
        return x


@pytest.mark.parametrize('action', ['prediction', 'features:1'])
def test_two_calls_of_a_step_have_memories_of_their_own(action):
    """With a network that reads no context both halves are alike, and guidance does nothing."""
    pipe = TwoCalls(made('sd15')[0].unet, DDIMScheduler(clip_sample=False))
    slimdiff.apply(pipe, half(pipe, action))
    differing = pipe(STEPS)
    for block in pipe.unet.modules():
        if hasattr(block, 'attn2'):
            torch.nn.init.zeros_(block.attn2.to_out[0].weight)
            torch.nn.init.zeros_(block.attn2.to_out[0].bias)
    alike = pipe(STEPS)

    slimdiff.remove(pipe)

    class OneCall(TwoCalls):
        def __call__(self, num_inference_steps):
            self.scheduler.set_timesteps(num_inference_steps)
            x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
            for t in self.scheduler.timesteps:
                with torch.no_grad():
                    x = self.scheduler.step(self.unet(x, t, torch.ones(1, 3, 8)).sample, t, x).prev_sample
            return x

    one = OneCall(pipe.unet, pipe.scheduler)
    slimdiff.apply(one, half(one, action))
    assert torch.allclose(one(STEPS), alike, atol=1e-4) and not torch.allclose(differing, alike, atol=1e-4)


def test_a_stochastic_unconditional_pipeline():
    """diffusers' ``UNet2DModel``, and a sampler that draws noise at each step."""
    torch.manual_seed(0)
    network = UNet2DModel(sample_size=8, block_out_channels=(4, 8), norm_num_groups=2, layers_per_block=1,
                          down_block_types=('DownBlock2D', ) * 2, up_block_types=('UpBlock2D', ) * 2)
    pipe = DDPMPipeline(network, DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)

    def sample():
        return pipe(num_inference_steps=STEPS, generator=torch.Generator().manual_seed(0), output_type='np').images

    plain = sample()
    slimdiff.apply(pipe, half(pipe, 'features:1'))
    fast = sample()
    assert np.array_equal(fast, sample()) and not np.array_equal(fast, plain)


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_other_steps_sampler_or_network_are_refused(tmp_path):
    pipe, sample = made('sd15')
    plan = half(pipe, 'prediction')
    slimdiff.apply(pipe, plan)
    with pytest.raises(ValueError, match='is for 6 steps of DDIMScheduler, but this call takes 4'):
        sample(num_inference_steps=4)
    with pytest.raises(ValueError, match=r'already has an allocation: call slimdiff.remove'):
        slimdiff.apply(pipe, plan)
    pipe.scheduler = HeunDiscreteScheduler()
    with pytest.raises(ValueError, match='has another scheduler, HeunDiscreteScheduler'):
        sample()
    slimdiff.remove(pipe)
    with pytest.raises(ValueError, match='for the sampler DDIMScheduler, but the pipeline has HeunDiscreteScheduler'):
        slimdiff.apply(pipe, plan)
    with pytest.raises(ValueError, match=r'for the denoiser UNet2DConditionModel \w+, but the pipeline has SD3'):
        slimdiff.apply(made('sd3')[0], plan)
    with pytest.raises(ValueError, match="can't take the action 'also'.* It needs --also"):
        slimdiff.apply(made('sd15')[0], plan_of(made('sd15')[0], *['also'] * 6))


def test_a_pipeline_without_a_denoiser():
    pipe, _ = made('sd15')
    pipe.unet = None
    with pytest.raises(ValueError, match='StableDiffusionPipeline has no denoiser that can be found.*vae'):
        slimdiff.remove(pipe)


def test_files(tmp_path):
    pipe, _ = made('sd15')
    plan, path = half(pipe, 'features:1'), tmp_path / 'new/allocation.json'
    plan.save(path)
    assert Plan.load(path) == plan and plan.describe().startswith('full, features:1, full')
    slimdiff.apply(pipe, path)
    text = path.read_text()
    for old, new, message in (('"version": 1', '"version": 9', 'version 9 is unknown'),
                              ('"calibrated"', '"other"', 'is no allocation of slimdiff calibrate'),
                              ('"also": null', '"segments": []', 'is an allocation of widths'),
                              ('"actions"', '"acts"', "lacks 'actions'"), ('{', '', 'is damaged'),
                              ('"full"', '"prediction"', 'nothing to reuse yet'), ('"full"', '1', 'a list of names')):
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(ValueError, match=message) as caught:
            Plan.load(path)
        assert str(path) in str(caught.value)
    with pytest.raises(ValueError, match=r'new is a folder: give the allocation\.json in it'):
        slimdiff.apply(made('sd15')[0], path.parent)
    with pytest.raises(OSError, match='missing'):
        Plan.load(tmp_path / 'missing.json')
