"""The plan's file: compiled models as OpenVINO exports them, one for each batch size.

========  =====================================================================
bytes     meaning
========  =====================================================================
8         ``BWOPENV1``
4         length of the header, little-endian
header    JSON: ``outputs`` (names in the graph's order), ``fixed`` (the graph
          takes one batch size only), ``models`` (``batch`` and ``bytes`` of each)
the rest  the exported models one after another, nothing behind them
========  =====================================================================

OpenVINO's own format has no length, and it takes a file whose end is missing where that
happens to be blank. So lengths are checked here, before OpenVINO sees a byte.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from boxwright.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAGIC = b"BWOPENV1"
_LENGTH = struct.Struct("<I")
_MAX_HEADER = 1 << 16
_MAX_BATCH = 1 << 20


@dataclass(frozen=True)
class PlanFile:
    """What a plan holds.

    Attributes:
        outputs: Names of the outputs, in the graph's order.
        fixed: Whether the graph itself takes one batch size only.
        models: An exported compiled model for each batch size.
    """

    outputs: tuple[str, ...]
    fixed: bool
    models: Mapping[int, bytes]

    def to_bytes(self) -> bytes:
        """The file's content."""
        header = json.dumps(
            {
                "outputs": list(self.outputs),
                "fixed": self.fixed,
                "models": [{"batch": n, "bytes": len(data)} for n, data in self.models.items()],
            }
        ).encode()
        return b"".join((_MAGIC, _LENGTH.pack(len(header)), header, *self.models.values()))

    @classmethod
    def from_bytes(cls, data: bytes) -> PlanFile:
        """Read a plan; every length is checked against what there is.

        Raises:
            EngineError: It is not a plan of ours, or damaged.
        """
        start = len(_MAGIC) + _LENGTH.size
        if len(data) < start or data[: len(_MAGIC)] != _MAGIC:
            raise EngineError("it is not an OpenVINO plan that Boxwright wrote")
        (length,) = _LENGTH.unpack_from(data, len(_MAGIC))
        if length > min(_MAX_HEADER, len(data) - start):
            raise EngineError("the OpenVINO plan is cut short within its header")
        try:
            header = json.loads(data[start : start + length])
            outputs, fixed, sizes = _read_header(header)
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise EngineError(f"the OpenVINO plan has a damaged header: {error!r:.200}") from error
        position, models = start + length, {}
        if sum(sizes.values()) != len(data) - position:
            raise EngineError(
                f"the OpenVINO plan should hold {sum(sizes.values())} bytes of compiled models, "
                f"got {len(data) - position}"
            )
        for batch, size in sizes.items():
            models[batch] = data[position : position + size]
            position += size
        return cls(outputs, fixed, models)


def _read_header(header: Any) -> tuple[tuple[str, ...], bool, dict[int, int]]:
    outputs, fixed = header["outputs"], header["fixed"]
    sizes = {item["batch"]: item["bytes"] for item in header["models"]}
    if not (
        isinstance(outputs, list)
        and outputs
        and all(isinstance(name, str) for name in outputs)
        and len(set(outputs)) == len(outputs)
    ):
        raise ValueError("outputs must be distinct names")
    if type(fixed) is not bool:
        raise ValueError("fixed must be true or false")
    if (
        not sizes
        or len(sizes) != len(header["models"])
        or not all(type(n) is int and 1 <= n <= _MAX_BATCH for n in sizes)
        or not all(type(size) is int and size > 0 for size in sizes.values())
        or (fixed and len(sizes) != 1)
    ):
        raise ValueError("models must have distinct batch sizes and lengths")
    return tuple(outputs), fixed, sizes
