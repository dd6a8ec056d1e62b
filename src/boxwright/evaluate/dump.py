"""Reference dumps: a network's outputs on given pixels, kept in an ``.npz`` file.

**Native layout** (written by :func:`write_dump`):

==================  ==================================================================
array               meaning
==================  ==================================================================
``boxwright.dump``  uint8 text, JSON: ``schema``, ``name``, ``heads`` (names of the
                    raw head tensors in order) and ``boxwright`` (version)
``images``          uint8 ``(N, H, W, 3)``, RGB, at network size
any other           a tensor in full under its name in the graph, batch first:
                    ``boxes``, ``scores`` and the raw heads
==================  ==================================================================

**Darknet dump**: outputs of Darknet itself, recognised by its arrays ``net_whc`` and
``head_index``. Coordinates are relative to the network input, boxes ``cx cy w h``.

=========================================  =============================================
array                                      meaning
=========================================  =============================================
``net_whc``                                width, height and channels of the input
``head_index``                             layer number K of each head
``headK_in``, ``_in_at``, ``_in_shape``    values entering head K (the raw head), their
                                           flat indices, the whole tensor's CHW shape
``headK_out``, ``_out_at``, ``_out_shape``  the same for what leaves head K
``boxes_raw_005``                          candidates with a score over 0.005: rows of
                                           class, score, cx, cy, w, h, objectness,
                                           detection; the first 20,000 only
``boxes_005``, ``boxes_025``               after suppression, over 0.005 and 0.25
=========================================  =============================================

Its pixels are not in the file: the caller gives them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright._version import __version__
from boxwright.boxes import cxcywh_to_xyxy
from boxwright.errors import InputError
from boxwright.evaluate.npz import read_npz, write_npz
from boxwright.evaluate.reference import Candidates, Reference, SampledTensor
from boxwright.model import IMAGES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from boxwright.backends.base import Runner
    from boxwright.model import Model

DUMP_KEY = "boxwright.dump"
DUMP_SCHEMA = 1
# Lists over 0.005 are cut at this many rows, so one exactly this long proves no absence.
DARKNET_ROWS = 20_000

_MAX_HEADS = 64


def read_dump(path: str | Path) -> Reference:
    """Read a native or a Darknet dump.

    Raises:
        InputError: The file cannot be read, is damaged, or is neither.
    """
    arrays = read_npz(path)
    if DUMP_KEY in arrays:
        return _read_native(path, arrays)
    if "net_whc" in arrays and "head_index" in arrays:
        return _read_darknet(path, arrays)
    raise InputError(
        f"{path} is not a reference dump: expected an array {DUMP_KEY!r} (written by Boxwright) "
        f"or 'net_whc' and 'head_index' (written from Darknet), got {sorted(arrays)[:8]}"
    )


def write_dump(
    source: Model | Runner, images: NDArray[np.uint8], path: str | Path, heads: bool = True
) -> Reference:
    """Run `source` on `images`, image by image, and keep what it gives.

    Args:
        source: A model (run with ONNX Runtime) or a loaded runner.
        images: uint8 ``(N, H, W, 3)``, RGB, at network size.
        path: The ``.npz`` file to write; it is replaced in one step.
        heads: Keep the raw head tensors too. From a runner these are whatever it
            returns besides `boxes` and `scores`.

    Raises:
        InputError: `images` do not fit the network, or the file cannot be written.
    """
    from boxwright.evaluate.subject import open_side

    with open_side(source, want_heads=heads) as side:
        side.check_images(images)
        rows = [side.run(image[None]) for image in images]
        tensors = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        head_names = tuple(name for name in side.heads if name in tensors)
        name = side.name
    note = {
        "schema": DUMP_SCHEMA,
        "name": name,
        "heads": list(head_names),
        "boxwright": __version__,
    }
    text = np.frombuffer(json.dumps(note).encode(), np.uint8)
    write_npz(path, {DUMP_KEY: text, IMAGES: images, **tensors})
    return Reference(
        name,
        (images.shape[1], images.shape[2]),
        images,
        {key: SampledTensor.full(value) for key, value in tensors.items()},
        head_names,
    )


def _read_native(path: str | Path, arrays: dict[str, NDArray[Any]]) -> Reference:
    try:
        note = json.loads(arrays.pop(DUMP_KEY).astype(np.uint8).tobytes())
        schema, name, heads = note["schema"], str(note["name"]), tuple(note["heads"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path}: its {DUMP_KEY!r} is malformed: {error}") from error
    if schema != DUMP_SCHEMA:
        raise InputError(f"{path}: dumps of schema {DUMP_SCHEMA} are read, got {schema!r}")
    images = arrays.pop(IMAGES, None)
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        got = "none" if images is None else f"{images.dtype} {images.shape}"
        raise InputError(f"{path}: {IMAGES!r} must be uint8 (N, H, W, 3), got {got}")
    for key, value in arrays.items():
        if value.ndim == 0 or len(value) != len(images) or value.dtype.kind not in "biuf":
            raise InputError(
                f"{path}: {key!r} must hold numbers for {len(images)} images, "
                f"got {value.dtype} {value.shape}"
            )
    unknown = [head for head in heads if head not in arrays]
    if unknown:
        raise InputError(f"{path}: the heads {unknown} are named but not there")
    tensors = {key: SampledTensor.full(value) for key, value in arrays.items()}
    return Reference(name, (images.shape[1], images.shape[2]), images, tensors, heads)


def _read_darknet(path: str | Path, arrays: Mapping[str, NDArray[Any]]) -> Reference:
    try:
        width, height = (int(extent) for extent in arrays["net_whc"][:2])
        indices = [int(index) for index in arrays["head_index"]]
        if not (0 < width <= 1 << 16 and 0 < height <= 1 << 16 and len(indices) <= _MAX_HEADS):
            raise ValueError(f"an input of {width}x{height} with {len(indices)} heads")
        tensors: dict[str, SampledTensor] = {}
        for index in indices:
            for side in ("in", "out"):
                name = f"head{index}_{side}"
                # Darknet runs one image: its CHW is our NCHW with N = 1.
                shape = (1, *(int(extent) for extent in arrays[f"{name}_shape"]))
                at = arrays[f"{name}_at"].astype(np.int64)
                tensors[name] = SampledTensor(shape, arrays[name].astype(np.float32), at)
        size = (height, width)
        return Reference(
            name=f"Darknet ({Path(path).name})",
            input_size=size,
            tensors=tensors,
            heads=tuple(f"head{index}_in" for index in indices),
            candidates=_darknet_boxes(arrays, {0.005: "boxes_raw_005"}, size),
            detections=_darknet_boxes(arrays, {0.005: "boxes_005", 0.25: "boxes_025"}, size),
        )
    except KeyError as error:
        raise InputError(f"{path}: a Darknet dump must hold {error.args[0]!r}") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{path}: a malformed Darknet dump: {error}") from error


def _darknet_boxes(
    arrays: Mapping[str, NDArray[Any]], names: Mapping[float, str], size: tuple[int, int]
) -> dict[float, tuple[Candidates, ...]]:
    scale = np.array([size[1], size[0], size[1], size[0]], np.float64)
    lists: dict[float, tuple[Candidates, ...]] = {}
    for threshold, name in names.items():
        if name not in arrays:
            continue
        rows = arrays[name].astype(np.float64)
        if rows.ndim != 2 or rows.shape[1] < 6:
            raise ValueError(f"{name!r} must have rows of 8 values, got {rows.shape}")
        if not np.isfinite(rows[:, 0]).all() or (rows[:, 0] < 0).any():
            raise ValueError(f"{name!r} has classes that are no class numbers")
        lists[threshold] = (
            Candidates(
                cxcywh_to_xyxy(rows[:, 2:6]).astype(np.float64) * scale,
                rows[:, 1],
                rows[:, 0].astype(np.int64),
                truncated=len(rows) == DARKNET_ROWS,
            ),
        )
    return lists
