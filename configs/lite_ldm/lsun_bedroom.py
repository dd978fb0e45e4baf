# The plain small UNet ("Lite") on LSUN-Bedroom 256x256: that of FFHQ.
_base_ = ['./ffhq.py', '../_base_/datasets/lsun_bedroom_256.py']
