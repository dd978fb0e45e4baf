# Spectral diffusion on FFHQ 256x256 in the layout of its teacher: the reading whose counts are those that the
# paper prints.
_base_ = [
    '../_base_/models/sd_ldm4.py',
    '../_base_/datasets/ffhq_256.py',
    '../_base_/schedules/sd_150k.py',
    '../_base_/default_runtime.py',
]

model = dict(teacher=dict(checkpoint='checkpoints/ldm/ffhq', config='configs/ldm/ffhq.py', bf16=True))
