"""Pickles read without running them.

Python's own unpickler calls what a pickle names. :class:`PickleReader` goes through the
same operations (they are described in CPython's ``Lib/pickletools.py``), but nothing is
ever imported or called: names become :class:`~.records.Name`, objects become
:class:`~.records.Record`, and the few functions in :mod:`.allowed` are replaced by ones of
our own that put plain data together. A name that is not listed there is refused.

Operations, nesting, numbers and names are bounded, so that a small file cannot ask for
much memory or time.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from boxwright.importers.pytorch.allowed import CLASSES, FUNCTIONS, NAMES
from boxwright.importers.pytorch.records import STORAGES, Name, Record

MAX_BYTES = 32 << 20
_MAX_OPERATIONS = 1_000_000
_MAX_COPIES = 4_000_000
_MAX_MARKS = 1_000
_MAX_LINE = 4_096
_MAX_INTEGER_BYTES = 32
_PYTHON2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}

Handler = Callable[["PickleReader"], None]
PersistentLoad = Callable[[Any], Any]


class PickleError(ValueError):
    """The pickle is refused; the message names the byte."""


class PickleReader:
    """Reads one pickle after another from the same bytes.

    Args:
        data: The bytes.
        persistent: Turns persistent ids, by which torch refers to storages, into objects;
            raises ``ValueError`` for what it does not take.
    """

    def __init__(self, data: bytes, persistent: PersistentLoad) -> None:
        self.data = data
        self.at = 0
        self.operation = 0
        self._operations = 0
        self._copies = 0
        self._persistent = persistent
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def read(self) -> Any:
        """The next pickle's object.

        Raises:
            PickleError: It is damaged, or wants something that is not allowed.
        """
        self._stack, self._marks, self._memo = [], [], {}
        while True:
            self.operation = self.at
            code = self._take(1)[0]
            if code == _STOP:
                break
            self._operations += 1
            if self._operations > _MAX_OPERATIONS:
                raise self.error(f"it has more than {_MAX_OPERATIONS} operations")
            handler = _HANDLERS.get(code)
            if handler is None:
                raise self.error(_refusal(code))
            handler(self)
        result = self.pop()
        if self._stack or self._marks:
            raise self.error("values are left over at its end")
        return result

    def error(self, reason: str) -> PickleError:
        """An error that names the byte of the present operation."""
        return PickleError(f"byte {self.operation}: {reason}")

    def spend(self, count: int) -> None:
        """Account for values that are copied: one operation may copy all of a long list."""
        self._copies += count
        if self._copies > _MAX_COPIES:
            raise self.error(f"it copies more than {_MAX_COPIES} values")

    # Bytes.

    def _take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if len(piece) != count:
            raise self.error("it ends early")
        self.at += count
        return piece

    def number(self, form: struct.Struct) -> Any:
        """The number that follows."""
        return form.unpack(self._take(form.size))[0]

    def block(self, form: struct.Struct) -> bytes:
        """The bytes that follow, their length first."""
        return self._take(self.number(form))

    def line(self) -> str:
        """The text up to the end of its line."""
        end = self.data.find(b"\n", self.at, self.at + _MAX_LINE)
        if end < 0:
            raise self.error(f"a line of text has no end within {_MAX_LINE} bytes")
        piece = self.data[self.at : end]
        self.at = end + 1
        try:
            return piece.decode("ascii")
        except UnicodeDecodeError:
            raise self.error(f"a name or a number is not plain text: {piece[:40]!r}") from None

    def text(self, data: bytes) -> str:
        """Bytes as text."""
        return data.decode("utf-8", "backslashreplace")

    # The stack.

    def push(self, value: Any) -> None:
        """Put a value on top."""
        self._stack.append(value)

    def pop(self) -> Any:
        """Take the value on top, which must be above the last mark."""
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise self.error("it takes a value where there is none")
        return self._stack.pop()

    def top(self) -> Any:
        """The value on top, left there."""
        value = self.pop()
        self._stack.append(value)
        return value

    def mark(self) -> None:
        """Remember how high the stack is."""
        if len(self._marks) >= _MAX_MARKS:
            raise self.error(f"it is nested more than {_MAX_MARKS} deep")
        self._marks.append(len(self._stack))

    def pop_mark(self) -> list[Any]:
        """Take all values above the last mark, and the mark."""
        if not self._marks:
            raise self.error("it takes values up to a mark where there is none")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def put(self, key: int) -> None:
        """Remember the value on top."""
        self._memo[key] = self.top()

    def get(self, key: int) -> None:
        """Push a remembered value."""
        if key not in self._memo:
            raise self.error(f"it recalls value {key}, which it has not stored")
        self.push(self._memo[key])

    def memoize(self) -> None:
        """Remember the value on top under the next number."""
        self.put(len(self._memo))

    # What operations do to values.

    def integer(self, data: bytes) -> None:
        """Push the little-endian integer in `data`."""
        if len(data) > _MAX_INTEGER_BYTES:
            raise self.error(f"an integer has {len(data)} bytes")
        self.push(int.from_bytes(data, "little", signed=True))

    def decimal(self) -> None:
        """Push the integer or truth value written in digits."""
        text = self.line().removesuffix("L")
        if text in ("00", "01"):
            self.push(text == "01")
            return
        try:
            self.push(int(text if len(text) < 2 * _MAX_INTEGER_BYTES else "too long"))
        except ValueError:
            raise self.error(f"{text[:40]!r} is no integer") from None

    def real(self) -> None:
        """Push the number written in digits."""
        text = self.line()
        try:
            self.push(float(text))
        except ValueError:
            raise self.error(f"{text[:40]!r} is no number") from None

    def extend(self, values: list[Any]) -> None:
        """Append to the list on top."""
        target = self.top()
        if type(target) is not list:
            raise self.error(f"it appends to {_kind(target)}")
        target.extend(values)

    def update(self, values: list[Any]) -> None:
        """Set keys and values, one after the other, in the dictionary on top."""
        target = self.top()
        if type(target) is not dict:
            raise self.error(f"it sets a key of {_kind(target)}")
        target.update(self.pairs(values))

    def pairs(self, values: list[Any]) -> dict[Any, Any]:
        """A dictionary of keys and values that follow one another."""
        if len(values) % 2:
            raise self.error("a key has no value")
        return {self.key(k): v for k, v in zip(values[::2], values[1::2], strict=True)}

    def key(self, value: Any) -> Any:
        """A value that may be a key: scalars only, whose hashes are cheap and do not collide."""
        plain = value is None or isinstance(value, (str, bytes, bool, float))
        if plain or (type(value) is int and -(1 << 63) <= value < 1 << 63):
            return value
        raise self.error(f"a key is {_kind(value)}")

    def name(self, module: Any, attribute: Any) -> None:
        """Push a name, if it is one of those that are known."""
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise self.error("a name is made of something that is no text")
        text = f"{_PYTHON2.get(module, module)}.{attribute}"
        storage = module in ("torch", "torch.cuda") and attribute in STORAGES
        if not (storage or text in CLASSES or text in FUNCTIONS or text in NAMES):
            raise self.error(
                f"it names {text[:200]!r}, which is not among the classes that are known here; "
                "if you trust the file, export it to ONNX with the program it was trained with "
                "and import that"
            )
        self.push(Name(text))

    def call(self, function: Any, args: Any) -> None:
        """Push what a known function makes of `args`, by a replacement of our own."""
        if not isinstance(function, Name) or not isinstance(args, tuple):
            raise self.error(f"it calls {_kind(function)} with {_kind(args)}")
        replacement = FUNCTIONS.get(function.text)
        if replacement is None:
            if function.text not in CLASSES:
                raise self.error(f"it calls {function.text}, which is no class")
            self.make(function, args)
            return
        try:
            self.push(replacement(self, args))
        except PickleError:
            raise
        except ValueError as error:
            raise self.error(f"{function.text}: {error}") from None

    def make(self, name: Any, args: Any) -> None:
        """Push a record of a known class."""
        if not isinstance(name, Name) or name.text not in CLASSES or not isinstance(args, tuple):
            raise self.error(f"it makes an object of {_kind(name)}")
        self.push(Record(name, self.operation, args))

    def build(self) -> None:
        """Give the record below the top its attributes."""
        state, target = self.pop(), self.top()
        if type(target) is dict:
            return  # torch keeps notes on the versions of modules with a state dict
        if not isinstance(target, Record):
            raise self.error(f"it sets attributes of {_kind(target)}")
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[0], dict | None):
            parts = [part for part in state if part]
        else:
            parts = [state]
        for part in parts:
            self.spend(len(part) if isinstance(part, dict) else 1)
            if isinstance(part, dict) and all(isinstance(key, str) for key in part):
                target.state.update(part)
            elif not target.name.text.startswith("numpy."):
                raise self.error(f"it sets the attributes of {target.name.text} to {_kind(part)}")

    def persist(self) -> None:
        """Push what the persistent id on top stands for."""
        try:
            self.push(self._persistent(self.pop()))
        except PickleError:
            raise
        except ValueError as error:
            raise self.error(str(error)) from None

    def tuple_of(self, count: int) -> None:
        """Push a tuple of the values on top."""
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))


def _kind(value: Any) -> str:
    """What a value is, in few words."""
    if isinstance(value, Name):
        return value.text[:200]
    if isinstance(value, Record):
        return f"an object of {value.name.text}"
    return f"a value of type {type(value).__name__}"


def _refusal(code: int) -> str:
    names = {
        ord("i"): "INST makes an object as Python 1 did",
        ord("o"): "OBJ makes an object as Python 1 did",
        ord("P"): "PERSID refers to other data by a text",
        0x82: "EXT1 refers to a registry of the program that wrote it",
        0x83: "EXT2 refers to a registry of the program that wrote it",
        0x84: "EXT4 refers to a registry of the program that wrote it",
        0x97: "NEXT_BUFFER refers to data that is not there",
        0x98: "READONLY_BUFFER refers to data that is not there",
    }
    return f"{names.get(code, f'{code:#04x} is no operation of a pickle')}; torch writes no such"


_U1, _U2, _U4, _U8 = (struct.Struct(form) for form in ("<B", "<H", "<I", "<Q"))
_I4, _REAL = struct.Struct("<i"), struct.Struct(">d")
_STOP = ord(".")


def _protocol(reader: PickleReader) -> None:
    version = reader.number(_U1)
    if version > 5:
        raise reader.error(f"it is of protocol {version}; 5 is the highest known")


def _stack_global(reader: PickleReader) -> None:
    attribute, module = reader.pop(), reader.pop()
    reader.name(module, attribute)


def _reduce(reader: PickleReader) -> None:
    args, function = reader.pop(), reader.pop()
    reader.call(function, args)


def _newobj(reader: PickleReader) -> None:
    args, name = reader.pop(), reader.pop()
    reader.make(name, args)


def _newobj_ex(reader: PickleReader) -> None:
    keywords, args, name = reader.pop(), reader.pop(), reader.pop()
    if keywords != {}:
        raise reader.error("it makes an object with named arguments; torch writes no such")
    reader.make(name, args)


def _set_item(reader: PickleReader) -> None:
    value, key = reader.pop(), reader.pop()
    reader.update([key, value])


def _append(reader: PickleReader) -> None:
    value = reader.pop()
    reader.extend([value])


def _pop(reader: PickleReader) -> None:
    # As in pickle.py: with nothing above the mark, it is the mark that goes.
    if reader._marks and len(reader._stack) == reader._marks[-1]:
        reader._marks.pop()
    else:
        reader.pop()


_HANDLERS: dict[int, Handler] = {
    0x80: _protocol,
    0x95: lambda r: r.number(_U8),  # FRAME: where a reader may cut; nothing depends on it
    ord("("): PickleReader.mark,
    ord("0"): _pop,
    ord("1"): lambda r: (r.pop_mark(), None)[1],
    ord("2"): lambda r: r.push(r.top()),
    ord("N"): lambda r: r.push(None),
    0x88: lambda r: r.push(True),
    0x89: lambda r: r.push(False),
    ord("I"): PickleReader.decimal,
    ord("L"): PickleReader.decimal,
    ord("J"): lambda r: r.push(r.number(_I4)),
    ord("K"): lambda r: r.push(r.number(_U1)),
    ord("M"): lambda r: r.push(r.number(_U2)),
    0x8A: lambda r: r.integer(r.block(_U1)),
    0x8B: lambda r: r.integer(r.block(_U4)),
    ord("F"): PickleReader.real,
    ord("G"): lambda r: r.push(r.number(_REAL)),
    ord("U"): lambda r: r.push(r.text(r.block(_U1))),
    ord("T"): lambda r: r.push(r.text(r.block(_U4))),
    ord("X"): lambda r: r.push(r.text(r.block(_U4))),
    0x8C: lambda r: r.push(r.text(r.block(_U1))),
    0x8D: lambda r: r.push(r.text(r.block(_U8))),
    ord("C"): lambda r: r.push(r.block(_U1)),
    ord("B"): lambda r: r.push(r.block(_U4)),
    0x8E: lambda r: r.push(r.block(_U8)),
    0x96: lambda r: r.push(r.block(_U8)),  # a bytearray, which nothing here changes
    ord(")"): lambda r: r.push(()),
    ord("t"): lambda r: r.push(tuple(r.pop_mark())),
    0x85: lambda r: r.tuple_of(1),
    0x86: lambda r: r.tuple_of(2),
    0x87: lambda r: r.tuple_of(3),
    ord("]"): lambda r: r.push([]),
    ord("l"): lambda r: r.push(r.pop_mark()),
    ord("a"): _append,
    ord("e"): lambda r: r.extend(r.pop_mark()),
    ord("}"): lambda r: r.push({}),
    ord("d"): lambda r: r.push(r.pairs(r.pop_mark())),
    ord("s"): _set_item,
    ord("u"): lambda r: r.update(r.pop_mark()),
    0x8F: lambda r: r.push([]),  # a set; its members are kept in the order they come
    0x90: lambda r: r.extend(r.pop_mark()),
    0x91: lambda r: r.push(r.pop_mark()),
    ord("p"): lambda r: r.put(_slot(r)),
    ord("q"): lambda r: r.put(r.number(_U1)),
    ord("r"): lambda r: r.put(r.number(_U4)),
    ord("g"): lambda r: r.get(_slot(r)),
    ord("h"): lambda r: r.get(r.number(_U1)),
    ord("j"): lambda r: r.get(r.number(_U4)),
    0x94: PickleReader.memoize,
    ord("c"): lambda r: r.name(r.line(), r.line()),
    0x93: _stack_global,
    ord("R"): _reduce,
    0x81: _newobj,
    0x92: _newobj_ex,
    ord("b"): PickleReader.build,
    ord("Q"): PickleReader.persist,
}


def _slot(reader: PickleReader) -> int:
    reader.decimal()
    return int(reader.pop())
