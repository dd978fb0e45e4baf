# Spectral diffusion on CelebA-HQ 256x256: table 4 of the supplement, literally.
_base_ = ['./ffhq.py', '../_base_/datasets/celebahq_256.py']

model = dict(teacher=dict(checkpoint='checkpoints/ldm_celebahq'))
