# The teacher of FFHQ 256x256. Its weights: tools/model_converters/compvis_to_slimdiff.py
# (docs/en/user_guides/bring_your_checkpoint.md).
_base_ = [
    '../_base_/models/ldm4.py',
    '../_base_/datasets/ffhq_256.py',
    '../_base_/schedules/sd_150k.py',
    '../_base_/default_runtime.py',
]
