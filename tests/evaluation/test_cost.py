import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slimdiff.evaluation.cost import count_cost, human


class Attention(nn.Module):
    """8 x 8 pixels to 64 tokens, two heads of 6; every way to write a product of activations."""

    def __init__(self, product: str) -> None:
        super().__init__()
        self.product = product
        self.conv = nn.Conv2d(3, 12, 3, padding=1, groups=3)
        self.qkv = nn.Linear(12, 36)
        self.out = nn.Conv1d(12, 5, 1)

    def forward(self, x, scale=1.0):
        h = self.conv(x).flatten(2).transpose(1, 2)  # (N, 64, 12)
        q, k, v = self.qkv(h * scale).unflatten(2, (3, 2, 6)).permute(2, 0, 3, 1, 4)  # (N, 2, 64, 6)
        if self.product == 'sdpa':
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.product == 'matmul':
            y = (q @ k.transpose(2, 3)).softmax(-1) @ v
        elif self.product == 'einsum':
            y = torch.einsum('nhij,nhjd->nhid', torch.einsum('nhid,nhjd->nhij', q, k).softmax(-1), v)
        else:
            q, k, v = (z.flatten(0, 1) for z in (q, k, v))
            zero = torch.zeros(len(q), 64, 64)
            y = torch.bmm(torch.baddbmm(zero, q, k.transpose(1, 2)).softmax(-1), v).unflatten(0, (-1, 2))
        return dict(sample=self.out(y.transpose(1, 2).flatten(2).transpose(1, 2)))


@pytest.mark.parametrize('product', ['sdpa', 'matmul', 'einsum', 'bmm'])
def test_both_conventions_by_hand(product):
    module = Attention(product).train()
    cost = count_cost(module, torch.zeros(1, 3, 8, 8), scale=2.0)
    conv = 64 * 12 * 9 * 1  # pixels x outputs x taps x inputs of a group
    linear = 64 * 12 * 36
    out = 64 * 12 * 5
    products = 2 * (64 * 64 * 6) * 2  # heads x (Q K^T) x (and its product with V)
    assert cost.conv_linear_macs == conv + linear + out
    assert cost.macs_with_attention == cost.conv_linear_macs + products
    assert cost.ptflops == cost.conv_linear_macs + 64 * 12 + 64 * 36 + 64 * 5  # a bias for each output
    assert cost.params == (12 * 9 + 12) + (12 * 36 + 36) + (12 * 5 + 5)
    scores = 0 if product == 'sdpa' else 2 * 64 * 64  # fused attention writes none
    assert cost.activations == 64 * 12 + 64 * 36 + scores + 2 * 64 * 6 + 64 * 5
    by_name = {m.name: m for m in cost.modules}
    assert [by_name[name].conv_linear_macs for name in ('conv', 'qkv', 'out')] == [conv, linear, out]
    assert (by_name['conv'].activations, by_name['qkv'].activations) == (64 * 12, 64 * 36)
    assert by_name[''].macs_with_attention == cost.macs_with_attention and by_name['conv'].type == 'Conv2d'
    assert module.training and module.conv.training


