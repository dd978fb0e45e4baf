# What the transformers on Fashion-MNIST share: 8x8 patches of 4 pixels, timestep and class by adaLN-Zero (DiT, Peebles
# and Xie, ICCV 2023). mlp_ratio makes the MACs, attention included, those of the UNets beside them.
_base_ = './fashion_mnist.py'

model = dict(
    unet=dict(
        _delete_=True,
        type='DiT',
        sample_size=32,
        in_channels=1,
        out_channels=1,
        patch_size=4,
        num_attention_heads=4,
        attention_head_dim=16,
        layers=(8, ),
        mlp_ratio=2.75))
