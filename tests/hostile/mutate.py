"""Damaged copies of a file: deterministic by seed, so that a failure can be had again.

Used by the tests, a few thousand at a time, and by longer fuzzing runs.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Values that lengths, counts and offsets overflow or wrap at.
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
ZIP_MARKS = (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")


def mutations(
    data: bytes, count: int, seed: int = 0, marks: tuple[bytes, ...] = ZIP_MARKS
) -> Iterator[tuple[str, bytes]]:
    """`count` damaged copies of `data`, none equal to it.

    Args:
        data: The sound file.
        count: How many copies.
        seed: Same seed, same copies.
        marks: Byte strings that headers start with; the numbers behind them are edited.

    Yields:
        What was done, and the copy.
    """
    for number in range(count):
        chance = random.Random(f"{seed}/{number}")
        copy = bytearray(data)
        steps = []
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            name, step = chance.choice(_STEPS)
            step(copy, chance, marks)
            steps.append(name)
        if bytes(copy) == data:
            copy += b"\0"
            steps.append("append a byte")
        yield f"seed {seed}, number {number}: {', '.join(steps)}", bytes(copy)


def _flip_bit(copy: bytearray, chance: random.Random, marks: tuple[bytes, ...]) -> None:
    if copy:
        copy[chance.randrange(len(copy))] ^= 1 << chance.randrange(8)


def _set_bytes(copy: bytearray, chance: random.Random, marks: tuple[bytes, ...]) -> None:
    start, end = _span(copy, chance, 64)
    copy[start:end] = chance.randbytes(end - start)


def _clear_bytes(copy: bytearray, chance: random.Random, marks: tuple[bytes, ...]) -> None:
    start, end = _span(copy, chance, 4096)
    copy[start:end] = bytes(end - start)


def _truncate(copy: bytearray, chance: random.Random, marks: tuple[bytes, ...]) -> None:
    del copy[chance.randrange(len(copy) + 1) :]


def _append(copy: bytearray, chance: random.Random, marks: tuple[bytes, ...]) -> None:
    copy += chance.randbytes(chance.randint(1, 300))


def _prepend(copy: bytearray, chance: random.Random, marks: tuple[bytes, ...]) -> None:
    copy[:0] = chance.randbytes(chance.randint(1, 300))


def _delete(copy: bytearray, chance: random.Random, marks: tuple[bytes, ...]) -> None:
    start, end = _span(copy, chance, 4096)
    del copy[start:end]


def _splice(copy: bytearray, chance: random.Random, marks: tuple[bytes, ...]) -> None:
    """Put a piece of the file somewhere else, over what is there or in between."""
    start, end = _span(copy, chance, 4096)
    piece = copy[start:end]
    at = chance.randrange(len(copy) + 1)
    copy[at : at + chance.choice((0, len(piece)))] = piece


def _edit_number(copy: bytearray, chance: random.Random, marks: tuple[bytes, ...]) -> None:
    """Overwrite a little-endian number behind one of the marks, or anywhere without any."""
    places = [at for mark in marks for at in _find_all(copy, mark)] or [0]
    width = chance.choice((1, 2, 4))
    at = chance.choice(places) + chance.randrange(50)
    if at + width > len(copy):
        return
    old = int.from_bytes(copy[at : at + width], "little")
    new = chance.choice((*_EXTREMES, old + 1, old - 1, old ^ 0x8000, old * 2))
    copy[at : at + width] = (new % (1 << 8 * width)).to_bytes(width, "little")


def _edit_digits(copy: bytearray, chance: random.Random, marks: tuple[bytes, ...]) -> None:
    """Make a number in a text larger, negative, a fraction or nothing."""
    digits = [i for i, byte in enumerate(copy[:65536]) if byte in b"0123456789"]
    if digits:
        at = chance.choice(digits)
        copy[at : at + 1] = chance.choice((b"-1", b"0", b"99999999999", b".5", b"", b"1e999"))


def _span(copy: bytearray, chance: random.Random, limit: int) -> tuple[int, int]:
    start = chance.randrange(len(copy) + 1)
    return start, min(len(copy), start + chance.randint(1, limit))


def _find_all(copy: bytearray, mark: bytes) -> Iterator[int]:
    at = copy.find(mark)
    while at >= 0:
        yield at
        at = copy.find(mark, at + 1)


_STEPS: tuple[tuple[str, Callable[[bytearray, random.Random, tuple[bytes, ...]], None]], ...] = (
    ("flip a bit", _flip_bit),
    ("set bytes", _set_bytes),
    ("clear bytes", _clear_bytes),
    ("truncate", _truncate),
    ("append", _append),
    ("prepend", _prepend),
    ("delete", _delete),
    ("splice", _splice),
    ("edit a number", _edit_number),
    ("edit a number", _edit_number),
    ("edit digits", _edit_digits),
)
