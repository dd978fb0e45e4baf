"""What a calibration measures, on a tiny pipeline whose answers can be computed by hand; the command; kills."""

import dataclasses
import json
import os
import signal
import time

import numpy as np
import pytest
import torch
from tiny_pipelines import STEPS, made
from torch import nn

import slimdiff
from slimdiff.calibration import Plan
from slimdiff.calibration.frontier import additive_error
from slimdiff.calibration.inputs import call_of
from slimdiff.calibration.measure import Recording, Replay, distance, growth_of, places, sampled, sensitivities
from slimdiff.calibration.plan import FULL, denoiser_of
from slimdiff.calibration.run import Calibration
from slimdiff.calibration.settings import settings_of
from slimdiff.cli.calibrate import main
from slimdiff.evaluation.cost import count_cost
from slimdiff.progress import Progress
from slimdiff.registry import MODELS


def calibration_of(name, folder, **options):
    pipe, _ = made(name)
    embeds = dict(prompt_embeds=torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)),
                  negative_prompt_embeds=torch.zeros(2, 3, 8))

    def inputs():
        return dict(embeds, guidance_scale=3.0, num_inference_steps=STEPS, output_type='latent',
                    generator=[torch.Generator().manual_seed(i) for i in range(2)])

    return Calibration(pipe, inputs, folder, dict(steps=STEPS), 3.0, **{'ages': 2, **options})


def recorded(calibration):
    policy = Recording(calibration.actions, calibration.ages, calibration.weight)
    final = sampled(calibration.pipe, policy, calibration.inputs)
    return policy, final


def test_a_recording_is_the_plain_sampling(tmp_path):
    calibration = calibration_of('sd15', tmp_path)
    with torch.no_grad():
        plain = calibration.pipe(**calibration.inputs()).images
    policy, final = recorded(calibration)
    assert torch.equal(final, plain)
    table = policy.table()
    # The local error of reusing the prediction of one or two steps ago is the distance of recorded predictions, guided.
    guided = [u + 3 * (c - u) for u, c in (p[0].chunk(2) for p in table['predictions'])]
    row = 1 + list(calibration.actions).index('prediction')
    for step in range(2, STEPS):
        for age in (1, 2):
            wanted = distance(guided[step], guided[step - age])
            assert float(table['errors'][row, step, age - 1]) == pytest.approx(wanted, rel=1e-4)
    # There is no guidance to switch off before the first step has told how many images there are.
    row = 1 + list(calibration.actions).index('unguided')
    assert torch.isinf(table['errors'][row, 0]).all() and torch.isfinite(table['errors'][row, 1:]).all()


def test_costs_are_macs_of_an_image(tmp_path):
    calibration = calibration_of('sd15', tmp_path)
    policy, _ = recorded(calibration)
    unet = calibration.network
    cost = count_cost(unet, torch.zeros(2, 4, 8, 8), torch.tensor(5), torch.zeros(2, 3, 8)).macs_with_attention
    assert policy.macs['full'] == pytest.approx(cost, rel=1e-6)  # two halves of guidance
    assert policy.macs['unguided'] == pytest.approx(cost / 2, rel=1e-2)
    assert policy.macs['prediction'] == 0
    assert 0 < policy.macs['features:1'] < policy.macs['features:2'] < cost


@pytest.mark.parametrize('steps', [1, 2])
def test_few_steps_are_counted_and_timed(tmp_path, steps):
    calibration = calibration_of('sd15', tmp_path, actions=['prediction', 'features:1'])
    policy = Recording(calibration.actions, 2, 3.0)
    sampled(calibration.pipe, policy, lambda: dict(calibration.inputs(), num_inference_steps=steps))
    table = policy.table()
    tried = 3 if steps > 1 else 1  # of one step nothing is left to reuse
    assert torch.isfinite(table['seconds'][:tried]).all() and table['macs'][0] > 0

