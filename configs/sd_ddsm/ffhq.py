# Both slimmings at once on FFHQ 256x256: the spectral-diffusion student in the layout of its teacher, at four widths,
# each distilled from the latent diffusion model. No paper has trained this.
_base_ = [
    '../_base_/models/lite_ldm4.py',
    '../_base_/models/sd_losses.py',
    '../_base_/datasets/ffhq_256.py',
    '../_base_/schedules/sd_150k.py',
    '../_base_/search/two_stage.py',
    '../_base_/default_runtime.py',
]

model = dict(
    type='SlimmableDistiller',
    num_random=1,
    teacher=dict(checkpoint='checkpoints/ldm/ffhq', config='configs/ldm/ffhq.py', bf16=True),
    losses=_base_.sd_losses,
    unet=dict(
        type='SlimmableUNet',
        widths=(0.25, 0.5, 0.75, 1.0),
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))
