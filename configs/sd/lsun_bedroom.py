# Spectral diffusion on LSUN-Bedroom 256x256: table 4 of the supplement, literally.
_base_ = [
    '../_base_/models/sd_table4.py',
    '../_base_/datasets/lsun_bedroom_256.py',
    '../_base_/schedules/sd_150k.py',
    '../_base_/default_runtime.py',
]

model = dict(teacher=dict(checkpoint='checkpoints/ldm/lsun_bedroom', config='configs/ldm/lsun_bedroom.py', bf16=True))
