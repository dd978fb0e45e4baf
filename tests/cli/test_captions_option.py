import pytest
from mmengine.config import Config

from slimdiff.cli.common import use_captions


def text_config():
    return Config(dict(model=dict(conditioner=dict(type='RandomText', channels=4))))


@pytest.mark.parametrize('mark', ['', '\ufeff'], ids=['', 'byte order mark'])
def test_lines_become_the_captions(tmp_path, mark):
    (tmp_path / 'captions.txt').write_text(f'{mark}a cat\n\n  caf\u00e9 at night \n', encoding='utf-8')
    cfg = text_config()
    use_captions(cfg, tmp_path / 'captions.txt')
    assert cfg.model.sample_captions == ['a cat', 'caf\u00e9 at night']
    untouched = text_config()
    use_captions(untouched, None)
    assert 'sample_captions' not in untouched.model


def test_bad_input(tmp_path):
    (tmp_path / 'empty.txt').write_text('\n \n')
    (tmp_path / 'one.txt').write_text('a cat')
    with pytest.raises(ValueError, match='holds no caption'):
        use_captions(text_config(), tmp_path / 'empty.txt')
    (tmp_path / 'latin.txt').write_bytes('a cat\ncaf\u00e9'.encode('latin-1'))
    with pytest.raises(ValueError, match=r"--captions: '.*latin\.txt' is not UTF-8 \(byte 9\)"):
        use_captions(text_config(), tmp_path / 'latin.txt')
    with pytest.raises(ValueError, match='has no conditioner'):
        use_captions(Config(dict(model=dict(type='DiffusionModel'))), tmp_path / 'one.txt')
    with pytest.raises(FileNotFoundError):
        use_captions(text_config(), tmp_path / 'none.txt')
