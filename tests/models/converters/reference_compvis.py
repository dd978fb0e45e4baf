"""Latent diffusion's networks from their published description, with CompVis' parameter names: the oracle.

Nothing here uses slimdiff, fused attention or diffusers. Sums are written out where the layout of the weights matters
(which rows of a fused q, k, v belong to which head), so that a mistake in the converter cannot hide in a shared helper.
Sources: Rombach et al. 2022 (appendix E), Dhariwal & Nichol 2021 (appendix A), Esser et al. 2021, and the key names and
shapes of the published checkpoints.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Sequence(nn.Sequential):
    """Gives the embedding to residual blocks and the context to transformers."""

    def forward(self, x, embedding, context):
        for layer in self:
            if isinstance(layer, Residual):
                x = layer(x, embedding)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            else:
                x = layer(x)
        return x


def sinusoid(t, width):
    """Cosines first, then sines, of t times 10000^(-k / half)."""
    half = width // 2
    rate = torch.tensor([math.exp(-math.log(10000) * k / half) for k in range(half)])
    angle = t.float()[:, None] * rate[None]
    return torch.cat([angle.cos(), angle.sin()], 1)


class Up(nn.Module):

    def __init__(self, channels, convolve=True):
        super().__init__()
        if convolve:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return self.conv(x) if hasattr(self, 'conv') else x


class Down(nn.Module):

    def __init__(self, channels, convolve=True):
        super().__init__()
        if convolve:
            self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x):
        if hasattr(self, 'op'):
            return self.op(x)
        n, c, h, w = x.shape
        return x.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))


class Residual(nn.Module):
    """ResBlock; `way` is None, 'up' or 'down'."""

    def __init__(self, cin, width, cout, film, way=None):
        super().__init__()
        self.film = film
        self.in_layers = nn.Sequential(nn.GroupNorm(32, cin), nn.SiLU(), nn.Conv2d(cin, cout, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * cout if film else cout))
        self.out_layers = nn.Sequential(nn.GroupNorm(32, cout), nn.SiLU(), nn.Dropout(0.),
                                        nn.Conv2d(cout, cout, 3, padding=1))
        self.skip_connection = nn.Identity() if cin == cout else nn.Conv2d(cin, cout, 1)
        self.change = {None: nn.Identity(), 'up': Up(cin, False), 'down': Down(cin, False)}[way]

    def forward(self, x, embedding):
        norm, activation, convolve = self.in_layers
        h = convolve(self.change(activation(norm(x))))
        e = self.emb_layers(embedding)[..., None, None]
        if self.film:
            scale, shift = e[:, :h.shape[1]], e[:, h.shape[1]:]
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + e)
        return self.skip_connection(self.change(x)) + h


class AttentionBlock(nn.Module):
    """Rows of qkv by head: head 0's q, k, v, then head 1's, ..."""

    def __init__(self, channels, heads):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x):
        flat = x.flatten(2)
        rows = self.qkv(self.norm(flat))
        d = flat.shape[1] // self.heads
        out = []
        for head in range(self.heads):
            q, k, v = (rows[:, (3 * head + which) * d:(3 * head + which + 1) * d] for which in range(3))
            weight = torch.softmax(torch.einsum('nct,ncs->nts', q, k) / math.sqrt(d), -1)
            out.append(torch.einsum('nts,ncs->nct', weight, v))
        return (flat + self.proj_out(torch.cat(out, 1))).reshape(x.shape)


class Attention(nn.Module):

    def __init__(self, channels, context, heads):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context, channels, bias=False)
        self.to_v = nn.Linear(context, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels), nn.Dropout(0.))

    def forward(self, x, context):
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        d = q.shape[-1] // self.heads
        out = []
        for head in range(self.heads):
            part = slice(head * d, (head + 1) * d)
            weight = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) * d**-0.5, -1)
            out.append(weight @ v[..., part])
        return self.to_out(torch.cat(out, -1))


class GatedLinear(nn.Module):

    def __init__(self, cin, cout):
        super().__init__()
        self.proj = nn.Linear(cin, 2 * cout)

    def forward(self, x):
        both = self.proj(x)
        half = both.shape[-1] // 2
        return both[..., :half] * F.gelu(both[..., half:])


class FeedForward(nn.Module):

    def __init__(self, channels):
        super().__init__()
        self.net = nn.Sequential(GatedLinear(channels, 4 * channels), nn.Dropout(0.), nn.Linear(4 * channels, channels))

    def forward(self, x):
        return self.net(x)


class TransformerBlock(nn.Module):

    def __init__(self, channels, context, heads):
        super().__init__()
        self.attn1 = Attention(channels, channels, heads)
        self.ff = FeedForward(channels)
        self.attn2 = Attention(channels, context, heads)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))

    def forward(self, x, context):
        y = self.norm1(x)
        x = x + self.attn1(y, y)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """`linear`, as in Stable Diffusion 2: the projections see tokens, and are linear layers."""

    def __init__(self, channels, context, heads, linear=False):
        super().__init__()
        self.linear = linear
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, context, heads)])
        self.proj_out = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x, context):
        y = self.norm(x)
        if self.linear:
            tokens = self.proj_in(y.flatten(2).transpose(1, 2))
        else:
            tokens = self.proj_in(y).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        if self.linear:
            return x + self.proj_out(tokens).transpose(1, 2).reshape(y.shape)
        return x + self.proj_out(tokens.transpose(1, 2).reshape(y.shape))


class UNetModel(nn.Module):
    """`attention` lists the down-sampling factors that have it; `heads` a count, or `head_width` channels each."""

    def __init__(self, base, mult, attention, heads=None, head_width=None, context=None, film=False, updown=False,
                 channels=3, blocks=2, linear=False):
        super().__init__()
        width, self.base = 4 * base, base

        def attend(c):
            count = heads or c // head_width
            return SpatialTransformer(c, context, count, linear) if context else AttentionBlock(c, count)

        self.time_embed = nn.Sequential(nn.Linear(base, width), nn.SiLU(), nn.Linear(width, width))
        self.input_blocks = nn.ModuleList([Sequence(nn.Conv2d(channels, base, 3, padding=1))])
        here, factor, kept = base, 1, [base]
        for level, m in enumerate(mult):
            for _ in range(blocks):
                layers = [Residual(here, width, m * base, film)]
                here = m * base
                if factor in attention:
                    layers.append(attend(here))
                self.input_blocks.append(Sequence(*layers))
                kept.append(here)
            if level + 1 < len(mult):
                self.input_blocks.append(Sequence(Residual(here, width, here, film, 'down') if updown else Down(here)))
                kept.append(here)
                factor *= 2
        self.middle_block = Sequence(Residual(here, width, here, film), attend(here), Residual(here, width, here, film))
        self.output_blocks = nn.ModuleList()
        for level, m in reversed(list(enumerate(mult))):
            for i in range(blocks + 1):
                layers = [Residual(here + kept.pop(), width, m * base, film)]
                here = m * base
                if factor in attention:
                    layers.append(attend(here))
                if level and i == blocks:
                    layers.append(Residual(here, width, here, film, 'up') if updown else Up(here))
                    factor //= 2
                self.output_blocks.append(Sequence(*layers))
        self.out = nn.Sequential(nn.GroupNorm(32, here), nn.SiLU(), nn.Conv2d(base, channels, 3, padding=1))

    def forward(self, x, t, context=None):
        embedding = self.time_embed(sinusoid(t, self.base))
        kept = []
        for block in self.input_blocks:
            x = block(x, embedding, context)
            kept.append(x)
        x = self.middle_block(x, embedding, context)
        for block in self.output_blocks:
            x = block(torch.cat([x, kept.pop()], 1), embedding, context)
        return self.out(x)


# ---- first stages ---------------------------------------------------------------------------------------------------


def norm(channels):
    return nn.GroupNorm(32, channels, eps=1e-6)


class Resnet(nn.Module):

    def __init__(self, cin, cout):
        super().__init__()
        self.norm1, self.conv1 = norm(cin), nn.Conv2d(cin, cout, 3, padding=1)
        self.norm2, self.conv2 = norm(cout), nn.Conv2d(cout, cout, 3, padding=1)
        if cin != cout:
            self.nin_shortcut = nn.Conv2d(cin, cout, 1)

    def forward(self, x):
        h = self.norm1(x)
        h = self.conv1(h * h.sigmoid())
        h = self.norm2(h)
        h = self.conv2(h * h.sigmoid())
        return h + (self.nin_shortcut(x) if hasattr(self, 'nin_shortcut') else x)


class PixelAttention(nn.Module):
    """One head over all channels."""

    def __init__(self, channels):
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        y = self.norm(x)
        q, k, v = (f(y).flatten(2) for f in (self.q, self.k, self.v))
        weight = torch.softmax(torch.einsum('nct,ncs->nts', q, k) * x.shape[1]**-0.5, -1)
        return x + self.proj_out(torch.einsum('nts,ncs->nct', weight, v).reshape(x.shape))


class Stride(nn.Module):
    """Padded to the right and below."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


