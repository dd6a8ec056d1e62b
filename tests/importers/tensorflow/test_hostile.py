"""Files made to harm: refused in one line, quickly, with nothing run."""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright.errors import BoxwrightError, ImportFailedError
from boxwright.importers import import_model
from boxwright.importers.tensorflow.flatbuffer import Buffer, read_map
from boxwright.importers.tensorflow.fold import dequantize, fold
from boxwright.importers.tensorflow.frozen import read_frozen
from boxwright.importers.tensorflow.keras import check_config
from boxwright.importers.tensorflow.proto import message
from boxwright.importers.tensorflow.savedmodel import read_saved_model
from boxwright.importers.tensorflow.tflite import read_tflite

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["float.tflite", "int8.tflite", "frozen.pb"])
def test_cut_off_anywhere(name: str, tmp_path: Path) -> None:
    data = (GOLDEN / name).read_bytes()
    path = tmp_path / name
    read = read_tflite if name.endswith("tflite") else read_frozen
    for length in range(0, len(data) - 1, max(len(data) // 400, 1)):
        path.write_bytes(data[:length])
        if name == "frozen.pb" and _is_graph(path):
            continue  # without its last nodes a graph is a graph
        with pytest.raises(ImportFailedError, match=name) as raised:
            read(path)
        assert "\n" not in str(raised.value)


def _is_graph(path: Path) -> bool:
    try:
        read_frozen(path)
    except ImportFailedError:
        return False
    return True


def test_a_saved_model_cut_off_anywhere(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    shutil.copytree(GOLDEN / "saved_model", folder)
    for name in ("variables/variables.index", "variables/variables.data-00000-of-00001"):
        path = folder / name
        data = path.read_bytes()
        # The last bytes of the data are of variables that inference needs not.
        for length in range(0, len(data) * 3 // 4, max(len(data) // 40, 1)):
            path.write_bytes(data[:length])
            with pytest.raises(ImportFailedError):
                read_saved_model(folder)
        path.write_bytes(data)
    (folder / "variables" / "variables.index").unlink()
    with pytest.raises(ImportFailedError, match="cannot read"):
        read_saved_model(folder)


def test_a_vector_longer_than_the_file() -> None:
    with pytest.raises(ImportFailedError, match="damaged or truncated: 4294967295 elements"):
        Buffer(b"\xff" * 16, "f").vector(0, 4)


def test_tables_that_refer_to_one_another_again_and_again() -> None:
    # One table whose field 0 is a vector of a thousand references to one table.
    count = 1000
    vtable = struct.pack("<HHH", 6, 8, 4)
    table = struct.pack("<iI", 6, 4)
    vector = struct.pack("<I", count)
    body = vtable + table + vector
    at = len(body)
    for i in range(count):
        body += struct.pack("<I", at + 4 * count + 6 - (at + 4 * i))
    body += vtable + struct.pack("<i", 6) + b"\0" * 8
    buffer = Buffer(body, "bomb", budget=100)
    from boxwright.importers.tensorflow.flatbuffer import Table

    with pytest.raises(ImportFailedError, match="again and again"):
        Table(buffer, 6).tables(0)


@pytest.mark.parametrize("data", [b"", b"\1", b"\x28\1", b"\0" * 3, b"\xff" * 40, b"\5\4\x24\1"])
def test_options_that_are_no_map(data: bytes) -> None:
    with pytest.raises(ImportFailedError, match="options do not parse"):
        read_map(data, "f")


def graph(*nodes: tuple[str, str, list[str], dict[str, Any]]) -> Any:
    made = message("GraphDef")
    for name, kind, inputs, attributes in nodes:
        node = made.node.add(name=name, op=kind)
        node.input.extend(inputs)
        for key, value in attributes.items():
            if isinstance(value, np.ndarray):
                tensor = node.attr[key].tensor
                tensor.dtype = {"f": 1, "i": 3}[value.dtype.kind]
                tensor.tensor_content = value.tobytes()
                for extent in value.shape:
                    tensor.tensor_shape.dim.add(size=extent)
            else:
                node.attr[key].i = value
    return made


IMAGE: tuple[str, str, list[str], dict[str, Any]] = ("image", "Placeholder", [], {})


def ints(name: str, *values: int) -> tuple[str, str, list[str], dict[str, Any]]:
    return (name, "Const", [], {"value": np.array(values, np.int32)})


def floats(name: str, *values: float) -> tuple[str, str, list[str], dict[str, Any]]:
    return (name, "Const", [], {"value": np.array(values, np.float32)})


# What is in the graph, and what the message must say.
GRAPHS: dict[str, tuple[Any, str]] = {
    "python inside": (
        graph(IMAGE, ("p", "PyFunc", ["image"], {})),
        "PyFunc 'p' runs Python code",
    ),
    "an operation nobody knows": (
        graph(IMAGE, ("x", "MyCustomOp", ["image"], {})),
        "MyCustomOp 'x': this operation is not known",
    ),
    "a loop": (
        graph(IMAGE, ("a", "Add", ["image", "b"], {}), ("b", "Relu", ["a"], {})),
        "depends on itself",
    ),
    "a huge fill": (
        graph(IMAGE, ints("n", 1 << 30, 8), floats("v", 1.0), ("f", "Fill", ["n", "v"], {})),
        "not possible, or too large",
    ),
    "a chain of tiles": (
        graph(
            IMAGE,
            ints("times", 4096),
            floats("t0", 1.0),
            *((f"t{i + 1}", "Tile", [f"t{i}", "times"], {}) for i in range(4)),
            ("end", "Add", ["image", "t4"], {}),
        ),
        "not possible, or too large",
    ),
    "what is not there": (
        graph(IMAGE, ("r", "Relu", ["nothing"], {})),
        "'nothing' is used, but nothing computes it",
    ),
    "images that would be mixed": (
        graph(IMAGE, ints("axis", 0), ("m", "Mean", ["image", "axis"], {})),
        "would mix images",
    ),
    "a reshape that does not fit": (
        graph(IMAGE, ints("shape", 7, -1), ("m", "Reshape", ["image", "shape"], {})),
        "it makes \\[7, -1\\]",
    ),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_a_hostile_graph(case: str, tmp_path: Path) -> None:
    content, expected = GRAPHS[case]
    path = tmp_path / "graph.pb"
    path.write_bytes(content.SerializeToString())
    with pytest.raises(ImportFailedError, match=expected) as raised:
        import_model(path, format="tensorflow", size=8, head="ssd", options={"scale": 1})
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_values_that_stand_for_many(tmp_path: Path) -> None:
    made = graph(IMAGE, floats("v"))
    tensor = made.node[1].attr["value"].tensor
    tensor.ClearField("tensor_shape")
    tensor.tensor_shape.dim.add(size=1 << 40)
    tensor.float_val.append(1.0)
    path = tmp_path / "graph.pb"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(ImportFailedError, match="has the shape"):
        read_frozen(path)


def test_functions_that_call_each_other_without_end(tmp_path: Path) -> None:
    saved = message("SavedModel")
    meta = saved.meta_graphs.add()
    meta.graph_def.CopyFrom(graph(IMAGE, ("call", "PartitionedCall", ["image"], {})))
    meta.graph_def.node[1].attr["f"].func.name = "f0"
    for level in range(40):
        function = meta.graph_def.library.function.add()
        function.signature.name = f"f{level}"
        function.signature.input_arg.add(name="x", type=1)
        function.signature.output_arg.add(name="y", type=1)
        # Twice at each level: 2 to the power of 40.
        for half in "ab":
            node = function.node_def.add(name=half, op="PartitionedCall")
            node.input.append("x" if half == "a" else "a:output:0")
            node.attr["f"].func.name = f"f{level + 1}" if level < 39 else "f39"
        function.ret["y"] = "b:output:0"
    signature = meta.signature_def["serving_default"]
    signature.inputs["x"].name, signature.outputs["y"].name = "image:0", "call:0"
    (tmp_path / "saved_model.pb").write_bytes(saved.SerializeToString())
    with pytest.raises(ImportFailedError, match="call each other"):
        read_saved_model(tmp_path)


def test_nested_text_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "frozen.pb", tmp_path / "graph.pb")
    (tmp_path / "graph.pbtxt").write_text("node {" * 100_000)
    with pytest.raises(ImportFailedError, match="nested more than"):
        import_model(tmp_path / "graph.pb", options={"scale": 1})


KERAS = {"class_name": "Conv2D", "module": "keras.layers", "registered_name": None}


def test_keras_layers_of_its_own_pass() -> None:
    check_config({"class_name": "Functional", "config": {"layers": [KERAS]}}, Path("m.keras"))


@pytest.mark.parametrize(
    "layer",
    [
        {"class_name": "Lambda", "module": "keras.layers"},
        {"class_name": "__lambda__", "config": {"value": "4wEAAAA="}},
        {"class_name": "function", "module": "builtins", "config": "system"},
        {"class_name": "system", "module": "os"},
        {"class_name": "Layer", "module": "keras_evil", "registered_name": "Layer"},
        {"class_name": "Mine", "module": None, "registered_name": "pkg>Mine"},
        {"class_name": "TFSMLayer", "module": "keras.layers"},
    ],
    ids=lambda layer: layer["class_name"],
)
def test_keras_files_that_hold_code(layer: dict[str, Any]) -> None:
    config = {"class_name": "Sequential", "module": "keras", "config": {"layers": [KERAS, layer]}}
    with pytest.raises(ImportFailedError, match="it holds"):
        check_config(config, Path("m.keras"))


def test_a_keras_archive_that_unpacks_to_more(tmp_path: Path) -> None:
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Sequential"}))
        archive.writestr("model.weights.h5", b"\0" * 1000)
    data = bytearray(path.read_bytes())
    # The directory's word for the size of the second member.
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 0xFFFFFFF0)
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(data)
    with pytest.raises(ImportFailedError, match="zip bomb"):
        import_model(path, options={"scale": 1})


def test_a_keras_file_without_tensorflow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BOXWRIGHT_TENSORFLOW_PYTHON", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Sequential", "config": {}}))
    with pytest.raises(BoxwrightError, match=r"boxwright\[tensorflow\]"):
        import_model(path, options={"scale": 1})


