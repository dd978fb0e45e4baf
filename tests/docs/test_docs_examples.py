"""The python blocks of the documentation run, and the config fragments among them pass the check.

A block that imports nothing is a config, kept under the name that its first line may give (``# my_config.py``). Blocks
of a page run in order, in one namespace. What is marked ``# wrong`` must be found wrong.
"""

import os
import re
import shutil
from pathlib import Path

import pytest
from mmengine.registry import Registry

import slimdiff.registry
from slimdiff.configuration import ConfigError, check_config, load_config

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs/en'
# Pages that have a test of their own.
ELSEWHERE = {'bring_your_backbone.md', 'write_a_downsampler.md', 'write_a_distillation_loss.md', 'write_a_searcher.md',
             'write_a_hook.md', 'write_an_evaluator.md', 'python.md'}
PAGES = sorted(p for p in DOCS.rglob('*.md') if p.name not in ELSEWHERE and '_build' not in p.parts)


def blocks(page, language):
    return re.findall(rf'^```{language}\n(.*?)^```', page.read_text(), re.S | re.M)


def with_python():
    return [p for p in PAGES if blocks(p, 'python')]


@pytest.fixture
def unregister():
    """Forget the classes that a page registers."""
    registries = [r for r in vars(slimdiff.registry).values() if isinstance(r, Registry)]
    for registry in registries:
        registry.import_from_location()
    before = [dict(r.module_dict) for r in registries]
    yield
    for registry, content in zip(registries, before):
        registry.module_dict.clear()
        registry.module_dict.update(content)


@pytest.mark.parametrize('page', with_python(), ids=lambda p: p.stem)
def test_python_blocks(page, unregister, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    shutil.copytree(ROOT / 'configs/sd/fashion_mnist_weights', tmp_path / 'slim/pipeline')
    (tmp_path / 'my_package').mkdir()
    (tmp_path / 'my_package/__init__.py').touch()
    (tmp_path / 'my_package/my_module.py').touch()
    monkeypatch.syspath_prepend(tmp_path)
    namespace = {'__name__': 'docs'}
    for number, text in enumerate(blocks(page, 'python')):
        if re.search(r'^(import|from) ', text, re.M):
            exec(compile(text, f'{page.name}, block {number}', 'exec'), namespace)
            continue
        named = re.match(r'# (\w+\.py)\n', text)
        path = tmp_path / (named[1] if named else f'block_{number}.py')
        path.write_text(text)
        if '# wrong' in text:
            with pytest.raises(ConfigError) as caught:
                check_config(load_config(path))
            assert len(caught.value.problems) == text.count('# wrong')
        else:
            check_config(load_config(path))


def test_the_data_set_of_the_guide(unregister):
    """The example data set gives what it says: stripes of the label's width."""
    namespace = {}
    for text in blocks(DOCS / 'user_guides/datasets.md', 'python'):
        if 'class Stripes' in text:
            exec(text, namespace)
    dataset = slimdiff.registry.DATASETS.build(dict(type='Stripes', image_size=8, length=3))
    assert len(dataset) == 3
    column = [dataset[k]['inputs'][0, :, 0].tolist() for k in range(3)]
    assert column == [[-1, 1] * 4, [-1, -1, 1, 1] * 2, [-1] * 4 + [1] * 4]


def shell_commands():
    """(page, words) of every `slimdiff ...` and `tools/...` line in the bash blocks."""
    found = []
    for page in [*PAGES, ROOT / 'README.md', ROOT / 'CONTRIBUTING.md']:
        if page.exists():
            for block in blocks(page, 'bash'):
                found += [(page, line.split('#')[0].split()) for line in block.replace('\\\n', ' ').splitlines()]
    return found


def test_commands_and_files_in_the_text_exist():
    commands = {p.stem for p in (ROOT / 'slimdiff/cli').glob('*.py')}
    for page, words in shell_commands():
        for before, word in zip(['', *words], words):
            where = f'{page.name}: {" ".join(words)}'
            if before == 'slimdiff' and not word.startswith('-'):
                assert word in commands, where
            if re.match(r'(tools|configs|requirements)/', word):
                assert (ROOT / word).exists(), where


def test_options_in_the_text_exist(capsys):
    import importlib
    for page, words in shell_commands():
        if words[:1] != ['slimdiff'] or len(words) < 2 or words[1].startswith('-'):
            continue
        with pytest.raises(SystemExit):
            importlib.import_module(f'slimdiff.cli.{words[1]}').main(['--help'])
        text = capsys.readouterr().out
        for word in words[2:]:
            if word.startswith('-'):
                known = re.search(rf'(?<![\w-]){re.escape(word)}(?![\w-])', text)
                assert known, f'{page.name}: {" ".join(words)}: there is no {word}'


def test_links_to_files_exist():
    for page in [*DOCS.rglob('*.md'), *(ROOT / n for n in ('README.md', 'CONTRIBUTING.md') if (ROOT / n).exists())]:
        for target in re.findall(r'\]\(([^)#]+?)(?:#[^)]*)?\)', page.read_text()):
            if '://' not in target and not target.startswith('mailto:'):
                assert (page.parent / target).exists(), f'{os.path.relpath(page, ROOT)} links to {target}'
