"""The UNet against diffusers' own, weight for weight; then counts, layouts, saving and errors."""

import re

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from torch import nn

import slimdiff
from slimdiff import PreconditionedBackbone, UNet

DDPM_STAGES = [dict(channels=16, blocks=2, up_blocks=3),
               dict(channels=32, blocks=2, up_blocks=3, heads=2),
               dict(channels=32, blocks=2, up_blocks=3, downsample=False)]
PRECONDITIONING = dict(schedule=dict(num_train_timesteps=1000), prediction_type='epsilon', sigma_data=0.5)


def randomise(module, std=0.2):
    generator = torch.Generator().manual_seed(0)
    for p in module.parameters():
        p.data = std * torch.randn(p.shape, generator=generator)
    return module


def place_of(side: str, number: str, stages: int) -> str:
    if side == 'mid':
        return 'mid_block'
    return f'down_blocks.{int(number) - 1}' if side == 'down' else f'up_blocks.{stages - int(number)}'


def to_diffusers(unet: UNet) -> dict[str, torch.Tensor]:
    """Our names to those of ``UNet2DModel``, for the DDPM layout."""
    n, out = unet.num_stages, {}
    resnet = {'norm1': 'norm1', 'conv1': 'conv1', 'embedding': 'time_emb_proj', 'norm2': 'norm2', 'conv2': 'conv2',
              'skip': 'conv_shortcut'}
    for key, value in unet.state_dict().items():
        if m := re.match(r'(down|mid|up)(\d*)\.blocks\.(\d+)\.(\w+)\.(\w+)', key):
            side, i, j, name, kind = m.groups()
            place = place_of(side, i, n)
            out[f'{place}.resnets.{j}.{resnet[name]}.{kind}'] = value
        elif m := re.match(r'(down|mid|up)(\d*)\.attentions\.(\d+)\.(\w+)\.(\w+)', key):
            side, i, j, name, kind = m.groups()
            place = place_of(side, i, n) + f'.attentions.{j}'
            if name == 'qkv':
                for part, piece in zip('qkv', value.chunk(3)):
                    out[f'{place}.to_{part}.{kind}'] = piece
            else:
                out[f'{place}.{dict(norm="group_norm", out="to_out.0")[name]}.{kind}'] = value
        elif m := re.match(r'down(\d+)\.downsampler\.(?:conv\.)?(\w+)$', key):
            out[f'down_blocks.{int(m[1]) - 1}.downsamplers.0.conv.{m[2]}'] = value
        elif m := re.match(r'up(\d+)\.upsampler\.(?:conv\.)?(\w+)$', key):
            # Ours enters the stage above; diffusers' leaves the one below.
            out[f'up_blocks.{n - int(m[1]) - 1}.upsamplers.0.conv.{m[2]}'] = value
        else:
            place, kind = key.rsplit('.', 1)
            out[dict(stem='conv_in', norm_out='conv_norm_out').get(place, place) + '.' + kind] = value
    return out


@pytest.mark.parametrize('scale_shift', [False, True])
def test_the_ddpm_layout_equals_diffusers_with_the_same_weights(scale_shift):
    ours = randomise(UNet(sample_size=16, stages=DDPM_STAGES, mid_heads=2, norm_groups=8, scale_shift_norm=scale_shift,
                          flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6))
    theirs = UNet2DModel(
        sample_size=16, block_out_channels=(16, 32, 32), layers_per_block=2, norm_num_groups=8, attention_head_dim=16,
        attn_norm_num_groups=8, norm_eps=1e-6,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"), flip_sin_to_cos=False,
        up_block_types=('UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'), freq_shift=1,
        resnet_time_scale_shift='scale_shift' if scale_shift else 'default')
    theirs.load_state_dict(to_diffusers(ours))  # strict: nothing missing, nothing left over
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 700])
    with torch.no_grad():
        torch.testing.assert_close(ours(x, t).sample, theirs(x, t).sample, rtol=1e-4, atol=1e-4)


