"""LoRA is PEFT's: its adapters go into our networks, train in our models, and merge."""

import pytest
import torch

from slimdiff.registry import MODELS

peft = pytest.importorskip('peft')

NETWORKS = {
    'UNet': (dict(type='UNet', sample_size=8, norm_groups=4,
                  stages=[dict(channels=8, blocks=1), dict(channels=16, blocks=1, heads=2, downsample=False)],
                  downsampler=dict(type='WaveletGatedDown'), upsampler=dict(type='WaveletGatedUp')),
             ['qkv', 'out', 'conv1', 'conv2']),
    'DiT': (dict(type='DiT', sample_size=8, in_channels=3, out_channels=3, layers=(2, ), num_attention_heads=2,
                 attention_head_dim=8),
            ['qkv', 'out', 'up', 'down', 'modulation']),
}


@pytest.mark.parametrize('name', NETWORKS)
def test_an_adapter_trains_and_merges(name, tmp_path):
    torch.manual_seed(0)
    config, targets = NETWORKS[name]
    model = MODELS.build(dict(type='DiffusionModel', unet=config, num_classes=2, num_steps=2))
    for parameter in model.unet.parameters():  # last layers begin at zero: nothing before them would learn
        parameter.data += 0.1 * torch.randn_like(parameter)
    base = {key: value.clone() for key, value in model.unet.state_dict().items()}
    adapted = peft.get_peft_model(model.unet, peft.LoraConfig(r=4, target_modules=targets))
    trained = {key: p for key, p in model.unet.named_parameters() if p.requires_grad}
    assert trained and all('lora_' in key for key in trained)
    before = {key: p.detach().clone() for key, p in trained.items()}

    labels = torch.arange(8) % 2  # black and white images
    images = (2.0 * labels - 1)[:, None, None, None].expand(-1, 3, 8, 8)
    optimizer, losses = torch.optim.AdamW(trained.values(), lr=1e-2), []
    for _ in range(30):
        model.seed_step(0)  # the same noise every time: the loss must fall
        loss = model(images, labels, mode='loss')['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    # Every B starts at zero and has moved, and no weight of the base has.
    assert all(not torch.equal(p, before[key]) for key, p in trained.items())
    state = model.unet.state_dict()
    now = {key.replace('.base_layer', ''): value for key, value in state.items() if 'lora_' not in key}
    assert now.keys() == base.keys() and all(torch.equal(now[key], value) for key, value in base.items())

    model.eval()
    adapted.save_pretrained(tmp_path / 'lora')
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([10, 700])
    with torch.no_grad():
        expected, sample = model.predict(x, t, labels[:2]), model.sample([0, 1], seed=1)
        assert adapted.merge_and_unload() is model.unet
        torch.testing.assert_close(model.predict(x, t, labels[:2]), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.sample([0, 1], seed=1), sample, rtol=1e-4, atol=1e-4)
    # Merged, it is the network of before: it saves and opens as any other, and the adapter does on the base.
    assert model.unet.state_dict().keys() == base.keys()
    model.unet.save_pretrained(tmp_path / 'merged')
    opened = type(model.unet).from_pretrained(tmp_path / 'merged').eval()
    merged = model.unet(x, t, labels[:2]).sample
    assert torch.equal(opened(x, t, labels[:2]).sample, merged)
    model.unet.load_state_dict(base)
    again = peft.PeftModel.from_pretrained(model.unet, tmp_path / 'lora')
    torch.testing.assert_close(again(x, t, labels[:2]).sample, merged, rtol=1e-4, atol=1e-5)
