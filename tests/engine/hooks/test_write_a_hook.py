"""The page on hooks runs as a reader would run it: a file, a config, a run that is interrupted and resumed."""

import json
import re
import sys
from pathlib import Path

import pytest
import tiny_run
import torch

from slimdiff.registry import HOOKS

PAGE = Path(__file__).resolve().parents[3] / 'docs/en/advanced/write_a_hook.md'


@pytest.fixture
def page(tmp_path, monkeypatch):
    blocks = re.findall(r'^```python\n(.*?)^```', PAGE.read_text(), re.S | re.M)
    (tmp_path / 'my_hook.py').write_text(blocks[0])
    monkeypatch.syspath_prepend(tmp_path)
    namespace = {}
    exec(blocks[1], namespace)
    __import__(*namespace['custom_imports']['imports'])
    yield namespace['custom_hooks']
    HOOKS.module_dict.pop('WeightDistance', None)
    sys.modules.pop('my_hook', None)


def hook_of(runner):
    return next(hook for hook in runner.hooks if type(hook).__name__ == 'WeightDistance')


def scalars(folder, runner):
    file = folder / runner.timestamp / 'vis_data' / f'{runner.timestamp}.json'
    return {row['step']: row['train/distance'] for row in map(json.loads, file.read_text().splitlines())}


def test_the_hook_logs_and_resumes(page, tmp_path, capsys):
    whole = tiny_run.build(tmp_path / 'whole', max_iters=14, custom_hooks=page)
    start = [p.detach().clone() for p in whole.unwrapped_model.unet.parameters()]
    whole.train()
    by_hand = torch.cat([(p.detach() - s).flatten() for p, s in
                         zip(whole.unwrapped_model.unet.parameters(), start)]).norm().item()
    found = scalars(tmp_path / 'whole', whole)
    assert found[14] == pytest.approx(by_hand, rel=1e-5) and found[14] > 0

    first = tiny_run.build(tmp_path / 'part', max_iters=7, custom_hooks=page)
    first.train()
    hook_of(first).on_interrupt(first)
    assert 'The weights have moved by' in capsys.readouterr().out
    second = tiny_run.build(tmp_path / 'part', max_iters=14, custom_hooks=page, resume=True)
    second.train()
    assert scalars(tmp_path / 'part', second)[14] == pytest.approx(found[14], rel=1e-5)
