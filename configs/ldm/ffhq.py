# The teacher of FFHQ 256x256: LDM-4 (Rombach et al. 2022, table 12), 274.1 M parameters, 96.1 G MACs.
# Its weights: tools/model_converters/compvis_to_slimdiff.py (docs/en/user_guides/bring_your_checkpoint.md).
_base_ = [
    '../_base_/models/latents_vq_f4.py',
    '../_base_/datasets/ffhq_256.py',
    '../_base_/schedules/sd_150k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    unet=dict(
        # base 224, multipliers 1, 2, 3, 4; heads of 32 channels at factors 2, 4, 8
        stages=[
            dict(channels=224, blocks=2, up_blocks=3),
            dict(channels=448, blocks=2, up_blocks=3, heads=14),
            dict(channels=672, blocks=2, up_blocks=3, heads=21),
            dict(channels=896, blocks=2, up_blocks=3, downsample=False, heads=28),
        ],
        mid_heads=28))
