"""SlimmableUNet: the slim networks are dense UNets, and sub-networks of the wide one."""

import copy

import pytest
import torch
from slim_networks import NETWORKS, build, inputs_of
from torch import nn

import slimdiff
from slimdiff.models.backbones.slimmable.slicing import Slicer
from slimdiff.models.backbones.unet import UNet
from slimdiff.models.layers.channels import Channels
from slimdiff.registry import MODELS, RESAMPLERS
from slimdiff.sampling.actions import FULL, Run


@pytest.mark.parametrize('name', NETWORKS)
def test_the_state_dict_is_the_dense_networks(name):
    network = build(name)
    config = {key: value for key, value in dict(network.config).items() if key != 'widths'}
    dense = UNet.from_config(config)
    assert {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in dense.state_dict().items()}
    dense.load_state_dict(network.state_dict())
    args, kwargs = inputs_of(network)
    with torch.no_grad():
        torch.testing.assert_close(network(*args, **kwargs).sample, dense.eval()(*args, **kwargs).sample)


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('width', [0.25, 0.5, 1.0])
def test_an_extracted_network_is_the_slimmable_one_at_its_width(name, width):
    network = build(name)
    dense = network.extract(width)
    assert type(dense) is UNet and not list(dense.buffers())
    assert dense.config.stages[0]['channels'] == 16 * width
    args, kwargs = inputs_of(network)
    with torch.no_grad():
        expected = dense(*args, **kwargs).sample
        torch.testing.assert_close(network(*args, **kwargs, width=width).sample, expected, rtol=0, atol=1e-6)
        with network.at(width):
            torch.testing.assert_close(network(*args, **kwargs).sample, expected, rtol=0, atol=1e-6)
        assert network.active == FULL


@pytest.mark.parametrize('name', NETWORKS)
def test_gradients_are_those_of_the_extracted_network_at_their_places(name):
    network = build(name)
    dense = network.extract(0.5)
    args, kwargs = inputs_of(network)
    network(*args, **kwargs, width=0.5).sample.square().sum().backward()
    dense(*args, **kwargs).sample.square().sum().backward()
    slim = dict(dense.named_parameters())
    for key, parameter in network.named_parameters():
        slicer = Slicer(parameter.shape, network.axes[key], 0.5)
        expected = slicer.spread(slim[key].grad, parameter)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-5)


def separate(network, width):
    """Set to zero what leads from dropped channels to kept ones: the wide network then contains the slim one."""
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            axes = network.axes[key]
            if parameter.dim() < 2 or axes[1] is None:
                continue
            kept_in = torch.zeros(parameter.shape[1], dtype=torch.bool)
            for start, stop in axes[1].ranges(width):
                kept_in[start:stop] = True
            kept_out = torch.ones(parameter.shape[0], dtype=torch.bool)
            if axes[0] is not None:
                kept_out[:] = False
                for start, stop in axes[0].ranges(width):
                    kept_out[start:stop] = True
            parameter[kept_out.nonzero(), (~kept_in).nonzero().T] = 0


# Layers that mix all their channels (LayerNorm in the text's transformer block, a head's scores where heads thin), and
# the norm over [main | skip] of different widths, whose groups straddle, can't be sub-networks whatever is sliced.
@pytest.mark.parametrize('name', ['wavelet', 'wavelet sum', 'wavelet, no gate', 'shuffle', 'pooling', 'equal stages'])
def test_a_slim_network_is_a_sub_network_of_the_wide_one(name):
    """With no way from dropped to kept channels the wide network's output is the slim one's: no part is mixed up."""
    stages = [dict(channels=32, blocks=1), dict(channels=32, blocks=1, heads=4)]
    # Groups that no part cuts: those over [main | skip] are twice as large.
    network = build(name, widths=(0.5, 1.0), stages=stages, norm_groups=16).double()
    separate(network, 0.5)
    args, kwargs = inputs_of(network, dtype=torch.float64)
    with torch.no_grad():
        wide, slim = network(*args, **kwargs).sample, network(*args, **kwargs, width=0.5).sample
    torch.testing.assert_close(wide, slim, rtol=1e-9, atol=1e-9)


def test_plain_prefixes_would_fail_the_sub_network_test():
    """The oracle notices DDSM's slicing: [main | skip] cut as one axis."""
    network = build('shuffle', widths=(0.5, 1.0), norm_groups=8,
                    stages=[dict(channels=32, blocks=1), dict(channels=32, blocks=1)]).double()
    key = 'up1.blocks.0.conv1.weight'
    network.axes[key] = (network.axes[key][0], Channels.of(64))
    separate(network, 0.5)
    args, _ = inputs_of(network, dtype=torch.float64)
    with torch.no_grad():
        wide, slim = network(*args).sample, network(*args, width=0.5).sample
    assert (wide - slim).abs().max() > 1e-3


