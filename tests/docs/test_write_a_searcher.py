"""The pages on searchers and evaluators run as a reader would run them: a file, a trial, and a config."""

import re
import sys
from pathlib import Path

import pytest

from slimdiff.configuration import check_config, load_config
from slimdiff.registry import EVALUATORS, SEARCHERS

ROOT = Path(__file__).resolve().parents[2]
PAGES = {'searcher': (ROOT / 'docs/en/advanced/write_a_searcher.md', 'my_searcher', 'FrontMutation', SEARCHERS),
         'evaluator': (ROOT / 'docs/en/advanced/write_an_evaluator.md', 'my_evaluator', 'ColourDrift', EVALUATORS)}


@pytest.fixture(params=PAGES)
def reader(request, tmp_path, monkeypatch):
    """The page's blocks, with its file beside the configs; unregistered afterwards."""
    page, module, name, registry = PAGES[request.param]
    blocks = re.findall(r'^```python\n(.*?)^```', page.read_text(), re.S | re.M)
    (tmp_path / f'{module}.py').write_text(blocks[0])
    (tmp_path / 'config.py').write_text(blocks[2])
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    registry.import_from_location()
    yield request.param, name, registry, blocks
    registry.module_dict.pop(name, None)
    sys.modules.pop(module, None)


def test_class_and_trial(reader, capsys):
    kind, name, _, (module, trial, _) = reader
    namespace = {'__name__': f'my_{kind}'}
    for text in (module, trial):
        exec(compile(text, name, 'exec'), namespace)
    if kind == 'searcher':
        # By hand: wide steps from the clean end on are the front, one for each number of wide steps.
        assert capsys.readouterr().out.splitlines()[0].startswith('2.5 MACs, quality 7.5')
        found = {(e.macs, e.quality) for _, e in namespace['searcher'].front}
        assert {(2.5, 7.5), (5., 0.)} <= found and len(namespace['searcher'].archive) == 15
    else:
        # The full network and two candidates, one of them the full network again.
        assert namespace['evaluator'].work.images == 3 * 6 and namespace['evaluator'].work.calls == 2 * 4 * 6


def test_config(reader):
    _, name, registry, _ = reader
    cfg = load_config('config.py')
    check_config(cfg)
    built = [registry.build(c) for c in [cfg.search.searcher, *cfg.search.evaluators] if c.type in registry.module_dict]
    assert name in {type(b).__name__ for b in built}
