"""Shared by the tests of commands that run in this process."""

import pytest
import torch

from slimdiff.configuration import load_config
from slimdiff.registry import MODELS


@pytest.fixture
def model_folder(tmp_path, monkeypatch):
    """``model_folder(text)``: a working directory with config.py and its network, of random weights, in unet/."""

    def make(text):
        monkeypatch.chdir(tmp_path)
        (tmp_path / 'config.py').write_text(text)
        model = MODELS.build(load_config('config.py').model)
        torch.nn.init.normal_(model.unet.conv_out.weight, std=.1)
        model.unet.save_pretrained('unet')
        return tmp_path

    return make
