# A step-aware transformer on Fashion-MNIST: four widths and three depths of one network, any pair of which a denoising
# step may run.
#   python tools/train.py configs/ddsm_dit/fashion_mnist.py
_base_ = ['../dit/fashion_mnist_small.py', '../_base_/search/two_stage.py']

model = dict(
    type='SlimmableDiffusion',
    num_random=1,  # besides the widest and the narrowest, as DDSM
    unet=dict(type='SlimmableDiT', widths=(0.25, 0.5, 0.75, 1.0), depths=(0.5, 0.75, 1.0)))
