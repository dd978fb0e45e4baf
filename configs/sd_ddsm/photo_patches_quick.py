# Both slimmings in one short job on the embedded photographs: the first job's network, a little wider in the middle,
# trained at three widths at once, then half of its MACs again by giving each denoising step its width.
#   slimdiff train configs/sd_ddsm/photo_patches_quick.py
#   slimdiff search configs/sd_ddsm/photo_patches_quick.py work_dirs/sd_ddsm/photo_patches_quick/iter_1500.pth
_base_ = [
    '../_base_/models/photo_patches.py',
    '../_base_/datasets/photo_patches.py',
    '../_base_/schedules/photo_patches_quick.py',
    '../_base_/search/two_stage_sensitivity.py',
    '../_base_/runtime_quick.py',
]

model = dict(
    type='SlimmableDiffusion',
    num_random=1,  # all three widths run in every iteration
    # Without distillation, as configs/sd/photo_patches_quick.py, which says why.
    start_from='configs/ldm/photo_patches_weights',
    num_steps=20,
    guidance_scale=2.0,
    unet=dict(
        type='SlimmableUNet',
        widths=(0.5, 0.75, 1.0),
        time_channels=32,
        # A quarter less must leave whole groups of four bands: multiples of 16 below the first stage.
        stages=[
            dict(channels=8, blocks=1, up_blocks=2),
            dict(channels=16, blocks=1, up_blocks=2),
            dict(channels=32, blocks=1, up_blocks=2, downsample=False, heads=4),
        ],
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))

search = dict(sampler=dict(type='DPMSolverMultistepScheduler'), budget=dict(fraction=0.5))
