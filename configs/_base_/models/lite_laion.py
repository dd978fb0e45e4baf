# The layout of configs/ldm/txt2img.py with 96 channels in place of 320, and CLIP's context of 768.
_base_ = './latents_kl_f8_text.py'

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
