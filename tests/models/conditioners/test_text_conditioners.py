import json
import sys

import pytest
import tiny_text
import torch
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertModel
from transformers import BertTokenizer, CLIPTextModel, CLIPTokenizer

from slimdiff.models.conditioners import CLIPText, LDMBertText
from slimdiff.registry import MODELS

CAPTIONS = ['a cat', '', 'two dogs on a mat', 'a cat']


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    return tiny_text.save_clip(tmp_path_factory.mktemp('clip'))


def test_clip_is_that_of_transformers(clip):
    conditioner = MODELS.build(dict(type='CLIPText', checkpoint=clip, channels=16))
    tokens = CLIPTokenizer.from_pretrained(clip, subfolder='tokenizer')(
        CAPTIONS, padding='max_length', max_length=77, return_tensors='pt')
    expected = CLIPTextModel.from_pretrained(clip, subfolder='text_encoder')(tokens.input_ids).last_hidden_state
    found = conditioner(CAPTIONS)
    assert found.shape == (4, 77, 16) and found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_ldm_bert_is_that_of_diffusers(tmp_path):
    folder = tiny_text.save_ldm_bert(tmp_path)
    tokens = BertTokenizer.from_pretrained(folder, subfolder='tokenizer')(
        ['a cat', 'dog'], padding='max_length', max_length=77, return_tensors='pt').input_ids
    expected = LDMBertModel.from_pretrained(folder, subfolder='bert').eval()(tokens)[0]
    found = LDMBertText(folder, channels=16)(['a cat', 'dog'])
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)


def test_the_files_of_an_encoder_run_no_code(tmp_path, monkeypatch):
    folder = tiny_text.save_clip(tmp_path / 'clip')
    (tmp_path / 'evilencoder.py').write_text(f'open({str(tmp_path / "mark")!r}, "w").close()\nX = dict\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    expected = CLIPText(folder, channels=16)(['a cat'])
    names = {'auto_map': {key: 'evilencoder.X' for key in ('AutoConfig', 'AutoModel', 'AutoTokenizer')},
             'architectures': ['evilencoder.X'], 'tokenizer_class': 'evilencoder.X', 'type': 'evilencoder.X'}
    for file in (tmp_path / 'clip/text_encoder/config.json', tmp_path / 'clip/tokenizer/tokenizer_config.json'):
        before = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(before | names))
    assert torch.equal(CLIPText(folder, channels=16)(['a cat']), expected)
    assert not (tmp_path / 'mark').exists() and 'evilencoder' not in sys.modules


def test_nothing_is_loaded_before_the_first_caption():
    conditioner = CLIPText('/nowhere')
    with pytest.raises(ValueError, match="'/nowhere' is neither a folder"):
        conditioner(['a'])


def test_each_caption_is_encoded_once(clip, tmp_path):
    conditioner = CLIPText(clip, channels=16, cache=str(tmp_path))
    first = conditioner(CAPTIONS)
    sizes = []
    conditioner._encoder.register_forward_pre_hook(lambda m, a, k: sizes.append(len(k['input_ids'])), with_kwargs=True)
    assert torch.equal(conditioner(CAPTIONS), first) and sizes == []
    conditioner(['a cat', 'new', 'new'])
    assert sizes == [1]
    # Another process does not even load the encoder, and gets the same.
    again = CLIPText(clip, channels=16, cache=str(tmp_path))
    assert torch.equal(again(CAPTIONS), first) and again._encoder is None
    exact = CLIPText(clip, channels=16)(CAPTIONS)
    assert torch.equal(first, exact.half().float())


def test_another_encoder_has_another_cache(clip, tmp_path):
    other = tiny_text.save_clip(tmp_path / 'other', seed=1)
    a, b = (CLIPText(folder, channels=16, cache=str(tmp_path / 'cache'))(['a cat']) for folder in (clip, other))
    assert (a - b).abs().max() > 1e-2
    assert CLIPText(clip, 16).fingerprint() != CLIPText(other, 16).fingerprint()


def test_long_captions_are_cut_with_one_warning(clip, monkeypatch):
    lines = []
    monkeypatch.setattr('slimdiff.models.conditioners.text.print_log', lambda text, **_: lines.append(text))
    conditioner = CLIPText(clip, channels=16)
    long = 'abcdefghij ' * 20
    found = conditioner([long, long + 'x', 'a cat'])
    conditioner([long + 'y'])
    assert len(lines) == 1 and 'A caption of 203 tokens is cut to 77' in lines[0]
    assert torch.equal(found[0], found[1])  # they differ only after the cut


def test_bad_input(clip, monkeypatch):
    with pytest.raises(ValueError, match='has a width of 16, the config says channels=768'):
        CLIPText(clip)(['a'])
    with pytest.raises(ValueError, match='list of strings, got int'):
        CLIPText(clip, 16)(['a', 3])
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(ImportError, match=r"CLIPText needs the package 'transformers'.*pip install .*\[text\]'"):
        CLIPText(clip, 16)(['a'])


def test_bf16_where_it_pays(clip, monkeypatch):
    monkeypatch.setattr('slimdiff.models.conditioners.text.has_bf16_products', lambda device: True)
    exact, half = CLIPText(clip, 16)(['a cat']), CLIPText(clip, 16, bf16=True)(['a cat'])
    assert half.dtype == torch.float32 and 0 < (exact - half).norm() / exact.norm() < 0.02