def test_a_transformer_layer_of_pytorch():
    """In evaluation it is one fused operator unless that is turned off."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    fused = torch.backends.mha.get_fastpath_enabled()
    cost = count_cost(layer, torch.zeros(1, 10, 8))
    linear = 10 * 8 * (3 * 8 + 8 + 16 + 16)
    assert (cost.conv_linear_macs, cost.macs_with_attention) == (linear, linear + 2 * 10 * 10 * 8)
    assert torch.backends.mha.get_fastpath_enabled() == fused


def test_cross_attention_with_other_lengths_and_a_broadcast_matmul():
    class Cross(nn.Module):
        def forward(self, q, kv, w):
            return F.scaled_dot_product_attention(q, kv, kv), torch.matmul(q, w)

    cost = count_cost(Cross(), torch.zeros(1, 4, 10, 8), torch.zeros(1, 4, 7, 8), torch.zeros(8, 3))
    assert cost.macs_with_attention == 4 * 10 * 7 * 8 * 2 + 4 * 10 * 8 * 3
    assert cost.activations == 4 * 10 * 8 + 4 * 10 * 3
    assert cost.conv_linear_macs == 0


def test_strided_and_transposed_convolutions_and_norms():
    module = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.GroupNorm(2, 4), nn.SiLU(),
                           nn.ConvTranspose2d(4, 3, 2, stride=2), nn.AvgPool2d(2), nn.Upsample(scale_factor=2))
    cost = count_cost(module, torch.zeros(1, 2, 8, 8))
    # Norms, activations, pools and upsampling are in neither convention.
    assert cost.conv_linear_macs == cost.macs_with_attention == 16 * 4 * 2 * 9 + 16 * 4 * 3 * 4


def test_diffusers_unet_agrees_with_a_hook_count_like_ptflops():
    from diffusers import UNet2DModel
    unet = UNet2DModel(sample_size=16, block_out_channels=(16, 32), norm_num_groups=8, layers_per_block=1,
                       down_block_types=('DownBlock2D', 'AttnDownBlock2D'),
                       up_block_types=('AttnUpBlock2D', 'UpBlock2D'))
    total = norms = 0

    def count(module, inputs, output):
        nonlocal total, norms
        if isinstance(module, nn.Conv2d):
            total += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features
        elif type(module) is nn.GroupNorm:
            norms += 2 * output.numel()

    for module in unet.modules():
        module.register_forward_hook(count)
    sample = (torch.zeros(1, 3, 16, 16), torch.tensor([3]))
    with torch.no_grad():
        unet(*sample)
    expected, expected_norms = total, norms
    cost = count_cost(unet, *sample)
    assert cost.conv_linear_macs == expected
    assert cost.norms == expected_norms > 0 and cost.ptflops == expected + cost.biases + expected_norms
    # Attention at 8 x 8: one block down, two up, one in the middle; heads of 8 channels make 32 in all.
    assert cost.macs_with_attention - cost.conv_linear_macs == 4 * 2 * 64 * 64 * 32


def test_norms_count_where_ptflops_counts_them():
    """Two for an element, one without scale and shift; of our UNet, the norms that LDM has as a plain nn.GroupNorm."""
    from slimdiff.models import UNet
    assert count_cost(nn.GroupNorm(2, 4), torch.zeros(1, 4, 8, 8)).ptflops == 2 * 4 * 64
    assert count_cost(nn.GroupNorm(2, 4, affine=False), torch.zeros(1, 4, 8, 8)).ptflops == 4 * 64
    stages = [dict(channels=8, blocks=1), dict(channels=16, blocks=1, heads=2, cross_attention=True, downsample=False)]
    unet = UNet(sample_size=8, stages=stages, norm_groups=4, context_channels=6)
    cost = count_cost(unet, torch.zeros(1, 3, 8, 8), torch.zeros(1), encoder_hidden_states=torch.zeros(1, 5, 6))
    assert cost.norms == 2 * (16 * 16) * 2  # on the way down and up, at 4 x 4


def test_layers_without_a_bias_add_none():
    module = nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.Flatten(), nn.Linear(48, 5, bias=False), nn.Linear(5, 7))
    cost = count_cost(module, torch.zeros(1, 2, 4, 4))
    assert cost.conv_linear_macs == 16 * 2 * 3 + 48 * 5 + 5 * 7 and cost.ptflops == cost.conv_linear_macs + 7


def test_activations_agree_with_fvcore_where_it_counts_all():
    from fvcore.nn import ActivationCountAnalysis
    module = Attention('bmm').eval()
    module.forward = lambda x, run=module.forward: run(x)['sample']
    counts = ActivationCountAnalysis(module, torch.zeros(1, 3, 8, 8)).unsupported_ops_warnings(False).by_operator()
    # fvcore leaves the product of queries and keys, a `baddbmm`, out.
    assert count_cost(Attention('bmm'), torch.zeros(1, 3, 8, 8)).activations == sum(counts.values()) + 2 * 64 * 64


def test_table_and_json():
    cost = count_cost(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1)), nn.SiLU()), torch.zeros(1, 3, 8, 8))
    shallow, deep = cost.table(1), cost.table(2)
    assert '(total)' in shallow and 'Conv2d' not in shallow and 'Conv2d' in deep
    assert len(cost.table(0).splitlines()) == 3
    data = json.loads(json.dumps(cost.to_dict()))
    assert data['macs_published'] == 768 and data['modules'][2]['macs_published'] == 768
    assert data['uncounted'] == {'aten::silu': 1}
    assert [human(x) for x in (21_100_000, 6.7e9, 999, 1e12)] == ['21.1 M', '6.7 G', '999', '1 T']