def test_heads_drop_where_every_width_has_whole_ones_and_else_thin():
    dropping, thinning = build('table', widths=(0.25, 1.0)), build('thin heads', widths=(0.25, 1.0))
    assert dropping.extract(0.25).down2.attentions[0].heads == 1
    assert thinning.extract(0.25).down1.attentions[0].heads == 2
    key = 'down1.attentions.0.qkv.weight'  # 16 channels, 2 heads of 8: 2 of each are left
    assert thinning.axes[key][0].ranges(0.25) == [(0, 2), (8, 10), (16, 18), (24, 26), (32, 34), (40, 42)]


def test_groups_keep_their_size():
    for width in (0.25, 0.5, 1.0):
        norm = build().extract(width).down2.blocks[0].norm2
        assert norm.num_channels // norm.num_groups == 8


@pytest.mark.parametrize('widths, match', [
    ((0.3, 1.0), r"no width 0\.3: .* Legal: 0\.25, 0\.5, 0\.75, 1\."),
    ((0.5, 0.75), r'1\.0 is one of them'),
    ((), r'1\.0 is one of them'),
    ((0.5, 0.5, 1.0), 'different shares'),
    ((0.5, 1.0, 1.5), r'in \(0, 1\]'),
])
def test_illegal_widths_are_refused(widths, match):
    with pytest.raises(ValueError, match=match):
        build(widths=widths)


def test_a_width_that_the_network_was_not_made_for():
    network = build(widths=(0.5, 1.0))
    args, _ = inputs_of(network)
    for call in (lambda: network(*args, width=0.25), lambda: network.extract(0.25),
                 lambda: network.at(0.25).__enter__()):
        with pytest.raises(ValueError, match=r'got 0\.25; this network has 0\.5, 1'):
            call()


def test_it_is_built_from_a_config_saved_and_loaded(tmp_path):
    network = build('wavelet')
    again = MODELS.build(dict(type='SlimmableUNet', sample_size=8, norm_groups=4, widths=[0.25, 0.5, 1.0],
                              **NETWORKS['wavelet']))
    again.load_state_dict(network.state_dict())
    again.save_pretrained(tmp_path)
    loaded = slimdiff.SlimmableUNet.from_pretrained(tmp_path)
    assert loaded.widths == (0.25, 0.5, 1.0)
    args, _ = inputs_of(network)
    with torch.no_grad():
        torch.testing.assert_close(loaded(*args, width=0.5).sample, network(*args, width=0.5).sample, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="no argument 'width'. Did you mean 'widths'"):
        MODELS.build(dict(type='SlimmableUNet', width=[1.0]))


def test_hooks_see_the_features_of_their_width():
    network = build()
    shapes = []
    handle = network.network_at(0.5).up1.register_forward_hook(lambda m, i, out: shapes.append(out.shape[1]))
    args, _ = inputs_of(network)
    network(*args, width=0.5)
    network(*args, width=0.25)
    handle.remove()
    assert shapes == [8]
    assert network.network_at(1.0) is network


def test_it_can_be_copied_after_a_step():
    network = build()
    args, _ = inputs_of(network)
    network(*args, width=0.5).sample.sum().backward()
    twin = copy.deepcopy(network)
    with torch.no_grad():
        twin.stem.weight.zero_()
        assert not torch.equal(twin(*args, width=0.5).sample, network(*args, width=0.5).sample)
        torch.testing.assert_close(network(*args, width=0.5).sample, network.extract(0.5)(*args).sample)


def test_gradient_checkpointing_changes_no_gradient():
    network = build('ldm, text')
    args, kwargs = inputs_of(network)
    network.train()
    gradients = []
    for _ in range(2):
        network.zero_grad()
        sum(network(*args, **kwargs, width=width).sample.square().sum() for width in (1.0, 0.5, 0.25)).backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
        network.enable_gradient_checkpointing()
    for plain, checkpointed in zip(*gradients):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-4, atol=1e-5)


def test_dropout_follows_the_mode():
    network = build('table', dropout=0.5)
    args, _ = inputs_of(network)
    assert torch.equal(network(*args, width=0.5).sample, network(*args, width=0.5).sample)
    network.train()
    assert not torch.equal(network(*args, width=0.5).sample, network(*args, width=0.5).sample)


def test_bfloat16_and_extract_keep_the_precision():
    network = build().to(torch.bfloat16)
    dense = network.extract(0.5)
    assert dense.dtype == torch.bfloat16
    assert dense.stem.weight.is_contiguous(memory_format=torch.channels_last)


@RESAMPLERS.register_module()
class GroupsDown(nn.Module):
    """A stranger's: an axis twice as long as its channels, and nothing that tells how it splits."""

    def __init__(self, channels):
        super().__init__()
        self.widen = nn.Conv2d(channels, 2 * channels, 1)
        self.narrow = nn.Conv2d(2 * channels, channels, 2, stride=2)

    def forward(self, x):
        return self.narrow(self.widen(x))


