# The teacher of LSUN-Bedroom 256x256: the network of FFHQ's (Rombach et al. 2022, table 12).
_base_ = ['./ffhq.py', '../_base_/datasets/lsun_bedroom_256.py']
