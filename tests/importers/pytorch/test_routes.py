"""One network, as the checkpoint and as an ONNX file of it: the same detector, the same card."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from boxwright import backends
from boxwright.card import Nms
from boxwright.importers import import_model
from boxwright.model import BOXES, IMAGES, SCORES, Model

torch = pytest.importorskip("torch")

from tests.importers.pytorch import networks  # noqa: E402 - it needs torch

_MODULE: Any = torch.nn.Module

SIZE = (64, 96)
# What neither file leaves open.
FIELDS = (
    *("task", "class_names", "input_size", "resize", "interpolation"),
    *("pad_value", "score_threshold", "nms"),
)


class Exported(_MODULE):
    """A network that ends as exporters end it."""

    def __init__(self, network: Any, end: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network.float()
        self.end = end

    def forward(self, x: Any) -> Any:
        return self.end(self.network.model[-1], *self.network(x))


def centred(boxes: Any) -> Any:
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), -1)


def levels5(head: Any, raw: list[Any]) -> list[Any]:
    """(N, anchors, H, W, 5 + C), as YOLOv5 trains."""
    shapes = [(len(x), head.na, 5 + head.nc, *x.shape[2:]) for x in raw]
    return [x.reshape(s).permute(0, 1, 3, 4, 2) for x, s in zip(raw, shapes, strict=True)]


def rows5(head: Any, boxes: Any, scores: Any, raw: list[Any]) -> Any:
    chances = [x.sigmoid().flatten(1, 3)[..., 4:] for x in levels5(head, raw)]
    return torch.cat((centred(boxes), torch.cat(chances, 1)), -1)


def columns8(head: Any, boxes: Any, scores: Any, raw: list[Any]) -> Any:
    return torch.cat((centred(boxes), scores), -1).transpose(1, 2)


def maps5(head: Any, boxes: Any, scores: Any, raw: list[Any]) -> Any:
    return tuple(levels5(head, raw))


def maps8(head: Any, boxes: Any, scores: Any, raw: list[Any]) -> Any:
    return tuple(torch.cat(pair, 1) for pair in zip(raw[::2], raw[1::2], strict=True))


def export(path: Path, network: Any, end: Callable[..., Any], metadata: bool) -> Path:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own age
        example = torch.zeros(1, 3, *SIZE)
        torch.onnx.export(
            Exported(network, end).eval(),
            (example,),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["images"],
        )
    proto = onnx.load(path)
    if metadata:
        # As YOLOv5's own exporter writes them.
        for key, value in (("stride", "8"), ("names", json.dumps(list(network.names.values())))):
            proto.metadata_props.add(key=key, value=value)
    onnx.save(proto, path)
    return path


def anchors_of(network: Any) -> str:
    head = network.model[-1]
    pixels = (head.anchors * head.stride.view(-1, 1, 1)).tolist()
    return "/".join(";".join(f"{w!r},{h!r}" for w, h in level) for level in pixels)


def outputs(model: Model) -> dict[str, Any]:
    # One at a time: the exporter wrote a batch of 1 into some shapes.
    images = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
    with backends.load(model) as runner:
        return dict(runner.infer({IMAGES: images}))


def both(
    folder: Path, network: Any, end: Callable[..., Any], *, metadata: bool, **said: Any
) -> tuple[Model, Model]:
    exported = export(folder / "net.onnx", network, end, metadata)
    generation = "v5" if hasattr(network.model[-1], "m") else "v8"
    checkpoint = networks.save(folder / "net.pt", {"model": network}, generation)
    return import_model(checkpoint, size=SIZE), import_model(exported, **said)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("metadata", [True, False], ids=["decoded", "raw"])
@pytest.mark.parametrize(
    ("make", "ends", "overlap"),
    [
        (networks.yolov5, (rows5, maps5), 0.45),
        (networks.yolov8, (columns8, maps8), 0.7),
    ],
    ids=["yolov5", "yolov8"],
)
def test_both_files_make_one_detector(
    make: Any, ends: tuple[Any, Any], overlap: float, metadata: bool, tmp_path: Path
) -> None:
    network = make()
    said: dict[str, Any] = {}
    if not metadata:
        said = {"head": make.__name__, "names": list(network.names.values())}
        if make is networks.yolov5:
            said["options"] = {"anchors": anchors_of(network), "strides": "4,8"}
    one, other = both(tmp_path, network, ends[not metadata], metadata=metadata, **said)
    for field in FIELDS:
        assert getattr(one.card, field) == getattr(other.card, field), field
    # What both programs do when they detect, whatever they do when they validate.
    assert one.card.nms == Nms("iou", overlap, multi_label=False)
    assert one.card.transforms[0].effect["head"] == other.card.family
    assert sum(h.rows for h in one.card.heads) == sum(h.rows for h in other.card.heads)
    if not metadata:
        assert [h.grid for h in one.card.heads] == [h.grid for h in other.card.heads]
        assert [h.rows for h in one.card.heads] == [h.rows for h in other.card.heads]
        np.testing.assert_allclose(
            [h.anchors for h in one.card.heads], [h.anchors for h in other.card.heads], rtol=1e-6
        )
    theirs = outputs(other)
    for name, value in outputs(one).items():
        if name in (BOXES, SCORES):
            np.testing.assert_allclose(value, theirs[name], rtol=0, atol=1e-3)
