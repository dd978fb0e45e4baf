import json

import pytest
import torch

from slimdiff.cli.get_flops import main
from slimdiff.evaluation.unet_cost import unet_cost, unet_inputs
from slimdiff.registry import MODELS

UNET = dict(type='UNet', sample_size=16, stages=[dict(channels=16, blocks=1), dict(channels=32, blocks=1, heads=2)],
            norm_groups=8, downsampler=dict(type='ConvDown'), upsampler=dict(type='NearestConvUp'))
CONFIG = f'model = dict(type="DiffusionModel", num_classes=5, unet={UNET!r})\n'


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'tiny.py'
    path.write_text(CONFIG)
    return str(path)


def test_published_macs_equal_a_count_by_hooks():
    model = MODELS.build(dict(type='DiffusionModel', num_classes=5, unet=UNET)).eval()
    total = 0

    def count(module, inputs, output):
        nonlocal total
        if isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d)):
            total += output.numel() * module.weight[0].numel()
        elif isinstance(module, torch.nn.Linear):
            total += output.numel() * module.in_features

    hooks = [module.register_forward_hook(count) for module in model.unet.modules()]
    inputs, kwargs = unet_inputs(model.unet)
    assert kwargs['class_labels'].tolist() == [0]
    with torch.no_grad():
        model.unet(*inputs, **kwargs)
    for hook in hooks:
        hook.remove()
    expected = total
    cost = unet_cost(model)
    assert cost.conv_linear_macs == expected
    assert cost.params == sum(p.numel() for p in model.unet.parameters())
    assert cost.macs_with_attention > cost.conv_linear_macs
    assert {'stem', 'down1', 'down2', 'mid', 'up1'} <= {m.name for m in cost.modules}


def test_command_prints_both_conventions_and_writes_json(config, tmp_path, capsys):
    out = tmp_path / 'sub' / 'cost.json'
    assert main([config, '--json', str(out), '--depth', '1']) == 0
    text = capsys.readouterr().out
    assert 'published convention' in text and 'with the products of attention' in text and 'down1' in text
    data = json.loads(out.read_text())
    assert data['macs_with_attention'] > data['macs_published'] > 0 and data['input'] == [3, 16, 16]
    assert {'name', 'type', 'params', 'macs_published', 'macs_with_attention',
            'activations', 'biases'} == data['modules'][0].keys()
    assert f'{(data["macs_published"] + data["biases"] + data["norms"]) / 1e6:.4g} M with biases and norms' in text
    assert data['class_params'] == 6 * 16 * 4  # five classes and the null class, as wide as the time embedding
    assert 'of class embeddings' in text and 'activations' in text

    assert main([config, '--depth', '0', '--json', str(out), '--cfg-options', 'model.unet.sample_size=32']) == 0
    assert 'down1' not in capsys.readouterr().out
    assert json.loads(out.read_text())['input'] == [3, 32, 32]


def test_the_tool_runs_from_any_directory(config, run_tool):
    assert 'MACs' in run_tool('analysis_tools/get_flops.py', config, '--depth', '0').stdout