@pytest.mark.parametrize('action', ['prediction', 'features:1', 'unguided'])
def test_a_probe_is_a_plan_with_one_other_step(tmp_path, action):
    """Replayed predictions change nothing: the result is that of the plan, with fewer calls."""
    calibration = calibration_of('sd15', tmp_path)
    recording, full = recorded(calibration)
    table = recording.table()
    calls = []
    calibration.network.conv_in.register_forward_hook(lambda *_: calls.append(1))
    for step, length in ((3, 1), (2, 3), (5, 1)):
        calls.clear()
        probe = Replay(table['predictions'], 0, action, calibration.actions[action], step, length)
        found = sampled(calibration.pipe, probe, calibration.inputs)
        replayed = len(calls)
        steps = [FULL] * STEPS
        steps[step:step + length] = [action] * length
        slimdiff.apply(calibration.pipe, calibration.plan_of(steps))
        with torch.no_grad():
            wanted = calibration.pipe(**calibration.inputs()).images
        slimdiff.remove(calibration.pipe)
        assert torch.allclose(found, wanted, atol=1e-6) and not torch.equal(found, full)
        assert replayed == STEPS - step - (length if action == 'prediction' else 0) + (action == 'features:1')


def test_arithmetic_of_gains():
    errors = np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 4.0]])
    found = sensitivities(errors, {0: 1.0, 2: 4.0}, growth=0.5)
    assert found == pytest.approx(np.array([[1, 3], [2, 6], [8, 24]]))  # the gain between is the geometric mean, 2
    # 1 + 2 (1 + s) + 3 (1 + 2 s) = 14 at s = 1; the median of 1, 0 and 9 is 1.
    assert growth_of([(14, [1, 2, 3]), (6, [1, 2, 3]), (78, [1, 2, 3])]) == pytest.approx(1)
    assert growth_of([]) == 0 and growth_of([(1, [1, 2, 3])]) == 0
    assert places(3, 0, 9) == [0, 4, 8] and places(8, 3, 5) == [3, 4] and places(2, 4, 5) == [4]


@pytest.mark.parametrize('name', ['sd15', 'sd3'])
def test_a_calibration(tmp_path, name):
    calibration = calibration_of(name, tmp_path)
    if name == 'sd3':
        plain, pooled = calibration.inputs, torch.zeros(2, 8)
        calibration.inputs = lambda: dict(plain(), pooled_prompt_embeds=pooled, negative_pooled_prompt_embeds=pooled,
                                          height=16, width=16)
    outcome = calibration.run(0.6, finalists=6)
    assert outcome.runs <= 30 and outcome.plan.actions[0] == 'full'
    assert outcome.finalists == tuple(sorted(outcome.finalists, key=lambda f: f.divergence))
    reference = calibration.final
    for finalist in outcome.finalists:
        assert finalist.cost <= 0.6 * outcome.full_cost * (1 + 1e-9)
        assert finalist.predicted == pytest.approx(additive_error(finalist.actions, outcome.options, 9))
        slimdiff.apply(calibration.pipe, calibration.plan_of(finalist.actions))
        with torch.no_grad():
            assert distance(calibration.pipe(**calibration.inputs()).images, reference) == pytest.approx(
                finalist.divergence)
        slimdiff.remove(calibration.pipe)


def test_a_calibration_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    wanted = calibration_of('sd15', tmp_path / 'whole').run(0.6, finalists=4)
    count = [0]
    step = Replay.answer

    def stops(self, *args):
        count[0] += 1
        if count[0] == 20:
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(Replay, 'answer', stops)
    with pytest.raises(KeyboardInterrupt):
        calibration_of('sd15', tmp_path / 'parts').run(0.6, finalists=4)
    again = calibration_of('sd15', tmp_path / 'parts')
    calls = []
    again.network.conv_in.register_forward_hook(lambda *_: calls.append(1))
    found = again.run(0.6, finalists=4)
    assert found.plan == wanted.plan and found.runs == pytest.approx(wanted.runs)
    assert [f.divergence for f in found.finalists] == [f.divergence for f in wanted.finalists]
    calls.clear()
    third = calibration_of('sd15', tmp_path / 'parts')
    third.network.conv_in.register_forward_hook(lambda *_: calls.append(1))
    assert third.run(0.6, finalists=4).plan == wanted.plan and not calls
    # Other weights are another network: nothing is found.
    nn.init.zeros_(third.network.conv_out.weight)
    other = Calibration(third.pipe, third.inputs, tmp_path / 'parts', dict(steps=STEPS), 3.0, ages=2)
    other.run(0.6, finalists=1)
    assert calls


