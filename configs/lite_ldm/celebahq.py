# The plain small UNet ("Lite") on CelebA-HQ 256x256: that of FFHQ.
_base_ = ['./ffhq.py', '../_base_/datasets/celebahq_256.py']
