# The plain small UNet ("Lite") to compare configs/sd/laion_ldm-layout.py with: the layout of the teacher
# with few channels and its own resamplers, trained without distillation.
_base_ = [
    '../_base_/models/latents_kl_f8_text.py',
    '../_base_/datasets/laion_256.py',
    '../_base_/schedules/sd_text_300k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    conditioner=dict(type='CLIPText', checkpoint='openai/clip-vit-large-patch14', channels=768, bf16=True),
    unet=dict(
        stages=[
            dict(channels=96, blocks=2, up_blocks=3, heads=8, cross_attention=True),
            dict(channels=192, blocks=2, up_blocks=3, heads=8, cross_attention=True),
            dict(channels=384, blocks=2, up_blocks=3, heads=8, cross_attention=True),
            dict(channels=384, blocks=2, up_blocks=3, downsample=False),
        ],
        mid_heads=8,
        mid_cross_attention=True,
        context_channels=768,
        downsampler=dict(type='ConvDown'),
        upsampler=dict(type='NearestConvUp')))