def middle(channels, attend=True):
    """`attend` is False in vq-f4-noattn."""
    part = nn.Module()
    part.block_1, part.block_2 = Resnet(channels, channels), Resnet(channels, channels)
    part.attn_1 = PixelAttention(channels) if attend else nn.Identity()
    return part


def run_middle(part, x):
    return part.block_2(part.attn_1(part.block_1(x)))


def run_level(part, x):
    for i, block in enumerate(part.block):
        x = block(x)
        if len(part.attn):
            x = part.attn[i](x)
    return x


class Encoder(nn.Module):

    def __init__(self, base, mult, blocks, out, attention, middle_attention=True):
        super().__init__()
        self.conv_in = nn.Conv2d(3, base, 3, padding=1)
        self.down = nn.ModuleList()
        here = base
        for level, m in enumerate(mult):
            part = nn.Module()
            part.block = nn.ModuleList(Resnet(here if i == 0 else base * m, base * m) for i in range(blocks))
            here = base * m
            part.attn = nn.ModuleList(PixelAttention(here) for _ in range(blocks) if level in attention)
            if level + 1 < len(mult):
                part.downsample = Stride(here)
            self.down.append(part)
        self.mid = middle(here, middle_attention)
        self.norm_out, self.conv_out = norm(here), nn.Conv2d(here, out, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for part in self.down:
            x = run_level(part, x)
            if hasattr(part, 'downsample'):
                x = part.downsample(x)
        x = self.norm_out(run_middle(self.mid, x))
        return self.conv_out(x * x.sigmoid())


class Decoder(nn.Module):

    def __init__(self, base, mult, blocks, z, attention, middle_attention=True):
        super().__init__()
        here = base * mult[-1]
        self.conv_in, self.mid = nn.Conv2d(z, here, 3, padding=1), middle(here, middle_attention)
        parts = {}
        for level in reversed(range(len(mult))):
            part = nn.Module()
            width = base * mult[level]
            part.block = nn.ModuleList(Resnet(here if i == 0 else width, width) for i in range(blocks + 1))
            here = width
            part.attn = nn.ModuleList(PixelAttention(here) for _ in range(blocks + 1) if level in attention)
            if level:
                part.upsample = Up(here)
            parts[level] = part
        self.up = nn.ModuleList(parts[level] for level in range(len(mult)))
        self.norm_out, self.conv_out = norm(here), nn.Conv2d(here, 3, 3, padding=1)

    def forward(self, z):
        x = run_middle(self.mid, self.conv_in(z))
        for part in reversed(self.up):
            x = run_level(part, x)
            if hasattr(part, 'upsample'):
                x = part.upsample(x)
        x = self.norm_out(x)
        return self.conv_out(x * x.sigmoid())


class FirstStage(nn.Module):
    """With `codes` a VQ model of that many, else a KL one; `attention` lists levels (0 is the full resolution)."""

    def __init__(self, base, mult, z, codes=None, blocks=2, attention=(), middle_attention=True):
        super().__init__()
        double = 1 if codes else 2
        self.encoder = Encoder(base, mult, blocks, double * z, attention, middle_attention)
        self.decoder = Decoder(base, mult, blocks, z, attention, middle_attention)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(double * z, double * z, 1), nn.Conv2d(z, z, 1)
        if codes:
            self.quantize = nn.Module()
            self.quantize.embedding = nn.Embedding(codes, z)

    def encode(self, x):
        """Unquantised latents of VQ; mean and log-variance of KL."""
        return self.quant_conv(self.encoder(x))

    def decode(self, z):
        if hasattr(self, 'quantize'):
            book = self.quantize.embedding.weight
            distance = (z.permute(0, 2, 3, 1)[..., None, :] - book).square().sum(-1)
            z = book[distance.argmin(-1)].permute(0, 3, 1, 2)
        return self.decoder(self.post_quant_conv(z))


# ---- the five teachers ----------------------------------------------------------------------------------------------

FFHQ = dict(mult=(1, 2, 3, 4), attention=(8, 4, 2), head_width=32)
CHURCH = dict(mult=(1, 2, 2, 4, 4), attention=(1, 2, 4, 8), heads=8, film=True, updown=True, channels=4)
IMAGENET = dict(mult=(1, 2, 3, 5), attention=(8, 4, 2), heads=1, context=512)
TXT2IMG = dict(mult=(1, 2, 4, 4), attention=(4, 2, 1), heads=8, context=1280, channels=4)
#: name -> arguments of UNetModel at full size
FULL = {
    'ffhq': dict(base=224, **FFHQ), 'celebahq': dict(base=224, **FFHQ), 'lsun_bedroom': dict(base=224, **FFHQ),
    'lsun_church': dict(base=192, **CHURCH), 'imagenet': dict(base=192, **IMAGENET),
    'txt2img': dict(base=320, **TXT2IMG)
}
VQ_F4 = dict(base=128, mult=(1, 2, 4), z=3, codes=8192)
KL_F8 = dict(base=128, mult=(1, 2, 4, 4), z=4)


def noise_schedule(start, end, steps=1000):
    """beta, linear in its square root."""
    return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64)**2


