# Spectral diffusion on CelebA-HQ 256x256: table 4 of the supplement, literally.
_base_ = [
    '../_base_/models/sd_table4.py',
    '../_base_/datasets/celebahq_256.py',
    '../_base_/schedules/sd_150k.py',
    '../_base_/default_runtime.py',
]

model = dict(teacher=dict(checkpoint='checkpoints/ldm/celebahq', config='configs/ldm/celebahq.py', bf16=True))
