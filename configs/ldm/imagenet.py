# The teacher of ImageNet 256x256: LDM-4, cin256-v2 (Rombach et al. 2022), 400.9 M parameters and 0.5 M of class
# tokens, 99.8 G MACs. Its weights: tools/model_converters/compvis_to_slimdiff.py.
# The network is LDM's; trained from scratch it follows the recipe of the students (sd_300k.py: AdamW from 5.12e-4 for
# 256 images, linear decay, EMA). LDM's own (cin256-v2): a constant base rate of 1e-4, and no EMA.
_base_ = [
    '../_base_/models/latents_vq_f4.py',
    '../_base_/datasets/imagenet_256.py',
    '../_base_/schedules/sd_300k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    num_classes=1000,  # and the null class, label 1000
    guidance_scale=3.0,  # table 3
    unet=dict(
        # base 192, multipliers 1, 2, 3, 5; one head at factors 2, 4, 8
        stages=[
            dict(channels=192, blocks=2, up_blocks=3),
            dict(channels=384, blocks=2, up_blocks=3, heads=1, cross_attention=True),
            dict(channels=576, blocks=2, up_blocks=3, heads=1, cross_attention=True),
            dict(channels=960, blocks=2, up_blocks=3, downsample=False, heads=1, cross_attention=True),
        ],
        mid_heads=1,
        mid_cross_attention=True,
        class_token=True,
        context_channels=512))