def lightning(unet, first_stage=None, betas=None, condition=None, average=None, **more):
    """The state dict of a LatentDiffusion: `average` is a second UNet's parameters, under LitEma's names."""
    state = {}
    if betas is not None:
        state['betas'] = betas.float()
        state['alphas_cumprod'] = (1 - betas).cumprod(0).float()
        for name in ('alphas_cumprod_prev', 'sqrt_alphas_cumprod', 'sqrt_one_minus_alphas_cumprod',
                     'log_one_minus_alphas_cumprod', 'sqrt_recip_alphas_cumprod', 'sqrt_recipm1_alphas_cumprod',
                     'posterior_variance', 'posterior_log_variance_clipped', 'posterior_mean_coef1',
                     'posterior_mean_coef2'):
            state[name] = torch.zeros(len(betas))
    state |= {f'model.diffusion_model.{name}': value for name, value in unet.state_dict().items()}
    if average is not None:
        state |= {'model_ema.decay': torch.tensor(0.9999), 'model_ema.num_updates': torch.tensor(7, dtype=torch.int32)}
        state |= {'model_ema.diffusion_model' + name.replace('.', ''): value
                  for name, value in average.state_dict().items()}
    if first_stage is not None:
        state |= {f'first_stage_model.{name}': value for name, value in first_stage.state_dict().items()}
    state |= {f'cond_stage_model.{name}': value for name, value in (condition or {}).items()}
    return state | more
