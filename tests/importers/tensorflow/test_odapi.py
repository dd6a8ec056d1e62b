"""Exports by the Object Detection API itself, beside what TensorFlow got of them.

``make_odapi.py`` says how they were made.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright import backends
from boxwright.boxes import iou_xyxy
from boxwright.card import Nms
from boxwright.errors import ImportFailedError
from boxwright.importers import import_model
from boxwright.importers.registry import make_request
from boxwright.importers.tensorflow import IMPORTER
from boxwright.importers.tensorflow.proto import parse
from boxwright.model import Model

ARCHIVES = Path(__file__).parent / "odapi"
FROZEN, SAVED = "frozen_inference_graph.pb", "saved_model"
# Export, its file, how images are fitted.
CASES: dict[str, tuple[str, str, str]] = {
    "frozen graph": ("tf1_mobilenet", FROZEN, "stretch"),
    "SavedModel of TensorFlow 1": ("tf1_mobilenet", SAVED, "stretch"),
    "scores by softmax": ("tf1_softmax", FROZEN, "stretch"),
    "padded images, TensorFlow 1": ("tf1_keep_aspect", FROZEN, "letterbox"),
    "SavedModel of TensorFlow 2": ("tf2_mobilenet", SAVED, "stretch"),
    "padded images, TensorFlow 2": ("tf2_keep_aspect", SAVED, "letterbox"),
}
SIZES = {"stretch": (64, 96), "letterbox": (96, 96)}
NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("odapi")
    for archive in ARCHIVES.glob("*.zip"):
        shutil.unpack_archive(archive, made / archive.stem)
    return made


def expected(folder: Path, export: str) -> dict[str, Any]:
    with np.load(folder / export / "expected.npz") as content:
        return dict(content)


def infer(model: Model, images: Any) -> Any:
    with backends.load(model, backend="onnxruntime") as runner:
        return runner.infer({"images": images})


def compare(model: Model, wanted: dict[str, Any]) -> None:
    """Boxes within a thousandth of a pixel, scores within rounding."""
    found = infer(model, wanted["images"])
    height, width = model.card.input_size
    boxes = wanted["raw_detection_boxes"][..., [1, 0, 3, 2]] * [width, height, width, height]
    np.testing.assert_allclose(found["boxes"], boxes, rtol=0, atol=1e-3)
    scores = wanted["raw_detection_scores"][..., 1:]
    np.testing.assert_allclose(found["scores"], scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_computes_what_tensorflow_computed(case: str, folder: Path) -> None:
    export, file, resize = CASES[case]
    model = import_model(folder / export / file, names=NAMES)
    assert model.card.input_size == SIZES[resize]
    assert model.card.resize == resize
    compare(model, expected(folder, export))


@pytest.mark.parametrize("case", CASES)
def test_suppression_is_the_exports_own(case: str, folder: Path) -> None:
    """The card's thresholds give the API's detections, once boxes are clipped as it does.

    The API clips to the image before it suppresses, and bounds detections to 20 of a class
    and 30 in all; Boxwright suppresses first, as Darknet does.
    """
    export, file, _ = CASES[case]
    model = import_model(folder / export / file, names=NAMES)
    nms, threshold = model.card.nms, model.card.score_threshold
    assert nms.kind == "iou"
    assert not nms.class_agnostic
    wanted = expected(folder, export)
    found = infer(model, wanted["images"])
    height, width = model.card.input_size
    extent = np.array([width, height, width, height], np.float32)
    for index, boxes in enumerate(np.clip(found["boxes"] / extent, 0, 1)):
        ours = []
        for number in range(3):
            scores = found["scores"][index, :, number]
            order = np.argsort(-scores, kind="stable")
            order = order[scores[order] > threshold]
            ours += [(number + 1, scores[i], boxes[i]) for i in greedy(boxes, order, nms)[:20]]
        ours = sorted(ours, key=lambda one: -one[1])[:30]
        count = int(wanted["num_detections"][index])
        assert len(ours) == count > 5
        theirs = wanted["detection_boxes"][index, :count][:, [1, 0, 3, 2]]
        np.testing.assert_allclose([box for *_, box in ours], theirs, atol=1e-4)
        classes = wanted["detection_classes"][index, :count]
        assert [number for number, *_ in ours] == classes.astype(int).tolist()


def greedy(boxes: Any, order: Any, nms: Nms) -> list[int]:
    kept: list[int] = []
    for candidate in order:
        overlap = iou_xyxy(boxes[[candidate]], boxes[kept]) if kept else np.zeros((1, 1))
        if overlap.max() <= nms.iou_threshold:
            kept.append(int(candidate))
    return kept


@pytest.mark.parametrize("case", ["frozen graph", "SavedModel of TensorFlow 2"])
def test_a_batch_is_its_images(case: str, folder: Path) -> None:
    export, file, _ = CASES[case]
    model = import_model(folder / export / file, names=NAMES)
    images = expected(folder, export)["images"]
    together = infer(model, images)
    for index in range(len(images)):
        alone = infer(model, images[index : index + 1])
        for name, value in together.items():
            np.testing.assert_allclose(alone[name][0], value[index], rtol=0, atol=1e-4)


def changed(folder: Path, tmp_path: Path, change: Any, export: str = "tf1_mobilenet") -> Path:
    """The frozen graph with something done to it."""
    path = tmp_path / FROZEN
    graph = parse("GraphDef", (folder / export / FROZEN).read_bytes(), path)
    change(graph)
    path.write_bytes(graph.SerializeToString())
    return path


def without(*names: str) -> Any:
    def change(graph: Any) -> None:
        kept = [node for node in graph.node if node.name not in names]
        copies = type(graph)()
        copies.node.extend(kept)
        graph.Clear()
        graph.node.extend(copies.node)

    return change


def test_older_exports_do_not_name_what_they_suppress(folder: Path, tmp_path: Path) -> None:
    path = changed(folder, tmp_path, without("raw_detection_boxes", "raw_detection_scores"))
    model = import_model(path, names=NAMES)
    assert len(model.card.class_names) == 3
    compare(model, expected(folder, "tf1_mobilenet"))


def test_the_frozen_scores_are_those_that_are_suppressed(folder: Path, tmp_path: Path) -> None:
    """Without the Slice that drops it, the first column is a class as the others are."""

    def change(graph: Any) -> None:
        (cut,) = (n for n in graph.node if n.name == "Postprocessor/Slice")
        source = cut.input[0]
        cut.Clear()
        cut.name, cut.op = "Postprocessor/Slice", "Identity"
        cut.input.append(source)

    model = import_model(changed(folder, tmp_path, change), names=[*NAMES, "d"])
    wanted = expected(folder, "tf1_mobilenet")
    found = infer(model, wanted["images"])["scores"]
    np.testing.assert_allclose(found, wanted["raw_detection_scores"], rtol=0, atol=1e-5)


def test_normalisation_stays_and_padding_is_the_pixel_that_it_was(folder: Path) -> None:
    """Zeros after 2 / 255 x - 1 are pixels of 127.5, before the loop and inside of it."""
    for export, file in (("tf1_keep_aspect", FROZEN), ("tf2_keep_aspect", SAVED)):
        assert import_model(folder / export / file, names=NAMES).card.pad_value in (127, 128)


def test_two_stages_are_refused(folder: Path, tmp_path: Path) -> None:
    def change(graph: Any) -> None:
        (node,) = (n for n in graph.node if n.name == "Postprocessor/raw_box_encodings")
        node.op = "NonMaxSuppressionV2"

    with pytest.raises(ImportFailedError, match="networks of one stage"):
        import_model(changed(folder, tmp_path, change))


def test_another_box_coder_is_refused(folder: Path, tmp_path: Path) -> None:
    """As the API's mean-and-deviation coder, which adds where this one takes an exponential."""

    def change(graph: Any) -> None:
        for node in graph.node:
            if node.name == "Postprocessor/Decode/Exp":
                node.op = "Square"

    with pytest.raises(ImportFailedError, match="Faster R-CNN box coder"):
        import_model(changed(folder, tmp_path, change))


