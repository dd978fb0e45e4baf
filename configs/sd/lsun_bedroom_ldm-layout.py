# Spectral diffusion on LSUN-Bedroom 256x256, as ffhq_ldm-layout.py.
_base_ = ['./ffhq_ldm-layout.py', '../_base_/datasets/lsun_bedroom_256.py']

model = dict(teacher=dict(checkpoint='checkpoints/ldm_lsun_bedroom'))
