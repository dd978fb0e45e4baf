"""Find a config file and load it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from slimdiff.configuration.check import imports_of
from slimdiff.configuration.errors import ConfigError, shown
from slimdiff.configuration.overrides import apply_overrides, merge_problem
from slimdiff.installation import installation_roots
from slimdiff.registry import trust_types
from slimdiff.spelling import nearest


def find_config(path: str | Path) -> Path:
    """The file that ``path`` names: as it stands, else below the configs that came with slimdiff.

    ``configs/sd/photo_patches.py``, ``sd/photo_patches.py`` and ``sd/photo_patches`` are the same there.

    Raises:
        ConfigError: no such file; names the nearest ones.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if not path.is_absolute():
        for root in installation_roots():
            for tail in (path, Path('configs') / path):
                for candidate in (root / tail, (root / tail).with_suffix('.py')):
                    if candidate.is_file():
                        return candidate
    known = known_configs()
    short = {Path(name).stem: name for name in reversed(known)}
    beside = [str(file) for file in path.parent.glob('*.py')] if path.parent.is_dir() else []
    close = nearest(str(path), [*known, *beside]) or [short[s] for s in nearest(path.stem, short)]
    if path.is_dir():
        close = [name for name in known if name.startswith(f'{path}/')] or close
    hint = f'Did you mean {" or ".join(close)}?' if close else f'slimdiff has: {", ".join(known) or "none"}.'
    what = 'is a folder' if path.is_dir() else 'was not found'
    raise ConfigError(f"The config '{path}' {what} (looked in {Path.cwd()} and in slimdiff's configs). {hint}")


def known_configs() -> list[str]:
    """Names of the configs that came with slimdiff, without their ``_base_``, such as configs/sd/photo_patches.py."""
    names = {
        file.relative_to(root).as_posix()
        for root in installation_roots() for file in (root / 'configs').rglob('*.py')
        if '_base_' not in file.parts
    }
    return sorted(names)


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Load a config, with ``default_scope='slimdiff'`` unless it sets another.

    Args:
        path: see :func:`find_config`.
        overrides: dotted keys and their values, as ``--cfg-options`` gives them.

    Raises:
        ConfigError: not found, not readable as a config, or an override of a key that is not there.
    """
    file = find_config(path)
    if file.suffix == '.py':  # its custom_imports may name a module beside it, or where the command is started
        folders = dict.fromkeys((str(file.parent.resolve()), str(Path.cwd())))
        sys.path.extend(folder for folder in folders if folder not in sys.path)
    try:
        cfg = Config.fromfile(file) if file.suffix == '.py' else _read_data(file)
    except Exception as error:  # a config is code: whatever it raises is the config's error
        hint = ''
        if isinstance(error, FileNotFoundError):
            folders = ' or '.join(str(root / 'configs') for root in installation_roots())
            hint = f"A path in _base_ is relative to the config's own folder; slimdiff's configs are in {folders}."
        elif 'import' in str(error).lower() and 'custom' not in str(error) and file.suffix == '.py':
            hint = 'A config of slimdiff is plain Python without import statements; use custom_imports=dict(...).'
        text = f'{shown(file)}: cannot be read: {merge_problem(error)}'
        raise ConfigError(f'{text.rstrip(" .")}. {hint}' if hint else text) from error
    if file.suffix == '.py':
        trust_types(cfg._cfg_dict)
    elif found := imports_of(cfg._cfg_dict):
        raise ConfigError(f'{shown(file)}: only a config in Python (.py) may import anything; this one has '
                          f'{", ".join(found[:3])}.')
    cfg.setdefault('default_scope', 'slimdiff')
    if overrides:
        trust_types(overrides)  # typed by the user
        apply_overrides(cfg, overrides)
    return cfg


def _read_data(file: Path) -> Config:
    """A config of JSON or YAML: plain data. mmengine's YAML reader would call what the file names."""
    import yaml

    class Loader(yaml.SafeLoader):
        """With the tuples that ``print_config`` writes."""

    Loader.add_constructor('tag:yaml.org,2002:python/tuple', lambda loader, node: tuple(
        loader.construct_sequence(node, deep=True)))
    text = file.read_text(encoding='utf-8')
    data = json.loads(text) if file.suffix == '.json' else yaml.load(text, Loader)
    if not isinstance(data, dict):
        raise ValueError(f'it holds a {type(data).__name__}, not the keys of a config')
    return Config(data, cfg_text=text, filename=str(file))
