"""A step from encoded latents is the step from the images they were encoded from."""

import pytest
import torch
from first_stages import tiny_kl, tiny_vq

from slimdiff.models import DiffusionModel
from slimdiff.models.algorithms import draws
from slimdiff.models.autoencoders import KLAutoencoder, VQAutoencoder
from slimdiff.models.autoencoders.fit import check_latents
from slimdiff.registry import MODELS


def model(autoencoder, channels=3, **changes):
    torch.manual_seed(0)
    built = MODELS.build(dict(
        type='DiffusionModel', autoencoder=autoencoder, num_steps=2,
        unet=dict(type='UNet', sample_size=8, in_channels=channels, out_channels=channels, norm_groups=4,
                  stages=[dict(channels=8, blocks=1), dict(channels=16, blocks=1)]), **changes))
    for p in built.unet.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return built


@pytest.fixture
def vq(tmp_path):
    tiny_vq(tmp_path / 'vq')
    return model(dict(type='VQAutoencoder', checkpoint=str(tmp_path / 'vq'), latent_scale=0.5))


def gradients(network, **batch):
    network.seed_step(11)
    network.zero_grad()
    loss = network(**batch)['loss']
    loss.backward()
    return loss, [p.grad.clone() for p in network.unet.parameters()]


def test_a_step_from_latents_is_that_from_images(vq):
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    loss, expected = gradients(vq, inputs=images)
    other, found = gradients(vq, latents=vq.autoencoder.encode_raw(images))
    assert torch.equal(loss, other) and all(torch.equal(a, b) for a, b in zip(expected, found))
    x0 = vq.noised_batch(latents=torch.full((2, 3, 8, 8), 3.0, dtype=torch.float16)).x0
    assert x0.dtype == torch.float32 and torch.equal(x0, torch.full((2, 3, 8, 8), 1.5))


def test_a_step_never_loads_the_first_stage(vq):
    gradients(vq, latents=torch.randn(2, 3, 8, 8))
    assert not vq.autoencoder.loaded
    assert vq.sample([0]).shape == (1, 3, 16, 16) and vq.autoencoder.loaded


def test_the_first_stage_is_in_no_state_dict(vq):
    names = set(vq.state_dict())
    vq.sample([0])
    assert set(vq.state_dict()) == names and all(name.startswith('unet.') for name in names)
    assert len(list(vq.parameters())) == len(list(vq.unet.parameters()))


def test_bad_batches(vq):
    latents, images = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 16, 16)
    with pytest.raises(ValueError, match='this one has both'):
        vq(inputs=images, latents=latents)
    with pytest.raises(ValueError, match='this one has neither'):
        vq(labels=torch.zeros(2))
    for wrong in (latents[:, :2], latents[..., :4]):
        with pytest.raises(ValueError, match=r'the data has .* x .* UNet takes 3 x 8 x 8 .* at 16 pixels'):
            vq(latents=wrong)


def test_kl_draws_are_seeded_and_shared_by_ranks_and_absent_in_evaluation(tmp_path, monkeypatch):
    kl = tiny_kl(tmp_path / 'kl')
    m = model(dict(type='KLAutoencoder', checkpoint=str(tmp_path / 'kl')), channels=4)
    images = torch.rand(4, 3, 16, 16) * 2 - 1

    def encoded(part):
        m.seed_step(3)
        return m.encode(part)

    whole = encoded(images)
    posterior = kl.encode(images).latent_dist
    noise = (whole / 0.18215 - posterior.mean) / posterior.std
    expected = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(3 + 2**32))
    torch.testing.assert_close(noise, expected, rtol=1e-3, atol=1e-3)
    for rank in (0, 1):
        monkeypatch.setattr(draws, 'get_world_size', lambda: 2)
        monkeypatch.setattr(draws, 'get_rank', lambda rank=rank: rank)
        part = slice(2 * rank, 2 * rank + 2)
        torch.testing.assert_close(encoded(images[part]), whole[part], rtol=1e-4, atol=1e-5)
    m.eval()
    torch.testing.assert_close(m.encode(images), 0.18215 * posterior.mean, rtol=1e-4, atol=1e-5)
    assert DiffusionModel.encode is type(m).encode


# ---- latents of another first stage -------------------------------------------------------------------------------


def described(autoencoder, std=0.8, **changes):
    about = dict(type=type(autoencoder).__name__, fingerprint=autoencoder.fingerprint(), source='checkpoints/mine',
                 latent_scale=0.5, downsampling=2)
    return dict(autoencoder={**about, **changes}, shape=[3, 8, 8], data_root='data/latents',
                statistics=dict(std=std, implied_scale=1 / std))


def test_latents_of_this_first_stage_are_accepted(vq):
    vq.check_data(dict(latents=described(vq.autoencoder)), decodes=True)
    vq.check_data({})
    assert not vq.autoencoder.loaded


def test_latents_of_another_first_stage_are_refused(vq, tmp_path):
    info = described(vq.autoencoder, fingerprint='0123')
    with pytest.raises(ValueError, match=r'data/latents are of another first stage .*checkpoints/mine \(fingerprint '
                                         r'0123\), and not .*vq'):
        vq.check_data(dict(latents=info))
    with pytest.raises(ValueError, match='are of a KLAutoencoder .*, but model.autoencoder of the config is a VQ'):
        vq.check_data(dict(latents=described(vq.autoencoder, type='KLAutoencoder')))
    with pytest.raises(ValueError, match='the UNet takes 3 x 8 x 8'):
        vq.check_data(dict(latents={**described(vq.autoencoder), 'shape': [3, 16, 16]}))


@pytest.mark.parametrize('scale, fits', [(0.5, True), (1.25, True), (1.245, True), (1.0, False), (0.18215, False)])
def test_the_scale_is_that_of_the_encoding_or_one_over_the_standard_deviation(tmp_path, scale, fits):
    tiny_vq(tmp_path)
    stage = VQAutoencoder(str(tmp_path), latent_scale=scale)
    if fits:
        check_latents(stage, described(stage))
    else:
        with pytest.raises(ValueError, match=rf'latent_scale is {scale:g}, but .* encoded for 0\.5; .*0\.8, .*1\.25'):
            check_latents(stage, described(stage))


def test_a_first_stage_that_is_not_here_cannot_be_compared(tmp_path, capsys):
    tiny_kl(tmp_path / 'here')
    info = described(KLAutoencoder(str(tmp_path / 'here')))
    absent = model(dict(type='KLAutoencoder', checkpoint=str(tmp_path / 'gone'), latent_scale=0.5), channels=3)
    absent.check_data(dict(latents=info))
    with pytest.raises(ValueError, match='is not there'):
        absent.check_data(dict(latents=info), decodes=True)
    with pytest.raises(ValueError, match='is not there'):
        absent.check_data({})


def test_pixels_as_latents():
    pixels = model(dict(type='IdentityAutoencoder'))
    info = dict(autoencoder=dict(type='IdentityAutoencoder', fingerprint='identity', latent_scale=1.0, source='-'),
                shape=[3, 8, 8], statistics=dict(std=0.5, implied_scale=2.0))
    pixels.check_data(dict(latents=info))
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(gradients(pixels, inputs=images)[0], gradients(pixels, latents=images)[0])
