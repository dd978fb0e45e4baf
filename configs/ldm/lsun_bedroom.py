# The teacher of LSUN-Bedroom 256x256. Its weights: tools/model_converters/compvis_to_slimdiff.py
# (docs/en/user_guides/bring_your_checkpoint.md).
# The network is LDM's; trained from scratch it follows the recipe of the students (sd_150k.py: AdamW from 5.12e-4 for
# 256 images, linear decay). LDM's own: a constant rate of 9.6e-5 for a batch of 48 (2e-6 an image), and EMA as here.
_base_ = [
    '../_base_/models/ldm4.py',
    '../_base_/datasets/lsun_bedroom_256.py',
    '../_base_/schedules/sd_150k.py',
    '../_base_/default_runtime.py',
]
