# The first job: distil a wavelet-gated student of 15.5 M MACs from the shipped teacher of 303 M, on the embedded
# photographs, in three minutes on two CPU cores.
#   slimdiff train configs/sd/photo_patches_quick.py
_base_ = [
    '../_base_/models/photo_patches.py',
    '../_base_/datasets/photo_patches.py',
    '../_base_/schedules/photo_patches_quick.py',
    '../_base_/runtime_quick.py',
]

model = dict(
    type='Distiller',
    # The teacher is most of the cost of a step on a CPU: it sees half of each batch.
    teacher=dict(checkpoint='configs/ldm/photo_patches_weights', bf16=True, share=0.5),
    # The student begins as a quarter of the teacher's channels, the most important ones, so it has a quarter of the
    # teacher's width. Only its resamplers, which are of another kind, start at random.
    start_from='configs/ldm/photo_patches_weights',
    losses=[
        # Three times the weight of configs/_base_/models/output_losses.py: in so short a run it helps class accuracy
        # (0.71 against 0.64 after 1,500 iterations, one seed) and costs 2 % in the denoising error.
        dict(type='SpatialLoss', tap='output', weight=3.0),
        dict(type='SpectralLoss', tap='output', weight=1.0),
    ],
    sampler=dict(type='DPMSolverMultistepScheduler'),
    num_steps=20,
    guidance_scale=2.0,
    unet=dict(
        norm_groups=2,
        time_channels=32,
        stages=[
            dict(channels=8, blocks=1, up_blocks=2),
            dict(channels=16, blocks=1, up_blocks=2),
            dict(channels=24, blocks=1, up_blocks=2, downsample=False, heads=4),
        ],
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))

# The plain network of equal MACs after an equal time of training (configs/lite_ldm/photo_patches_quick.py).
default_hooks = dict(report=dict(beside=dict(Lite='configs/lite_ldm/photo_patches_quick.json')))