def ldm_stages(base, mult, attention_at, heads, cross_attention=False):
    """CompVis' layout; ``attention_at`` in down-sampling factors, ``heads`` a function of the channels."""
    stages = []
    for i, m in enumerate(mult):
        attends = 2**i in attention_at
        stages.append(dict(channels=base * m, blocks=2, up_blocks=3, downsample=i < len(mult) - 1,
                           heads=heads(base * m) if attends else None, cross_attention=attends and cross_attention))
    return stages


@pytest.mark.parametrize('name, millions, arguments', [
    ('ffhq', 274.1, dict(sample_size=64, stages=ldm_stages(224, (1, 2, 3, 4), (8, 4, 2), lambda c: c // 32),
                         mid_heads=28)),
    ('church', 295.0, dict(sample_size=32, in_channels=4, out_channels=4, scale_shift_norm=True,
                           residual_resampling=True, downsampler=dict(type='AvgPoolDown'),
                           upsampler=dict(type='NearestUp'), mid_heads=8,
                           stages=ldm_stages(192, (1, 2, 2, 4, 4), (1, 2, 4, 8), lambda c: 8))),
    ('imagenet', 400.9, dict(sample_size=64, stages=ldm_stages(192, (1, 2, 3, 5), (8, 4, 2), lambda c: 1, True),
                             mid_heads=1, mid_cross_attention=True, context_channels=512)),
])
def test_ldm_teachers_have_the_published_parameters(name, millions, arguments):
    with torch.device('meta'):
        unet = UNet(**arguments)
    assert round(sum(p.numel() for p in unet.parameters()) / 1e6, 1) == millions


def test_the_tables_of_the_sd_paper_are_four_dicts_of_two_words():
    """Table 4 literally: every stage halves, three blocks each way, 64x64 latents reach 4x4."""
    stages = [dict(channels=64, blocks=3)] + [dict(channels=c, blocks=3, heads=c // 32) for c in (128, 192, 256)]
    unet = UNet(sample_size=64, stages=stages, mid_heads=8)
    sizes = {}
    for name in ('down1', 'down4', 'mid', 'up4', 'up1'):
        unet.get_submodule(name).register_forward_hook(
            lambda m, i, o, name=name: sizes.update({name: tuple(o.shape[1:])}))
    unet(torch.randn(1, 3, 64, 64), 0)
    assert sizes == {'down1': (64, 32, 32), 'down4': (256, 4, 4), 'mid': (256, 4, 4), 'up4': (256, 8, 8),
                     'up1': (64, 64, 64)}


def test_skips_zero_is_a_unet_without_skip_connections():
    stages = [dict(channels=8, blocks=1, skips=0), dict(channels=8, blocks=1, skips=0)]
    unet = randomise(UNet(sample_size=8, stages=stages, norm_groups=2))
    assert unet.up1.blocks[0].conv1.in_channels == 8
    assert unet(torch.randn(1, 3, 8, 8), 0).sample.shape == (1, 3, 8, 8)


def test_gradient_checkpointing_gives_the_same_gradients():
    unet = randomise(UNet(sample_size=16, stages=DDPM_STAGES, mid_heads=2, norm_groups=8)).train()
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 700])
    unet(x, t).sample.square().mean().backward()
    plain = {k: p.grad.clone() for k, p in unet.named_parameters()}
    unet.zero_grad()
    unet.enable_gradient_checkpointing()
    unet(x, t).sample.square().mean().backward()
    for k, p in unet.named_parameters():
        torch.testing.assert_close(p.grad, plain[k])


def test_cross_attention_reads_its_context():
    stages = [dict(channels=16, blocks=1), dict(channels=16, blocks=1, heads=2, cross_attention=True)]
    unet = randomise(UNet(sample_size=8, stages=stages, norm_groups=4, context_channels=6))
    x, a, b = torch.randn(1, 3, 8, 8), torch.randn(1, 5, 6), torch.randn(1, 5, 6)
    assert (unet(x, 1, encoder_hidden_states=a).sample - unet(x, 1, encoder_hidden_states=b).sample).abs().max() > 1e-4
    # Cross-attention has no positions: the order of the tokens does not matter.
    torch.testing.assert_close(unet(x, 1, encoder_hidden_states=a).sample,
                               unet(x, 1, encoder_hidden_states=a.flip(1)).sample, rtol=1e-4, atol=1e-4)


def test_labels_and_the_null_class():
    unet = randomise(UNet(sample_size=8, stages=[dict(channels=8)], norm_groups=2, num_classes=3))
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(unet(x, 5).sample, unet(x, 5, torch.tensor([3, 3])).sample)
    assert (unet(x, 5).sample - unet(x, 5, torch.tensor([0, 1])).sample).abs().max() > 1e-4
    with pytest.raises(ValueError, match=r'0\.\.2 .*got values from 0 to 4'):
        unet(x, 5, torch.tensor([0, 4]))
    with pytest.raises(ValueError, match='unconditional'):
        UNet(sample_size=8, stages=[dict(channels=8)], norm_groups=2)(x, 5, torch.tensor([0, 1]))


def test_a_class_token_is_a_context_of_one_token():
    stages = [dict(channels=16, blocks=1), dict(channels=16, blocks=1, heads=2, cross_attention=True)]
    settings = dict(sample_size=8, stages=stages, norm_groups=4, context_channels=6)
    unet = randomise(UNet(num_classes=3, class_token=True, **settings))
    bare = UNet(**settings)
    bare.load_state_dict({k: v for k, v in unet.state_dict().items() if k != 'class_embedding.weight'})
    x, labels = torch.randn(2, 3, 8, 8), torch.tensor([2, 0])
    token = unet.class_embedding.weight[labels][:, None]
    torch.testing.assert_close(unet(x, 5, labels).sample, bare(x, 5, encoder_hidden_states=token).sample)
    torch.testing.assert_close(unet(x, 5).sample, unet(x, 5, torch.tensor([3, 3])).sample)  # the null class
    assert (unet(x, 5, labels).sample - unet(x, 5).sample).abs().max() > 1e-4
    with pytest.raises(ValueError, match='give class_labels alone'):
        unet(x, 5, labels, encoder_hidden_states=token)
    with pytest.raises(ValueError, match='class_token=True needs num_classes and context_channels'):
        UNet(class_token=True, num_classes=3)


def test_preconditioned_output_by_hand():
    cfg = PRECONDITIONING
    stages = [dict(channels=8)]
    bare = randomise(UNet(sample_size=8, stages=stages, norm_groups=2))
    full = PreconditionedBackbone(bare, preconditioning=cfg)
    x = torch.randn(2, 3, 8, 8)
    a = DDIMScheduler().alphas_cumprod[torch.tensor([10, 900])].view(2, 1, 1, 1)
    d = a * 0.25 + 1 - a
    expected = (1 - a).sqrt() / d * x + (a * 0.25 / d).sqrt() * bare(x / d.sqrt(), torch.tensor([10, 900])).sample
    torch.testing.assert_close(full(x, torch.tensor([10, 900])).sample, expected, rtol=1e-4, atol=1e-5)


def test_bf16_and_channels_last():
    unet = randomise(UNet(sample_size=16, stages=DDPM_STAGES, mid_heads=2, norm_groups=8), std=0.05)
    x = torch.randn(2, 3, 16, 16)
    full = unet(x, 5).sample
    assert full.is_contiguous(memory_format=torch.channels_last)
    half = unet.to(torch.bfloat16)(x.bfloat16(), 5).sample
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, rtol=0.1, atol=0.02)


