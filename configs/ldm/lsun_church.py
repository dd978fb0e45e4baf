# The teacher of LSUN-Church 256x256: LDM-8 (Rombach et al. 2022, table 12), 295.0 M parameters, 18.7 G MACs.
# Its weights: tools/model_converters/compvis_to_slimdiff.py (docs/en/user_guides/bring_your_checkpoint.md).
# The network is LDM's; trained from scratch it follows the recipe of the students (sd_150k.py: AdamW from 5.12e-4 for
# 256 images, linear decay, squared error). LDM's own: the L1 loss, a constant rate of 5e-5 after 10,000 iterations of
# warm-up, a batch of 96, and EMA as here.
_base_ = [
    '../_base_/models/latents_kl_f8.py',
    '../_base_/datasets/lsun_church_256.py',
    '../_base_/schedules/sd_150k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    # LDM divides these latents by their standard deviation. None: what the converter found in the checkpoint and wrote
    # into the folder; encode_latents.py prints that of your data.
    autoencoder=dict(latent_scale=None),
    unet=dict(
        # base 192, multipliers 1, 2, 2, 4, 4; 8 heads at factors 1, 2, 4, 8
        stages=[
            dict(channels=192, blocks=2, up_blocks=3, heads=8),
            dict(channels=384, blocks=2, up_blocks=3, heads=8),
            dict(channels=384, blocks=2, up_blocks=3, heads=8),
            dict(channels=768, blocks=2, up_blocks=3, heads=8),
            dict(channels=768, blocks=2, up_blocks=3, downsample=False),
        ],
        mid_heads=8,
        scale_shift_norm=True,
        residual_resampling=True,
        downsampler=dict(type='AvgPoolDown'),
        upsampler=dict(type='NearestUp')))

auto_scale_lr = dict(base_batch_size=512)  # table 2: 64 images on each of 8 GPUs
