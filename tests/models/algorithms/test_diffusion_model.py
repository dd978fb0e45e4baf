import pytest
import torch

from slimdiff import SlimmableUNet
from slimdiff.models import DiffusionModel
from slimdiff.models.backbones.protocol import bare
from slimdiff.models.backbones.slimmable.importance import order_channels
from slimdiff.models.serving import serving_config
from slimdiff.registry import MODELS, RegistryError
from tests.models import tiny_distiller as tiny

STAGES = [dict(channels=8, blocks=1), dict(channels=16, blocks=1, heads=2)]


def model(unet=None, noise=None, **kwargs):
    torch.manual_seed(0)
    noise = dict(type='DDPMScheduler', beta_schedule='scaled_linear', beta_start=0.0015, beta_end=0.0195,
                 **(noise or {}))
    m = DiffusionModel(unet=dict(type='UNet', sample_size=8, stages=STAGES, norm_groups=4, **(unet or {})),
                       **{'noise_scheduler': noise, 'num_steps': 4, **kwargs})
    for p in m.unet.parameters():  # zero-initialised layers would hide the network
        torch.nn.init.normal_(p, std=0.1)
    return m.eval()


@pytest.mark.parametrize('kind', ['epsilon', 'sample', 'v_prediction'])
def test_a_perfect_prediction_implies_the_noise_that_was_added(kind):
    m = model(noise=dict(prediction_type=kind))
    x0, noise, t = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8), torch.tensor([5, 100, 500, 990])
    x_t = m.add_noise(x0, noise, t)
    torch.testing.assert_close(m.to_epsilon(m.target(x0, noise, t), x_t, t), noise, rtol=1e-3, atol=1e-3)


def test_v_target_equals_the_scheduler_of_diffusers():
    m = model(noise=dict(prediction_type='v_prediction'))
    x0, noise, t = torch.randn(3, 3, 8, 8), torch.randn(3, 3, 8, 8), torch.tensor([0, 400, 999])
    torch.testing.assert_close(m.target(x0, noise, t), m.noise_scheduler.get_velocity(x0, noise, t))


def test_loss_by_hand():
    m = model(loss_weight=dict(type='MinSNRWeight', gamma=5.0))
    images = torch.randn(4, 3, 8, 8)
    m.seed_step(7)
    loss = m(images)['loss']
    generator = torch.Generator().manual_seed(7)
    t = torch.randint(1000, (4, ), generator=generator)
    torch.rand(4, generator=generator)
    noise = torch.randn(4, 3, 8, 8, generator=generator)
    a = m.noise_process.alphas_cumprod[t].float().view(-1, 1, 1, 1)
    prediction = m.unet(a.sqrt() * images + (1 - a).sqrt() * noise, t).sample
    snr = (a / (1 - a)).flatten()
    weight = snr.clamp(max=5) / snr
    expected = (weight * (prediction - noise).square().mean((1, 2, 3))).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def test_seeded_steps_repeat_and_two_ranks_share_the_draws(monkeypatch):
    m = model(num_classes=3)
    m.seed_step(1)
    whole = m.draw(8, (3, 2, 2))
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr('slimdiff.models.algorithms.draws.get_world_size', lambda: 2)
        monkeypatch.setattr('slimdiff.models.algorithms.draws.get_rank', lambda rank=rank: rank)
        m.seed_step(1)
        parts.append(m.draw(4, (3, 2, 2)))
    for together, first, second in zip(whole, *parts):
        assert torch.equal(together, torch.cat([first, second]))


