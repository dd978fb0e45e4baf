# Spectral diffusion on LSUN-Bedroom 256x256: table 4 of the supplement, literally.
_base_ = ['./ffhq.py', '../_base_/datasets/lsun_bedroom_256.py']

model = dict(teacher=dict(checkpoint='checkpoints/ldm_lsun_bedroom'))