def test_the_stock_pipeline_samples_from_a_saved_folder(tmp_path):
    unet = randomise(UNet(sample_size=16, stages=DDPM_STAGES, mid_heads=2, norm_groups=8), std=0.05)
    unet = PreconditionedBackbone(unet, preconditioning=PRECONDITIONING)
    DDIMPipeline(unet, DDIMScheduler()).save_pretrained(tmp_path)
    pipeline = DDIMPipeline.from_pretrained(tmp_path)
    assert type(pipeline.unet) is slimdiff.PreconditionedBackbone and type(pipeline.unet.network) is slimdiff.UNet
    pipeline.set_progress_bar_config(disable=True)
    first, second = (p(batch_size=2, num_inference_steps=4, output_type='np',
                       generator=torch.Generator().manual_seed(1)).images
                     for p in (pipeline, DDIMPipeline(unet, DDIMScheduler())))
    assert first.shape == (2, 16, 16, 3) and abs(first - second).max() == 0


def test_save_pretrained_gives_the_same_network(tmp_path):
    unet = randomise(UNet(sample_size=16, stages=DDPM_STAGES, mid_heads=2, norm_groups=8))
    unet.save_pretrained(tmp_path)
    again = UNet.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(unet.state_dict().values(), again.state_dict().values(), strict=True))
    x = torch.randn(1, 3, 16, 16)
    # Not bit for bit: weights out of a mapped file are not aligned, and some CPUs' kernels then round otherwise.
    torch.testing.assert_close(unet.eval()(x, 7).sample, again(x, 7).sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('arguments, message', [
    (dict(sample_size=20, stages=[dict(channels=8)] * 3), r'20x20.*multiples of 8 \(such as 8, 16, 32\)'),
    (dict(sample_size=0), '0x0'),
    (dict(stages=[dict(channels=12)], norm_groups=8), '12 channels do not divide into 8 norm groups'),
    (dict(stages=[dict(channels=32, heads=5)]), '32 channels do not divide into 5 attention heads'),
    (dict(stages=[dict(channel=32)]), "Stage down1 takes no 'channel'. Did you mean 'channels'"),
    (dict(stages=[dict(blocks=2)]), "needs 'channels'"),
    (dict(stages=[dict(channels=32, blocks=1, skips=3)]), r'skips must lie in 0\.\.1'),
    (dict(stages=[dict(channels=32, blocks=0)]), 'blocks must be at least 1'),
    (dict(stages=[dict(channels=32, cross_attention=True)]), 'cross_attention needs heads'),
    (dict(stages=[dict(channels=32, heads=1, cross_attention=True)]), 'needs context_channels'),
    (dict(stages=[]), 'at least one stage'),
    (dict(downsampler=dict(type='ConvDwon')), "no resampler of type 'ConvDwon'. Did you mean 'ConvDown'"),
])
def test_impossible_networks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        UNet(**arguments)


def test_odd_images_are_refused_at_run_time():
    with pytest.raises(ValueError, match=r'Image size 10x7.*multiples of 4'):
        UNet(sample_size=8, stages=[dict(channels=8)] * 2, norm_groups=2)(torch.randn(1, 3, 10, 7), 0)


def test_every_stage_halves_and_the_memory_of_a_hook_is_a_tensor():
    unet = UNet(sample_size=8, stages=[dict(channels=8)] * 2, norm_groups=2)
    outputs = []
    for name in ('down1', 'down2', 'mid', 'up2', 'up1'):
        unet.get_submodule(name).register_forward_hook(lambda m, i, o: outputs.append(o))
    unet(torch.randn(1, 3, 8, 8), 0)
    assert all(isinstance(o, torch.Tensor) for o in outputs) and len(outputs) == 5
    assert isinstance(unet.stem, nn.Conv2d)


def test_the_whole_network_compiles_without_a_graph_break():
    stages = [dict(channels=8, blocks=1), dict(channels=8, blocks=1, heads=2)]
    unet = randomise(UNet(sample_size=8, stages=stages, norm_groups=2, num_classes=3,
                          downsampler=dict(type='WaveletGatedDown'), upsampler=dict(type='WaveletGatedUp')))
    unet = PreconditionedBackbone(unet, preconditioning=PRECONDITIONING)
    compiled = torch.compile(unet, backend='aot_eager', fullgraph=True)
    x, t, labels = torch.randn(2, 3, 8, 8), torch.tensor([3, 700]), torch.tensor([0, 3])
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, t, labels).sample, unet(x, t, labels).sample, rtol=1e-4, atol=1e-5)


def test_a_config_of_another_layout_is_refused():
    """That of 0.1, which had the preconditioning in the UNet, and that of the wrapper."""
    config = {**UNet(sample_size=8, norm_groups=8).config, 'preconditioning': PRECONDITIONING}
    with pytest.raises(ValueError, match=r'written by slimdiff 0\.1, .*the files of 0\.1 are not read'):
        UNet.from_config(config)
    with pytest.raises(ValueError, match='open it with slimdiff.PreconditionedBackbone'):
        UNet.from_config({**config, 'network_class': 'UNet'})
