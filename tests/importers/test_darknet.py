from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright.card import Nms
from boxwright.errors import CfgError, ImportFailedError
from boxwright.files import sha256_file
from boxwright.importers import formats, import_model
from boxwright.model import Model
from tests.darknet.cfgs import cfg_text, network, random_weights, write_weights


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights, cfg and names of one stem in one folder."""
    path = tmp_path / "net.weights"
    write_weights(path, random_weights(network("")))
    path.with_suffix(".cfg").write_text(cfg_text(""))
    path.with_suffix(".names").write_text("cat\nyellow dog\n\n")
    return path


def test_the_card(weights: Path) -> None:
    card = import_model(weights, licence="MIT").card
    assert card.name == card.family == "net"
    assert card.class_names == ("cat", "yellow dog")
    assert card.input_size == (8, 8)
    assert card.resize == "stretch"
    assert card.interpolation == "darknet"
    assert card.pad_value == 128
    assert card.nms == Nms(kind="iou", iou_threshold=0.45)
    assert card.licence == "MIT"
    assert card.source_format == "darknet"
    assert [(file.name, file.sha256) for file in card.source_files] == [
        (f"net{suffix}", sha256_file(weights.with_suffix(suffix)))
        for suffix in (".weights", ".cfg", ".names")
    ]
    (head,) = card.heads
    assert head.kind == "yolo"
    assert head.grid == (8, 8)
    assert head.rows == 128
    assert head.anchors == ((4.0, 6.0), (10.0, 8.0))
    assert card.transforms[0].effect["images_seen"] == 64


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_a_name_that_is_not_utf8(weights: Path, tmp_path: Path) -> None:
    odd = weights.with_name(os.fsdecode(b"n\xfet.weights"))
    weights.rename(odd)
    model = import_model(odd, cfg=weights.with_suffix(".cfg"))
    model.save(tmp_path / "net.onnx")
    assert Model.load(tmp_path / "net.onnx").card.name == "n\\xfet"


def test_the_model_survives_its_file(weights: Path, tmp_path: Path) -> None:
    model = import_model(weights)
    model.save(tmp_path / "net.onnx")
    again = Model.load(tmp_path / "net.onnx")
    assert again.card == model.card
    assert again.proto == model.proto
    assert again.to_bytes() == (tmp_path / "net.onnx").read_bytes()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("default", Nms("iou")),
        ("cornersnms", Nms("iou")),
        ("greedynms", Nms("diou", beta=0.6)),
        ("diounms\nbeta_nms=0.7", Nms("diou", beta=0.7)),
        ("greedynms\nbeta_nms=0.7", Nms("diou", beta=0.6)),  # its exponent is fixed
    ],
)
def test_suppression(weights: Path, kind: str, expected: Nms) -> None:
    weights.with_suffix(".cfg").write_text(cfg_text("") + f"nms_kind={kind}\n")
    assert import_model(weights).card.nms == expected


def test_letterbox_comes_from_the_cfg_or_the_caller(weights: Path) -> None:
    text = cfg_text("").replace("channels=3", "channels=3\nletter_box=1")
    weights.with_suffix(".cfg").write_text(text)
    assert import_model(weights).card.resize == "letterbox"
    assert import_model(weights, resize="stretch").card.resize == "stretch"
    assert import_model(weights, interpolation="opencv").card.interpolation == "opencv"


def test_size_may_differ_from_the_cfgs(weights: Path) -> None:
    card = import_model(weights, size=(4, 12)).card
    assert card.input_size == (4, 12)
    assert card.heads[0].rows == 4 * 12 * 2
    assert import_model(weights, size=16).card.input_size == (16, 16)
    number: Any = np.int64(16)
    assert import_model(weights, size=number).card.input_size == (16, 16)
    wrong: Any
    for wrong in (0, True, "416", 416.0, (416,), (416, 416, 3), (416, "416"), (), 20_000):
        with pytest.raises(ImportFailedError, match="size must be 1 to 16384"):
            import_model(weights, size=wrong)


def test_a_size_that_does_not_fit_is_named(weights: Path) -> None:
    body = "[maxpool]\nstride=2\n[upsample]\n[route]\nlayers=-1,0\n"
    text = cfg_text("[convolutional]\n" + body)
    weights.with_suffix(".cfg").write_text(text)
    with pytest.raises(CfgError, match=r"must agree \(with the size given, 7x8; most networks"):
        import_model(weights, size=(7, 8))


def test_where_the_cfg_is_looked_for(weights: Path) -> None:
    best = weights.with_name("net_best.weights")
    weights.rename(best)
    assert import_model(best).card.family == "net"
    odd = best.with_name("odd.weights")
    best.rename(odd)
    assert import_model(odd).card.family == "net"  # the only one there
    odd.with_name("other.cfg").write_text(cfg_text(""))
    with pytest.raises(ImportFailedError, match=r"no cfg given and no odd.cfg beside it"):
        import_model(odd)


def test_where_names_are_looked_for(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = weights.with_suffix(".names")
    assert import_model(weights, names=["a", "b"]).card.class_names == ("a", "b")
    assert import_model(weights, names=names).card.class_names[1] == "yellow dog"
    data = weights.with_name("obj.data")
    data.write_text("classes = 2\ntrain=x\nnames = data/net.names\n")
    assert import_model(weights, data=data).card.class_names[1] == "yellow dog"
    names.rename(names.with_name("any.names"))
    with caplog.at_level(logging.INFO, "boxwright"):
        assert import_model(weights).card.class_names[1] == "yellow dog"
    assert "taking class names from" in caplog.text
    names.with_name("any.names").unlink()
    assert import_model(weights).card.class_names == ("class_0", "class_1")
    assert "no class names for 2 classes" in caplog.text


def test_data_may_not_name_any_file_of_the_machine(weights: Path, tmp_path: Path) -> None:
    """What it names becomes class names on the card, which travels with the model."""
    secret = tmp_path / "secrets" / "passwd"
    secret.parent.mkdir()
    secret.write_text("root\nuser\n")
    archive = tmp_path / "a" / "b" / "c"
    archive.mkdir(parents=True)
    data = archive / "obj.data"
    for entry in (str(secret), "../../../secrets/passwd", "link"):
        data.write_text(f"classes = 2\nnames = {entry}\n")
        if entry == "link":
            (archive / "link").symlink_to(secret)
        with pytest.raises(ImportFailedError, match=r"obj.data: its names file .* --names"):
            import_model(weights, data=data)
    # Who means it says so.
    assert import_model(weights, data=data, names=secret).card.class_names == ("root", "user")
    # Paths of the machine that it was written on are common; what is meant lies beside.
    (archive / "obj.names").write_text("x\ny\n")
    data.write_text("names = /home/someone/darknet/data/obj.names\n")
    assert import_model(weights, data=data).card.class_names == ("x", "y")


def test_names_must_fit(weights: Path) -> None:
    with pytest.raises(ImportFailedError, match="expected 2 class names, as the cfg says, got 1"):
        import_model(weights, names=["a"])
    with pytest.raises(ImportFailedError, match="cannot read"):
        import_model(weights, names=weights.with_name("absent"))
    with pytest.raises(ImportFailedError, match="not a list of class names"):
        import_model(weights, names=weights)
    data = weights.with_name("obj.data")
    data.write_text("classes=2\n")
    with pytest.raises(ImportFailedError, match="names= is missing"):
        import_model(weights, data=data)


def test_a_names_file_of_another_length_is_not_guessed(weights: Path) -> None:
    weights.with_suffix(".names").write_text("a\nb\nc\n")
    assert import_model(weights).card.class_names == ("class_0", "class_1")


def test_formats(weights: Path, tmp_path: Path) -> None:
    assert "darknet" in formats()
    renamed = weights.rename(tmp_path / "renamed.bin")
    with pytest.raises(ImportFailedError, match="no known format"):
        import_model(renamed)
    cfg = tmp_path / "net.cfg"
    assert import_model(renamed, format="darknet", cfg=cfg).card.family == "net"
    assert import_model(renamed, cfg=cfg).card.family == "net"
    assert import_model(renamed.rename(tmp_path / "net.bin")).card.family == "net"
    renamed = tmp_path / "net.bin"
    with pytest.raises(ImportFailedError, match="unknown format 'caffee'"):
        import_model(renamed, format="caffee")
    with pytest.raises(ImportFailedError, match="does not exist"):
        import_model(tmp_path / "absent.weights")
    with pytest.raises(ImportFailedError, match="is a folder"):
        import_model(tmp_path)


def test_progress_is_told(weights: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    import_model(weights, progress=lambda *step: told.append(step))
    assert told == [("import", 1, 2), ("import", 2, 2)]
