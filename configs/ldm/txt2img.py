# The teacher for text: LDM's txt2img-1p4B (Rombach et al. 2022). Its text encoder is its own, of 1280 channels.
# Its weights: tools/model_converters/compvis_to_slimdiff.py (docs/en/user_guides/bring_your_checkpoint.md).
# The network is LDM's; trained from scratch it follows the recipe of the students (sd_text_300k.py: AdamW from 4.096e-3
# for 2,048 images, linear decay, the text encoder frozen). LDM's own trains the text encoder along, at a constant rate.
_base_ = [
    '../_base_/models/latents_kl_f8_text.py',
    '../_base_/datasets/laion_256.py',
    '../_base_/schedules/sd_text_300k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    conditioner=dict(type='LDMBertText', checkpoint='CompVis/ldm-text2im-large-256', channels=1280, bf16=True),
    unet=dict(
        # base 320, multipliers 1, 2, 4, 4; 8 heads at factors 1, 2, 4
        stages=[
            dict(channels=320, blocks=2, up_blocks=3, heads=8, cross_attention=True),
            dict(channels=640, blocks=2, up_blocks=3, heads=8, cross_attention=True),
            dict(channels=1280, blocks=2, up_blocks=3, heads=8, cross_attention=True),
            dict(channels=1280, blocks=2, up_blocks=3, downsample=False),
        ],
        mid_heads=8,
        mid_cross_attention=True,
        context_channels=1280))
