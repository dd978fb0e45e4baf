# Spectral diffusion on tokens at full size: a U-shaped transformer with wavelet-gated merging, of a tenth of the MACs,
# learns from DiT-XL/2 (118.6 G). No paper has trained it.
_base_ = ['../dit/imagenet.py', '../_base_/models/output_losses.py']

model = dict(
    type='Distiller',
    teacher=dict(checkpoint='checkpoints/dit-xl-2'),
    losses=_base_.output_losses,
    unet=dict(num_attention_heads=10, attention_head_dim=64, layers=(3, 12, 3)))