def test_measurements_are_kept_by_all_networks_of_the_pipeline_and_by_device(tmp_path, monkeypatch):
    first = calibration_of('sd15', tmp_path)
    assert calibration_of('sd15', tmp_path).key == first.key
    nn.init.zeros_(first.pipe.vae.decoder.conv_out.weight)  # as another text encoder or ControlNet would
    assert Calibration(first.pipe, first.inputs, tmp_path, dict(steps=STEPS), 3.0, ages=2).key != first.key
    calls = []
    for names, count in ((['one'], STEPS), (['one'], 0), (['another'], STEPS)):
        monkeypatch.setattr(slimdiff.calibration.run, 'cpu_name', names.pop)
        calibration = calibration_of('sd15', tmp_path, actions=['prediction'])
        calibration.network.conv_in.register_forward_hook(lambda *_: calls.append(1))
        with Progress(None, '') as bar:
            calibration.record(bar)
        assert len(calls) == count
        calls.clear()


@pytest.mark.parametrize('second', [lambda x: x[:1], None])
def test_a_pipeline_whose_calls_differ_from_step_to_step(tmp_path, second):
    """A second call at two of the steps, or one of another batch at all of them."""
    calibration = calibration_of('sd15', tmp_path, actions=['prediction'])
    original, count = calibration.pipe.scheduler.scale_model_input, [0]

    def scale(x, t):
        count[0] += 1
        if second is not None or count[0] in (1, 2):
            both = (second or (lambda x: x))(x)
            calibration.pipe.unet(both, t, encoder_hidden_states=torch.zeros(len(both), 3, 8))
        return original(x, t)

    calibration.pipe.scheduler.scale_model_input = scale
    with pytest.raises(ValueError, match=r'calls its denoiser with \(\d, 4, 8, 8\), .*at step [02], counted from 0'):
        calibration.run(0.6)
    assert count[0] == (1 if second is not None else 3)  # at once


def test_a_budget_that_no_plan_meets(tmp_path):
    with pytest.raises(ValueError, match=r'no plan costs so little. The cheapest costs 0.\d+ of the full'):
        calibration_of('sd15', tmp_path).run(0.05)


