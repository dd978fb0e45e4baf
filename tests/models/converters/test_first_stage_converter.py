"""CompVis' first stages in diffusers' classes: the same latents and images."""

import compvis_files as files
import pytest
import reference_compvis as reference
import torch
from diffusers import AutoencoderKL, VQModel

from slimdiff.checkpoint import CheckpointError
from slimdiff.models.converters import convert_first_stage, recognise


def converted(network, prefix='first_stage_model.', scale=None, **more):
    state = {f'{prefix}{k}': v for k, v in network.state_dict().items()}
    if prefix:
        state['model.diffusion_model.out.2.bias'] = torch.zeros(3)
    return convert_first_stage(recognise(state | more, 'x.ckpt'), scale)


@torch.no_grad()
@pytest.mark.parametrize('kind, prefix', [('vq', 'first_stage_model.'), ('kl', 'first_stage_model.'), ('vq', ''),
                                          ('kl', '')])
def test_equal_latents_and_images(kind, prefix):
    network = files.small_first_stage(kind)
    ours, groups = converted(network, prefix)
    x = torch.randn(2, 3, 32, 32)
    expected = network.encode(x)
    latents = ours.encode(x)
    if kind == 'vq':
        assert isinstance(ours, VQModel) and ours.config.scaling_factor == 1.0
        latents = latents.latents
        codes = network.quantize.embedding.weight
        chosen = torch.cdist(expected.permute(0, 2, 3, 1).reshape(-1, 3), codes).argmin(1)
        assert len(chosen.unique()) > 5  # so that the quantiser is tried
    else:
        assert isinstance(ours, AutoencoderKL) and ours.config.scaling_factor == 0.18215
        latents = latents.latent_dist.parameters
    assert expected.std() > 0.1
    torch.testing.assert_close(latents, expected, rtol=1e-5, atol=1e-5)
    z = expected[:, :3] if kind == 'vq' else expected[:, :4]
    image = network.decode(z)
    assert image.std() > 0.1
    assert (ours.decode(z).sample - image).abs().max() < 1e-5 * max(1, image.std())
    assert groups == ({'diffusion model': 1} if prefix else {})
    # What is left is rounding: in float64 it is gone.
    torch.testing.assert_close(ours.double().decode(z.double()).sample, network.double().decode(z.double()),
                               rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_without_attention():
    """As in LDM's vq-f4-noattn: the middle has none either."""
    spec = dict(base=32, mult=(1, 2, 2), z=3, codes=50, blocks=1, middle_attention=False)
    network = files.randomise(reference.FirstStage(**spec), 0)
    ours, _ = converted(network, '')
    assert not any('attn' in name or 'attentions' in name for name in ours.state_dict())
    x = torch.randn(1, 3, 32, 32)
    z = network.encode(x)
    torch.testing.assert_close(ours.encode(x).latents, z, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.decode(z).sample, network.decode(z), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_attention_between_the_blocks():
    """As in LDM's vq-f8 and kl-f16."""
    network = files.randomise(reference.FirstStage(base=32, mult=(1, 2), z=4, blocks=1, attention=(1, )), 0)
    ours, _ = converted(network, '')
    assert ours.config.down_block_types == ('DownEncoderBlock2D', 'AttnDownEncoderBlock2D')
    assert ours.config.up_block_types == ('AttnUpDecoderBlock2D', 'UpDecoderBlock2D')
    x = torch.randn(1, 3, 16, 16)
    z = network.encode(x)
    torch.testing.assert_close(ours.encode(x).latent_dist.parameters, z, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.decode(z[:, :4]).sample, network.decode(z[:, :4]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('spec, parameters, channels', [
    (reference.VQ_F4, 55.3, (128, 256, 512)), (reference.KL_F8, 83.7, (128, 256, 512, 512))], ids=['vq-f4', 'kl-f8'])
def test_full_size(spec, parameters, channels):
    """On the meta device: every key has a place."""
    with torch.device('meta'):
        state = reference.FirstStage(**spec).state_dict()
    ours, _ = convert_first_stage(recognise(state, 'x.ckpt'))
    assert ours.config.block_out_channels == channels and ours.config.layers_per_block == 2
    assert round(sum(p.numel() for p in ours.parameters()) / 1e6, 1) == parameters


def test_the_layout_is_that_of_our_autoencoders():
    from slimdiff.models.autoencoders import KLAutoencoder, VQAutoencoder
    for spec, ours in ((reference.VQ_F4, VQAutoencoder), (reference.KL_F8, KLAutoencoder)):
        with torch.device('meta'):
            state = reference.FirstStage(**spec).state_dict()
        network, _ = convert_first_stage(recognise(state, 'x.ckpt'))
        assert {key: network.config[key] for key in ours.layout} == ours.layout


def test_latent_scale():
    network = files.small_first_stage('kl')
    measured = {'scale_factor': torch.tensor(0.2277)}
    assert converted(network, **measured)[0].config.scaling_factor == pytest.approx(0.2277)
    assert converted(network, scale=0.5, **measured)[0].config.scaling_factor == 0.5
    assert converted(files.small_first_stage('vq'), scale=2.0)[0].config.scaling_factor == 2.0


@pytest.mark.parametrize('change, message', [
    (lambda s: s.pop('decoder.mid.attn_1.k.bias'), r'the file lacks: decoder\.mid_block\.attentions\.0\.to_k\.bias'),
    (lambda s: s.update({'encoder.extra.weight': torch.zeros(1)}), r'only the file has: encoder\.extra\.weight'),
    (lambda s: s.update({'colorize': torch.zeros(1)}), r'only the file has: colorize'),
    (lambda s: s.update({'encoder.conv_out.bias': torch.zeros(1)}), r'conv_out\.bias \(1,\) instead of \(3,\)'),
    (lambda s: s.pop('encoder.down.1.block.0.conv1.weight'), 'is missing or odd'),
])
def test_other_first_stages_are_refused(change, message):
    state = dict(files.small_first_stage('vq').state_dict())
    change(state)
    with pytest.raises(CheckpointError, match=message):
        convert_first_stage(recognise(state, 'x.ckpt'))


def test_the_training_loss_is_left_out():
    more = {'loss.discriminator.main.0.weight': torch.zeros(1), 'model_ema.decay': torch.zeros(1)}
    assert converted(files.small_first_stage('vq'), '', **more)[1] == {'training loss': 1, 'average': 1}


def test_a_file_without_one():
    state = {'model.diffusion_model.out.2.bias': torch.zeros(3)}
    with pytest.raises(CheckpointError, match='holds no first stage'):
        convert_first_stage(recognise(state, 'x.ckpt'))
