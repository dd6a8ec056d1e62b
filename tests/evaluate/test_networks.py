"""Parity with real models: heads as outputs, backends, engines, OpenCV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from boxwright import backends
from boxwright.errors import BackendUnavailableError, InputError, ModelError
from boxwright.evaluate import opencv_oracle
from boxwright.evaluate.dump import read_dump, write_dump
from boxwright.evaluate.heads import head_tensors, with_head_outputs
from boxwright.evaluate.opencv_oracle import OpenCvDarknet
from boxwright.evaluate.parity import Tolerances, compare
from boxwright.importers import import_model
from boxwright.model import BOXES, IMAGES, SCORES, Model
from tests.oracle.numpy_darknet import NumpyDarknet, RandomWeights

CFG = """
[net]
width=64
height=32
channels=3
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky
[convolutional]
filters=16
size=1
activation=linear
[yolo]
mask=0,1
anchors=4,5, 9,7
num=2
classes=3
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("net")
    cfg, weights = folder / "net.cfg", folder / "net.weights"
    cfg.write_text(CFG)
    values = RandomWeights(0)
    NumpyDarknet(cfg, values).run(np.zeros((32, 64, 3), np.uint8))
    values.write(weights)
    return cfg, weights


@pytest.fixture(scope="module")
def model(files: tuple[Path, Path]) -> Model:
    return import_model(files[1], cfg=files[0], names=["a", "b", "c"])


@pytest.fixture(scope="module")
def images() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (2, 32, 64, 3), np.uint8)


Images = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def test_heads_become_outputs_of_a_copy(model: Model, images: Images) -> None:
    before = model.proto.SerializeToString(deterministic=True)
    copy = with_head_outputs(model)
    assert model.proto.SerializeToString(deterministic=True) == before
    names = [value.name for value in copy.proto.graph.output]
    assert names == [BOXES, SCORES, *head_tensors(model)]
    onnx.checker.check_model(copy.proto)
    with backends.load(copy) as runner, backends.load(model) as plain:
        outputs, expected = runner.infer({IMAGES: images}), plain.infer({IMAGES: images})
    assert outputs[head_tensors(model)[0]].shape == (2, 16, 16, 32)
    np.testing.assert_array_equal(outputs[SCORES], expected[SCORES])


def test_heads_already_returned_change_nothing(model: Model) -> None:
    copy = with_head_outputs(model)
    assert with_head_outputs(copy) is copy


def test_an_unknown_tensor(model: Model) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        with_head_outputs(model, ["nowhere"])


def test_one_model_on_two_backends(model: Model, images: Images) -> None:
    report = compare(model, images=images[:1], reference_backend="reference")
    assert report.ok, report.summary()
    assert [tensor.kind for tensor in report.tensors] == ["head", "output", "output"]
    with pytest.raises(InputError, match="reference"):
        compare(model, images=images)


def test_a_model_and_its_file_and_its_engine(model: Model, images: Images, tmp_path: Path) -> None:
    model.save(tmp_path / "a.onnx")
    backends.build(model, output=tmp_path / "a.bw")
    write_dump(model, images, tmp_path / "a.npz")
    assert read_dump(tmp_path / "a.npz").heads == head_tensors(model)
    for subject in ("a.onnx", "a.bw"):
        report = compare(tmp_path / subject, tmp_path / "a.npz")
        assert report.ok, report.summary()
    assert any("raw heads" in note for note in report.notes)


def test_a_damaged_weight_is_found_in_the_head(model: Model, images: Images) -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    largest = max(
        (tensor for tensor in proto.graph.initializer if len(tensor.dims) == 4),
        key=lambda tensor: int(np.prod(tensor.dims)),
    )
    values = onnx.numpy_helper.to_array(largest) * np.float32(1.01)
    largest.CopyFrom(onnx.numpy_helper.from_array(values, largest.name))
    report = compare(Model(proto, model.card), model, images)
    assert not report.ok
    assert report.first_divergence is not None
    assert report.first_divergence.name == head_tensors(model)[0]


def test_opencv_as_a_second_opinion(model: Model, files: tuple[Path, Path], images: Images) -> None:
    if (reason := opencv_oracle.unavailable()) is not None:
        pytest.skip(reason)
    report = compare(model, OpenCvDarknet(*files), images, Tolerances.opencv())
    assert report.ok, report.summary()
    head, boxes, scores = report.tensors
    assert (boxes.name, scores.name) == (BOXES, SCORES)
    assert max(head.nrmse, boxes.nrmse, scores.nrmse) < 1e-3


def test_opencv_without_the_importer(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cv2:
        __version__ = "5.0.0"

    monkeypatch.setattr(opencv_oracle, "import_cv2", Cv2)
    with pytest.raises(BackendUnavailableError, match=r"5\.0\.0"):
        OpenCvDarknet(*files)


def test_what_opencv_refuses(files: tuple[Path, Path], tmp_path: Path) -> None:
    if (reason := opencv_oracle.unavailable()) is not None:
        pytest.skip(reason)
    cfg = tmp_path / "a.cfg"
    cfg.write_text(CFG.replace("[yolo]", "[Gaussian_yolo]"))
    with pytest.raises(InputError, match="does not accept"):
        OpenCvDarknet(cfg, files[1])
    with pytest.raises(InputError, match="cannot read"):
        OpenCvDarknet(tmp_path / "none.cfg", files[1])
