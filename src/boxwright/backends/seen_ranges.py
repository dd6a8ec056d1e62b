"""Activations of a quantised graph on the range that they really have.

The portable graph's INT8 is symmetric, for TensorRT takes nothing else. After LeakyRelu, SiLU or
HardSwish nearly all of the negative half stays empty, and half of the 256 steps with it.
Runtimes of processors take a zero point, so there the steps are spread over the range that
calibration saw. It matters where there are few to spare: yolo-fastest-1.1-xl has AP 21.2 in
float, 19.5 in symmetric INT8 and 21.1 so (percentile 99.99, OpenVINO, 80 images of COCO;
``benchmarks/results/int8_seen_ranges.md``).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from boxwright.backends.quantized import Pair, activation_pairs, count_reads

Ranges = Mapping[str, tuple[float, float]]

_STEPS = 255
_SIGNED_STEPS = 127


def with_seen_ranges(proto: onnx.ModelProto, ranges: Ranges) -> onnx.ModelProto:
    """A copy in which symmetric INT8 activations are UINT8 over the range that they have.

    Tensors of one scale keep one scale: values pass between them as they are.

    Args:
        proto: With Q/DQ pairs as `boxwright.quantize` writes them.
        ranges: Lowest and highest value of tensors. A pair on one that is not among them
            stays as it is, and so does its whole group.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    groups: dict[float, list[Pair]] = {}
    for pair in activation_pairs(copy):
        if pair.scale:
            groups.setdefault(pair.scale, []).append(pair)
    for scale, pairs in groups.items():
        if not all(pair.tensor in ranges for pair in pairs):
            continue
        most = _SIGNED_STEPS * scale
        # Where calibration clipped, what is beyond stays clipped. Zero must be a step.
        low = max(min(0.0, *(ranges[pair.tensor][0] for pair in pairs)), -most)
        high = min(max(0.0, *(ranges[pair.tensor][1] for pair in pairs)), most)
        step = np.float32((high - low) / _STEPS)
        if not step > 0:
            continue
        zero = np.array(np.clip(round(-low / float(step)), 0, _STEPS), np.uint8)
        names = f"{pairs[0].tensor}/seen/scale", f"{pairs[0].tensor}/seen/zero_point"
        copy.graph.initializer.append(numpy_helper.from_array(np.asarray(step), names[0]))
        copy.graph.initializer.append(numpy_helper.from_array(zero, names[1]))
        for pair in pairs:
            for node in (pair.quantize, *pair.dequantize):
                node.input[1], node.input[2] = names
    reads = count_reads(copy)
    kept = [t for t in copy.graph.initializer if reads[t.name]]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    return copy
