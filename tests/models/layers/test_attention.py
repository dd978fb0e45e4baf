import pytest
import torch

from slimdiff.models.layers.attention import (
    CrossAttentionBlock,
    SelfAttentionBlock,
    multi_head_attention,
    to_map,
    to_tokens,
)


def test_multi_head_attention_equals_a_loop_over_heads():
    q, k, v = (torch.randn(2, n, 12, dtype=torch.float64) for n in (5, 7, 7))
    expected = []
    for h in range(3):
        part = slice(4 * h, 4 * h + 4)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / 2.0).softmax(-1)  # sqrt(4) = 2
        expected.append(weights @ v[..., part])
    torch.testing.assert_close(multi_head_attention(q, k, v, heads=3), torch.cat(expected, -1))


def test_tokens_of_a_channels_last_map_are_a_view():
    x = torch.randn(2, 8, 4, 6).contiguous(memory_format=torch.channels_last)
    assert to_tokens(x).data_ptr() == x.data_ptr() and to_tokens(x).is_contiguous()
    assert torch.equal(to_map(to_tokens(x), 4, 6), x)


@pytest.mark.parametrize('block', [SelfAttentionBlock(16, 4, 4), CrossAttentionBlock(16, 4, 6, 4)])
def test_blocks_start_as_identity_and_mix_pixels_once_trained(block):
    x, context = torch.randn(2, 16, 4, 4), torch.randn(2, 3, 6)
    torch.testing.assert_close(block(x, context), x)
    for p in block.parameters():
        torch.nn.init.normal_(p, std=0.3)
    moved = x.clone()
    moved[:, :, 0, 0] += 1
    assert (block(moved, context) - block(x, context))[:, :, 3, 3].abs().max() > 1e-4


def test_self_attention_block_by_hand():
    block = SelfAttentionBlock(4, heads=2, norm_groups=2)
    for p in block.parameters():
        torch.nn.init.normal_(p)
    x = torch.randn(1, 4, 2, 3)
    tokens = torch.nn.functional.group_norm(x, 2, block.norm.weight, block.norm.bias).flatten(2).transpose(1, 2)
    q, k, v = (tokens @ block.qkv.weight.T + block.qkv.bias).split(4, -1)
    out = torch.cat([(q[..., i:i + 2] @ k[..., i:i + 2].mT / 2**0.5).softmax(-1) @ v[..., i:i + 2] for i in (0, 2)], -1)
    out = (out @ block.out.weight.T + block.out.bias).transpose(1, 2).reshape(1, 4, 2, 3)
    torch.testing.assert_close(block(x), x + out)


def test_bf16_training_on_cpu_matches_float32():
    block = SelfAttentionBlock(16, 2, norm_groups=4)
    for p in block.parameters():
        torch.nn.init.normal_(p, std=0.2)
    x = torch.randn(2, 16, 8, 8, requires_grad=True)
    full = block(x)
    full.sum().backward()
    gradient, x.grad = x.grad, None
    with torch.autocast('cpu', torch.bfloat16):
        half = block(x)
    half.float().sum().backward()
    torch.testing.assert_close(half.float(), full, rtol=0.05, atol=0.05)
    torch.testing.assert_close(x.grad, gradient, rtol=0.1, atol=0.1)


def test_channels_that_heads_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r'30 channels do not divide into 4 attention heads.*nearest: 28 or 32'):
        SelfAttentionBlock(30, 4, norm_groups=2)


def test_cross_attention_without_context_says_what_to_pass():
    with pytest.raises(ValueError, match='encoder_hidden_states'):
        CrossAttentionBlock(8, 2, 4, norm_groups=2)(torch.randn(1, 8, 2, 2))