def test_another_size_is_refused(folder: Path) -> None:
    with pytest.raises(ImportFailedError, match="made for 64x96"):
        import_model(folder / "tf1_mobilenet" / FROZEN, size=(128, 128))


PYTHON = os.environ.get("BOXWRIGHT_TENSORFLOW_PYTHON")


@pytest.mark.slow
@pytest.mark.skipif(PYTHON is None, reason="set BOXWRIGHT_TENSORFLOW_PYTHON")
@pytest.mark.parametrize("case", CASES)
def test_verification_runs_the_export(case: str, folder: Path) -> None:
    export, file, _ = CASES[case]
    request = make_request(folder / export / file, names=NAMES)
    verification = IMPORTER.verify(request, IMPORTER.load(request))
    assert verification.passed, verification


# Graphs damaged where they are looked at before anything is converted.
DAMAGES: dict[str, tuple[str, int]] = {
    "a suppression without scores": ("NonMaxSuppressionV5", 1),
    "a Slice of nothing": ("Slice", 0),
    "a loop's result from nowhere": ("TensorArrayGatherV3", 1),
    "a write of nothing": ("TensorArrayWriteV3", 2),
    "columns of nothing": ("Unpack", 0),
    "boxes laid out from nothing": ("Transpose", 0),
    "rows laid out from nothing": ("Reshape", 0),
    "boxes of nothing": ("Squeeze", 0),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_graphs_are_refused(case: str, folder: Path, tmp_path: Path) -> None:
    kind, left = DAMAGES[case]

    def change(graph: Any) -> None:
        without("raw_detection_boxes", "raw_detection_scores")(graph)
        for node in graph.node:
            if node.op == kind:
                del node.input[left:]

    with pytest.raises(ImportFailedError):
        import_model(changed(folder, tmp_path, change))


FITTED = {"no pixel": np.full(3, np.nan), "other channels": np.zeros(5), "a size": np.zeros((1, 2))}


@pytest.mark.parametrize("values", FITTED.values(), ids=list(FITTED))
def test_constants_of_the_preprocessor_that_do_not_fit_end_in_no_traceback(
    values: Any, folder: Path, tmp_path: Path
) -> None:
    """All floats in its loop become these; it is then cut, or refused by what runs into it."""

    def change(graph: Any) -> None:
        for node in graph.node:
            tensor = node.attr["value"].tensor if node.op == "Const" else None
            if tensor is None or "reprocessor" not in node.name or tensor.dtype != 1:
                continue
            del tensor.tensor_shape.dim[:]
            for extent in values.shape:
                tensor.tensor_shape.dim.add().size = extent
            tensor.tensor_content = values.astype(np.float32).tobytes()

    with contextlib.suppress(ImportFailedError):
        import_model(changed(folder, tmp_path, change, "tf1_keep_aspect"))


def test_anchors_that_are_none_are_refused(folder: Path, tmp_path: Path) -> None:
    def change(graph: Any) -> None:
        done = 0
        for node in graph.node:
            tensor = node.attr["value"].tensor if node.op == "Const" else None
            if tensor is None or not node.name.startswith("MultipleGridAnchorGenerator"):
                continue
            if tensor.dtype == 1 and len(tensor.tensor_shape.dim) > 0:
                size = len(tensor.tensor_content) // 4
                tensor.tensor_content = np.full(size, np.inf, np.float32).tobytes()
                done += 1
        assert done

    with pytest.raises(ImportFailedError, match="anchors are not fractions"):
        import_model(changed(folder, tmp_path, change))


def test_one_operation_for_all_classes(folder: Path, tmp_path: Path) -> None:
    """CombinedNonMaxSuppression, as ``use_combined_nms`` has it, put where the loop was."""

    def change(graph: Any) -> None:
        without("raw_detection_boxes", "raw_detection_scores")(graph)
        kept = [n for n in graph.node if "BatchMultiClassNonMaxSuppression" not in n.name]
        without(*(n.name for n in graph.node if n not in kept))(graph)
        inputs = ["Postprocessor/ExpandDims_1", "Postprocessor/Slice"]
        for name, value in (("iou", 0.4), ("score", 0.1)):
            constant = graph.node.add()
            constant.name, constant.op = name, "Const"
            constant.attr["value"].tensor.dtype = 1
            constant.attr["value"].tensor.float_val.append(value)
        combined = graph.node.add()
        combined.name, combined.op = "combined", "CombinedNonMaxSuppression"
        combined.input.extend([*inputs, "iou", "iou", "iou", "score"])
        for name in ("detection_boxes", "detection_scores"):
            (node,) = (n for n in graph.node if n.name == name)
            del node.input[:]
            node.input.append("combined")

    model = import_model(changed(folder, tmp_path, change), names=NAMES)
    assert model.card.nms.iou_threshold == pytest.approx(0.4)
    compare(model, expected(folder, "tf1_mobilenet"))
