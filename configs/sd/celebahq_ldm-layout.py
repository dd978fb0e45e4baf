# Spectral diffusion on CelebA-HQ 256x256, as ffhq_ldm-layout.py.
_base_ = ['./ffhq_ldm-layout.py', '../_base_/datasets/celebahq_256.py']

model = dict(teacher=dict(checkpoint='checkpoints/ldm_celebahq'))
