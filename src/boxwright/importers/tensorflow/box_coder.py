"""The Object Detection API's box coder, found in front of a graph's decoded boxes.

``box_coders/faster_rcnn_box_coder.py`` of the API writes decoding as some thirty operations
on all images' candidates together. It is measured rather than compared with a pattern:
what stands between encodings, anchors and boxes is computed for chosen numbers, the scales
are read off the results, and random numbers must then give what the formula gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from boxwright.errors import ImportFailedError
from boxwright.importers.tensorflow.fold import fold
from boxwright.importers.tensorflow.network import Array, Network, Node, refusal

_PASSES = ("Identity", "StopGradient", "Squeeze", "ExpandDims", "Reshape", "StridedSlice")
_MAX_NODES = 200


@dataclass(frozen=True)
class BoxCoder:
    """Decoding of boxes.

    Attributes:
        encodings: The value with offsets ``(y, x, h, w)``.
        anchors: The value with anchors ``(y1, x1, y2, x2)``, fractions of the image.
        scales: What offsets are divided by: of y, x, h and w.
    """

    encodings: str
    anchors: str
    scales: tuple[float, float, float, float]


def find_box_coder(network: Network, boxes: str) -> BoxCoder:
    """The box coder that makes the value `boxes`.

    Raises:
        ImportFailedError: Something else makes it.
    """
    try:
        return _found(network, boxes)
    except IndexError:  # an operation without the inputs that it needs
        raise _unknown(network) from None


def _found(network: Network, boxes: str) -> BoxCoder:
    producers = network.producers()
    end = _back(producers, boxes, (*_PASSES, "Transpose"))
    if end is None or end.kind != "Pack" or len(end.inputs) != 4:
        raise _unknown(network)
    inside, sources = _between(producers, end)
    exponents = [node for node in inside if node.kind == "Exp"]
    encoded = {id(s) for n in exponents for s in _between(producers, n)[1]}
    encodings = [source for source in sources if id(source) in encoded]
    anchors = [source for source in sources if id(source) not in encoded]
    if len(encodings) != 1 or len(anchors) != 1:
        raise _unknown(network)
    decode = _Decode(network, inside, end, encodings[0], anchors[0])
    scales = decode.scales()
    decode.check(scales)
    return BoxCoder(_rows(producers, encodings[0]), _rows(producers, anchors[0]), scales)


class _Decode:
    """The operations between, computed for numbers given."""

    def __init__(
        self, network: Network, inside: list[Node], end: Node, encodings: Node, anchors: Node
    ) -> None:
        self.network = network
        self.inside = {id(node) for node in inside}
        self.end, self.encodings, self.anchors = end, encodings, anchors

    def run(self, encodings: Array, anchors: Array) -> Array:
        """Boxes ``(y1, x1, y2, x2)`` of ``(K, 4)`` each."""
        known: dict[str, Array] = {}
        for node, given in ((self.encodings, encodings), (self.anchors, anchors)):
            known |= {name: given[:, i] for i, name in enumerate(node.outputs)}
        for node in self.network.nodes:
            if id(node) not in self.inside:
                continue
            inputs = []
            for name in node.inputs:
                value = self.network.values.get(name)
                if name not in known and (value is None or value.data is None):
                    raise _unknown(self.network)
                inputs.append(known[name] if name in known else np.asarray(value.data))  # type: ignore[union-attr]
            try:
                results = fold(node.kind, node.attributes, inputs)
            except ValueError:
                results = None
            if results is None:
                raise _unknown(self.network)
            known |= dict(zip(node.outputs, results, strict=False))
        try:
            return np.stack([known[name] for name in self.end.inputs], axis=1)
        except (KeyError, ValueError):
            raise _unknown(self.network) from None

    def scales(self) -> tuple[float, float, float, float]:
        """By the anchor of the whole image, and one offset of one after the other."""
        anchor = np.tile(np.array([0, 0, 1, 1], np.float32), (4, 1))
        y1, x1, y2, x2 = self.run(np.eye(4, dtype=np.float32), anchor).astype(np.float64).T
        steps = (
            (y1 + y2)[0] / 2 - 0.5,
            (x1 + x2)[1] / 2 - 0.5,
            np.log(max((y2 - y1)[2], 1e-9)),
            np.log(max((x2 - x1)[3], 1e-9)),
        )
        if not all(np.isfinite(step) and 1e-6 < step < 1e6 for step in steps):
            raise _unknown(self.network)
        # Written as decimal fractions, and measured in float32.
        y, x, h, w = (float(np.round(1 / step, 4)) for step in steps)
        return y, x, h, w

    def check(self, scales: tuple[float, float, float, float]) -> None:
        """Compare with the formula on random numbers."""
        random = np.random.default_rng(0)
        offsets = random.normal(0, 2, (256, 4)).astype(np.float32)
        corners = np.sort(random.uniform(-0.2, 1.2, (256, 2, 2)), axis=1)
        anchors = corners.reshape(-1, 4).astype(np.float32)
        found = self.run(offsets, anchors)
        t = offsets.astype(np.float64) / np.array(scales)
        size = corners[:, 1] - corners[:, 0]
        centre = corners.mean(axis=1) + t[:, :2] * size
        half = np.exp(t[:, 2:]) * size / 2
        expected = np.concatenate([centre - half, centre + half], axis=1)
        if not np.allclose(found, expected, rtol=1e-3, atol=1e-4):
            raise _unknown(self.network)


def _back(producers: dict[str, Node], name: str, passed: tuple[str, ...]) -> Node | None:
    for _ in range(_MAX_NODES):
        node = producers.get(name)
        if node is None or node.kind not in passed:
            return node
        name = node.inputs[0]
    return None


def _between(producers: dict[str, Node], end: Node) -> tuple[list[Node], list[Node]]:
    """What an operation depends on up to rows parted into columns, and these."""
    pending = [name for name in end.inputs if name in producers]
    inside: dict[int, Node] = {}
    sources: dict[int, Node] = {}
    while pending and len(inside) < _MAX_NODES:
        node = producers[pending.pop()]
        if node.kind == "Unpack":
            sources[id(node)] = node
        elif id(node) not in inside:
            inside[id(node)] = node
            pending.extend(name for name in node.inputs if name in producers)
    return list(inside.values()), list(sources.values())


def _rows(producers: dict[str, Node], columns: Node) -> str:
    """The rows that an operation parts into columns."""
    node = producers.get(columns.inputs[0])
    name = node.inputs[0] if node is not None and node.kind == "Transpose" else columns.inputs[0]
    node = producers.get(name)
    # All images' candidates as one list, which each image's own would be again at once.
    return node.inputs[0] if node is not None and node.kind == "Reshape" else name


def _unknown(network: Network) -> ImportFailedError:
    return refusal(
        network.path,
        "an export of the Object Detection API whose boxes are not decoded by the Faster R-CNN "
        "box coder; others are not supported (--option boxes= and scores= name values to end at)",
    )
