# Spectral diffusion for text, LAION at 256x256: table 7 of the supplement, literally, with one misprint mended.
_base_ = [
    '../_base_/models/latents_kl_f8_text.py',
    '../_base_/models/sd_losses.py',
    '../_base_/datasets/laion_256.py',
    '../_base_/schedules/sd_text_300k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    type='Distiller',
    conditioner=dict(type='CLIPText', checkpoint='openai/clip-vit-large-patch14', channels=768, bf16=True),
    # Student and teacher read the same captions, each with its own text encoder.
    teacher=dict(
        checkpoint='checkpoints/ldm/txt2img', config='configs/ldm/txt2img.py', bf16=True,
        conditioner=dict(type='LDMBertText', checkpoint='CompVis/ldm-text2im-large-256', channels=1280, bf16=True)),
    losses=_base_.sd_losses,
    unet=dict(
        stages=[
            dict(channels=128, blocks=2, heads=4, cross_attention=True),
            dict(channels=256, blocks=2, heads=8, cross_attention=True),
            dict(channels=512, blocks=2, heads=16, cross_attention=True),
            dict(channels=512, blocks=2),
        ],
        mid_heads=16,  # and 512 channels in both blocks of the middle; the table has 256 in the second
        mid_cross_attention=True,
        context_channels=768,
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))
