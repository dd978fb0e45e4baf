"""How a first stage is found, refused and told from another."""

import json

import pytest
import torch
from first_stages import tiny_kl, tiny_vq
from safetensors.torch import load_file, save_file

from slimdiff.checkpoint import hub
from slimdiff.models.autoencoders import KLAutoencoder, VQAutoencoder
from slimdiff.models.autoencoders.loading import FirstStageMissing


def test_fingerprint_tells_weights_and_architectures(tmp_path):
    tiny_vq(tmp_path / 'a')
    tiny_vq(tmp_path / 'copy')
    tiny_vq(tmp_path / 'b', seed=1)
    tiny_vq(tmp_path / 'act', act_fn='mish')  # the same weights, other latents
    tiny_vq(tmp_path / 'scale', scaling_factor=1.0)  # says nothing of raw latents
    found = {name: VQAutoencoder(str(tmp_path / name)).fingerprint() for name in ('a', 'copy', 'b', 'act', 'scale')}
    assert found['a'] == found['copy'] == found['scale']
    assert len({found['a'], found['b'], found['act']}) == 3
    # Keys that a config leaves at their default are no difference.
    config = json.loads((tmp_path / 'copy/config.json').read_text())
    config.pop('lookup_from_codebook')
    (tmp_path / 'copy/config.json').write_text(json.dumps(config))
    assert VQAutoencoder(str(tmp_path / 'copy')).fingerprint() == found['a']


def test_one_changed_weight_changes_the_fingerprint(tmp_path):
    tiny_kl(tmp_path)
    before = KLAutoencoder(str(tmp_path)).fingerprint()
    file = tmp_path / 'diffusion_pytorch_model.safetensors'
    state = load_file(file)
    state['encoder.conv_in.bias'] = state['encoder.conv_in.bias'] + 1e-6
    save_file(state, file, metadata={'format': 'pt'})
    assert KLAutoencoder(str(tmp_path)).fingerprint() != before


def test_old_torch_files(tmp_path):
    model = tiny_vq(tmp_path)
    (tmp_path / 'diffusion_pytorch_model.safetensors').unlink()
    model.save_pretrained(tmp_path, safe_serialization=False)
    stage, x = VQAutoencoder(str(tmp_path)), torch.rand(1, 3, 16, 16)
    assert len(stage.fingerprint()) == 16
    torch.testing.assert_close(stage.encode(x), model.encode(x).latents.detach(), rtol=1e-5, atol=1e-5)


def test_pipelines(tmp_path):
    tiny_vq(tmp_path / 'vqvae')
    assert VQAutoencoder(str(tmp_path)).folder == tmp_path / 'vqvae'


def test_a_missing_one_is_an_error_when_it_is_needed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stage = VQAutoencoder('checkpoints/vq-f4')  # looks like owner/name, and is not asked for on the Hub
    assert (stage.downsampling, stage.latent_channels) == (4, 3)
    for use in (stage.require, stage.fingerprint, lambda: stage.encode(torch.zeros(1, 3, 16, 16)),
                lambda: stage.decode(torch.zeros(1, 3, 4, 4)),
                lambda: KLAutoencoder('no', latent_scale=None).latent_scale):
        with pytest.raises(FirstStageMissing, match=r"first stage '.*' is not there .*latents\.md"):
            use()


def test_names_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_vq(tmp_path / 'snapshot')
    (tmp_path / 'nothing').mkdir()
    asked = []

    def snapshot_download(name, allow_patterns=None, local_files_only=False):
        asked.append((name, local_files_only))
        if local_files_only:
            raise FileNotFoundError('not in the cache')
        assert 'vae/config.json' in allow_patterns and 'vqvae/config.json' in allow_patterns
        kind = allow_patterns[1].rpartition('.')[2]
        return tmp_path / 'snapshot' if kind == 'bin' else tmp_path / 'nothing'

    monkeypatch.setattr('huggingface_hub.snapshot_download', snapshot_download)
    stage = VQAutoencoder('somebody/vq-f4')
    assert asked == [('somebody/vq-f4', True)] and stage.downsampling == 4  # building downloads nothing
    stage.encode(torch.zeros(1, 3, 16, 16))
    assert asked[-2:] == [('somebody/vq-f4', False)] * 2 and stage.downsampling == 2


@pytest.mark.parametrize('name, expected', [
    ('CompVis/ldm', True), ('checkpoints/vq', False), ('./a/b', False), ('a/b/c', False), ('a', False),
    ('here/model', False), ('x/model.ckpt', False)])
def test_is_hub_id(name, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'here').mkdir()
    assert hub.is_hub_id(name) is expected


def test_another_class(tmp_path):
    tiny_kl(tmp_path)
    with pytest.raises(ValueError, match=r"holds a 'AutoencoderKL', a VQModel is wanted.*type='KLAutoencoder'"):
        VQAutoencoder(str(tmp_path))


def test_folders_and_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match='holds no first stage'):
        VQAutoencoder(str(tmp_path))
    (tmp_path / 'model.ckpt').touch()
    with pytest.raises(ValueError, match=r'is a file.*compvis'):
        VQAutoencoder(str(tmp_path / 'model.ckpt'))
    tiny_vq(tmp_path / 'x')
    (tmp_path / 'x/config.json').write_text('{')
    with pytest.raises(ValueError, match='config.json is damaged'):
        VQAutoencoder(str(tmp_path / 'x'))


def test_weights_that_lack_or_are_damaged(tmp_path):
    tiny_vq(tmp_path)
    file = tmp_path / 'diffusion_pytorch_model.safetensors'
    state = load_file(file)
    state['surplus'] = state.pop('encoder.conv_in.bias')
    save_file(state, file, metadata={'format': 'pt'})
    with pytest.raises(ValueError, match=r'it lacks encoder\.conv_in\.bias; it has besides surplus'):
        VQAutoencoder(str(tmp_path)).encode(torch.zeros(1, 3, 16, 16))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match='is damaged'):
        VQAutoencoder(str(tmp_path)).fingerprint()
    with pytest.raises(ValueError, match='cannot be loaded'):
        VQAutoencoder(str(tmp_path)).encode(torch.zeros(1, 3, 16, 16))
    file.unlink()
    with pytest.raises(FirstStageMissing, match=r'but no diffusion_pytorch_model\.safetensors'):
        VQAutoencoder(str(tmp_path)).fingerprint()