def test_dequantising_a_range_that_is_none() -> None:
    # The smallest normal float32: TensorFlow itself makes NaN of it.
    low, high = np.zeros(1, np.float32), np.array([1.1754944e-38], np.float32)
    found = dequantize({"mode": "MIN_FIRST"}, np.zeros(3, np.uint8), low, high)
    assert found.tolist() == [0, 0, 0]


def test_folding_refuses_what_does_not_fit() -> None:
    zero = np.zeros((), np.int32)
    with pytest.raises(ValueError, match="without end"):
        fold("Range", {}, [zero, zero + 5, zero])


def test_a_classifier_has_one_attribute(tmp_path: Path) -> None:
    content = graph(
        IMAGE,
        ints("shape", -1, 192),
        ("flat", "Reshape", ["image", "shape"], {}),
        ("weights", "Const", [], {"value": np.ones((192, 2), np.float32)}),
        ("dense", "MatMul", ["flat", "weights"], {}),
        ("end", "Softmax", ["dense"], {}),
    )
    path = tmp_path / "graph.pb"
    path.write_bytes(content.SerializeToString())
    model = import_model(path, size=8, names=["no", "yes"], options={"scale": 1})
    model.check()
    assert model.card.task == "classify"
    assert [(a.name, a.kind, a.names) for a in model.card.attributes] == [
        ("class", "class", ("no", "yes"))
    ]
