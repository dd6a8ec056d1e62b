"""What is quantised, as far as the graph alone decides it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from boxwright.errors import InputError

Target = Literal["tensorrt", "tensorrt-rtx", "onnxruntime", "openvino"]

TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True)
class Rules:
    """Where INT8 may be.

    Attributes:
        min_channels: A convolution with fewer input or output channels than this stays in
            float, but for the network's first: TensorRT's INT8 kernels pad channels to
            multiples of 16 or 32, so that fewer gain nothing and still lose accuracy.
        first: Quantise the first convolution, the one that reads the pixels. TensorRT 8.6
            computes something else then: the scale of the pixels and the rounding become
            one layer, and yolov4-tiny's AP goes from 29.5 to 0.1
            (``benchmarks/results/int8_tensorrt_h200.md``); nor is it faster.
        depthwise: Quantise convolutions whose groups have one channel.
        heads: Quantise the convolutions whose outputs are decoded into boxes and scores.
        residual: Quantise the branch that an addition joins to a convolution's output.
        shared_scales: Give one scale to all tensors that a concatenation, a pooling or
            another operation that only moves values connects, so that INT8 values pass
            through it as they are.
    """

    min_channels: int = 16
    first: bool = False
    depthwise: bool = True
    heads: bool = False
    residual: bool = True
    shared_scales: bool = True

    @classmethod
    def of_target(cls, target: str) -> Rules:
        """The rules that fit a backend.

        The CPU's INT8 kernels pad little, and a float convolution among quantised ones
        costs two conversions: there, few channels are no reason.

        Raises:
            InputError: No backend that computes in INT8 is called that.
        """
        if target not in TARGETS:
            raise InputError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
        return cls() if target.startswith("tensorrt") else cls(min_channels=1, first=True)
