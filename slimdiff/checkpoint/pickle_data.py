"""Pickles read as data: containers, numbers and text are built, and nothing is imported or called.

:class:`DataUnpickler` is Python's unpickler in Python with an allow-list of names: each either is one of a few builders
or becomes an inert :class:`StandIn`, which swallows arguments, state and items. :func:`pickle_module` makes of it what
``torch.load(pickle_module=...)`` takes.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import IO, Any

_PLAIN_KEYS = (str, bytes, int, float, type(None))


class PickleDataError(ValueError):
    """Not a pickle, cut off, or one that makes no sense."""


class StandIn:
    """In place of an object, class or function that the file names; it holds the name and does nothing."""

    __slots__ = ('name', )

    def __new__(cls, *_: Any, **__: Any) -> StandIn:
        # The opcode NEWOBJ calls it with what stands for a class: an instance.
        return cls if isinstance(cls, StandIn) else super().__new__(cls)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_: Any) -> StandIn:
        return StandIn(self.name)

    def __repr__(self) -> str:
        return f'<stand-in for {self.name}>'

    def ignore(self, *_: Any) -> None:
        """What happens to items and elements."""

    __setitem__ = append = extend = ignore


class DataUnpickler(pickle._Unpickler):
    """Python's unpickler in Python: the one in C hashes what the file says, which may overflow the stack."""

    builders: Mapping[str, Callable[..., Any]] = {}
    #: names that were replaced by stand-ins, in the order of the file
    met: dict[str, None]
    dispatch = dict(pickle._Unpickler.dispatch)

    @staticmethod
    def check_id(identity: Any) -> None:
        """Raise unless a persistent id (torch's way to name a storage) is in order."""
        raise PickleDataError('a storage where none belongs')

    def find_class(self, module: str, name: str) -> Any:
        full = f'{module}.{name}'
        if full in self.builders:
            return self.builders[full]
        self.met.setdefault(full)
        return StandIn(full)

    def get_extension(self, code: int) -> None:
        self.append(self.find_class('copyreg', f'extension {code}'))  # Python's would be kept for later pickles

    @property
    def persistent_load(self) -> Callable[[Any], Any]:
        """What torch sets, behind the check."""

        def load(identity: Any) -> Any:
            self.check_id(identity)
            return self._load_storage(identity)

        return load

    @persistent_load.setter
    def persistent_load(self, load: Callable[[Any], Any]) -> None:
        self._load_storage = load

    def load(self) -> Any:
        """Read up to the STOP opcode.

        Raises:
            PickleDataError: see there.
        """
        try:
            return super().load()
        except PickleDataError:
            raise
        except EOFError as error:
            raise PickleDataError('the pickle has no end') from error
        except Exception as error:  # whatever opcodes in a wrong order lead to
            raise PickleDataError(f'the pickle makes no sense ({type(error).__name__}: {error})') from error

    # ---- opcodes that Python's unpickler trusts the file with -----------------------------------------------------

    def _build(self) -> None:
        self.stack.pop()  # an object's state: its attributes, which nothing here has
        if not self.stack:
            raise IndexError('a state without an object')

    def _set_items(self) -> None:
        items = self.pop_mark()
        self._put(self.stack[-1], items)

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put(self.stack[-1], [key, value])

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._put(self.stack[-1], items)

    @staticmethod
    def _put(target: Any, items: list[Any]) -> None:
        if not isinstance(target, StandIn) and type(target) is not dict:
            raise TypeError(f'items for a {type(target).__name__}')
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing anything else may never end, or overflow the stack: tuples in tuples in tuples ...
            simple = isinstance(key, (*_PLAIN_KEYS, StandIn))
            target[key if simple else StandIn(f'a key of type {type(key).__name__}')] = value

    def _set(self) -> None:
        self.append([])  # elements of a set are hashed, too

    def _frozenset(self) -> None:
        self.append(self.pop_mark())

    for _code, _step in ((pickle.BUILD, _build), (pickle.SETITEM, _set_item), (pickle.SETITEMS, _set_items),
                         (pickle.DICT, _dict), (pickle.EMPTY_SET, _set), (pickle.FROZENSET, _frozenset),
                         (pickle.ADDITEMS, pickle._Unpickler.load_appends)):
        dispatch[_code[0]] = _step


def read_plain(file: IO[bytes], **_: Any) -> Any:
    """One of the pickles around the content of torch's old format: a number, or a dict or list of plain values."""
    value = type('Plain', (DataUnpickler, ), {'met': {}})(file).load()
    keys = value if type(value) is list else []
    if not isinstance(value, (int, dict, list)) or not all(type(key) is str for key in keys):
        raise PickleDataError('neither a file of torch.save nor safetensors')
    return value


def pickle_module(builders: Mapping[str, Callable[..., Any]], check_id: Callable[[Any], None]) -> SimpleNamespace:
    """For ``torch.load(pickle_module=...)``; its ``met`` has the names that became stand-ins.

    Args:
        builders: what may be made, by full name: ``{'collections.OrderedDict': function}``. They are called with
            arguments out of the file, which they must check.
        check_id: raises for a persistent id that is not in order.
    """
    met: dict[str, None] = {}
    kind = type('Unpickler', (DataUnpickler, ), dict(builders=builders, check_id=staticmethod(check_id), met=met))
    return SimpleNamespace(__name__=__name__, Unpickler=kind, load=read_plain, met=met)
