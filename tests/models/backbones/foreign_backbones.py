"""Networks of others (five of diffusers, a diffusers model of a user's own, a plain module), and our transformer."""

import contextlib

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

CLASSES = 3


class SlimConv(nn.Module):
    """A residual network of one hidden layer: the first ``share`` of its channels."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(channels, hidden, 3, padding=1), nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x, share=1.0):
        kept = round(share * self.up.out_channels)
        hidden = nn.functional.conv2d(x, self.up.weight[:kept], self.up.bias[:kept], padding=1)
        hidden = nn.functional.silu(hidden)
        return x + nn.functional.conv2d(hidden, self.down.weight[:, :kept], self.down.bias, padding=1)


class OwnModel(ModelMixin, ConfigMixin):
    """A user's ModelMixin: returns a tensor, calls the class ``y``; it has widths and features to reuse."""

    @register_to_config
    def __init__(self, sample_size: int = 8, in_channels: int = 3, channels: int = 8, hidden: int = 16,
                 num_classes: int | None = None, widths: tuple[float, ...] = (0.5, 1.0)) -> None:
        super().__init__()
        self.widths, self.share = tuple(widths), 1.0
        self.enter, self.time = nn.Conv2d(in_channels, channels, 3, padding=1), nn.Linear(1, channels)
        self.classes = nn.Embedding(num_classes + 1, channels) if num_classes else None
        self.deep, self.leave = SlimConv(channels, hidden), nn.Conv2d(channels, in_channels, 3, padding=1)

    def forward(self, x, t, y=None):
        return self.with_features(x, t, y)[0]

    def with_features(self, x, t, class_labels=None, encoder_hidden_states=None):
        deep = self.deep(self._entered(x, t, class_labels), self.share)
        return self.leave(deep), deep

    def shallow(self, x, t, class_labels, encoder_hidden_states, features):
        return self.leave(features + 0.1 * self._entered(x, t, class_labels))

    def _entered(self, x, t, y):
        t = torch.as_tensor(t, device=x.device).expand(len(x)).to(x.dtype)
        embedding = self.time(t[:, None] / 1000)
        if self.classes is not None:
            null = torch.full_like(t, self.config.num_classes, dtype=torch.long)
            embedding = embedding + self.classes(null if y is None else y)
        return self.enter(x) + embedding[:, :, None, None]

    @contextlib.contextmanager
    def at(self, width):
        before, self.share = self.share, width
        try:
            yield self
        finally:
            self.share = before

    def extract(self, width):
        kept = round(width * self.config.hidden)
        slim = OwnModel(**{k: v for k, v in self.config.items() if k[0] != '_'} | {'hidden': kept, 'widths': (1.0, )})
        state = self.state_dict()
        for name in ('deep.up.weight', 'deep.up.bias'):
            state[name] = state[name][:kept]
        state['deep.down.weight'] = state['deep.down.weight'][:, :kept]
        slim.load_state_dict(state)
        return slim.train(self.training)


class PlainModule(nn.Module):
    """No config, a tuple as output, its own words for everything."""

    def __init__(self, size: int = 8, channels: int = 8, classes: int = CLASSES) -> None:
        super().__init__()
        self.sample_size, self.in_channels, self.num_classes = size, 3, classes
        self.time, self.label = nn.Linear(1, channels), nn.Embedding(classes + 1, channels)
        self.body = nn.Conv2d(3, channels, 3, padding=1)
        self.head = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, noisy, time, labels=None):
        embedding = self.time(time.expand(len(noisy)).to(noisy.dtype)[:, None] / 1000)
        if labels is not None:
            embedding = embedding + self.label(labels)
        return self.head(torch.nn.functional.silu(self.body(noisy) + embedding[:, :, None, None])), 'and more'


