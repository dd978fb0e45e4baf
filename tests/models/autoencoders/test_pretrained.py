"""Our first stages against diffusers' own encode and decode, called directly."""

import copy

import pytest
import torch
from first_stages import tiny_kl, tiny_vq

from slimdiff.models.autoencoders import KLAutoencoder, VQAutoencoder, pretrained
from slimdiff.registry import MODELS, RegistryError

EXACT = dict(rtol=1e-5, atol=1e-5)


@pytest.fixture
def vq(tmp_path):
    return tiny_vq(tmp_path / 'vq'), VQAutoencoder(str(tmp_path / 'vq'))


@pytest.fixture
def kl(tmp_path):
    return tiny_kl(tmp_path / 'pipeline/vae'), KLAutoencoder(str(tmp_path / 'pipeline'))


def images(n=3, size=16):
    return torch.rand(n, 3, size, size) * 2 - 1


@torch.no_grad()
def test_vq_latents_are_not_quantised_and_not_scaled(vq):
    theirs, ours = vq
    x = images()
    latents = theirs.encode(x).latents
    assert theirs.config.scaling_factor == 0.18215  # what diffusers would have us multiply by
    torch.testing.assert_close(ours.encode(x), latents, **EXACT)
    torch.testing.assert_close(ours.encode_raw(x), latents, **EXACT)
    quantised = theirs.quantize(latents)[0]
    assert not torch.allclose(quantised, latents, atol=1e-2)
    torch.testing.assert_close(ours.decode(latents), theirs.decode(latents).sample, **EXACT)
    torch.testing.assert_close(ours.decode(latents), theirs.decode(quantised, force_not_quantize=True).sample, **EXACT)


@torch.no_grad()
def test_kl_mode_sample_and_scale(kl):
    theirs, ours = kl
    x, noise = images(), torch.randn(3, 4, 8, 8)
    posterior = theirs.encode(x).latent_dist
    torch.testing.assert_close(ours.encode(x), 0.18215 * posterior.mean, **EXACT)
    torch.testing.assert_close(ours.encode(x, noise), 0.18215 * (posterior.mean + posterior.std * noise), **EXACT)
    torch.testing.assert_close(ours.decode(0.18215 * posterior.mean), theirs.decode(posterior.mean).sample, **EXACT)


def test_a_batch_is_decoded_in_parts(vq):
    _, ours = vq
    sizes = []
    latents = torch.randn(5, 3, 8, 8)
    whole = ours.decode(latents)
    ours.network(latents.device).decoder.register_forward_hook(lambda m, args, out: sizes.append(len(args[0])))
    ours.decode_batch = 2
    torch.testing.assert_close(ours.decode(latents), whole, **EXACT)
    assert sizes == [2, 2, 1]


def test_frozen_hidden_and_loaded_late(vq):
    _, ours = vq
    assert not ours.loaded
    ours.fingerprint(), ours.downsampling, ours.latent_channels, ours.scale(torch.ones(1))
    assert not ours.loaded
    with torch.inference_mode():
        ours.encode(images())
    assert ours.loaded
    assert not ours.state_dict() and not list(ours.parameters()) and not list(ours.children())
    network = ours.network(torch.device('cpu'))
    assert not network.training and not any(p.requires_grad or p.is_inference() for p in network.parameters())
    x = images().requires_grad_()
    assert not ours.encode(x).requires_grad
    assert torch.equal(copy.deepcopy(ours).encode(x), ours.encode(x))


def test_loading_draws_nothing_from_the_global_generator(vq):
    _, ours = vq
    x, state = images(), torch.get_rng_state()
    ours.encode(x)
    assert torch.equal(torch.get_rng_state(), state)


def test_autocast_around_it_changes_nothing(vq):
    _, ours = vq
    x = images()
    plain = ours.encode(x)
    with torch.autocast('cpu', torch.bfloat16):
        inside = ours.encode(x)
        picture = ours.decode(plain)
    assert inside.dtype == picture.dtype == torch.float32
    assert torch.equal(inside, plain) and torch.equal(picture, ours.decode(plain))


def test_bf16_only_where_it_pays_and_codes_are_looked_up_in_float32(vq, tmp_path, monkeypatch):
    theirs, exact = vq
    x = images()
    monkeypatch.setattr(pretrained, 'has_bf16_products', lambda device: False)
    slow = VQAutoencoder(str(tmp_path / 'vq'), bf16=True)
    assert torch.equal(slow.encode(x), exact.encode(x))
    monkeypatch.setattr(pretrained, 'has_bf16_products', lambda device: True)
    fast = VQAutoencoder(str(tmp_path / 'vq'), bf16=True)
    latents = fast.encode(x)
    network = fast.network(x.device)
    assert latents.dtype == torch.float32
    assert network.encoder.conv_in.weight.dtype == network.quant_conv.weight.dtype == torch.bfloat16
    assert torch.equal(network.quantize.embedding.weight, theirs.quantize.embedding.weight)
    assert not torch.equal(latents, exact.encode(x))
    torch.testing.assert_close(latents, exact.encode(x), rtol=0.1, atol=0.1)
    torch.testing.assert_close(fast.decode(exact.encode(x)), exact.decode(exact.encode(x)), rtol=0.1, atol=0.1)


@pytest.mark.parametrize('kind, parameters, levels, channels, scale', [
    ('VQAutoencoder', 55_322_782, 4, 3, 1.0), ('KLAutoencoder', 83_653_863, 8, 4, 0.18215)])
