"""A named pipe or a device is refused at once, wherever a file is expected."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from boxwright.errors import ModelError
from boxwright.files import open_regular
from boxwright.images import find_images
from boxwright.model import Model
from tests.cli.conftest import Run
from tests.cli.conftest import run as run  # the fixture
from tests.cli.material import write_darknet, write_image
from tests.models import make_model

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "pipe.onnx"),
        ("build", "pipe.onnx", "-o", "x.bw"),
        ("build", "/dev/zero", "-o", "x.bw"),
        ("detect", "tiny.onnx", "pipe.jpg"),
        ("detect", "tiny.onnx", "pipe.txt"),
        ("detect", "pipe.bw", "a.png"),
        ("import", "pipe.weights", "--cfg", "tiny.cfg"),
        ("import", "tiny.weights", "--cfg", "pipe.cfg"),
        ("import", "tiny.weights", "--names", "pipe.names"),
        ("import", "tiny.weights", "--data", "pipe.data"),
        ("detect", "tiny.onnx", "a.png", "--config", "pipe.toml"),
        ("detect", "tiny.onnx", "a.png", "--config", "/dev/zero"),
        ("detect", "tiny.onnx", "a.png", "--save", "coco", "--annotations", "pipe.json"),
        ("eval", "tiny.onnx", "pipe.json"),
        ("report", "pipe.bw"),
    ],
)
def test_pipes_are_refused(run: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    write_darknet(tmp_path)
    write_image(tmp_path / "a.png")
    assert run("import", "tiny.weights", "-o", "tiny.onnx").exit_code == 0
    for argument in arguments:
        if argument.startswith("pipe"):
            os.mkfifo(tmp_path / argument)
    result = run(*arguments)
    assert result.exit_code in (1, 2), result.output
    assert "bug" not in result.output


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(tmp_path / "pipe")


def test_a_list_is_read_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from boxwright.errors import InputError

    monkeypatch.setattr("boxwright.images._MAX_LIST_BYTES", 10)
    (tmp_path / "list.txt").write_text("# more than ten\n")
    with pytest.raises(InputError, match="is longer than 10 B"):
        find_images(tmp_path / "list.txt")


def test_an_empty_name_is_no_folder() -> None:
    from boxwright.errors import InputError

    with pytest.raises(InputError, match="is a variable not set"):
        find_images([""])


@pytest.mark.parametrize("place", ["initializer", "sparse", "attribute", "subgraph"])
def test_values_in_another_file_are_refused(place: str) -> None:
    model = make_model()
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [0.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret.bin")
    node = helper.make_node("Constant", [], ["t"], value=tensor)
    if place == "initializer":
        model.proto.graph.initializer.append(tensor)
    elif place == "sparse":
        model.proto.graph.sparse_initializer.add().values.CopyFrom(tensor)
    elif place == "attribute":
        model.proto.graph.node.append(node)
    else:
        branch = helper.make_graph([node], "branch", [], [])
        model.proto.graph.node.append(
            helper.make_node("If", ["c"], ["o"], then_branch=branch, else_branch=branch)
        )
    with pytest.raises(ModelError, match="keeps values in another file"):
        Model.from_bytes(model.to_bytes())
    with pytest.raises(ModelError, match="keeps values in another file"):
        model.check()
