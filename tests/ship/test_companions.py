"""What an import may read without being told of it belongs to its key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from boxwright.progress import silent
from boxwright.ship import pipeline
from boxwright.ship.companions import companions
from boxwright.ship.settings import ShipSettings
from boxwright.ship.stages import key_of
from boxwright.ship.work import Work
from tests.models import make_model

# The weights, a file beside them, and whether an import of these weights may look at it.
_CASES = [
    ("net.weights", "net.cfg", True),
    ("net_final.weights", "net.cfg", True),
    ("net.weights", "other.names", True),
    ("net.caffemodel", "net.prototxt", True),
    ("net.caffemodel", "deploy.PROTOTXT", True),
    ("net.caffemodel", "net.prototxt.txt", True),
    ("net_uint8.pb", "net.pbtxt", True),
    ("net-0001.params", "net-symbol.json", True),
    ("net-0001.params", "net.json", True),
    ("net-symbol.json", "net-0001.params", True),
    ("saved_model.pb", "variables/variables.data-00000-of-00001", True),
    ("net.weights", "annotations.json", False),
    ("net.weights", "photo.jpg", False),
    ("net.onnx", "net.onnx.bak", False),
]


def key_of_import(trained: Path, **options: object) -> str:
    settings = ShipSettings((trained,), ("photos",), Path("out"), import_options=options)
    return key_of(pipeline.make_stages(Work(settings, silent))[0].inputs())


@pytest.mark.parametrize(("weights", "beside", "read"), _CASES)
def test_a_changed_companion_is_imported_again(
    tmp_path: Path, weights: str, beside: str, read: bool
) -> None:
    trained, other = tmp_path / weights, tmp_path / beside
    trained.write_bytes(b"weights")
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(b"one")
    before = key_of_import(trained)
    assert key_of_import(trained) == before
    other.write_bytes(b"another")
    assert (key_of_import(trained) != before) == read
    other.unlink()
    assert (key_of_import(trained) != before) == read


def test_what_is_named_is_not_looked_for(tmp_path: Path) -> None:
    for name in ("net.weights", "net.cfg", "net.names", "own.cfg"):
        (tmp_path / name).write_text("x")
    weights = tmp_path / "net.weights"
    assert companions(weights, {}) == [
        tmp_path / name for name in ("net.cfg", "net.names", "own.cfg")
    ]
    assert companions(weights, {"cfg": tmp_path / "own.cfg"}) == [tmp_path / "net.names"]
    both = {"cfg": tmp_path / "own.cfg", "names": tmp_path / "net.names"}
    assert companions(weights, both) == []


def test_names_that_a_data_file_mentions_belong_to_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "net.weights").write_bytes(b"weights")
    (tmp_path / "own.data").write_text("classes=1\nnames=sub/own.names\n")
    names = tmp_path / "sub" / "own.names"
    names.write_text("cat\n")
    before = key_of_import(tmp_path / "net.weights", data=tmp_path / "own.data")
    names.write_text("dog\n")
    assert key_of_import(tmp_path / "net.weights", data=tmp_path / "own.data") != before
    names.unlink()
    key_of_import(tmp_path / "net.weights", data=tmp_path / "own.data")


def test_values_that_an_onnx_file_keeps_elsewhere_belong_to_it(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    proto = make_model().proto
    onnx.save(proto, path, save_as_external_data=True, location="net.data", size_threshold=0)
    assert companions(path, {}) == [tmp_path / "net.data"]
    before = key_of_import(path)
    data = np.fromfile(tmp_path / "net.data", np.uint8)
    (data + 1).astype(np.uint8).tofile(tmp_path / "net.data")
    assert key_of_import(path) != before
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    assert companions(tmp_path / "broken.onnx", {"names": path, "data": path}) == []


def test_values_said_to_be_elsewhere_on_the_machine_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    proto = make_model().proto
    onnx.save(proto, path, save_as_external_data=True, location="net.data", size_threshold=0)
    kept = onnx.load(path, load_external_data=False)
    for tensor in kept.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../../secret"
    path.write_bytes(kept.SerializeToString())
    (tmp_path / "net.data").unlink()
    assert companions(path, {}) == []
