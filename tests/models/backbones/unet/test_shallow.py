"""The shallow pass against the full forward: equal on the features of the same input, cheap, without side effects."""

import pytest
import torch

from slimdiff import PreconditionedBackbone, UNet
from slimdiff.evaluation.cost import count_cost

SD = [dict(channels=8, blocks=3), dict(channels=16, blocks=3, heads=2)]
LDM = [dict(channels=8, blocks=2, up_blocks=3), dict(channels=16, blocks=2, up_blocks=3, heads=2, downsample=False)]
CLASSES = dict(num_classes=3, preconditioning=dict(
    schedule=dict(num_train_timesteps=1000), prediction_type='epsilon', sigma_data=0.5))
LAYOUTS = {
    'tables of the SD paper, wavelet-gated': dict(
        stages=SD, downsampler=dict(type='WaveletGatedDown'), upsampler=dict(type='WaveletGatedUp')),
    'LDM, classes, preconditioned': dict(stages=LDM, mid_heads=2, **CLASSES),
    'LDM church: residual resampling, scale-shift': dict(
        stages=LDM, residual_resampling=True, scale_shift_norm=True, downsampler=dict(type='AvgPoolDown'),
        upsampler=dict(type='NearestUp')),
    'DDPM': dict(stages=[dict(channels=8, up_blocks=3, heads=1), dict(channels=8, up_blocks=3),
                         dict(channels=8, up_blocks=3, downsample=False)], flip_sin_to_cos=False, freq_shift=1),
    'no skips': dict(stages=[dict(channels=8, blocks=1, skips=0), dict(channels=8, blocks=1, skips=0)]),
    'one stage, one resolution': dict(stages=[dict(channels=8, downsample=False)]),
    'cross-attention at the top': dict(
        stages=[dict(channels=8, heads=2, cross_attention=True), dict(channels=16)], context_channels=6),
}


def build(preconditioning=None, **arguments):
    unet = UNet(sample_size=8, norm_groups=4, **arguments)
    if preconditioning is not None:
        unet = PreconditionedBackbone(unet, preconditioning=preconditioning)
    unet.eval()
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return unet


def inputs_of(unet, batch=2):
    labels = torch.tensor([0, 3])[:batch] if unet.config.num_classes else None
    context = torch.randn(batch, 5, 6) if unet.config.context_channels else None
    return torch.randn(batch, 3, 8, 8), torch.tensor([30, 700])[:batch], labels, context


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_shallow_with_the_features_of_the_same_input_is_the_full_forward(layout, mode):
    unet = build(**LAYOUTS[layout])
    inputs = inputs_of(unet)
    with mode():
        expected = unet(*inputs).sample
        output, features = unet.with_features(*inputs)
        torch.testing.assert_close(output.sample, expected, rtol=0, atol=0)
        before = features.clone()
        for _ in range(2):  # features that the first pass had overwritten would show in the second
            torch.testing.assert_close(unet.shallow(*inputs, features).sample, expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(features, before) and expected.std() > 0.01
        # They count, and so does what is computed anew: the image enters by the skips of the first stage.
        assert (unet.shallow(*inputs, features + 1).sample - expected).abs().max() > 1e-3
        change = (unet.shallow(inputs[0] + 1, *inputs[1:], features).sample - expected).abs().max()
        assert change > 1e-3 if unet.down1.num_skips else change == 0


def test_the_deep_layers_do_not_run():
    unet = build(stages=SD)
    inputs = inputs_of(unet)
    _, features = unet.with_features(*inputs)
    ran = []
    for name, module in unet.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    unet.shallow(*inputs, features)
    assert {'stem', 'down1.blocks.0', 'up1', 'up1.upsampler', 'conv_out'} <= set(ran)
    assert not [name for name in ran if name.startswith(('down2', 'mid', 'up2', 'down1.downsampler'))]
    assert 'down1' not in ran


def test_what_shallow_costs_is_what_its_modules_cost():
    """MACs of the pass, traced, against the sum of its modules' in the full forward."""

    class Shallow(torch.nn.Module):
        def __init__(self, unet):
            super().__init__()
            self.unet = unet

        def forward(self, sample, timestep, features):
            return self.unet.shallow(sample, timestep, None, None, features).sample

    unet = build(stages=LDM)
    sample, timestep = torch.randn(1, 3, 8, 8), torch.tensor([5])
    _, features = unet.with_features(sample, timestep)
    full = {m.name: m.conv_linear_macs for m in count_cost(unet, sample, timestep).modules}
    expected = sum(full[name] for name in ('time_embedding', 'stem', 'up1', 'conv_out')) + sum(
        macs for name, macs in full.items() if name.startswith('down1.blocks.') and name.count('.') == 2)
    assert count_cost(Shallow(unet), sample, timestep, features).conv_linear_macs == expected < full['']


def test_gradients_pass_through_the_shallow_pass():
    unet = build(**LAYOUTS['LDM, classes, preconditioned']).train()
    inputs = inputs_of(unet)
    _, features = unet.with_features(*inputs)
    unet.shallow(*inputs, features.detach()).sample.sum().backward()
    assert unet.stem.weight.grad.abs().sum() > 0 and unet.mid.blocks[0].conv1.weight.grad is None
