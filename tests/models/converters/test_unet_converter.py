"""CompVis' UNets in ours: the same output, every weight accounted for."""

import compvis_files as files
import pytest
import reference_compvis as reference
import torch

from slimdiff.checkpoint import CheckpointError
from slimdiff.models.converters import compare, convert_unet, empty_unet, recognise, unet_sources
from slimdiff.models.converters.compvis import average_name
from slimdiff.models.converters.unet import split_heads


def convert(name, state, weights='model'):
    config = files.model_config(name, files.SMALL[name])
    return convert_unet(recognise(state, 'x.ckpt'), empty_unet(config), weights)


def built(name, state, weights='model'):
    """Our network with the converted weights."""
    unet = empty_unet(files.model_config(name, files.SMALL[name]))
    unet.load_state_dict(convert(name, state, weights)[0], strict=True, assign=True)
    return unet.eval()


def small_state(name, average=True):
    trained = files.build_reference(name, 1)
    averaged = files.build_reference(name, 2) if average else None
    return reference.lightning(trained, None, reference.noise_schedule(*files.SCHEDULES[name]), files.condition(name),
                               averaged), trained, averaged


@torch.no_grad()
@pytest.mark.parametrize('name', ['ffhq', 'lsun_church', 'imagenet', 'txt2img'])
def test_equal_outputs(name):
    """celebahq and lsun_bedroom are ffhq's network."""
    state, trained, averaged = small_state(name)
    x, t = torch.randn(2, files.SMALL[name].get('channels', 3), 16, 16), torch.tensor([3, 877])
    outputs = []
    for weights, network in (('model', trained), ('ema', averaged)):
        unet = built(name, state, weights)
        if name == 'imagenet':
            labels = torch.tensor([4, files.CLASSES])  # a class, and the null class
            table = state['cond_stage_model.embedding.weight']
            ours = unet(x, t, class_labels=labels).sample
            expected = network(x, t, table[labels][:, None])
        elif name == 'txt2img':
            context = torch.randn(2, 5, 24)
            ours = unet(x, t, encoder_hidden_states=context).sample
            expected = network(x, t, context)
        else:
            ours, expected = unet(x, t).sample, network(x, t)
        assert 0.3 < expected.std() < 30
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
        outputs.append(ours)
    assert (outputs[0] - outputs[1]).abs().max() > 0.1
    # Every part of the input matters, so that nothing was compared with a network that ignores it.
    assert (unet(x, t.flip(0), **_condition(name)).sample - unet(x, t, **_condition(name)).sample).abs().max() > 1e-3


def _condition(name):
    torch.manual_seed(3)
    return {'imagenet': dict(class_labels=torch.tensor([4, 4])),
            'txt2img': dict(encoder_hidden_states=torch.randn(2, 5, 24))}.get(name, {})


@torch.no_grad()
def test_a_wrong_order_of_heads_would_be_seen():
    """The oracle of the test above: without the reordering of q, k, v the output differs."""
    state, trained, _ = small_state('ffhq')
    unet = built('ffhq', state)
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([500])
    expected = trained(x, t)
    qkv = unet.mid.attentions[0].qkv
    assert unet.mid.attentions[0].heads == 4
    torch.testing.assert_close(unet(x, t).sample, expected, rtol=1e-5, atol=1e-5)
    qkv.weight.copy_(state['model.diffusion_model.middle_block.1.qkv.weight'][:, :, 0])
    assert (unet(x, t).sample - expected).abs().max() > 1e-3


def test_rows_of_qkv_by_hand():
    """2 heads of 1 channel: rows q0 k0 v0 q1 k1 v1 become q0 q1 k0 k1 v0 v1."""
    rows = torch.tensor([[0.], [10], [20], [1], [11], [21]])
    assert split_heads(rows, 2)[:, 0].tolist() == [0, 1, 10, 11, 20, 21]


FULL_PARAMETERS = {'ffhq': 274.1, 'lsun_church': 295.0, 'imagenet': 400.9}


