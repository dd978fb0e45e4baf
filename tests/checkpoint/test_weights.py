"""Weights of a checkpoint: taken strictly, or refused with a reason."""

import pytest
import torch
from torch import nn

from slimdiff.checkpoint import CheckpointError, save_checkpoint
from slimdiff.checkpoint.files import FORMAT, FORMAT_VERSION
from slimdiff.checkpoint.weights import load_weights


def content(value=1.0, **extra):
    meta = {'format': FORMAT, 'format_version': FORMAT_VERSION, 'slimdiff_version': '0', 'iter': 1}
    return dict(meta=meta, state_dict={'weight': torch.full((64, 64), value), 'bias': torch.zeros(64)}, **extra)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused(tmp_path, value, dtype):
    data = content()
    data['state_dict']['bias'] = data['state_dict']['bias'].to(dtype)
    data['state_dict']['bias'][3] = value
    save_checkpoint(data, tmp_path / 'iter_1.pth')
    model = nn.Linear(64, 64)
    before = model.weight.clone()
    with pytest.raises(CheckpointError, match=r'iter_1\.pth holds NaN or infinity in 1 \(bias\) of its 2 weights'):
        load_weights(model, tmp_path / 'iter_1.pth', 'online')
    assert torch.equal(model.weight, before)


def test_load_weights(tmp_path):
    model = nn.Linear(64, 64)
    save_checkpoint(content(3.0, ema=dict(decay=0.9, state_dict={'weight': torch.full((64, 64), 5.0)})),
                          tmp_path / 'a.pth')
    assert load_weights(model, tmp_path / 'a.pth')['iter'] == 1
    assert (model.weight == 5).all() and (model.bias == 0).all()
    load_weights(model, tmp_path / 'a.pth', weights='online')
    assert (model.weight == 3).all()
    with pytest.raises(ValueError, match="choose 'ema' or 'online'"):
        load_weights(model, tmp_path / 'a.pth', weights='best')
    save_checkpoint(content(3.0), tmp_path / 'b.pth')
    with pytest.raises(CheckpointError, match="no EMA weights.*weights='online'"):
        load_weights(model, tmp_path / 'b.pth')


def test_other_architecture(tmp_path):
    path = tmp_path / 'iter_1.pth'
    save_checkpoint(content(), path)
    model = nn.Linear(64, 32)
    before = model.weight.clone()
    with pytest.raises(CheckpointError, match=r'other architecture.*weight \(64, 64\) instead of \(32, 64\)'):
        load_weights(model, path, 'online')
    with pytest.raises(CheckpointError, match=r'^Use the config that iter_1.pth was trained with.*\(0 of 2 weights '
                       r'fit; missing: 2 \(0\.weight, \.\.\.\); unexpected: 2 \(weight, \.\.\.\)'):
        load_weights(nn.Sequential(nn.Linear(64, 64)), path, 'online')
    assert torch.equal(model.weight, before)
