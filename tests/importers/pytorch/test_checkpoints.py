"""What checkpoints say about themselves, and those that are refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright.errors import ImportFailedError
from boxwright.importers import Confidence, choose, import_model, make_request
from tests.importers.pytorch import assemble
from tests.importers.pytorch.assemble import Obj, Raw, Writer, glob

SIZE = 32


def layers(network: Obj) -> dict[str, Any]:
    """The layers of a network by number, to be changed."""
    found: dict[str, Any] = network.state["_modules"]["model"].state["_modules"]
    return found


def refused(folder: Path, root: Any, **options: Any) -> str:
    path = assemble.write(folder / "net.pt", root)
    with pytest.raises(ImportFailedError) as caught:
        import_model(path, **{"size": SIZE, **options})
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


def test_the_card(tmp_path: Path) -> None:
    root = {"model": assemble.network(), "epoch": 7, "date": "2022-02-08", "opt": {"imgsz": 96}}
    card = import_model(assemble.write(tmp_path / "mine.pt", root), licence="MIT").card
    assert card.name == "mine"
    assert card.family == "yolov5"
    assert card.class_names == ("cat", "dog")
    assert card.input_size == (96, 96)
    assert (card.resize, card.interpolation, card.pad_value) == ("letterbox", "opencv", 114)
    assert card.nms.iou_threshold == 0.45
    assert card.licence == "MIT"
    assert card.source_format == "pytorch"
    assert [file.name for file in card.source_files] == ["mine.pt"]
    # Anchors in cells times strides.
    assert card.heads[1].anchors == ((16.0, 8.0), (32.0, 32.0))
    assert card.transforms[0].effect == {
        "head": "yolov5",
        "layers": 4,
        "strides": [4, 8],
        "weights": "model",
        "epoch": 7,
        "date": "2022-02-08",
    }


def test_the_usual_sizes(tmp_path: Path) -> None:
    path = assemble.write(tmp_path / "net.pt", {"model": assemble.network()})
    assert import_model(path).card.input_size == (640, 640)
    for imgsz in (33, "640", [640], True, None, 1 << 40):
        root = {"model": assemble.network(), "train_args": {"imgsz": imgsz}}
        assert import_model(assemble.write(path, root)).card.input_size == (640, 640)
    opt = Obj("argparse Namespace", {"imgsz": 64})
    root = {"model": assemble.network(), "opt": opt}
    assert import_model(assemble.write(path, root)).card.input_size == (64, 64)


def test_a_level_of_stride_64_means_1280(tmp_path: Path) -> None:
    stem = [assemble.conv(3, 4, 3, 2, f=-1), *(assemble.conv(4, 4, 3, 2, f=-1) for _ in range(5))]
    head = assemble.detect(f=[4, 5], stride=np.array([32, 64], np.float32))
    path = assemble.write(tmp_path / "net.pt", {"model": assemble.network(stem, head)})
    assert import_model(path).card.input_size == (1280, 1280)


def test_class_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "net.pt"
    network = assemble.network()
    names: Any
    for names in (["cat", "dog"], {0: "cat", 1: "dog"}, ("cat", "dog")):
        network.state["names"] = names
        assemble.write(path, {"model": network})
        assert import_model(path, size=SIZE).card.class_names == ("cat", "dog")
    assert import_model(path, size=SIZE, names=["a", "b"]).card.class_names == ("a", "b")
    with pytest.raises(ImportFailedError, match="expected 2 class names, as the checkpoint says"):
        import_model(path, size=SIZE, names=["a"])
    for names in (["cat"], {0: "cat", 2: "dog"}, {"0": "cat", "1": "dog"}, [1, 2], None, "cd"):
        network.state["names"] = names
        assemble.write(path, {"model": network})
        assert import_model(path, size=SIZE).card.class_names == ("class_0", "class_1")
    assert "no class names for 2 classes" in caplog.text


def test_which_network_of_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    ema = assemble.network()
    ema.state["names"] = ["of", "ema"]
    assemble.write(path, {"model": assemble.network(), "ema": ema})
    assert import_model(path, size=SIZE).card.class_names == ("of", "ema")
    assemble.write(path, ema)
    assert import_model(path, size=SIZE).card.class_names == ("of", "ema")
    wrapped = assemble.module("models.common AutoShape", {"model": ema})
    parallel = "torch.nn.parallel.data_parallel DataParallel"
    assemble.write(path, {"model": assemble.module(parallel, {"module": wrapped})})
    assert import_model(path, size=SIZE).card.class_names == ("of", "ema")
    assert "no network under 'ema' or 'model'; it has 'epoch', 'x'" in refused(
        tmp_path, {"epoch": 1, "x": None}
    )
    assert "expected a network or a dictionary" in refused(tmp_path, [1])


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("models.yolo Segment", "this network segments"),
        ("ultralytics.nn.modules.head Segment", "this network segments"),
        ("models.common Classify", "classifies whole images"),
        ("ultralytics.nn.modules.head Pose", "finds key points"),
        ("ultralytics.nn.modules.head OBB", "finds rotated boxes"),
        ("ultralytics.nn.modules.head RTDETRDecoder", "is an RT-DETR"),
        ("ultralytics.nn.modules.head v10Detect", "suppresses overlaps itself"),
        ("models.common Conv", "the last layer should be a Detect"),
    ],
)
def test_other_tasks(tmp_path: Path, head: str, reason: str) -> None:
    text = refused(tmp_path, {"model": assemble.network(head=assemble.module(head))})
    assert reason in text
    assert head.replace(" ", ".") in text


def test_blocks_that_are_not_known(tmp_path: Path) -> None:
    def changed(name: str, value: Any, index: str = "1") -> str:
        network = assemble.network()
        layers(network)[index].state[name] = value
        return refused(tmp_path, {"model": network})

    assert "model.model.1 (models.common.Conv): it has 'gate', which is not known" in changed(
        "gate", 1
    )
    hooks = {1: "x"}
    assert "was changed by a hook" in changed("_forward_hooks", hooks)
    assert "was changed by a hook" in changed("forward", "x")
    assert "it takes layer 2, which does not come before it" in changed("f", 2)
    assert "it takes layer -2" in changed("f", -2)
    assert "does not say which layers" in changed("f", "x")
    assert "it takes 2 inputs" in changed("f", [0, 0])
    assert "its _modules is no table" in changed("_modules", [])
    assert "its nc must be 1 to 65536, got 0" in changed("nc", 0, "3")
    assert "its nc must be 1 to 65536, got True" in changed("nc", True, "3")
    assert "its strides are [4.5, 8.0]" in changed(
        "stride", np.array([4.5, 8], np.float32), index="3"
    )
    assert "it does not say the strides" in changed("stride", [4, 8], index="3")
    assert "should make 16 channels, not 14" in changed("nc", 3, "3")
    assert "its anchors are of shape" in changed("na", 3, "3")
    network = assemble.network([assemble.module("models.common TransformerBlock", f=-1)] * 3)
    assert "(models.common.TransformerBlock): this block is not known" in refused(
        tmp_path, {"model": network}
    )
    extra = assemble.conv(4, 4, 3, 2, f=-1)
    extra.state["_modules"]["gate"] = assemble.conv(4, 4)
    network = assemble.network()
    layers(network)["1"] = extra
    assert "it has 'gate', which is not known" in refused(tmp_path, {"model": network})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stride": (0, 0)}, "its stride must be 1 to 64"),
        ({"stride": (1.0, 1.0)}, "its stride must be 1 to 64"),
        ({"padding": (-1, 0)}, "its padding must be 0 to 512"),
        ({"padding": "same"}, "its padding must be 0 to 512"),
        ({"padding_mode": "reflect"}, "pads with zeros"),
        ({"groups": 3}, "do not fit the 4 channels"),
        ({"dilation": (60, 60)}, "does not fit into"),
        ({"weight": np.ones((4, 5, 3, 3), np.float32)}, "do not fit the 4 channels"),
        ({"weight": np.ones((4, 4), np.float32)}, "its weight is of shape [4, 4]"),
        ({"weight": np.full((4, 4, 3, 3), np.nan, np.float32)}, "values that are no numbers"),
        ({"bias": np.ones(3, np.float32)}, "its bias has 3 values instead of 4"),
        ({"extra": np.ones(3, np.float32)}, "it has 'extra', which is not known"),
    ],
)
def test_convolutions_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    network = assemble.network()
    layers(network)["1"].state["_modules"]["conv"] = assemble.conv2d(4, 4, 3, 2, **changes)
    text = refused(tmp_path, {"model": network})
    assert reason in text


def test_sizes_that_do_not_fit(tmp_path: Path) -> None:
    root = {"model": assemble.network()}
    assert "multiples of 8, the network's largest stride, got 36x32" in refused(
        tmp_path, root, size=(36, 32)
    )
    head = assemble.detect(f=[0, 2])
    text = refused(tmp_path, {"model": assemble.network(head=head)})
    assert "a level of 16x16 cells does not fit 32x32 pixels" in text


def test_what_is_not_a_module_where_one_should_be(tmp_path: Path) -> None:
    network = assemble.network()
    layers(network)["1"] = "text"
    assert "its child '1' is no module" in refused(tmp_path, {"model": network})
    network = assemble.network()
    network.state["_modules"]["model"] = assemble.conv(3, 4)
    assert "expected a Sequential" in refused(tmp_path, {"model": network})
    # Pickles of other things that come with checkpoints are understood.
    scalar = (
        *(glob("numpy.core.multiarray scalar"), b"(", glob("numpy dtype"), b"(X\x02\x00\x00\x00f8"),
        *(b"K\x00K\x01tR(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"),
    )
    code = b"".join(part if isinstance(part, bytes) else bytes([part]) for part in scalar)
    code += glob("_codecs encode") + b"(" + Writer().code("\0" * 8) + Writer().code("latin1")
    root = {"model": assemble.network(), "best_fitness": Raw(code + b"tRtR")}
    root["path"] = Raw(glob("pathlib PosixPath") + b"(" + Writer().code("runs") + b"tR")
    assert import_model(assemble.write(tmp_path / "net.pt", root), size=SIZE)


def test_recognition(tmp_path: Path) -> None:
    path = assemble.write(tmp_path / "weights.bin", {"model": assemble.network()})
    request = make_request(path)
    assert choose(request).name == "pytorch"
    (tmp_path / "x.pt").write_bytes(b"hello")
    recognition = choose(request, "pytorch").recognise(make_request(tmp_path / "x.pt"))
    assert recognition is not None
    assert recognition.confidence == Confidence.POSSIBLE
    assert choose(request, "pytorch").recognise(make_request(__file__)) is None
    with pytest.raises(ImportFailedError, match="unknown option 'scale'"):
        import_model(path, options={"scale": 1})