@pytest.mark.parametrize('name', ['ffhq', 'lsun_church', 'imagenet', 'txt2img'])
def test_every_key_of_the_full_size(name):
    """On the meta device: names and shapes of all weights, both ways, and the published numbers of parameters."""
    with torch.device('meta'):
        network = reference.UNetModel(**reference.FULL[name])
    state = {f'model.diffusion_model.{key}': value for key, value in network.state_dict().items()}
    if name == 'imagenet':
        state['cond_stage_model.embedding.weight'] = torch.empty(1001, 512, device='meta')
    if name in FULL_PARAMETERS:
        assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == FULL_PARAMETERS[name]
    state |= {average_name(key): value for key, value in state.items() if key.startswith('model.')}
    unet = empty_unet(files.model_config(name, reference.FULL[name]))
    checkpoint = recognise(state, 'x.ckpt')
    fit = compare(checkpoint, unet)
    assert fit.perfect and fit.share == 1
    for weights in ('model', 'ema'):
        converted, groups = convert_unet(checkpoint, unet, weights)
        assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in unet.state_dict().items()}
        assert list(groups.values()) == [len(network.state_dict())]
    sources = [source.name for source in unet_sources(unet).values()]
    assert len(set(sources)) == len(sources) == len(unet.state_dict())


def test_names_by_hand():
    """A few keys of the published files, by heart."""
    sources = {k: v.name.removeprefix('model.diffusion_model.')
               for k, v in unet_sources(empty_unet(files.model_config('ffhq', reference.FULL['ffhq']))).items()}
    assert sources['down1.downsampler.conv.weight'] == 'input_blocks.3.0.op.weight'
    assert sources['down4.attentions.1.qkv.bias'] == 'input_blocks.11.1.qkv.bias'
    assert sources['up3.upsampler.conv.weight'] == 'output_blocks.2.2.conv.weight'
    assert sources['up1.upsampler.conv.weight'] == 'output_blocks.8.2.conv.weight'
    assert sources['up1.blocks.2.skip.weight'] == 'output_blocks.11.0.skip_connection.weight'
    assert average_name('model.diffusion_model.input_blocks.1.0.in_layers.0.weight') == \
        'model_ema.diffusion_modelinput_blocks10in_layers0weight'
    church = unet_sources(empty_unet(files.model_config('lsun_church', reference.FULL['lsun_church'])))
    # The lowest level of Church has no attention, so its up-sampling block comes second.
    assert church['up4.upsampler.conv1.weight'].name.endswith('output_blocks.2.1.in_layers.2.weight')
    text = unet_sources(empty_unet(files.model_config('txt2img', reference.FULL['txt2img'])))
    assert text['down1.attentions.0.cross_attention.k.weight'].name == \
        'model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight'


# ---- every key has a place ------------------------------------------------------------------------------------------


def test_what_is_left_out_is_counted():
    state, trained, _ = small_state('txt2img')
    state |= {'loss.perceptual_loss.lin0.weight': torch.zeros(1), 'first_stage_model.encoder.x': torch.zeros(1),
              'scale_factor': torch.tensor(1.)}
    _, groups = convert('txt2img', state, 'ema')
    size = len(trained.state_dict())
    assert groups == {'noise schedule': 13, 'trained weights (the averaged ones were taken)': size,
                      'counters of the average': 2, 'conditioner (text or class)': 2, 'first stage': 1,
                      'training loss': 1}
    _, groups = convert('txt2img', state, 'model')
    assert groups['averaged weights (the trained ones were taken)'] == size


@pytest.mark.parametrize('change, message', [
    (lambda s: s.pop('model_ema.diffusion_modelout2bias'), r'the file lacks: model_ema\.diffusion_modelout2bias'),
    (lambda s: s.update({'model.diffusion_model.input_blocks.99.0.op.weight': torch.zeros(1)}),
     r'only the file has: model\.diffusion_model\.input_blocks\.99'),
    (lambda s: s.update({'model_ema.extra': torch.zeros(1)}), r'only the file has: model_ema\.extra'),
    (lambda s: s.update({'control_model.x': torch.zeros(1)}), r'only the file has: control_model\.x'),
    (lambda s: s.update({'model_ema.diffusion_modelout2bias': torch.zeros(4)}),
     r'another shape: model_ema\.diffusion_modelout2bias \(4,\) instead of \(3,\)'),
])
def test_keys_without_a_place(change, message):
    state, _, _ = small_state('ffhq')
    change(state)
    with pytest.raises(CheckpointError, match=message):
        convert('ffhq', state, 'ema')


