# A step-aware DiT-S/2 (Peebles and Xie 2023, table 1: 33 M parameters), from scratch.
_base_ = './imagenet.py'

model = dict(
    start_from=None,
    unet=dict(
        num_attention_heads=6,
        attention_head_dim=64,
        layers=(12, ),
        widths=(0.5, 1.0)))
