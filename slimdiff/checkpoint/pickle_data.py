"""Pickles read as data: a small stack machine that can build containers, numbers and text, and call nothing.

Python's ``pickle`` looks names up and calls what it finds, which is how a file runs code. Here :mod:`pickletools` only
cuts the file into opcodes, and every name in it becomes an inert :class:`StandIn`. What is *called* in the file either
is one of the few builders that the reader was given, or again a stand-in that swallows its arguments and its state.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any

_PLAIN_KEYS = (str, bytes, int, float, type(None))

#: opcodes whose argument is the value itself
_VALUES = {
    'INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'STRING', 'BINSTRING', 'SHORT_BINSTRING',
    'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8', 'BYTEARRAY8', 'UNICODE', 'SHORT_BINUNICODE', 'BINUNICODE',
    'BINUNICODE8', 'FLOAT', 'BINFLOAT'
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    'NONE': lambda: None, 'NEWTRUE': lambda: True, 'NEWFALSE': lambda: False, 'EMPTY_LIST': list,
    'EMPTY_TUPLE': tuple, 'EMPTY_DICT': dict, 'EMPTY_SET': list
}


class PickleDataError(ValueError):
    """Not a pickle, cut off, or one whose opcodes make no sense."""


class StandIn:
    """In place of an object, class or function that the file names; it holds the name and does nothing."""

    __slots__ = ('name', )

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f'<stand-in for {self.name}>'


class Global(StandIn):
    """A name in the file, before anything is made of it."""

    __slots__ = ()


class PickleReader:
    """Reads one pickle from a file; afterwards the file stands behind it.

    Args:
        builders: what may be made, by full name: ``{'collections.OrderedDict': function}``. They are called with
            arguments out of the file, which they must check.
        persistent: called with a persistent id (torch's way to name a storage); its answer takes the id's place.
        known: names that aren't reported as met, beside the builders'.
    """

    def __init__(self, builders: Mapping[str, Callable[..., Any]], persistent: Callable[[Any], Any],
                 known: frozenset[str] = frozenset()) -> None:
        self.builders, self.persistent, self.known = builders, persistent, known
        #: names that were replaced by stand-ins, in the order of the file
        self.met: dict[str, None] = {}

    def read(self, file: IO[bytes]) -> Any:
        """Read up to the STOP opcode.

        Raises:
            PickleDataError: see there.
            Exception: what a builder or ``persistent`` raises, if it is no slip of the machine.
        """
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        try:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == 'STOP':
                    return self.stack.pop()
                self._step(opcode.name, argument)
        except (IndexError, KeyError, TypeError, AttributeError, OverflowError, UnicodeError,
                MemoryError) as error:
            raise PickleDataError(f'the pickle makes no sense ({error})') from error
        except ValueError as error:
            if type(error) is not ValueError:
                raise
            raise PickleDataError(str(error)) from error
        raise PickleDataError('the pickle has no end')

    # ---- the machine ------------------------------------------------------------------------------------------

    def _step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        else:
            step = getattr(self, f'_{name}', None)
            if step is None:
                raise PickleDataError(f'it has the opcode {name}, which no checkpoint needs')
            step(argument)

    def _pop(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise IndexError('too few values')
        values = self.stack[len(self.stack) - count:]
        del self.stack[len(self.stack) - count:]
        return values

    def _pop_mark(self) -> list[Any]:
        return self._pop(len(self.stack) - self.marks.pop())

    def _PROTO(self, _: Any) -> None:
        pass

    _FRAME = _PROTO

    def _MARK(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _POP(self, _: Any) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def _POP_MARK(self, _: Any) -> None:
        self._pop_mark()

    def _DUP(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    # ---- containers; sets become lists: their elements need not be hashable here ------------------------------

    def _TUPLE(self, _: Any) -> None:
        self.stack.append(tuple(self._pop_mark()))

    _FROZENSET = _TUPLE

    def _TUPLE1(self, _: Any) -> None:
        self.stack.append(tuple(self._pop(1)))

    def _TUPLE2(self, _: Any) -> None:
        self.stack.append(tuple(self._pop(2)))

    def _TUPLE3(self, _: Any) -> None:
        self.stack.append(tuple(self._pop(3)))

    def _LIST(self, _: Any) -> None:
        self.stack.append(self._pop_mark())

    def _DICT(self, _: Any) -> None:
        values = self._pop_mark()
        self.stack.append({})
        self._set_items(values)

    def _APPEND(self, _: Any) -> None:
        self._extend(self._pop(1))

    def _APPENDS(self, _: Any) -> None:
        self._extend(self._pop_mark())

    _ADDITEMS = _APPENDS

    def _SETITEM(self, _: Any) -> None:
        self._set_items(self._pop(2))

    def _SETITEMS(self, _: Any) -> None:
        self._set_items(self._pop_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(values)
        elif not isinstance(target, StandIn):
            raise TypeError(f'elements for a {type(target).__name__}')

    def _set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is dict:
            if len(values) % 2:
                raise ValueError('a key without a value')
            for key, value in zip(values[::2], values[1::2]):
                # Hashing anything else may never end, or overflow the stack: tuples in tuples in tuples ...
                simple = isinstance(key, (*_PLAIN_KEYS, StandIn))
                target[key if simple else StandIn(f'a key of type {type(key).__name__}')] = value
        elif not isinstance(target, StandIn):
            raise TypeError(f'items for a {type(target).__name__}')

    # ---- memo -------------------------------------------------------------------------------------------------

    def _PUT(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    _BINPUT = _LONG_BINPUT = _PUT

    def _MEMOIZE(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _GET(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _BINGET = _LONG_BINGET = _GET

    # ---- names and calls --------------------------------------------------------------------------------------

    def _global(self, module: Any, name: Any) -> Global:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError('a name that is no text')
        full = f'{module}.{name}'
        if full not in self.builders and full not in self.known:
            self.met.setdefault(full)
        return Global(full)

    def _call(self, function: Any, arguments: Any) -> Any:
        if isinstance(function, Global) and function.name in self.builders and type(arguments) is tuple:
            return self.builders[function.name](*arguments)
        return StandIn(function.name if isinstance(function, StandIn) else f'a call of a {type(function).__name__}')

    def _GLOBAL(self, argument: str) -> None:
        self.stack.append(self._global(*argument.split(' ', 1)))

    def _STACK_GLOBAL(self, _: Any) -> None:
        self.stack.append(self._global(*self._pop(2)))

    def _REDUCE(self, _: Any) -> None:
        self.stack.append(self._call(*self._pop(2)))

    _NEWOBJ = _REDUCE

    def _NEWOBJ_EX(self, _: Any) -> None:
        function, _arguments, _keywords = self._pop(3)
        self.stack.append(self._call(function, None))

    def _INST(self, argument: str) -> None:
        arguments = tuple(self._pop_mark())
        self.stack.append(self._call(self._global(*argument.split(' ', 1)), arguments))

    def _OBJ(self, _: Any) -> None:
        function, *arguments = self._pop_mark()
        self.stack.append(self._call(function, tuple(arguments)))

    def _BUILD(self, _: Any) -> None:
        self._pop(1)  # an object's state: its attributes, which nothing here has
        if not self.stack:
            raise IndexError('a state without an object')

    def _EXT1(self, code: int) -> None:
        self.stack.append(self._global('copyreg', f'extension {code}'))

    _EXT2 = _EXT4 = _EXT1

    def _PERSID(self, identity: str) -> None:
        self.stack.append(self.persistent(identity))

    def _BINPERSID(self, _: Any) -> None:
        self.stack.append(self.persistent(self.stack.pop()))
