"""A network of flow matching goes every way that others go: closed forms where there are, else equality of two ways."""

import json
from types import SimpleNamespace

import pytest
import tiny_distiller as tiny
import torch
from diffusers import DDPMScheduler
from torch import nn
from torch.utils.data import DataLoader

import slimdiff
from slimdiff.evaluation.metrics import BandwiseDenoisingError
from slimdiff.export.folder import export_pipeline, model_of
from slimdiff.export.load import load_pipeline
from slimdiff.models import DiffusionModel, computation
from slimdiff.models.backbones import make_step_aware
from slimdiff.models.distillation import Teacher
from slimdiff.sampling import Run, StepAllocation
from slimdiff.sampling.schedulers import sampler_names

NOISE, EULER = dict(type='FlowMatchEulerDiscreteScheduler'), dict(type='FlowMatchEulerDiscreteScheduler')
FLOW = dict(noise_scheduler=NOISE, sampler=EULER)


class Exact(nn.Module):
    """E[eps - x0 | x_t] of N(0, std^2) data."""

    def __init__(self, std=0.5):
        super().__init__()
        self.std, self.weight = std, nn.Parameter(torch.ones(()))
        self.config = SimpleNamespace(sample_size=8, in_channels=3, out_channels=3)

    def forward(self, sample, timestep):
        s = (torch.as_tensor(timestep).double() / 1000).reshape(-1, 1, 1, 1)
        slope = (s - (1 - s) * self.std**2) / ((1 - s)**2 * self.std**2 + s**2)
        return (slope * sample).to(sample) * self.weight


def flow_model(**settings):
    model = DiffusionModel(unet=tiny.unet(8), **{**FLOW, 'num_steps': 4, **settings})
    return tiny.shake(model, seed=1).eval()


def exact_model():
    model = flow_model(sigma_data=None)
    model.unet = Exact()
    return model