def test_settings_of_other_libraries():
    unet, sd3 = denoiser_of(made('sd15')[0])[1], denoiser_of(made('sd3')[0])[1]
    even = ('full', 'features:1', 'features:1') * 2
    assert settings_of(even, unet) == {'DeepCache': dict(
        DeepCacheSDHelper=dict(cache_interval=3), exact=True, note='DeepCache runs the full network at equal intervals.'
    )}
    assert not settings_of(even[:5] + ('full', ), unet)['DeepCache']['exact']
    found = settings_of(('full', 'full', 'blocks:1', 'full', 'blocks:1', 'blocks:1'), sd3)
    assert found['cache-dit']['exact'] and found['cache-dit']['DBCacheConfig'] == dict(
        num_inference_steps=6, steps_computation_mask=[1, 1, 0, 1, 0, 0], steps_computation_policy='static',
        Fn_compute_blocks=1, Bn_compute_blocks=0)
    # diffusers takes what is written for it.
    from diffusers import MagCacheConfig, TaylorSeerCacheConfig
    values = found['diffusers']
    config = MagCacheConfig(**values['MagCacheConfig'], mag_ratios=[1.0] * 6)
    assert (config.max_skip_steps, config.retention_ratio) == (2, pytest.approx(1 / 3, abs=1e-4))
    assert TaylorSeerCacheConfig(**values['TaylorSeerCacheConfig']).disable_cache_before_step == 2


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A tiny class-conditional pipeline of ours, exported."""
    from slimdiff.export.folder import export_pipeline
    torch.manual_seed(0)
    stages = [dict(channels=8), dict(channels=16, downsample=False)]
    unet = dict(type='UNet', sample_size=8, norm_groups=4, stages=stages)
    model = MODELS.build(dict(type='DiffusionModel', unet=unet, num_classes=10, num_steps=8)).eval()
    for parameter in model.unet.parameters():
        nn.init.normal_(parameter, std=0.15)
    path = tmp_path_factory.mktemp('pipeline')
    export_pipeline(model, path)
    return path


def run(folder, out, *more):
    return main([str(folder), '--out', str(out), '--images', '2', '--guidance', '2', '--ages', '2', '--finalists', '3',
                 *more])


def test_the_command(folder, tmp_path, capsys):
    assert run(folder, tmp_path, '--labels', '1', '2') == 0
    text = capsys.readouterr().out
    assert 'rank correlation of predicted error and divergence' in text and 'slimdiff.apply(pipe, ' in text
    plan = Plan.load(tmp_path / 'allocation.json')
    assert len(plan.actions) == 8
    pipe = slimdiff.load(folder, 'cpu')
    pipe.set_progress_bar_config(disable=True)
    inputs = dict(labels=[1, 2], seed=0, guidance_scale=2.0, output_type='latent')
    full = pipe(**inputs).images
    slimdiff.apply(pipe, tmp_path / 'allocation.json')
    divergence = distance(pipe(**inputs).images, full)
    assert f'{divergence:.4g}' in text  # the table's number is what the pipeline does
    assert json.loads((tmp_path / 'settings.json').read_text()) == {}
    page = (tmp_path / 'report.html').read_text()
    assert page.count('<rect') == 8 and 'data:image/png' in page and f'{divergence:.4g}' in page


def test_an_allocation_of_another_network_stays(folder, tmp_path, capsys):
    assert run(folder, tmp_path) == 0 and run(folder, tmp_path, '--budget', '0.7') == 0
    path = tmp_path / 'allocation.json'
    plan = dataclasses.replace(Plan.load(path), denoiser='UNet of another')
    plan.save(path)
    capsys.readouterr()
    assert run(folder, tmp_path) == 2
    assert 'is for another network or sampler than that of' in capsys.readouterr().err
    assert Plan.load(path) == plan


def test_a_misspelt_name_gets_a_suggestion(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    assert run('ldm/fashion_mnits', tmp_path / 'out') == 2
    assert "Did you mean 'ldm/fashion_mnist'?" in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_ctrl_c_says_how_to_go_on(folder, tmp_path, capsys, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr('slimdiff.calibration.run.Calibration.record', stop)
    assert run(folder, tmp_path) == 130
    assert 'Run the same command to continue.' in capsys.readouterr().err


def test_by_measured_time(folder, tmp_path, capsys):
    assert run(folder, tmp_path, '--by', 'ms', '--budget', '0.7') == 0
    assert ' ms ' in capsys.readouterr().out


def test_a_killed_command_goes_on(folder, tmp_path, capsys):
    """SIGKILL, at a moment when some measurements are kept."""
    child = os.fork()
    if not child:
        run(folder, tmp_path, '--steps', '30')
        os._exit(0)
    store, end = tmp_path / 'measurements.sqlite', time.monotonic() + 60
    while time.monotonic() < end and not (store.exists() and store.stat().st_size):
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not (tmp_path / 'allocation.json').exists()
    assert run(folder, tmp_path, '--steps', '30') == 0
    assert len(Plan.load(tmp_path / 'allocation.json').actions) == 30


@pytest.mark.parametrize('more, message', [
    (['--labels', '1'], '1 labels are too few for 2 images'),
    (['--labels', '1', '10'], 'must lie in 0..9, got 10'),
    (['--size', '16', '16'], 'has a size of its own'),
    (['--actions', 'featurs'], "Did you mean 'features'"),
    (['--budget', '0.01'], 'no plan costs so little'),
    (['--also', 'nowhere'], "'nowhere' is not a file, a folder or a model"),
])
def test_bad_input(folder, tmp_path, capsys, more, message):
    assert run(folder, tmp_path, *more) == 2
    assert message in capsys.readouterr().err


def test_prompts(folder, tmp_path, capsys):
    file = tmp_path / 'prompts.txt'
    file.write_text('a shoe\n\n')
    assert run(folder, tmp_path, '--prompts', str(file)) == 2
    assert '--prompts: SlimDiffusionPipeline takes none' in capsys.readouterr().err
    file.write_text('\n')
    assert run(folder, tmp_path, '--prompts', str(file)) == 2
    assert 'holds no prompt' in capsys.readouterr().err
    pipe, _ = made('sd15')
    pipe.tokenizer = object()
    with pytest.raises(ValueError, match='2 prompts are too few for 3 images'):
        call_of(pipe, 3, prompts=['a', 'b'])
    given, identity, weight = call_of(pipe, prompts=['a', 'b'], seed=5)
    arguments = given()
    assert (arguments['prompt'], identity['images'], weight) == (['a', 'b'], 2, 7.5)
    assert arguments['num_inference_steps'] == 50 and len(arguments['generator']) == 2
    assert torch.equal(*(torch.randn(3, generator=given()['generator'][1]) for _ in range(2)))
