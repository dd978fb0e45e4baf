# Spectral diffusion for text, LAION at 256x256, in the layout of its teacher (configs/ldm/txt2img.py), 96 channels in
# place of 320 and CLIP's context of 768.
_base_ = [
    '../_base_/models/sd_kl_f8_text.py',
    '../_base_/datasets/laion_256.py',
    '../_base_/schedules/sd_text_300k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    conditioner=dict(type='CLIPText', checkpoint='openai/clip-vit-large-patch14', channels=768, bf16=True),
    # Student and teacher read the same captions, each with its own text encoder.
    teacher=dict(
        checkpoint='checkpoints/ldm/txt2img', config='configs/ldm/txt2img.py', bf16=True,
        conditioner=dict(type='LDMBertText', checkpoint='CompVis/ldm-text2im-large-256', channels=1280, bf16=True)),
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
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))
