# The teacher of CelebA-HQ 256x256: the network of FFHQ's (Rombach et al. 2022, table 12).
_base_ = ['./ffhq.py', '../_base_/datasets/celebahq_256.py']
