"""Patterns of several nodes that mean one thing."""

from __future__ import annotations

from dataclasses import replace

from boxwright.importers.tensorflow.network import Network, Node

_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")


def rewrite(network: Network) -> None:
    """Replace patterns, in place."""
    _join_dilated(network)


def _join_dilated(network: Network) -> None:
    """``SpaceToBatchND``, convolution, ``BatchToSpaceND``: a dilated convolution.

    TensorFlow 1 wrote dilation so: every n-th pixel of each phase goes into an image of its
    own. Padding is that of the first node without what the last one crops.
    """
    producers = network.producers()
    consumers: dict[str, list[Node]] = {}
    for consumer in network.nodes:
        for name in consumer.inputs:
            consumers.setdefault(name, []).append(consumer)
    gone: set[int] = set()
    replaced: dict[int, Node] = {}
    for last in network.nodes:
        if last.kind != "BatchToSpaceND" or len(last.inputs) != 3:
            continue
        chain = [last]
        node: Node | None = producers.get(last.inputs[0])
        while node is not None and node.kind in ("BiasAdd", "Relu", "Relu6", "Identity"):
            chain.append(node)
            node = producers.get(node.inputs[0])
        if node is None or node.kind not in _CONVOLUTIONS:
            continue
        first = producers.get(node.inputs[0])
        single = all(len(consumers.get(n.outputs[0], [])) == 1 for n in (*chain[1:], node))
        if first is None or first.kind != "SpaceToBatchND" or not single:
            continue
        joined = _dilated(network, first, node, last)
        if joined is None:
            continue
        # What stood between goes on behind; the last of it takes over the result's name.
        gone.add(id(last))
        replaced[id(node)] = joined
        if len(chain) == 1:
            replaced[id(node)] = replace(joined, outputs=last.outputs)
        else:
            replaced[id(chain[1])] = replace(chain[1], outputs=last.outputs)
    network.nodes = [replaced.get(id(n), n) for n in network.nodes if id(n) not in gone]


def _dilated(network: Network, first: Node, node: Node, last: Node) -> Node | None:
    numbers = []
    for name in (first.inputs[1], first.inputs[2], last.inputs[1], last.inputs[2]):
        value = network.values.get(name)
        if value is None or value.data is None or value.data.dtype.kind not in "iu":
            return None
        numbers.append([int(x) for x in value.data.reshape(-1)])
    block, pads, block_again, crops = numbers
    strides = [int(x) for x in node.attributes.get("strides", ())]
    dilations = [int(x) for x in node.attributes.get("dilations") or [1]]
    fits = len(block) == 2 and block == block_again and len(pads) == len(crops) == 4
    plain = set(strides) == {1} and set(dilations) == {1}
    if not (fits and plain and node.attributes.get("padding") == "VALID"):
        return None
    left = [p - c for p, c in zip(pads, crops, strict=True)]
    attributes = {
        **node.attributes,
        "padding": "EXPLICIT",
        "explicit_paddings": [0, 0, *left, 0, 0],
        "dilations": tuple(block),
        "strides": (1, 1),
    }
    return replace(node, inputs=(first.inputs[0], *node.inputs[1:]), attributes=attributes)