def test_which_weights():
    state, _, _ = small_state('ffhq')
    both = recognise(state, 'x.ckpt')
    assert (both.choose_weights(None), both.choose_weights('ema'), both.choose_weights('model')) == (
        'ema', 'ema', 'model')
    trained = recognise(small_state('ffhq', average=False)[0], 'x.ckpt')
    assert trained.choose_weights(None) == 'model'
    with pytest.raises(CheckpointError, match=r'no averaged weights \(model_ema\.\*\): ask for --weights model'):
        trained.choose_weights('ema')
    averaged = recognise({k: v for k, v in state.items() if not k.startswith('model.')}, 'x.ckpt')
    assert averaged.choose_weights(None) == 'ema' and averaged.has_unet
    assert compare(averaged, empty_unet(files.model_config('ffhq', files.SMALL['ffhq']))).perfect
    with pytest.raises(CheckpointError, match='averaged weights only'):
        averaged.choose_weights('model')
    with pytest.raises(ValueError, match="weights='best' is unknown"):
        both.choose_weights('best')


def test_half_precision_is_read_as_float32():
    state, _, _ = small_state('ffhq', average=False)
    unet = built('ffhq', {k: v.half() for k, v in state.items()})
    expected = state['model.diffusion_model.out.2.weight'].half().float()
    assert unet.conv_out.weight.dtype == torch.float32 and torch.equal(unet.conv_out.weight, expected)


# ---- UNets that aren't CompVis' -------------------------------------------------------------------------------------

FFHQ = files.model_config('ffhq', files.SMALL['ffhq'])


def changed(**unet):
    return FFHQ | {'unet': FFHQ['unet'] | unet}


@pytest.mark.parametrize('config, message', [
    (changed(flip_sin_to_cos=False), 'flip_sin_to_cos=False'),
    (changed(freq_shift=1.0), 'freq_shift=1.0'),
    (changed(norm_eps=1e-6), 'norm_eps=1e-06'),
    (changed(mid_heads=None), 'no attention in the middle'),
    (changed(stages=[dict(channels=32)]), 'a down-sampler after down1'),
    (changed(stages=[dict(channels=32, blocks=2), dict(channels=32, downsample=False)]), r'2 skips in down1'),
    (changed(downsampler=dict(type='WaveletDown')), 'a WaveletDown'),
    (changed(downsampler=dict(type='ConvDown', asymmetric=True)), r'ConvDown\(asymmetric=True\)'),
    (changed(residual_resampling=True), 'a ConvDown inside residual blocks'),
])
def test_other_layouts_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        unet_sources(empty_unet(config))


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="'IdentityAutoencoder' is not a"):
        empty_unet(dict(unet=dict(type='IdentityAutoencoder')))


# ---- which config fits ----------------------------------------------------------------------------------------------


def test_fit_counts_names_and_shapes():
    state, trained, _ = small_state('ffhq')
    checkpoint, size = recognise(state, 'x.ckpt'), len(trained.state_dict())
    whole = compare(checkpoint, empty_unet(FFHQ))
    assert whole.perfect and whole.same == size and whole.differences() == ''
    four = compare(checkpoint, empty_unet(changed(in_channels=4)))
    assert (four.same, four.missing, four.extra) == (size - 1, [], []) and four.share == (size - 1) / size
    assert 'input_blocks.0.0.weight (32, 3, 3, 3) instead of (32, 4, 3, 3)' in four.differences()
    cross = compare(checkpoint, empty_unet(files.model_config('imagenet', files.SMALL['imagenet'])))
    assert cross.share < 0.9 and cross.missing and cross.extra
