"""A reader of pickles that runs nothing: it knows the few opcodes that plain data needs.

A pickle is a program for a stack machine, and Python's own machine imports and calls whatever the
program names. This one builds dicts, lists, tuples, strings and numbers, calls only functions that
its user gave it by name, and refuses everything else.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any

from gpuconv.errors import FileFormatError

_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES"),
}
_SHORT_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PLAIN_KEYS = (str, int, float, bool, type(None))


def read_pickle(data: bytes, known: Mapping[str, Any], find: Callable[[Any], Any]) -> Any:
    """Return the plain data that a pickle describes.

    Args:
        data: the pickle.
        known: what it may refer to, by ``"module.name"``: functions, which it may call with
            positional arguments, and objects, which it may hand to them.
        find: called with each persistent identifier; returns what it stands for.

    Raises:
        FileFormatError: the pickle names something else, uses an opcode that plain data does not
            need, or is damaged.
    """
    machine = _Machine(known, find)
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except FileFormatError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise FileFormatError(f"its pickle is damaged ({type(error).__name__})") from error
    raise FileFormatError("its pickle has no end")


class _Machine:
    """The stack, the stacks below the marks, and the memo."""

    def __init__(self, known: Mapping[str, Any], find: Callable[[Any], Any]) -> None:
        self.known = known
        self.find = find
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Carry out one opcode."""
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _SHORT_TUPLES:
            parts = [self.stack.pop() for _ in range(_SHORT_TUPLES[name])]
            self.stack.append(tuple(reversed(parts)))
        elif name not in ("PROTO", "FRAME"):
            method = _METHODS.get(name)
            if method is None:
                raise FileFormatError(f"its pickle uses {name}, which plain data does not need")
            method(self, argument)

    def mark(self, argument: Any) -> None:
        """Begin a list of entries."""
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """Return what was put on the stack since the last mark, and go back to before it."""
        entries, self.stack = self.stack, self.below.pop()
        return entries

    def put(self, argument: Any) -> None:
        """Remember the top of the stack, under a number or the next one."""
        self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]

    def get(self, argument: Any) -> None:
        """Put what was remembered under a number on the stack."""
        self.stack.append(self.memo[argument])

    def make_tuple(self, argument: Any) -> None:
        """Make a tuple of the entries since the mark."""
        entries = self.since_mark()
        self.stack.append(tuple(entries))

    def make_list(self, argument: Any) -> None:
        """Begin an empty list."""
        self.stack.append([])

    def make_dict(self, argument: Any) -> None:
        """Begin an empty dict."""
        self.stack.append({})

    def append(self, argument: Any) -> None:
        """Append one entry to a list."""
        entry = self.stack.pop()
        self._extend([entry])

    def appends(self, argument: Any) -> None:
        """Append the entries since the mark to a list."""
        self._extend(self.since_mark())

    def _extend(self, entries: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError("entries of something that is not a list")
        self.stack[-1].extend(entries)

    def set_item(self, argument: Any) -> None:
        """Set one entry of a dict."""
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def set_items(self, argument: Any) -> None:
        """Set the entries since the mark, keys and values by turns."""
        self._update(self.since_mark())

    def _update(self, entries: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(entries) % 2:
            raise TypeError("entries of something that is not a dict")
        for key, value in zip(entries[::2], entries[1::2], strict=True):
            if type(key) not in _PLAIN_KEYS:
                raise TypeError("a key that is not plain")
            target[key] = value

    def name(self, argument: Any) -> None:
        """Look up a name that the opcode carries."""
        self._look_up(*argument.split(" ", 1))

    def name_on_stack(self, argument: Any) -> None:
        """Look up a name that lies on the stack."""
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise TypeError("a name that is not a string")
        self._look_up(module, name)

    def _look_up(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in self.known:
            raise FileFormatError(
                f"it wants to run {full[:100]!r}, and nothing is run that a file names"
            )
        self.stack.append(self.known[full])

    def call(self, argument: Any) -> None:
        """Call one of the known functions."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if not callable(function) or type(arguments) is not tuple:
            raise TypeError("a call of something that is no function")
        self.stack.append(function(*arguments))

    def attributes(self, argument: Any) -> None:
        """Drop the attributes that a dict of PyTorch's carries beside its entries."""
        self.stack.pop()
        if type(self.stack[-1]) is not dict:
            raise TypeError("attributes of something that is not a dict")

    def persistent(self, argument: Any) -> None:
        """Put what an identifier stands for on the stack."""
        self.stack.append(self.find(self.stack.pop()))


_METHODS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "TUPLE": _Machine.make_tuple,
    "EMPTY_LIST": _Machine.make_list,
    "EMPTY_DICT": _Machine.make_dict,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_on_stack,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.attributes,
    "BINPERSID": _Machine.persistent,
}
