"""What is recognised, accepted, asked for and refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from boxwright.card import CARD_KEY
from boxwright.errors import ImportFailedError
from boxwright.importers import choose, formats, import_model, make_request
from boxwright.importers.onnx import IMPORTER
from boxwright.model import Model
from tests.importers.exports import SIZE, Export, ultralytics, yolov8
from tests.models import make_model

NAMES = ("cat", "dog", "cow")


def test_it_is_told_from_its_content(tmp_path: Path) -> None:
    path = yolov8().save(tmp_path / "renamed.weights")
    assert choose(make_request(path)).name == "onnx"
    assert import_model(path).card.source_format == "onnx"
    assert "onnx" in formats()
    text = tmp_path / "text.onnx"
    text.write_text("no model")
    with pytest.raises(ImportFailedError, match="not an ONNX model"):
        import_model(text)


def test_the_card(tmp_path: Path) -> None:
    card = import_model(yolov8().save(tmp_path / "net.onnx")).card
    assert card.name == "net"
    assert card.input_size == SIZE
    assert card.resize == "letterbox"
    assert card.interpolation == "opencv"
    assert card.nms.iou_threshold == 0.7
    transform = card.transforms[0]
    assert transform.name == "import:onnx"
    assert transform.parameters["head"]["kind"] == "rows"
    assert "metadata of Ultralytics" in transform.parameters["told"]
    assert transform.effect["cures"] == ["opset"]
    json.dumps(dataclasses.asdict(card), allow_nan=False)


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18, 21])
def test_every_opset_becomes_ours(tmp_path: Path, opset: int) -> None:
    model = import_model(yolov8(opset=opset).save(tmp_path / "net.onnx"))
    assert [(item.domain, item.version) for item in model.proto.opset_import] == [("", 17)]
    onnx.checker.check_model(model.proto, full_check=True)
    assert all(node.name for node in model.proto.graph.node)


def test_old_operators_are_cured(tmp_path: Path) -> None:
    """Upsample, weights as inputs, and an output whose type nobody declared."""
    export = ultralytics(Export(opset=9))
    small = export.level(16, 7)
    scales = export.constant([1, 1, 2, 2])
    fine = export.op("Upsample", small, scales, mode="nearest")
    parts = [export.columns(x, 7) for x in (fine, small, export.level(32, 7))]
    export.give(export.op("Sigmoid", export.joined(parts, 2), output="output0"))
    proto = export.proto()
    for tensor in proto.graph.initializer:
        proto.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    # Slice and Reshape of opset 9 are what Export writes; nothing else differs.
    path = tmp_path / "old.onnx"
    path.write_bytes(proto.SerializeToString())
    model = import_model(path)
    assert {"upsample", "initializer-inputs", "opset"} <= set(
        model.card.transforms[0].effect["cures"]
    )
    assert [value.name for value in model.proto.graph.input] == ["images"]


def test_half_floats_and_pixels_last(tmp_path: Path) -> None:
    export = ultralytics(Export())
    value = helper.make_tensor_value_info("images", TensorProto.FLOAT16, ["b", "h", "w", 3])
    planes = export.op("Cast", "images", to=TensorProto.FLOAT)
    export.image = export.op("Transpose", planes, perm=[0, 3, 1, 2])
    joined = export.joined([export.columns(export.level(s, 7), 7) for s in (8, 16, 32)], 2)
    half = export.op("Cast", export.op("Sigmoid", joined), to=TensorProto.FLOAT16)
    export.give(export.op("Identity", half, output="output0"), element=TensorProto.FLOAT16)
    export.inputs = [value]
    model = import_model(export.save(tmp_path / "half.onnx"))
    assert model.card.input_size == SIZE  # from the metadata, for the graph leaves it free
    assert model.card.transforms[0].parameters["pixels"]["layout"] == "nhwc"
    kinds = {v.name: v.type.tensor_type.elem_type for v in model.proto.graph.output}
    assert kinds == {"boxes": TensorProto.FLOAT, "scores": TensorProto.FLOAT}


def test_a_free_size_is_asked_for(tmp_path: Path) -> None:
    export = yolov8()
    del export.metadata["imgsz"]
    dims = export.inputs[0].type.tensor_type.shape.dim
    dims[2].dim_param, dims[3].dim_param = "h", "w"
    path = export.save(tmp_path / "free.onnx")
    with pytest.raises(ImportFailedError, match="--size"):
        import_model(path)
    assert import_model(path, size=(96, 64)).card.input_size == (96, 64)
    fixed = yolov8().save(tmp_path / "fixed.onnx")
    with pytest.raises(ImportFailedError, match="exported for 64x96"):
        import_model(fixed, size=(96, 64))


def test_names_of_the_contract_in_the_source_are_no_trouble(tmp_path: Path) -> None:
    """A source may call anything boxes, images, or decode/rows/box."""
    export = ultralytics(Export())
    part = export.columns(export.level(8, 7), 7)
    inner = export.op("Identity", part, output="boxes")
    inner = export.op("Identity", inner, output="decode/rows/box/0")
    inner = export.op("Identity", inner, output="pre/float")
    rest = [export.columns(export.level(s, 7), 7) for s in (16, 32)]
    export.give(export.op("Sigmoid", export.joined([inner, *rest], 2), output="scores"))
    path = export.save(tmp_path / "names.onnx")
    model = import_model(path)
    onnx.checker.check_model(model.proto, full_check=True)
    request = make_request(path)
    assert choose(request).verify(request, model).passed  # type: ignore[attr-defined]


def test_a_batch_that_cannot_be_freed_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A mean over the batch makes one image depend on the other."""
    export = ultralytics(Export())
    joined = export.joined([export.columns(export.level(s, 7), 7) for s in (8, 16, 32)], 2)
    mean = export.op("ReduceMean", joined, axes=[0], keepdims=1)
    export.give(export.op("Sigmoid", export.op("Sub", joined, mean), output="output0"))
    with caplog.at_level("WARNING", "boxwright"):
        model = import_model(export.save(tmp_path / "mixed.onnx"))
    assert "takes one image at a time" in caplog.text
    assert model.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    assert "differs by" in model.card.transforms[0].effect["batch"]


