"""Calibration caches as TensorRT's calibrators wrote them, up to TensorRT 10.

Text: a first line such as ``TRT-8601-EntropyCalibration2``, then one line for each tensor,
``name: 3c010a14``. The eight hexadecimal digits are the bits of a float32, most significant
first: the tensor's scale, which is its amax divided by 127. A name may hold anything but
line ends, so the last ``": "`` of a line is what divides it.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from boxwright.errors import InputError
from boxwright.files import atomic_write, human_size, open_regular

MAX_BYTES = 64 << 20
MAX_NAME_BYTES = 4096

_STEPS = 127
_HEADER = re.compile(r"TRT-(?P<version>[0-9]{1,6})-(?P<algorithm>[A-Za-z0-9_]{1,64})", re.ASCII)
_HEX = re.compile(r"[0-9a-fA-F]{8}", re.ASCII)
_MAX_SHOWN = 60


@dataclass(frozen=True)
class LegacyCache:
    """The content of a cache.

    Attributes:
        algorithm: The calibrator, such as ``EntropyCalibration2`` or ``MinMaxCalibration``.
        version: TensorRT's version as its cache has it: 8601 is 8.6.1, 100300 is 10.3.0.
        scales: By tensor, in the file's order: float32 values, 0 where the tensor was zero.
    """

    algorithm: str
    version: int
    scales: Mapping[str, float] = field(default_factory=dict)

    @property
    def header(self) -> str:
        """The first line."""
        return f"TRT-{self.version}-{self.algorithm}"

    @property
    def tensorrt_version(self) -> tuple[int, int, int]:
        """Major, minor and patch number; from 10 on a minor number has two digits more."""
        unit = 10_000 if self.version >= 100_000 else 1000
        return self.version // unit, self.version % unit // 100, self.version % 100

    @classmethod
    def from_amax(
        cls, amax: Mapping[str, float], *, algorithm: str = "MinMaxCalibration", version: int = 8601
    ) -> LegacyCache:
        """A cache of ranges' upper ends, each divided by 127 and rounded to float32.

        Raises:
            InputError: A value is negative, not finite, or too large or small for float32.
        """
        scales = {}
        for name, value in amax.items():
            _bits_of(name, value / _STEPS)
            scales[name] = _as_float32(value / _STEPS)
        return cls(algorithm, version, scales)

    def amax(self, tensor: str) -> float:
        """The upper end of a tensor's symmetric range: 127 times its scale.

        Raises:
            InputError: The cache does not have the tensor.
        """
        if tensor not in self.scales:
            raise InputError(
                f"the calibration cache has no tensor {_shown(tensor)}; it has "
                f"{len(self.scales)} others: is it of another network, or of other names?"
            )
        return _STEPS * self.scales[tensor]

    def missing(self, tensors: Collection[str]) -> list[str]:
        """Which of these tensors the cache does not have."""
        return [name for name in tensors if name not in self.scales]

    def renamed(self, names: Mapping[str, str]) -> LegacyCache:
        """The same scales under other names; a tensor that `names` lacks keeps its own.

        TensorRT's parsers name some tensors otherwise than the graph does, such as
        ``(Unnamed Layer* 3) [Shuffle]_output``.

        Raises:
            InputError: Two tensors would have one name.
        """
        scales: dict[str, float] = {}
        for name, scale in self.scales.items():
            new = names.get(name, name)
            if new in scales:
                raise InputError(f"two tensors of the calibration cache would be {_shown(new)}")
            scales[new] = scale
        return LegacyCache(self.algorithm, self.version, scales)


def read_legacy_cache(path: str | Path) -> LegacyCache:
    """Read a cache. Line ends may be those of Windows; empty lines at the end are none.

    Raises:
        InputError: It is missing, too large, not such a file, or holds a scale that cannot
            be one, or a name twice; the message names the line.
    """
    lines = _lines(Path(path))
    header = _HEADER.fullmatch(lines[0])
    if header is None:
        raise InputError(
            f"{path}:1: a TensorRT calibration cache must start with a line such as "
            f"TRT-8601-EntropyCalibration2, got {_shown(lines[0])}"
        )
    scales: dict[str, float] = {}
    for number, line in enumerate(lines[1:], start=2):
        name, divider, digits = line.rpartition(": ")
        reason = _fault(name, divider, digits)
        if not reason and name in scales:
            reason = f"the tensor {_shown(name)} is there twice"
        if reason:
            raise InputError(f"{path}:{number}: {reason}")
        scales[name] = _scale(digits)
    return LegacyCache(header["algorithm"], int(header["version"]), scales)


def write_legacy_cache(path: str | Path, cache: LegacyCache) -> None:
    """Write a cache; what was read is written back byte for byte, up to line ends and case.

    Raises:
        InputError: The header, a name or a scale has no place in such a file, or it cannot
            be written.
    """
    if _HEADER.fullmatch(cache.header) is None:
        raise InputError(
            "a calibration cache's first line must be such as TRT-8601-EntropyCalibration2, "
            f"got {_shown(cache.header)}"
        )
    lines = [cache.header]
    for name, scale in cache.scales.items():
        digits = f"{_bits_of(name, scale):08x}"
        if reason := _fault(name, ": ", digits):
            raise InputError(f"cannot write a calibration cache: {reason}")
        lines.append(f"{name}: {digits}")
    with atomic_write(path) as stream:
        stream.write("".join(f"{line}\n" for line in lines).encode())


def _lines(path: Path) -> list[str]:
    try:
        with open_regular(path) as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{path} is too large for a calibration cache: more than "
                         f"{human_size(MAX_BYTES)}")  # fmt: skip
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a TensorRT calibration cache: it is not text") from error
    # Not splitlines: it divides at more characters, and names may hold those.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while len(lines) > 1 and not lines[-1]:
        lines.pop()
    return lines


def _fault(name: str, divider: str, digits: str) -> str:
    """Why a name and its digits cannot stand in a line; empty where they can."""
    if not divider or not name:
        return f"a line must be `tensor: 8 hexadecimal digits`, got {_shown(name + digits)}"
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return f"the name {_shown(name)} is not text"
    if len(encoded) > MAX_NAME_BYTES or "\n" in name or "\r" in name:
        return (
            f"a tensor's name may hold {MAX_NAME_BYTES} bytes and no line ends, "
            f"got {_shown(name)} of {len(encoded)} bytes"
        )
    if _HEX.fullmatch(digits) is None:
        return f"{_shown(name)}: a scale must be 8 hexadecimal digits, got {_shown(digits)}"
    value = _scale(digits)
    if not math.isfinite(value) or math.copysign(1.0, value) < 0:
        return f"{_shown(name)}: a scale must be finite and not negative, got {digits} ({value})"
    return ""


def _scale(digits: str) -> float:
    value: float = struct.unpack(">f", bytes.fromhex(digits))[0]
    return value


def _bits_of(name: str, scale: float) -> int:
    """The bits of a scale in float32; those of a value that is none in it are refused."""
    if not math.isfinite(scale) or scale < 0:
        raise InputError(f"{_shown(name)}: a scale must be finite and not negative, got {scale}")
    try:
        rounded = _as_float32(scale)
    except OverflowError as error:
        raise InputError(f"{_shown(name)}: the scale {scale} is too large for float32") from error
    if scale and not rounded:
        raise InputError(f"{_shown(name)}: the scale {scale} is too small for float32")
    # Adding 0 makes a negative zero a plain one.
    return int.from_bytes(struct.pack(">f", rounded + 0.0), "big")


def _as_float32(value: float) -> float:
    rounded: float = struct.unpack(">f", struct.pack(">f", value))[0]
    return rounded


def _shown(text: str) -> str:
    return ascii(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}...")
