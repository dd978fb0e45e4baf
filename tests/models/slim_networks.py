"""Small networks of every kind that can be slimmed."""

import torch

from slimdiff.models.backbones.slimmable import SlimmableUNet

WAVELET = dict(downsampler=dict(type='WaveletGatedDown'), upsampler=dict(type='WaveletGatedUp'))
SHUFFLE = dict(downsampler=dict(type='PixelUnshuffleDown'), upsampler=dict(type='PixelShuffleUp'))
STAGES = [dict(channels=16, blocks=1), dict(channels=32, blocks=1, heads=4)]
LDM = [dict(channels=16, blocks=1, up_blocks=2),
       dict(channels=32, blocks=1, up_blocks=2, downsample=False, heads=4, cross_attention=True)]
NETWORKS = {
    'table': dict(stages=STAGES),
    'wavelet': dict(stages=STAGES, **WAVELET),
    'wavelet sum': dict(stages=STAGES, downsampler=dict(type='WaveletGatedDown', combine='sum'),
                        upsampler=dict(type='WaveletUp')),
    'wavelet, no gate': dict(stages=STAGES, downsampler=dict(type='WaveletDown'), upsampler=dict(type='WaveletUp')),
    'shuffle': dict(stages=STAGES, **SHUFFLE),
    'pooling': dict(stages=STAGES, downsampler=dict(type='AvgPoolDown'), upsampler=dict(type='NearestUp')),
    'ldm, text': dict(stages=LDM, context_channels=6, mid_heads=4, mid_cross_attention=True),
    'classes, film': dict(stages=STAGES, num_classes=3, scale_shift_norm=True, mid_heads=1),
    'class token': dict(stages=LDM, num_classes=3, class_token=True, context_channels=6),
    'residual wavelets': dict(stages=STAGES, residual_resampling=True, scale_shift_norm=True, **WAVELET),
    'no skips': dict(stages=[dict(channels=16, blocks=1, skips=0), dict(channels=32, blocks=1, skips=0)]),
    'equal stages': dict(stages=[dict(channels=16, blocks=1), dict(channels=16, blocks=2)], **WAVELET),
    'thin heads': dict(stages=[dict(channels=16, blocks=1, heads=2), dict(channels=32, blocks=1, heads=1)]),
}


def build(name='wavelet', seed=0, widths=(0.25, 0.5, 1.0), **more):
    torch.manual_seed(seed)
    network = SlimmableUNet(sample_size=8, widths=widths, **{'norm_groups': 4, **NETWORKS[name], **more})
    return shaken(network).eval()


def shaken(network):
    """Nothing may stay zero: a wrong slice would not show."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return network


def inputs_of(network, batch=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 3, 8, 8, generator=generator).to(dtype)
    kwargs = {}
    if network.config.num_classes:
        kwargs['class_labels'] = torch.arange(batch) % 3
    if network.config.context_channels and not network.config.class_token:
        kwargs['encoder_hidden_states'] = torch.randn(batch, 5, 6, generator=generator).to(dtype)
    return (x, torch.tensor([3, 700])[:batch]), kwargs
