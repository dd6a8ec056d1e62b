"""A TensorFlow network, whatever file it came from: nodes, values and nothing else.

Both readers (of flatbuffers and of protobufs) make one of these; the rest of the importer
does not know which. Kinds of nodes are the names of TensorFlow's operations, shapes are
those of one image, and images are NHWC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import ImportFailedError

if TYPE_CHECKING:
    from boxwright.importers.tensorflow.detection_api import ApiExport

Array = NDArray[Any]

# What a file may hold: EfficientDet-D7 has some 10,000 nodes and 52 million weights.
MAX_NODES = 100_000
MAX_RANK = 8
MAX_ELEMENTS = 1 << 28
MAX_FILE_BYTES = (1 << 31) - 1


@dataclass(frozen=True)
class Quantization:
    """Real value = ``scale * (stored - zero)``.

    Attributes:
        scales: One, or one for each index along `axis`.
        zeros: As many zero points.
        axis: Which axis the scales belong to, where there are several.
    """

    scales: NDArray[np.float32]
    zeros: NDArray[np.int64]
    axis: int = 0

    def same(self, other: Quantization | None) -> bool:
        """Whether stored values mean the same in both."""
        return (
            other is not None
            and np.array_equal(self.scales, other.scales)
            and np.array_equal(self.zeros, other.zeros)
            and (self.axis == other.axis or len(self.scales) == 1)
        )


@dataclass(frozen=True)
class Value:
    """A tensor as the file describes it.

    Attributes:
        name: Its name there.
        dtype: Type of the stored values.
        shape: Where the file states one; -1 is an extent it leaves open.
        data: The stored values, where they are constant.
        quantization: What stored values mean, where they are quantised.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] | None = None
    data: Array | None = None
    quantization: Quantization | None = None


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        kind: TensorFlow's name of it; custom operations of TensorFlow Lite have their own.
        name: Its name, for messages and for the graph.
        inputs: Names of values; an empty one is an optional input that is not there.
        outputs: Names of values.
        attributes: Its settings, by TensorFlow's names for them.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass
class Network:
    """What was read.

    Attributes:
        path: The file, for messages.
        nodes: In an order in which they can be computed.
        values: By name. A value that no file describes is not there.
        inputs: Names of what is fed.
        outputs: Names of what is fetched.
        output_names: What the file calls `outputs`, where it has names for them.
        labels: Class names that the file itself has, perhaps with gaps (empty or ``???``).
        licence: As the file states it.
        description: A name for the kind of network, as the file states it.
        export: What an export of the Object Detection API says of its end.
        pixels: ``(mean, std)`` that the file says pixels are to be normalised with.
    """

    path: str
    nodes: list[Node]
    values: dict[str, Value]
    inputs: list[str]
    outputs: list[str]
    output_names: list[str] = field(default_factory=list)
    labels: tuple[str, ...] = ()
    licence: str | None = None
    description: str | None = None
    export: ApiExport | None = None
    pixels: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def producers(self) -> dict[str, Node]:
        """The node that makes each value."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def fail(self, node: Node, reason: str) -> NoReturn:
        """Refuse the file because of a node."""
        raise refusal(self.path, f"{node.kind} {short(node.name)!r}: {reason}")


def refusal(path: object, reason: str) -> ImportFailedError:
    """An error that names the file."""
    return ImportFailedError(f"{path}: {reason}")


def short(name: str) -> str:
    """A name from a file, for a message: one line of at most 80 characters."""
    clean = "".join(c if c.isprintable() else "?" for c in name)
    return clean if len(clean) <= 80 else clean[:77] + "..."


def size_of(shape: tuple[int, ...]) -> int:
    """Elements of a shape, as a Python integer that cannot overflow."""
    total = 1
    for extent in shape:
        total *= extent
    return total
