# A transformer as teacher on Fashion-MNIST: 318 M MACs with attention (the UNet of configs/ldm: 306 M).
#   python tools/train.py configs/dit/fashion_mnist.py --amp
_base_ = './fashion_mnist_small.py'

model = dict(unet=dict(num_attention_heads=8, attention_head_dim=32, layers=(6, ), mlp_ratio=4.0))
optim_wrapper = dict(optimizer=dict(lr=2e-3))  # a quarter of the small one's, for four times the channels
