"""A foreign graph under the contract: what it is fed in front, its decoding behind."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boxwright.card import Head as CardHead
from boxwright.errors import ImportFailedError, ModelError
from boxwright.graph.builder import IR_VERSION, GraphBuilder
from boxwright.graph.heads import Raw, decode
from boxwright.graph.legalise.editing import rename
from boxwright.graph.pixels import PixelFormat, add_pixels
from boxwright.importers import running
from boxwright.importers.onnx import probe, surgery
from boxwright.importers.onnx.probe import ImageInput
from boxwright.importers.onnx.recognise import Plan

if TYPE_CHECKING:
    import onnx

_LOGGER = logging.getLogger("boxwright")
# What two runs of one network may differ by when its batch is another: sums over channels
# are cut up otherwise. Relative to each output's largest value. YOLOX-nano differs by 1.8e-5 on
# 64 cores of a Xeon and by less elsewhere; images that get mixed up are different pictures.
_SAME = 1e-3


@dataclass
class Foreign:
    """A foreign graph on its way to the contract.

    Attributes:
        proto: The graph, sound and of our opset.
        image: Its image input.
        size: ``(height, width)`` that it runs at.
        batch: How many images at a time, or ``None`` for any.
        tensors: Its outputs, and tensors asked for, on made-up images.
        notes: What was found on the way, for the card.
    """

    proto: onnx.ModelProto
    image: ImageInput
    size: tuple[int, int]
    batch: int | None = None
    tensors: dict[str, NDArray[Any]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def settle(
    proto: onnx.ModelProto,
    size: tuple[int, int] | None,
    stated: tuple[int, int] | None,
    inner: tuple[str, ...],
    origin: str,
) -> Foreign:
    """Fix the size, free the batch where that holds, and run the graph once.

    Args:
        proto: A sound graph of our opset; it is changed.
        size: ``(height, width)`` that the user wants.
        stated: What the file's metadata says.
        inner: Tensors inside of the graph that are wanted beside its outputs.
        origin: Names the file in messages.

    Raises:
        ImportFailedError: The size is not known or not possible, or the graph does not run.
    """
    image = probe.image_input(proto, origin)
    chosen = _size(image, size, stated, origin)
    _fix_sides(proto, image, chosen)
    image = ImageInput(
        surgery.clear_names(proto, image), *(image.element, image.layout, image.channels),
        chosen, image.batch,
    )  # fmt: skip
    _fill_side_inputs(proto, chosen)
    foreign = Foreign(proto, image, chosen)
    inner = tuple(f"source/{n}" if f"source/{n}" in _tensors(proto) else n for n in inner)
    _settle_batch(foreign, inner, origin)
    return foreign


def _tensors(proto: onnx.ModelProto) -> set[str]:
    return {name for node in proto.graph.node for name in node.output}


def _size(
    image: ImageInput,
    size: tuple[int, int] | None,
    stated: tuple[int, int] | None,
    origin: str,
) -> tuple[int, int]:
    sides = []
    for axis, name in enumerate(("height", "width")):
        own = image.size[axis]
        wanted = (size or stated or (None, None))[axis]
        if own is None and wanted is None:
            raise ImportFailedError(
                f"{origin}: its input takes any {name}; say which with --size, such as 640x640"
            )
        if own is not None and size is not None and size[axis] != own:
            raise ImportFailedError(
                f"{origin}: it was exported for {image.size[0]}x{image.size[1]} (height x width) "
                f"and cannot be made {size[0]}x{size[1]}; export it again at that size"
            )
        side = own if own is not None else wanted
        if side is None or not 1 <= side <= 16_384:
            raise ImportFailedError(f"{origin}: a {name} must be 1 to 16384 pixels, got {side}")
        sides.append(side)
    return sides[0], sides[1]


def _fix_sides(proto: onnx.ModelProto, image: ImageInput, size: tuple[int, int]) -> None:
    value = next(v for v in proto.graph.input if v.name == image.name)
    dims = value.type.tensor_type.shape.dim
    where = (2, 3) if image.layout == "nchw" else (1, 2)
    for at, side in zip(where, size, strict=True):
        dims[at].dim_value = side
    dims[1 if image.layout == "nchw" else 3].dim_value = image.channels


def side_inputs(proto: onnx.ModelProto, size: tuple[int, int]) -> list[onnx.TensorProto]:
    """Values of inputs that say how the image was resized: it was not."""
    from onnx import helper, numpy_helper

    height, width = size
    content: dict[str, Any] = {
        "orig_target_sizes": [[width, height]],
        "im_shape": [[height, width]],
        "image_shape": [[height, width]],
        "scale_factor": [[1, 1]],
        "pixel_mask": np.ones((1, height, width)),
    }
    return [
        numpy_helper.from_array(
            np.array(content[value.name]).astype(
                helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            ),
            value.name,
        )
        for value in proto.graph.input
        if value.name in probe.SIDE_INPUTS
    ]


def _fill_side_inputs(proto: onnx.ModelProto, size: tuple[int, int]) -> None:
    """Make constants of inputs beside the image."""
    tensors = side_inputs(proto, size)
    names = {tensor.name for tensor in tensors}
    for value in [value for value in proto.graph.input if value.name in names]:
        proto.graph.input.remove(value)
    proto.graph.initializer.extend(tensors)


def _settle_batch(foreign: Foreign, inner: tuple[str, ...], origin: str) -> None:
    image = foreign.image
    outputs = (*(value.name for value in foreign.proto.graph.output), *inner)
    if image.batch not in (None, 1):
        foreign.batch = image.batch
        foreign.tensors = running.run(foreign.proto, _feed(image, image.batch), outputs)
        foreign.notes["batch"] = f"fixed at {image.batch} by its exporter"
        return
    single = running.run(foreign.proto, _feed(image, 1), outputs)
    reason: str | None = None
    for reshapes in (False, True) if image.batch is None else (True,):
        candidate = surgery.free_batch(foreign.proto, image.name, reshapes=reshapes)
        reason = _batch_differs(candidate, image, single, outputs)
        if reason is None:
            foreign.proto = candidate
            foreign.tensors = running.run(candidate, _feed(image, 2), outputs)
            return
    _LOGGER.warning("%s takes one image at a time: with two, %s", origin, reason)
    foreign.batch, foreign.tensors = 1, single
    foreign.notes["batch"] = f"1, because with two images {reason}"
    value = next(v for v in foreign.proto.graph.input if v.name == image.name)
    value.type.tensor_type.shape.dim[0].dim_value = 1


def _feed(image: ImageInput, batch: int, first: int = 0) -> dict[str, NDArray[Any]]:
    """Made-up images, in the range that most networks are fed."""
    assert image.size[0] is not None  # noqa: S101  # settle() has fixed both sides
    assert image.size[1] is not None  # noqa: S101
    sides = (image.size[0], image.size[1])
    pixels = np.stack([running.picture(sides, seed) for seed in range(first, first + batch)])
    pixels = pixels[..., : image.channels]
    if image.layout == "nchw":
        pixels = pixels.transpose(0, 3, 1, 2)
    if image.element == "uint8":
        return {image.name: np.ascontiguousarray(pixels)}
    return {image.name: (pixels / 255).astype(image.element)}


def _batch_differs(
    proto: onnx.ModelProto,
    image: ImageInput,
    single: dict[str, NDArray[Any]],
    outputs: tuple[str, ...],
) -> str | None:
    """Why two images at once are not two images one after the other; ``None`` if they are."""
    try:
        second = running.run(proto, _feed(image, 1, first=1), outputs)
        both = running.run(proto, _feed(image, 2), outputs)
    except ImportFailedError as error:
        return str(error)[:200]
    for name in outputs:
        apart = [single[name], second[name]]
        if both[name].shape[:1] != (2,) or both[name].shape[1:] != apart[0].shape[1:]:
            return f"output {name!r} has the shape {list(both[name].shape)}"
        for index, one in enumerate(apart):
            size = float(np.abs(one).max(initial=0)) or 1.0
            gap = float(np.abs(both[name][index].astype(np.float64) - one[0]).max(initial=0))
            if not gap <= _SAME * size:
                return f"output {name!r} differs by {gap / size:.2g} of its largest value"
    return None


def convert(
    foreign: Foreign, plan: Plan, form: PixelFormat, origin: str
) -> tuple[onnx.ModelProto, tuple[CardHead, ...]]:
    """Put ``pre/`` and ``decode/`` around the graph.

    Raises:
        ImportFailedError: The head and its tensors do not fit each other.
    """
    from onnx import ModelProto

    proto = ModelProto()
    proto.CopyFrom(foreign.proto)
    batch: int | str = "N" if foreign.batch is None else foreign.batch
    name = foreign.image.name
    del proto.graph.input[:], proto.graph.output[:]
    _stay(proto, plan.raw)
    builder = GraphBuilder.on(proto)
    count = len(proto.graph.node)
    builder.images(*foreign.size, batch)
    fed = add_pixels(builder, form)
    pre = [surgery.copy_node(node) for node in proto.graph.node[count:]]
    del proto.graph.node[count:]
    rename(proto.graph, {name: fed})
    own = [surgery.copy_node(node) for node in proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend((*pre, *own))
    try:
        decoded = decode(
            *(builder, plan.head, _as_floats(builder, plan.raw, foreign), foreign.size),
            rows=plan.rows,
            priors=plan.priors,
        )
    except ModelError as error:
        raise ImportFailedError(f"{origin}: {error}") from error
    builder.detections(
        [decoded.boxes],
        [decoded.scores],
        classes=plan.head.classes,
        rows=decoded.rows or "A",
        batch=batch,
    )
    surgery.keep_needed(proto.graph)
    proto.producer_name, proto.producer_version = "boxwright", _version()
    del proto.metadata_props[:]
    proto.doc_string, proto.ir_version = "", IR_VERSION
    for node in proto.graph.node:
        if not node.name:
            # Reports name nodes.
            node.name = builder.unique(node.output[0])
    return proto, decoded.heads


def _stay(proto: onnx.ModelProto, raw: Raw) -> None:
    """Refuse tensors that are not there."""
    there = _tensors(proto)
    for name in (*raw.boxes, *raw.classes, *raw.objectness, *((raw.count,) if raw.count else ())):
        if name not in there:
            raise ImportFailedError(f"the graph makes no tensor {name!r}")


def _as_floats(builder: GraphBuilder, raw: Raw, foreign: Foreign) -> Raw:
    """Tensors of other types are cast: decoding is float32."""
    from onnx import TensorProto

    def cast(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            name
            if foreign.tensors[name].dtype == np.float32
            else builder.add(
                "Cast", [name], builder.unique(f"decode/float/{name}"), to=TensorProto.FLOAT
            )
            for name in names
        )

    count = None if raw.count is None else cast((raw.count,))[0]
    return Raw(cast(raw.boxes), cast(raw.classes), cast(raw.objectness), count)


def _version() -> str:
    from boxwright._version import __version__

    return __version__