@RESAMPLERS.register_module()
class PlainDown(nn.Module):
    """A stranger's whose axes speak for themselves, with a filter in a buffer."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer('scale', torch.tensor(0.5), persistent=False)
        self.conv = nn.Conv2d(channels, channels, 2, stride=2)

    def forward(self, x):
        return self.conv(x) * self.scale


def test_a_strangers_resampler_works_where_its_axes_are_its_channels():
    network = build('table', downsampler=dict(type='PlainDown'))
    args, _ = inputs_of(network)
    with torch.no_grad():
        torch.testing.assert_close(network(*args, width=0.5).sample, network.extract(0.5)(*args).sample)


def test_a_strangers_resampler_with_other_axes_is_named():
    network = build('table', downsampler=dict(type='GroupsDown'))
    args, _ = inputs_of(network)
    with pytest.raises(ValueError, match=r'down1\.downsampler\.\w+\.\w+: .* method channel_axes'):
        network(*args, width=0.5)


@pytest.mark.parametrize('name', ['wavelet', 'classes, film'])
def test_a_large_network_is_cut_weight_by_weight_with_the_same_result(name, monkeypatch):
    results = []
    for limit in (4_000_000, 0):
        monkeypatch.setattr('slimdiff.models.backbones.slimmable.flat_slicing.FLAT_LIMIT', limit)
        network = build(name)
        args, kwargs = inputs_of(network)
        out = network(*args, **kwargs, width=0.25).sample
        out.square().sum().backward()
        results.append([out, *(p.grad.clone() for p in network.parameters())])
    for flat, single in zip(*results):
        torch.testing.assert_close(flat, single)


def test_frozen_weights_and_other_memory_formats():
    network = build('wavelet')
    args, _ = inputs_of(network)
    network.stem.requires_grad_(False)
    expected = network(*args, width=0.5).sample
    expected.sum().backward()
    assert network.stem.weight.grad is None and network.conv_out.weight.grad is not None
    network.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(network(*args, width=0.5).sample, expected)


def slices(network, width):
    """The weights that the network runs with at a width."""
    view = network._view(Run(width))
    view.fill(dict(network.named_parameters()))
    found = {name: slots[key] for slots, key, name, _ in view.places}
    view.clear()
    return found


def test_slices_are_of_the_weights_as_they_are_now():
    """Moved, cast, replaced or laid out anew between two calls: as a whole, or one of them."""
    network = build('wavelet')

    def half_of_one():
        network.mid.to(torch.bfloat16)

    def replaced():
        network.conv_out.weight = nn.Parameter(torch.randn_like(network.conv_out.weight))

    def given_other_data():
        network.stem.weight.data = torch.randn_like(network.stem.weight).double()

    changes = [lambda: None, half_of_one, lambda: network.to(torch.float64), replaced, lambda: network.to('meta'),
               lambda: network.to_empty(device='cpu'), lambda: network.load_state_dict(build('wavelet').state_dict()),
               lambda: network.to(memory_format=torch.contiguous_format), network.float, given_other_data]
    joined = []
    for change in changes:
        change()
        found = slices(network, 0.5)
        joined.append(network._view(Run(0.5)).flat is not None)
        for name, weight in network.named_parameters():
            expected = Slicer(weight.shape, network.axes[name], 0.5)(weight)
            assert found[name].dtype == weight.dtype and found[name].device == weight.device, name
            if weight.device.type == 'cpu':
                # What to_empty leaves may be NaN.
                torch.testing.assert_close(found[name], expected, rtol=0, atol=0, equal_nan=True)
    assert joined == [True, False, *[True] * 7, False]


def test_the_flat_slicer_is_kept_while_it_fits():
    """Training changes what is in the weights; it need not be made again for that."""
    network = build('wavelet')
    slices(network, 0.5)
    flat = network._view(Run(0.5)).flat
    with torch.no_grad():
        for weight in network.parameters():
            weight += 1
    network.load_state_dict(build('wavelet').state_dict())
    slices(network, 0.5)
    assert network._view(Run(0.5)).flat is flat is not None
    network.double()
    slices(network, 0.5)
    assert network._view(Run(0.5)).flat is not flat


def test_features_and_the_shallow_part_are_those_of_the_active_width():
    network = build('wavelet')
    (x, t), _ = inputs_of(network)
    with torch.no_grad(), network.at(0.5):
        output, features = network.with_features(x, t)
        expected, deep = network.extract(0.5).with_features(x, t)
        torch.testing.assert_close(output.sample, expected.sample, rtol=0, atol=1e-6)
        torch.testing.assert_close(features, deep, rtol=0, atol=1e-6)
        torch.testing.assert_close(network.shallow(x, t, None, None, features).sample, expected.sample, rtol=1e-5,
                                   atol=1e-5)
