"""A config as Python source. Reading it gives the same values back and does nothing else, whatever strings it holds."""

from __future__ import annotations

import keyword
import math
import unicodedata
from collections.abc import Mapping
from types import FunctionType
from typing import Any

from mmengine.config import Config

from slimdiff.arguments import plain
from slimdiff.configuration.errors import ConfigError

#: names that the source calls
CALLED = ('dict', 'float')
STYLE = dict(based_on_style='pep8', blank_line_before_nested_class_or_def=True,
             split_before_expression_after_opening_paren=True)


def config_source(config: Config | Mapping[str, Any]) -> str:
    """The text of a config file with these values, sorted and laid out as mmengine's ``Config.pretty_text``.

    That one does not escape keys, which are then code.

    Raises:
        ConfigError: a top-level key that is not a name of Python.
    """
    from yapf.yapflib.yapf_api import FormatCode
    values = plain(config.to_dict() if isinstance(config, Config) else config)
    for key in values:
        if not _is_name(key) or key in CALLED:
            raise ConfigError(f'the key {key!r} cannot be written to a config file: it must be a name that Python '
                              f'allows for a variable, and not one of {", ".join(CALLED)}. Write it as .json.')
    lines = [f'{key} = {value_source(value)}\n' for key, value in sorted(values.items())]
    return FormatCode(''.join(lines), style_config=STYLE)[0]


def _is_name(key: Any) -> bool:
    return (isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key)
            and unicodedata.normalize('NFKC', key) == key)  # Python normalises names


def value_source(value: Any, ordered: bool = True) -> str:
    """A value on one line; the keys of mappings sorted, or as they come."""

    def source(item: Any) -> str:
        return value_source(item, ordered)

    if isinstance(value, Mapping):
        items = sorted(value.items(), key=lambda item: str(item[0])) if ordered else value.items()
        if all(_is_name(key) for key in value):
            return f'dict({", ".join(f"{key}={source(item)}" for key, item in items)})'
        return '{' + ', '.join(f'{source(key)}: {source(item)}' for key, item in items) + '}'
    if isinstance(value, (list, tuple)):
        items = ', '.join(source(item) for item in value)
        return f'[{items}]' if isinstance(value, list) else f'({items}{"," * (len(value) == 1)})'
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, str):
        # mmengine replaces {{...}} in the text of a config, inside of strings too, before it is parsed.
        return str.__repr__(value).replace('{{', '{\\x7b')
    for kind in (bool, int, float, bytes, type(None)):
        if isinstance(value, kind):
            return kind.__repr__(value)
    named = isinstance(value, (type, FunctionType))  # a class in place of its name
    return source(f'{value.__module__}.{value.__qualname__}' if named else repr(value))
