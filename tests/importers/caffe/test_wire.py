from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from boxwright.errors import WeightsError
from boxwright.importers.caffe.wire import CaffeModel, looks_like_caffemodel
from tests.hostile.mutate import mutations
from tests.importers.caffe.nets import blob, caffemodel, chunk, one_line, varint, whole
from tests.importers.caffe.test_layers import rand

VALUES = rand(4, 3, 2, 2)
FORMS = ["packed", "single", "double", "double_single", "half", "old"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.caffemodel"


def everything(path: Path) -> None:
    with CaffeModel(path) as model:
        for layer in model.layers:
            model.blobs(layer)


def one_blob(content: bytes) -> bytes:
    return chunk(100, chunk(1, b"a") + chunk(7, content))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("old", [False, True])
def test_values_and_shapes(form: str, old: bool, path: Path) -> None:
    path.write_bytes(caffemodel({"a": ("Convolution", [VALUES, rand(7)])}, form, old))
    with CaffeModel(path) as model:
        assert model.name == "test"
        assert model.layers == ("a",)
        first, second = model.blobs("a")
        assert model.blobs("absent") == []
    tolerance = 1e-3 if form == "half" else 0
    np.testing.assert_allclose(first, VALUES, atol=tolerance)
    np.testing.assert_allclose(second.ravel(), rand(7), atol=tolerance)
    assert second.shape == ((1, 1, 1, 7) if form == "old" else (7,))


def test_pieces_of_both_kinds_follow_each_other(path: Path) -> None:
    content = chunk(5, np.array([1, 2], "<f4").tobytes())
    content += b"\x2d" + np.array([3], "<f4").tobytes() + chunk(6, bytes(8))
    content += b"\x2d" + np.array([4], "<f4").tobytes()
    path.write_bytes(one_blob(content))
    with CaffeModel(path) as model:
        np.testing.assert_array_equal(model.blobs("a")[0], [1, 2, 3, 4])


def test_single_values_in_great_number(path: Path) -> None:
    values = np.arange(300_000, dtype="<f4")
    rows = np.empty((len(values), 5), np.uint8)
    rows[:, 0] = 0x2D
    rows[:, 1:] = values.view(np.uint8).reshape(-1, 4)
    path.write_bytes(one_blob(rows.tobytes()))
    with CaffeModel(path) as model:
        np.testing.assert_array_equal(model.blobs("a")[0], values)


def test_what_data_layers_said_of_pixels(path: Path) -> None:
    transform = b"\x0d" + np.array([0.5], "<f4").tobytes()
    transform += b"".join(b"\x2d" + np.array([v], "<f4").tobytes() for v in (104, 117, 123))
    data = chunk(100, chunk(1, b"data") + chunk(2, b"Data") + chunk(100, transform))
    path.write_bytes(data + one_blob(blob(rand(3))))
    with CaffeModel(path) as model:
        (stored,) = model.transforms
    assert stored.scale == 0.5
    assert stored.mean == (104, 117, 123)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "1 byte to 2 GiB"),
        (b"\x0a\x04abcd", "holds no layers"),
        (b"not a model at all", "wire type|damaged"),
        (chunk(100, b"\x0a\xff\xff\xff\xff\x0f"), "field of 4294967295 bytes where 0 are left"),
        (chunk(2, chunk(1, b"v0")), "first format .V0"),
        (one_blob(chunk(7, chunk(1, varint(1 << 40) + varint(1 << 40)))), "cannot have the shape"),
        (
            one_blob(chunk(7, chunk(1, varint(5))) + chunk(5, bytes(16))),
            "holds 4 values; its shape",
        ),
        (one_blob(chunk(7, chunk(1, varint((1 << 64) - 1)))), "cannot have the shape"),
        (one_blob(chunk(5, bytes(5))), "ends within a value"),
        (one_blob(chunk(5, b"\0\0\xc0\x7f")), "no finite numbers"),
        (one_blob(chunk(8, np.array([1e300], "<f8").tobytes())), "no finite numbers"),
        (one_blob(chunk(7, chunk(1, b"\x01" * 33))), "more than 32 axes"),
        (one_blob(whole(10, 4) + chunk(12, bytes(4))), "raw type 4"),
        (chunk(100, b"\xff" * 12), "no whole number"),
    ],
)
def test_damage_is_named(content: bytes, message: str, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        everything(path)


def test_a_length_that_is_only_declared_costs_no_memory(path: Path) -> None:
    path.write_bytes(one_blob(whole(1, 1 << 20) + whole(2, 1 << 9) + whole(3, 1) + whole(4, 1)))
    tracemalloc.start()
    with pytest.raises(WeightsError, match="holds 0 values"):
        everything(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_cut_off_anywhere(path: Path) -> None:
    data = caffemodel({"a": ("Convolution", [rand(4)]), "b": ("Scale", [rand(2)])}, "single")
    sound = 0
    for end in range(len(data)):
        path.write_bytes(data[:end])
        try:
            everything(path)
            sound += 1
        except WeightsError as error:
            one_line(error)
    # Between two layers, the part in front is a sound file.
    assert sound == 1


@pytest.mark.parametrize("form", FORMS)
def test_damaged_at_random(form: str, path: Path) -> None:
    data = caffemodel({"a": ("Convolution", [VALUES]), "b": ("Scale", [rand(2)])}, form)
    refused = 0
    for _, damaged in mutations(data, 300, seed=5):
        path.write_bytes(damaged)
        try:
            everything(path)
        except WeightsError as error:
            refused += 1
            one_line(error)
    assert refused > 50


def test_recognition(path: Path, tmp_path: Path) -> None:
    path.write_bytes(caffemodel({"a": ("Convolution", [VALUES])}))
    assert looks_like_caffemodel(path)
    for content in (b"", b"\x08\x08\x12\x07pytorch", bytes(100), b"PK\x03\x04" + bytes(60)):
        path.write_bytes(content)
        assert not looks_like_caffemodel(path)
    assert not looks_like_caffemodel(tmp_path / "absent")