BLOCKS = dict(block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1)
#: name -> its config, what the model says of it, a tap, what it offers
BACKBONES = {
    'UNet2DModel': dict(
        unet=dict(type='UNet2DModel', sample_size=8, down_block_types=('DownBlock2D', ) * 2,
                  up_block_types=('UpBlock2D', ) * 2, attention_head_dim=8, **BLOCKS),
        model=dict(num_classes=CLASSES), tap='up1'),
    'UNet2DConditionModel': dict(
        unet=dict(type='UNet2DConditionModel', sample_size=8, in_channels=3, out_channels=3, cross_attention_dim=6,
                  attention_head_dim=4, down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
                  up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'), **BLOCKS),
        model=dict(conditioner=dict(type='RandomText', channels=6), sample_captions=('a cat', 'a dog')),
        tap='mid'),
    'DiTTransformer2DModel': dict(
        unet=dict(type='DiTTransformer2DModel', num_attention_heads=2, attention_head_dim=8, in_channels=3,
                  out_channels=3, num_layers=2, sample_size=8, patch_size=2, norm_num_groups=2),
        model=dict(num_classes=CLASSES), tap='transformer_blocks.0'),
    'PixArtTransformer2DModel': dict(  # with a learned variance, as the published one
        unet=dict(type='PixArtTransformer2DModel', num_attention_heads=2, attention_head_dim=8, in_channels=3,
                  out_channels=6, num_layers=2, norm_num_groups=2, cross_attention_dim=16, sample_size=8, patch_size=2,
                  caption_channels=6),
        model=dict(conditioner=dict(type='RandomText', channels=6), sample_captions=('a cat', 'a dog')),
        tap='transformer_blocks.1'),
    'SanaTransformer2DModel': dict(
        unet=dict(type='SanaTransformer2DModel', num_attention_heads=2, attention_head_dim=8, in_channels=3,
                  out_channels=3, num_layers=2, num_cross_attention_heads=2, cross_attention_head_dim=8,
                  cross_attention_dim=16, caption_channels=6, sample_size=8, patch_size=1),
        model=dict(conditioner=dict(type='RandomText', channels=6), sample_captions=('a cat', 'a dog')),
        tap='transformer_blocks.0'),
    'SD3Transformer2DModel': dict(  # the first row of its context is the pooled vector
        unet=dict(type='SD3Transformer2DModel', num_attention_heads=2, attention_head_dim=8, in_channels=3,
                  out_channels=3, num_layers=2, sample_size=8, patch_size=2, joint_attention_dim=6,
                  caption_projection_dim=16, pooled_projection_dim=4, pos_embed_max_size=8, qk_norm='rms_norm',
                  dual_attention_layers=(0, )),
        model=dict(conditioner=dict(type='RandomText', channels=6), sample_captions=('a cat', 'a dog')),
        tap='transformer_blocks.0'),
    'FluxTransformer2DModel': dict(  # takes patches of 2x2 as 12 channels, and does not say a size
        unet=dict(type='FluxTransformer2DModel', num_attention_heads=2, attention_head_dim=16, in_channels=12,
                  num_layers=1, num_single_layers=2, sample_size=8, joint_attention_dim=6, pooled_projection_dim=4,
                  guidance_embeds=True, axes_dims_rope=(4, 6, 6)),
        model=dict(conditioner=dict(type='RandomText', channels=6), sample_captions=('a cat', 'a dog')),
        tap='single_transformer_blocks.0'),
    'Lumina2Transformer2DModel': dict(
        unet=dict(type='Lumina2Transformer2DModel', num_attention_heads=2, num_kv_heads=1, hidden_size=24,
                  in_channels=3, num_layers=2, num_refiner_layers=1, sample_size=8, patch_size=2, multiple_of=8,
                  axes_dim_rope=(4, 4, 4), axes_lens=(96, 8, 8), cap_feat_dim=6),
        model=dict(conditioner=dict(type='RandomText', channels=6), sample_captions=('a cat', 'a dog')),
        tap='noise_refiner.0'),  # the layers have tokens of the text among those of the image
    'SlimmableDiT': dict(
        unet=dict(type='SlimmableDiT', num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=3,
                  layers=(2, ), sample_size=8, widths=(0.5, 1.0), depths=(0.5, 1.0)),
        model=dict(num_classes=CLASSES), tap='blocks.0', widths=(0.5, 1.0)),
    'OwnModel': dict(unet=dict(type='OwnModel'), model=dict(num_classes=CLASSES), tap='deep', widths=(0.5, 1.0)),
    'PlainModule': dict(unet=dict(type='PlainModule'), model=dict(num_classes=CLASSES), tap='body'),
}