def test_the_loss_of_the_exact_velocity_is_its_closed_form():
    """E|v - E[v|x_t]|^2 = std^2 / ((1-s)^2 std^2 + s^2), of which s runs evenly over [0, 1]."""
    model = exact_model()
    images = 0.5 * torch.randn(4000, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model.seed_step(1)
    s = (torch.arange(10_000).double() + 0.5) / 10_000
    expected = (0.25 / ((1 - s)**2 * 0.25 + s**2)).mean().item()
    assert model(images)['loss'].item() == pytest.approx(expected, rel=0.02)


def test_the_denoising_error_of_the_exact_velocity_is_its_closed_form():
    """eps = x_t + (1 - s) v: of it the error is (1-s)^2 times that of v."""
    data = [dict(inputs=x) for x in 0.5 * torch.randn(200, 3, 8, 8, generator=torch.Generator().manual_seed(0))]
    metric = BandwiseDenoisingError(timestep_edges=(0, 300, 1000))
    found = metric.evaluate(exact_model(), DataLoader(data, batch_size=50))
    for start, stop in ((0, 0.3), (0.3, 1)):
        s = start + (stop - start) * (torch.arange(1000).double() + 0.5) / 1000
        error = ((1 - s)**2 * 0.25 / ((1 - s)**2 * 0.25 + s**2)).mean().item()
        assert found[f'denoise/t{1000 * start:g}-{1000 * stop:g}'] == pytest.approx(error, rel=0.05)


def test_integers_are_no_timesteps_of_a_flow():
    with pytest.raises(ValueError, match=r'real numbers in \[0, 1000\], got torch.int64'):
        flow_model().predict(torch.zeros(2, 3, 8, 8), torch.tensor([1, 2]))


def test_it_learns():
    model = tiny.shake(DiffusionModel(unet=tiny.unet(8), **FLOW), seed=1)
    optimizer = torch.optim.Adam(model.unet.parameters(), lr=3e-3)
    images, losses = torch.randn(16, 3, 1, 1).clamp(-1, 1).expand(16, 3, 8, 8).contiguous(), []
    for step in range(40):
        model.seed_step(step % 4)
        loss = model(images)['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


@pytest.mark.parametrize('name', ['FlowMatchHeunDiscreteScheduler', 'UniPCMultistepScheduler',
                                  'DPMSolverMultistepScheduler', 'DEISMultistepScheduler', 'SASolverScheduler'])
def test_every_sampler_is_one_of_the_model(name):
    assert name in sampler_names('flow_prediction')
    model = exact_model()
    images = model.sample(range(64), scheduler=dict(type=name), num_steps=20)
    assert images.std().item() == pytest.approx(0.48, abs=0.03)  # N(0, .5^2), cut off at +-1


# ---- distillation ----------------------------------------------------------------------------------------


def test_a_flow_teaches_a_flow(tmp_path):
    teacher = flow_model()
    teacher.unet.register_to_config(_computes=computation.of_model(teacher))
    teacher.unet.save_pretrained(tmp_path / 'unet')
    teacher.noise_scheduler.save_pretrained(tmp_path / 'scheduler')
    model = tiny.distiller(tmp_path, noise_scheduler=NOISE, sampler=EULER)
    batch = tiny.batch(model)
    expected = teacher.predict(batch.x_t, batch.t)
    torch.testing.assert_close(model.teacher_outputs(batch)['output'], expected, rtol=1e-4, atol=1e-5)
    model.loss_terms(batch)['denoising'].backward()


@pytest.mark.parametrize('mine, students', [('epsilon', 'flow'), ('v_prediction', 'flow'), ('flow', 'epsilon'),
                                            ('flow', 'sample')])
def test_between_a_flow_and_a_schedule_predictions_are_converted_at_equal_snr(mine, students, tmp_path):
    """The optimal denoiser of N(0, s^2) data under both processes: with sigma_data = s and nothing from the network,
    the output preconditioning is that denoiser."""
    def build(kind, channels):
        settings = FLOW if kind == 'flow' else dict(noise_scheduler=dict(type='DDPMScheduler', prediction_type=kind))
        model = DiffusionModel(unet=tiny.unet(channels), sigma_data=0.5, **settings).eval()
        for parameter in model.unet.parameters():
            nn.init.zeros_(parameter)
        return model

    teacher, student = build(mine, 16), build(students, 8)
    tiny.save_pipeline(teacher, tmp_path)
    frozen = Teacher(str(tmp_path))
    frozen.check_fits(student)
    t = student.noise_process.timesteps(torch.tensor([20.0, 333.0, 700.0, 980.0], dtype=torch.float64))
    x = student.add_noise(0.5 * torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8), t)
    given = frozen(*frozen.own_input(x, t, student))[0]
    found = frozen.convert(given, x, t, student)
    torch.testing.assert_close(found, student.predict(x, t), rtol=1e-3, atol=2e-3)
    end = torch.tensor([1000.0]) if students == 'flow' else torch.tensor([999])
    assert frozen.convert(frozen(*frozen.own_input(x[:1], end, student))[0], x[:1], end, student).isfinite().all()


def test_a_teacher_that_never_saw_noise_is_refused(tmp_path):
    short = DDPMScheduler(num_train_timesteps=100)
    teacher = tiny.teacher_model()
    teacher.unet.register_to_config(preconditioning=None)
    teacher.unet.network.save_pretrained(tmp_path / 'unet')
    short.save_pretrained(tmp_path / 'scheduler')
    with pytest.raises(ValueError, match='noise process: teacher variance_preserving, student rectified_flow. The tea'):
        Teacher(str(tmp_path)).check_fits(flow_model())


# ---- files ----------------------------------------------------------------------------------------


def test_exported_and_opened_it_samples_the_same(tmp_path):
    model = flow_model(sampler=dict(type='UniPCMultistepScheduler', flow_shift=2.0))
    assert export_pipeline(model, tmp_path) == 'SlimDiffusionPipeline'
    pipeline = load_pipeline(tmp_path)
    expected = model.sample([0, 1], seed=3)
    found = pipeline(num_images=2, seed=3, num_inference_steps=4, output_type='pt').images * 2 - 1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(model_of(pipeline).sample([0, 1], seed=3, num_steps=4), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(slimdiff.load(tmp_path)(num_images=2, seed=3, num_inference_steps=4,
                                                       output_type='pt').images * 2 - 1, expected, rtol=0, atol=1e-5)
    pipeline.scheduler = DDPMScheduler()
    with pytest.raises(ValueError, match='DDPMScheduler cannot sample this network .rectified flow'):
        pipeline(num_images=1)


def test_weights_of_the_other_process_are_refused():
    flow, other = flow_model(), tiny.teacher_model()
    with pytest.raises(computation.ComputationError, match='noise process: rectified_flow .checkpoint., variance_pre'):
        computation.check_same(computation.of_model(flow), other, 'flow.pth')


# ---- steps ----------------------------------------------------------------------------------------


def step_aware_model():
    unet = {**tiny.unet(8), 'type': 'SlimmableUNet', 'widths': (0.5, 1.0)}
    return tiny.shake(DiffusionModel(unet=unet, num_steps=4, **FLOW), seed=1).eval()


def test_its_steps_have_their_widths(tmp_path):
    model = step_aware_model()
    full, x = model.unet, torch.randn(2, 3, 8, 8)
    allocation = StepAllocation.from_steps([Run(.5), Run(1.0)], [1000.0, 400.0], process='rectified_flow')
    make_step_aware(model, allocation)
    for t, width in ((1000.0, .5), (900.5, .5), (10.25, 1.0)):
        with torch.no_grad(), full.at(width):
            expected = full(x, torch.tensor(t)).sample
        torch.testing.assert_close(model.predict(x, torch.tensor(t)), expected, rtol=1e-5, atol=1e-6)
    images = model.sample([0, 1])
    export_pipeline(model, tmp_path)
    config = json.loads((tmp_path / 'unet/config.json').read_text())
    assert config['_allocation']['process'] == 'rectified_flow'
    found = load_pipeline(tmp_path)(num_images=2, seed=0, num_inference_steps=4, output_type='pt').images * 2 - 1
    torch.testing.assert_close(found, images, rtol=0, atol=1e-5)


@pytest.mark.parametrize('flow', [True, False])
def test_an_allocation_of_the_other_process_is_refused(flow):
    model = step_aware_model()
    if not flow:
        model = DiffusionModel(unet=dict(tiny.unet(8), type='SlimmableUNet', widths=(.5, 1.)), sigma_data=None)
    process = 'variance_preserving' if flow else 'rectified_flow'
    with pytest.raises(ValueError, match=f'is for the noise process {process}, the model is trained on'):
        make_step_aware(model, StepAllocation.uniform(.5, process=process))
