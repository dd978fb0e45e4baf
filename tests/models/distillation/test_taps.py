import pytest
import torch
from diffusers import UNet2DModel
from torch import nn

from slimdiff.models import UNet
from slimdiff.models.backbones.adapt import as_tensor
from slimdiff.models.distillation import OUTPUT, TapRecorder, find_tap
from slimdiff.models.distillation.taps import tap_names

STAGES = [dict(channels=8, blocks=1), dict(channels=8, blocks=1), dict(channels=8, blocks=1, downsample=False)]


@pytest.fixture(scope='module')
def ours():
    return UNet(sample_size=8, stages=STAGES, norm_groups=4)


@pytest.fixture(scope='module')
def theirs():
    return UNet2DModel(sample_size=16, block_out_channels=(8, 8, 16), layers_per_block=1, norm_num_groups=4,
                       down_block_types=('DownBlock2D', ) * 3, up_block_types=('UpBlock2D', ) * 3)


@pytest.mark.parametrize('name', ['down1', 'down3', 'mid', 'up2', 'up1', 'conv_out', 'up1.blocks.0'])
def test_module_paths_stand_for_themselves(ours, name):
    assert find_tap(ours, name) == name


def test_the_papers_names_in_a_network_of_diffusers(theirs):
    """diffusers counts up-blocks from the lowest resolution; `up1` is the highest."""
    names = {name: find_tap(theirs, name) for name in ('down1', 'down3', 'mid', 'up3', 'up1', 'up_blocks.1')}
    assert names == {'down1': 'down_blocks.0', 'down3': 'down_blocks.2', 'mid': 'mid_block', 'up3': 'up_blocks.0',
                     'up1': 'up_blocks.2', 'up_blocks.1': 'up_blocks.1'}
    with TapRecorder(theirs, names.values()) as recorder:
        theirs(torch.zeros(1, 3, 16, 16), 0)
    sizes = {name: recorder.features[path].shape[-1] for name, path in names.items()}
    assert sizes['up1'] == 16 and sizes['up3'] == 8 and sizes['mid'] == 4


def test_an_unknown_tap_names_the_nearest_first(ours, theirs):
    with pytest.raises(ValueError) as caught:
        find_tap(ours, 'upp1', 'student')
    text = str(caught.value)
    assert text.startswith("The student has no tap 'upp1'. Did you mean 'up1'")
    for name in tap_names(ours):
        assert name in text
    assert tap_names(ours) == [OUTPUT, 'down1', 'down2', 'down3', 'mid', 'up3', 'up2', 'up1']
    with pytest.raises(ValueError, match=r"no tap 'up4'.*up_blocks\.0"):
        find_tap(theirs, 'up4')
    with pytest.raises(ValueError, match='no tap'):
        find_tap(ours, '')


def test_the_recorder_records_inside_its_context_alone():
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    recorder = TapRecorder(network, ['0', '1', '0'])
    network(torch.ones(1, 2))
    assert recorder.features == {}
    with recorder:
        out = network(torch.ones(1, 2))
    features = recorder.take()
    assert features['1'] is out and torch.equal(features['0'], network[0](torch.ones(1, 2)))
    assert features['0'].requires_grad and recorder.features == {}
    with recorder:
        network(torch.ones(5, 2))
    assert recorder.features['0'].shape == (5, 3)
    recorder.remove()
    with recorder:
        network(torch.ones(5, 2))
    assert recorder.features == {}


def test_a_recorder_stops_after_an_error():
    network = nn.Sequential(nn.Linear(2, 3))
    recorder = TapRecorder(network, ['0'])
    with pytest.raises(RuntimeError), recorder:
        network(torch.ones(1, 5))
    network(torch.ones(1, 2))
    assert recorder.features == {}


def test_outputs_that_hold_a_tensor():
    from diffusers.models.unets.unet_2d import UNet2DOutput
    x = torch.ones(1)
    assert as_tensor(x, 'a') is as_tensor((x, 2), 'a') is as_tensor(UNet2DOutput(sample=x), 'a') is x
    with pytest.raises(ValueError, match="'tap a' gives dict, not a tensor"):
        as_tensor({}, 'tap a')


def test_tokens_form_a_map_of_the_inputs_proportions():
    class Tokens(nn.Module):
        def __init__(self, sample_size):
            super().__init__()
            self.sample_size, self.block = sample_size, nn.Identity()

        def forward(self, x):
            return self.block(x.flatten(2).transpose(1, 2))

    x = torch.arange(64.0).reshape(1, 1, 4, 16)
    for size in ((4, 16), (8, 32)):
        network = Tokens(size)
        with TapRecorder(network, ['block']) as recorder:
            network(x)
        assert torch.equal(recorder.features['block'], x)
    with TapRecorder(Tokens((3, 5)), ['block']) as recorder, pytest.raises(ValueError, match='64 tokens'):
        recorder._record('block', nn.Identity(), (), x.flatten(2).transpose(1, 2))