def test_condition_dropout_trains_the_null_class():
    m = model(num_classes=3, class_dropout=0.5)
    seen = []
    m.unet.class_embedding.register_forward_hook(lambda mod, args, out: seen.append(args[0]))
    for seed in range(40):
        m.seed_step(seed)
        m(torch.zeros(8, 3, 8, 8), torch.ones(8, dtype=torch.long))
    labels = torch.cat(seen)
    assert set(labels.tolist()) == {1, 3}
    assert (labels == 3).float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_it_learns_a_constant_image():
    torch.manual_seed(0)
    m = model().train()
    images = torch.full((16, 3, 8, 8), 0.5)
    optimizer = torch.optim.Adam(m.unet.parameters(), lr=3e-3)

    def validate():
        m.seed_step(10**6)
        with torch.no_grad():
            return m(torch.full((256, 3, 8, 8), 0.5))['loss'].item()

    before = validate()
    for step in range(100):
        m.seed_step(step)
        loss = m(images)['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert validate() < 0.5 * before


def test_prediction_at_the_highest_noise_is_nearly_exact_without_training():
    """DESIGN section 5b: no low-frequency error left at t > 900."""
    noise, t = torch.randn(8, 3, 8, 8), torch.full((8, ), 999)
    error = {}
    for name, sigma in (('bare', None), ('preconditioned', 0.5)):
        m = model(sigma_data=sigma)
        torch.nn.init.zeros_(m.unet.conv_out.weight)
        x_t = m.add_noise(0.5 * torch.randn(8, 3, 8, 8), noise, t)
        error[name] = (m.predict_eps(x_t, t) - noise).square().mean().item()
    assert error['preconditioned'] < 0.01 * error['bare']


@pytest.mark.parametrize('kwargs, error, message', [
    (dict(class_dropout=1.0), ValueError, 'class_dropout'),
    (dict(noise=dict(prediction_type='eps')), ValueError, "'eps'"),
    (dict(sampler=dict(type='DDIMShceduler')), RegistryError, "Did you mean 'DDIMScheduler'"),
    (dict(loss_weight=dict(type='MinSNRWeigth')), RegistryError, "Did you mean 'MinSNRWeight'"),
    (dict(loss_weight=dict(type='MinSNRWeight', gama=3)), RegistryError, "Did you mean 'gamma'"),
    (dict(sigma_data=-1.0), ValueError, 'sigma_data'),
    (dict(unet=dict(num_classes=3)), ValueError, 'unet.num_classes=3, but model.num_classes=None'),
])
def test_bad_configs(kwargs, error, message):
    with pytest.raises(error, match=message):
        model(**kwargs)


def test_bad_labels():
    m = model(num_classes=3)
    with pytest.raises(ValueError, match='batch has no labels'):
        m(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r'0\.\.2 .*got 0\.\.3'):
        m(torch.zeros(2, 3, 8, 8), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r'0\.\.2'):
        m.sample([0], labels=torch.tensor([7]))


def test_a_flow_by_hand():
    m = model(noise_scheduler=dict(type='FlowMatchEulerDiscreteScheduler'), sigma_data=None,
              sampler=dict(type='FlowMatchEulerDiscreteScheduler'))
    images = torch.randn(4, 3, 8, 8)
    m.seed_step(7)
    loss = m(images)['loss']
    generator = torch.Generator().manual_seed(7)
    s = 1 - torch.rand(4, generator=generator)
    torch.rand(4, generator=generator)
    noise = torch.randn(4, 3, 8, 8, generator=generator)
    x_t = (1 - s.view(-1, 1, 1, 1)) * images + s.view(-1, 1, 1, 1) * noise
    expected = (m.unet(x_t, 1000 * s).sample - (noise - images)).square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('kind', ['DiffusionModel', 'Distiller'])
def test_a_network_starts_from_another(kind, tmp_path):
    """Of the same size it is the other one; of half the width it *is* the slice, of which the pruning of supernets has
    the oracle. A served model doesn't look for what it started from."""
    wide = tiny.shake(DiffusionModel(unet=tiny.unet(16), noise_scheduler=tiny.NOISE), seed=1)
    folder = str(tiny.save_pipeline(wide, tmp_path / 'wide'))
    more = dict(teacher=dict(checkpoint=folder), losses=[dict(type='SpatialLoss', tap='output')])
    config = dict(type=kind, noise_scheduler=tiny.NOISE, start_from=folder, **(more if kind == 'Distiller' else {}))
    same = MODELS.build({**config, 'unet': tiny.unet(16)})
    assert all(torch.equal(value, wide.unet.state_dict()[name]) for name, value in same.unet.state_dict().items())
    half = MODELS.build({**config, 'unet': {**tiny.unet(8), 'norm_groups': 2, 'time_channels': 16}})
    supernet = SlimmableUNet(widths=(0.5, 1.0), **{k: v for k, v in bare(wide.unet).config.items() if k[0] != '_'})
    supernet.load_state_dict(bare(wide.unet).state_dict())
    order_channels(supernet, (0.5, 1.0))
    expected, found = supernet.extract(0.5).state_dict(), bare(half.unet).state_dict()
    assert list(expected) == list(found) and all(torch.equal(found[name], expected[name]) for name in found)
    assert 'start_from' not in serving_config({**config, 'unet': tiny.unet(16)})
    with pytest.raises(ValueError, match='sigma_data'):
        MODELS.build({**config, 'unet': tiny.unet(16), 'sigma_data': 1.0})


@pytest.mark.parametrize('settings, message', [
    (dict(timestep_sampling=dict(scheme='logitnormal')), "got scheme='logitnormal'"),
    (dict(loss_weight=dict(type='FourierLoss')), 'timestep_sampling or loss_weight cannot be built: .*positional'),
    (dict(loss_weight=dict(type='SD3Weight')), 'SD3')])
def test_what_weighs_the_timesteps_is_tried_when_the_model_is_built(settings, message):
    with pytest.raises(ValueError, match=message):
        model(**settings)


def test_building_a_model_draws_the_weights_alone():
    """The trial of the timesteps has a generator of its own: weights of a seed stay what they are."""
    one, other = (model(timestep_sampling=dict(shift=shift)).unet.state_dict() for shift in (1.0, 3.0))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
