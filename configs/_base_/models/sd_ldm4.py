# Wavelet-gated, in the layout of ldm4.py with 64 channels in place of 224: 21.1 M parameters and 6.7 G MACs, the
# counts that the paper prints.
_base_ = './sd_vq_f4.py'

model = dict(
    unet=dict(
        stages=[
            dict(channels=64, blocks=2, up_blocks=3),
            dict(channels=128, blocks=2, up_blocks=3, heads=4),
            dict(channels=192, blocks=2, up_blocks=3, heads=6),
            dict(channels=256, blocks=2, up_blocks=3, downsample=False, heads=8),
        ],
        mid_heads=8,
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))
