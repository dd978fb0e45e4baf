"""JSON files: the standard library reads back what was written; refusals and interrupts leave the old file."""

import json
import math

import pytest

from slimdiff.checkpoint import read_json, write_json

CONTENT = dict(name='[1,  2]', none=None, numbers=[1, -2.5, 3e-7], nested=[dict(x=[[1, 2], [3, 4]]), [], ['a', 1]])


@pytest.mark.parametrize('indent', [1, 2, None])
def test_read_back(tmp_path, indent):
    write_json(tmp_path / 'new/folders/a.json', CONTENT, indent=indent)
    text = (tmp_path / 'new/folders/a.json').read_text()
    assert json.loads(text) == CONTENT and text.endswith('}\n')


def test_layout(tmp_path):
    write_json(tmp_path / 'a.json', dict(a=[1, -2.5, 3e-7], b=dict(c='d')))
    assert (tmp_path / 'a.json').read_text() == '{\n "a": [1, -2.5, 3e-07],\n "b": {\n  "c": "d"\n }\n}\n'
    write_json(str(tmp_path / 'a.json'), dict(a=[1, 2], b='c'), indent=None)
    assert (tmp_path / 'a.json').read_text() == '{"a": [1, 2], "b": "c"}\n'


@pytest.mark.parametrize('content, options, error', [
    ([math.nan], dict(allow_nan=False), ValueError), ([math.inf], dict(allow_nan=False), ValueError),
    ({1j}, {}, TypeError)
])
def test_what_is_refused_leaves_the_old_file(tmp_path, content, options, error):
    write_json(tmp_path / 'a.json', CONTENT)
    with pytest.raises(error):
        write_json(tmp_path / 'a.json', content, **options)
    assert json.loads((tmp_path / 'a.json').read_text()) == CONTENT and len(list(tmp_path.iterdir())) == 1
    write_json(tmp_path / 'a.json', [math.nan])
    assert math.isnan(json.loads((tmp_path / 'a.json').read_text())[0])


@pytest.mark.parametrize('content, message', [
    (b'{"a": 1, "b', 'is damaged'), (b'\xff\xfe{', 'is damaged'), (b'', 'is damaged'), (b'[1]', 'list where dict'),
    (b'[' * 100_000, 'nested too deeply'), (b'{"a":' * 500 + b'1' + b'}' * 500, 'nested too deeply')])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, content, message):
    (tmp_path / 'x.json').write_bytes(content)
    with pytest.raises(ValueError, match=r'x\.json is damaged.*Make it again\.') as refused:
        read_json(tmp_path / 'x.json', 'Make it again.')
    with pytest.raises(FileNotFoundError, match=r'gone\.json does not exist\. Make it again\.'):
        read_json(tmp_path / 'gone.json', 'Make it again.')
    assert message in str(refused.value)
    write_json(tmp_path / 'x.json', CONTENT)
    assert read_json(tmp_path / 'x.json', '') == CONTENT