def test_a_processor_that_adds_in_another_order_frees_the_batch_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is imported is the same everywhere: YOLOX-nano differs by 1.8e-5 on 64 cores."""
    from boxwright.importers import running

    run = running.run

    def noisy(proto: onnx.ModelProto, feed: Any, outputs: Any) -> dict[str, Any]:
        found = run(proto, feed, outputs)
        many = len(next(iter(feed.values()))) > 1
        return {name: values * (1 + 5e-5 * many) for name, values in found.items()}

    path = yolov8().save(tmp_path / "some.onnx")
    monkeypatch.setattr(running, "run", noisy)
    model = import_model(path)
    assert model.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_a_verification_finds_a_model_of_another_file(tmp_path: Path) -> None:
    path = yolov8().save(tmp_path / "one.onnx")
    other = yolov8(seed=1).save(tmp_path / "other.onnx")
    request = make_request(path)
    verification = choose(request).verify(request, import_model(other))  # type: ignore[attr-defined]
    assert not verification.passed


def test_a_verification_finds_wrong_pixels(tmp_path: Path) -> None:
    path = yolov8().save(tmp_path / "net.onnx")
    model = import_model(path, options={"channels": "bgr"})
    request = make_request(path)
    verify = choose(request).verify  # type: ignore[attr-defined]
    assert verify(request, model).passed  # it is fed what its card says
    for node in model.proto.graph.node:
        if node.name == "pre/bgr":
            node.input[1] = "pre/straight"
    model.proto.graph.initializer.append(
        numpy_helper.from_array(np.array([0, 1, 2]), "pre/straight")
    )
    assert not verify(request, model).passed


def test_models_that_keep_the_contract(tmp_path: Path) -> None:
    own = make_model()
    own.save(tmp_path / "own.onnx")
    model = import_model(tmp_path / "own.onnx", names=("a", "b", "c"), licence="MIT")
    assert model.card.class_names == ("a", "b", "c")
    assert model.card.licence == "MIT"
    assert model.card.transforms[-1].name == "import:onnx"
    assert model.proto.graph.node == own.proto.graph.node
    bare = onnx.ModelProto()
    bare.CopyFrom(own.proto)
    del bare.metadata_props[:]
    (tmp_path / "bare.onnx").write_bytes(bare.SerializeToString())
    model = import_model(tmp_path / "bare.onnx", names=NAMES)
    assert model.card.input_size == own.card.input_size
    with pytest.raises(ImportFailedError, match="contract already"):
        import_model(tmp_path / "own.onnx", head="yolox")
    with pytest.raises(ImportFailedError, match="another size"):
        import_model(tmp_path / "own.onnx", size=64)
    with pytest.raises(ImportFailedError, match="3 class names"):
        import_model(tmp_path / "own.onnx", names=("a",))
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(bare)
    spoilt.metadata_props.add(key=CARD_KEY, value="{")
    (tmp_path / "spoilt.onnx").write_bytes(spoilt.SerializeToString())
    with pytest.raises(ImportFailedError, match="not valid JSON"):
        import_model(tmp_path / "spoilt.onnx")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"head": "yolo8"}, "did you mean 'yolov8'"),
        ({"head": "yolox"}, "do not look like those of yolox"),
        ({"options": {"chanels": "bgr"}}, "did you mean 'channels'"),
        ({"options": {"channels": "cmyk"}}, "channels must be one of"),
        ({"options": {"scale": 0}}, "above 0"),
        ({"options": {"scale": "1/0"}}, "must be numbers"),
        ({"options": {"mean": "a,b"}}, "must be numbers"),
        ({"options": {"mean": "1,2"}}, "1 or 3"),
        ({"options": {"pad_value": 300}}, "pad_value"),
        ({"options": {"strides": "8,16"}}, "means nothing for a head of 'rows'"),
        ({"options": {"normalised": "perhaps"}}, "true or false"),
        ({"options": {"box": "polar"}}, "box must be one of"),
        ({"options": {"boxes": "nowhere"}}, "nowhere"),
        ({"options": {"scores": "output0"}}, "needs option boxes"),
        ({"names": ("one",)}, "3 class names"),
        ({"cfg": "net.cfg", "format": "onnx"}, "belong to Darknet"),
    ],
)
def test_what_is_said_wrongly_is_explained(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    path = yolov8().save(tmp_path / "net.onnx")
    with pytest.raises(ImportFailedError, match=message):
        import_model(path, **given)


def edited(change: Any) -> bytes:
    proto = yolov8().proto()
    change(proto)
    return bytes(proto.SerializeToString())


def cycle(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[0] = "output0"


def huge_constant(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].dims[:] = [1 << 40, 1 << 40]


def huge_shape(proto: onnx.ModelProto) -> None:
    shape = numpy_helper.from_array(np.array([1 << 20, 1 << 20], np.int64), "bomb/shape")
    proto.graph.initializer.append(shape)
    proto.graph.node.append(helper.make_node("ConstantOfShape", ["bomb/shape"], ["bomb"]))
    proto.graph.node.append(helper.make_node("ReduceMax", ["bomb"], ["spark"]))
    proto.graph.output.append(helper.make_tensor_value_info("spark", TensorProto.FLOAT, None))


def elsewhere(location: str) -> Any:
    def change(proto: onnx.ModelProto) -> None:
        tensor = proto.graph.initializer[1]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return change


def nested(proto: onnx.ModelProto) -> None:
    inner = helper.make_graph([helper.make_node("Identity", ["images"], ["x"])], "g", [], [])
    for _ in range(60):
        node = helper.make_node("If", ["images"], ["y"], then_branch=inner, else_branch=inner)
        inner = helper.make_graph([node], "g", [], [])
        if inner.ByteSize() > 1 << 20:
            break
    proto.graph.node.append(inner.node[0])


def deep(proto: onnx.ModelProto) -> None:
    inner = helper.make_graph([helper.make_node("Identity", ["images"], ["x"])], "g", [], [])
    for _ in range(20):
        node = helper.make_node("If", ["images"], ["y"])
        node.attribute.append(helper.make_attribute("then_branch", inner))
        inner = helper.make_graph([node], "g", [], [])
    proto.graph.node.append(inner.node[0])


def two_inputs(proto: onnx.ModelProto) -> None:
    proto.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, 3, 8, 8]))


def strange_input(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING


def no_rank(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.ClearField("shape")


def enormous_sides(proto: onnx.ModelProto) -> None:
    for extent in proto.graph.input[0].type.tensor_type.shape.dim:
        extent.dim_value = 1 << 40


def negative_sides(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = -64


def future_opset(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 9_999


def unknown_operator(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].op_type = "RunThis"


def foreign_domain(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].domain = "com.example"
    proto.opset_import.add(domain="com.example", version=1)


def recursion(proto: onnx.ModelProto) -> None:
    proto.opset_import.add(domain="local", version=1)
    function = proto.functions.add(name="again", domain="local")
    function.input.append("x")
    function.output.append("y")
    function.opset_import.add(domain="local", version=1)
    function.node.append(helper.make_node("again", ["x"], ["y"], domain="local"))
    proto.graph.node.append(helper.make_node("again", ["images"], ["z"], domain="local"))


def names_that_run(proto: onnx.ModelProto) -> None:
    next(p for p in proto.metadata_props if p.key == "names").value = "__import__('os').getcwd()"


def deep_names(proto: onnx.ModelProto) -> None:
    next(p for p in proto.metadata_props if p.key == "names").value = "[" * 100_000


def another_task(proto: onnx.ModelProto) -> None:
    next(p for p in proto.metadata_props if p.key == "task").value = "segment"


HOSTILE = [
    (cycle, "circle"),
    (huge_constant, "dims|values|bytes|shape"),
    (huge_shape, "more than any detector"),
    (elsewhere("/etc/passwd"), "passwd"),
    (elsewhere("../../outside.bin"), "outside"),
    (elsewhere("missing.bin"), "missing.bin"),
    (deep, "stand 8 deep"),
    (nested, "stand 8 deep|more than 2000"),
    (two_inputs, "one input of images"),
    (strange_input, "got string"),
    (no_rank, "one input of images"),
    (enormous_sides, "more than any detector"),
    (negative_sides, "-64"),
    (future_opset, "opset 9999, and the installed onnx"),
    (unknown_operator, "RunThis"),
    (foreign_domain, "Mul of com.example"),
    (recursion, "functions|inlined|again"),
    (names_that_run, "no list of class names"),
    (deep_names, "no list of class names"),
    (another_task, "only detectors"),
]


@pytest.mark.parametrize(
    ("change", "message"), HOSTILE, ids=[getattr(c, "__name__", "?") for c, _ in HOSTILE]
)
def test_hostile_files_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "hostile.onnx"
    path.write_bytes(edited(change))
    with pytest.raises(ImportFailedError, match=message) as caught:
        import_model(path)
    assert len(str(caught.value)) < 2_000
    assert "Traceback" not in str(caught.value)


def test_values_beside_the_model_are_read_in(tmp_path: Path) -> None:
    proto = yolov8().proto()
    tensor = proto.graph.initializer[2]
    (tmp_path / "net.onnx.data").write_bytes(tensor.raw_data)
    elsewhere("net.onnx.data")(proto) if tensor is proto.graph.initializer[1] else None
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="net.onnx.data")
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    model = import_model(tmp_path / "net.onnx")
    assert [file.name for file in model.card.source_files] == ["net.onnx", "net.onnx.data"]
    model.save(tmp_path / "own.onnx")
    Model.load(tmp_path / "own.onnx")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    """Cut at many places and flipped at random: refused, or a model after all."""
    whole = edited(lambda proto: None)
    random = np.random.default_rng(0)
    path = tmp_path / "damaged.onnx"
    for cut in range(1, len(whole), len(whole) // 40):
        path.write_bytes(whole[:cut])
        with pytest.raises(ImportFailedError):
            import_model(path, format="onnx")
    for _ in range(60):
        data = bytearray(whole)
        for at in random.integers(0, len(whole), 3):
            data[at] ^= 1 << int(random.integers(0, 8))
        path.write_bytes(data)
        try:
            import_model(path, format="onnx").check()
        except ImportFailedError:
            continue


def test_what_pytorch_writes_today(tmp_path: Path) -> None:
    """Opset 18: numbers of parts, axes as inputs, and Reshape with ``allowzero``."""
    export = ultralytics(Export(opset=18))
    parts = []
    for stride in (8, 16, 32):
        maps = export.level(stride, 14)
        first, second = export.op("Split", maps, axis=1, num_outputs=2), f"second{stride}"
        export.nodes[-1].output.append(second)
        both = export.op("Add", first, second)
        shape = export.constant([1, 7, -1], np.int64)
        parts.append(export.op("Reshape", both, shape, allowzero=1))
    joined = export.joined(parts, 2)
    axes = export.constant([1], np.int64)
    mean = export.op("ReduceMean", joined, axes, keepdims=1)
    export.give(export.op("Sigmoid", export.op("Sub", joined, mean), output="output0"))
    path = export.save(tmp_path / "net.onnx")
    model = import_model(path)
    assert model.proto.opset_import[0].version == 17
    assert model.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    request = make_request(path)
    assert choose(request).verify(request, model).passed  # type: ignore[attr-defined]


def test_a_saved_model_of_tensorflow_is_not_taken_for_one(tmp_path: Path) -> None:
    """It begins with schema version 1 and then its second field, as IR version 1 would."""
    path = tmp_path / "saved_model.pb"
    path.write_bytes(b"\x08\x01\x12\x10" + bytes(64))
    assert IMPORTER.recognise(make_request(path)) is None