def test_default_layouts_are_ldm_s(kind, parameters, levels, channels, scale):
    """Numbers of weights: what latent-diffusion prints for vq-f4, and the known one of kl-f8."""
    stage = MODELS.build(dict(type=kind))
    with torch.device('meta'):
        network = stage.network_class(**stage.config)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert (stage.downsampling, stage.latent_channels, stage.latent_scale) == (levels, channels, scale)
    blocks = [*network.encoder.down_blocks, *network.decoder.up_blocks]
    assert all(not hasattr(block, 'attentions') for block in blocks)
    if kind == 'VQAutoencoder':
        assert tuple(network.quantize.embedding.weight.shape) == (8192, 3)


def test_random_weights_are_the_same_every_time_and_another_architecture():
    layout = dict(block_out_channels=[8, 16, 16], layers_per_block=1, norm_num_groups=4)
    torch.manual_seed(1)
    first = KLAutoencoder(architecture=layout)
    torch.rand(3)
    second = KLAutoencoder(architecture=layout)
    x = images(1, 16)
    assert first.downsampling == 4 and torch.equal(first.encode(x), second.encode(x))
    assert first.fingerprint() == second.fingerprint() != KLAutoencoder().fingerprint()
    with pytest.raises(RegistryError, match="Did you mean 'layers_per_block'"):
        VQAutoencoder(architecture=dict(layer_per_block=1))


def test_scale_of_the_folder(tmp_path):
    tiny_kl(tmp_path, scaling_factor=0.25)
    stage = KLAutoencoder(str(tmp_path), latent_scale=None)
    assert stage.latent_scale == 0.25
    raw = torch.tensor([1.0, -2.0], dtype=torch.float16)
    assert torch.equal(stage.scale(raw), torch.tensor([0.25, -0.5]))


@pytest.mark.parametrize('build, message', [
    (lambda: VQAutoencoder(latent_scale=0), 'latent_scale must be above 0'),
    (lambda: VQAutoencoder(decode_batch=0), 'decode_batch must be at least 1'),
    (lambda: KLAutoencoder(posterior='mean'), "'sample' or 'mode', got 'mean'"),
])
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_sides_must_be_multiples(vq):
    with pytest.raises(ValueError, match='multiples of 2, got 15x16'):
        vq[1].encode(torch.zeros(1, 3, 15, 16))


@torch.no_grad()
@pytest.mark.parametrize('given, mean, std', [
    (dict(shift_factor=0.0609), 0.0609, 1.0),  # Stable Diffusion 3
    (dict(latents_mean=(-1.6, 1.1, 2.4, 0.3), latents_std=(8.4, 5.2, 6.6, 0.5)), (-1.6, 1.1, 2.4, 0.3),
     (8.4, 5.2, 6.6, 0.5)),  # Playground 2.5
])
def test_latents_are_normalised_as_the_checkpoint_says(tmp_path, given, mean, std):
    """By the formulas (z - shift) * scale and (z - mean) * scale / std, here and in an exported pipeline."""
    from slimdiff.export.pipeline import SlimDiffusionPipeline
    network = tiny_kl(tmp_path, **given)
    stage = KLAutoencoder(checkpoint=str(tmp_path), latent_scale=1.5305)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    z = network.encode(images).latent_dist.mean
    mean, std = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (mean, std))
    latents = stage.encode(images)
    torch.testing.assert_close(latents, (z - mean) * 1.5305 / std)
    torch.testing.assert_close(stage.scale(z), latents)
    expected = network.decode(z).sample
    torch.testing.assert_close(stage.decode(latents), expected, rtol=1e-4, atol=1e-5)
    pipeline = SlimDiffusionPipeline(None, None, vae=network, latent_scale=1.5305,
                                     process=dict(schedule=dict(num_train_timesteps=10), prediction_type='epsilon'))
    torch.testing.assert_close(pipeline.decode(latents), expected.clamp(-1, 1), rtol=1e-4, atol=1e-5)
    assert (network.decode(latents / 1.5305).sample - expected).abs().max() > 1e-3  # what was decoded before


def test_channels_of_an_image(vq):
    """A first stage of grey images: its model says so."""
    assert vq[1].image_channels == 3
    grey = dict(type='KLAutoencoder', architecture=dict(in_channels=1, out_channels=1, block_out_channels=(8, 8),
                                                        norm_num_groups=4, layers_per_block=1, latent_channels=2))
    unet = dict(type='UNet', sample_size=8, in_channels=2, out_channels=2, norm_groups=4, stages=[dict(channels=8)])
    model = MODELS.build(dict(type='DiffusionModel', unet=unet, autoencoder=grey, num_steps=1)).eval()
    assert model.image_shape == tuple(model.sample([0]).shape[1:]) == (1, 16, 16)


@torch.no_grad()
def test_a_network_in_half_precision_decodes(vq):
    theirs, _ = vq
    stage = VQAutoencoder.around(theirs.to(torch.bfloat16), 1.0)
    latents = torch.randn(2, theirs.config.latent_channels, 8, 8)
    images = stage.decode(latents)
    assert images.shape[1] == 3 and images.isfinite().all()
    exact = theirs.float().decode(latents.to(torch.bfloat16).float()).sample
    assert (images.float() - exact).abs().mean() < 0.05 * exact.abs().mean()
