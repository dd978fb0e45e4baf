# Spectral diffusion for text, LAION at 256x256, in the layout of its teacher (configs/ldm/txt2img.py), 96 channels in
# place of 320 and CLIP's context of 768.
# It is configs/lite_ldm/laion.py with wavelet gating, and distilled.
_base_ = [
    '../_base_/models/lite_laion.py',
    '../_base_/models/sd_losses.py',
    '../_base_/datasets/laion_256.py',
    '../_base_/schedules/sd_text_300k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    type='Distiller',
    # Student and teacher read the same captions, each with its own text encoder.
    teacher=dict(
        checkpoint='checkpoints/ldm/txt2img', config='configs/ldm/txt2img.py', bf16=True,
        conditioner=dict(type='LDMBertText', checkpoint='CompVis/ldm-text2im-large-256', channels=1280, bf16=True)),
    losses=_base_.sd_losses,
    unet=dict(
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))
