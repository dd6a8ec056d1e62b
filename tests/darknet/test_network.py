from __future__ import annotations

import re
from pathlib import Path

import pytest

from boxwright.darknet.cfg import parse_cfg
from boxwright.darknet.layers import Convolutional, Head, Shape
from boxwright.darknet.network import build_network, read_network
from boxwright.errors import CfgError, UnsupportedError
from tests.darknet.cfgs import NET, cfg_text, network


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("[convolutional]\nfilters=5\nsize=3\npad=1\n", (5, 8, 10)),
        ("[convolutional]\nfilters=5\nsize=3\n", (5, 6, 8)),
        ("[convolutional]\nfilters=5\nsize=3\nstride=2\npad=1\n", (5, 4, 5)),
        ("[conv]\nfilters=5\nsize=3\nstride_x=2\npad=1\n", (5, 8, 5)),
        ("[convolutional]\nfilters=5\nsize=3\ndilation=2\npad=1\n", (5, 8, 10)),
        ("[convolutional]\nfilters=5\nsize=3\nstride=2\npad=1\nantialiasing=1\n", (5, 4, 5)),
        ("[convolutional]\nfilters=5\nsize=3\nstride=2\npad=1\nantialiasing=2\n", (5, 4, 5)),
        ("[maxpool]\nsize=2\nstride=2\n", (3, 4, 5)),
        ("[maxpool]\nsize=2\nstride=1\n", (3, 8, 10)),
        ("[maxpool]\nsize=3\nstride=2\n", (3, 4, 5)),
        ("[maxpool]\nstride=2\n", (3, 4, 5)),  # size is the stride when not given
        ("[maxpool]\nmaxpool_depth=1\nout_channels=2\n", (2, 8, 10)),
        ("[local_avgpool]\nsize=2\nstride=2\n", (3, 4, 5)),
        ("[avgpool]\n", (3, 1, 1)),
        ("[upsample]\n", (3, 16, 20)),
        ("[upsample]\nstride=-2\n", (3, 4, 5)),
        ("[reorg3d]\nstride=2\n", (12, 4, 5)),
        ("[convolutional]\nfilters=4\n[reorg]\nstride=2\n", (16, 4, 5)),
        ("[convolutional]\nfilters=4\n[reorg3d]\nstride=2\nreverse=1\n", (1, 16, 20)),
        ("[convolutional]\nfilters=4\n[route]\nlayers=-1\ngroups=2\ngroup_id=1\n", (2, 8, 10)),
        ("[convolutional]\nfilters=4\n[convolutional]\n[route]\nlayers=-1,0\n", (5, 8, 10)),
        ("[convolutional]\nfilters=4\n[avgpool]\n[scale_channels]\nfrom=0\n", (4, 8, 10)),
        ("[convolutional]\nfilters=4\n[conv]\nfilters=4\n[sam]\nfrom=0\n", (4, 8, 10)),
        ("[connected]\noutput=7\n", (7, 1, 1)),
        ("[local]\nfilters=2\nsize=3\npad=1\n", (2, 8, 10)),
        ("[local]\nfilters=2\nsize=3\n", (2, 6, 8)),
        ("[crop]\ncrop_height=4\ncrop_width=6\n", (3, 4, 6)),
        ("[dropout]\n[batchnorm]\n[activation]\nactivation=mish\n", (3, 8, 10)),
    ],
)
def test_shapes(body: str, expected: tuple[int, int, int]) -> None:
    layers = network(body, width=10).layers
    assert layers[-3].shape == Shape(*expected)


# Each is a line of a cfg that must be refused, the line it stands on and part of the reason.
# [net] takes the first four lines.
REFUSED = [
    ("[convolutional]\nxnor=1\n", 6, "xnor=1"),
    ("[convolutional]\nbinary=1\n", 6, "binary=1"),
    ("[convolutional]\nbin_output=1\n", 6, "bin_output=1"),
    ("[convolutional]\ncoordconv=1\n", 6, "coordconv=1"),
    ("[convolutional]\nsize=3\ndilation=2\n", 7, "dilation"),
    ("[convolutional]\nactivation=wobble\n", 6, "unknown activation 'wobble'"),
    ("[crnn]\noutput=3\n", 5, "recurrent"),
    ("[lstm]\noutput=3\n", 5, "recurrent"),
    ("[softmax]\n", 5, "classifier"),
    ("[frobnicate]\n", 5, "unknown section"),
    ("[region]\nclasses=1\nnum=1\ncoords=3\n", 8, "coords=3"),
]

WRONG = [
    ("[convolutional]\nfilters=0\n", 6, "filters= must be 1 to"),
    ("[convolutional]\nfilters=9999999\n", 6, "filters= must be 1 to"),
    ("[convolutional]\ngroups=2\n", 6, "groups=2 must divide"),
    ("[convolutional]\nsize=99\n", 5, "its output would be 1x-90x-90"),
    ("[convolutional]\nstride=0\n", 6, "stride= must be 1 to"),
    ("[convolutional]\nstride=many\n", 6, "stride= must be a number"),
    ("[convolutional]\nshare_index=-1\n", 6, "is layer -1"),
    ("[convolutional]\n[convolutional]\nshare_index=0\nfilters=2\n", 7, "do not fit"),
    ("[route]\n", 5, "layers= is missing"),
    ("[route]\nlayers=\n", 6, "names no layer"),
    ("[route]\nlayers=-2\n", 6, "layers=-2 is layer -2"),
    ("[route]\nlayers=7\n", 6, "layers=7 is layer 7"),
    ("[convolutional]\n[route]\nlayers=0\ngroups=2\n", 6, "groups=2 must divide"),
    ("[convolutional]\n[route]\nlayers=0\ngroup_id=1\n", 8, "group_id=1 must be below"),
    ("[convolutional]\n[maxpool]\nstride=2\n[route]\nlayers=0,1\n", 9, "must agree"),
    ("[convolutional]\n[maxpool]\nstride=2\n[shortcut]\nfrom=0\n", 9, "must agree"),
    ("[convolutional]\n[conv]\n[shortcut]\nfrom=0\nweights_type=x\n", 7, "weights_type must be"),
    ("[convolutional]\n[sam]\nfrom=-2\n", 7, "from=-2 is layer -1"),
    ("[convolutional]\n[maxpool]\nstride=2\n[sam]\nfrom=0\n", 8, "its input is 1x4x4"),
    ("[upsample]\nstride=0\n", 6, "stride must not be 0"),
    ("[upsample]\nstride=9999\n", 5, "its output would be"),
    ("[reorg]\nstride=2\n", 6, "does not divide"),
    ("[maxpool]\nsize=2\npadding=9\n", 7, "padding=9 must be below"),
    ("[crop]\ncrop_height=9\ncrop_width=2\n", 5, "cannot crop 3x9x2 out of 3x8x8"),
    ("[local]\npad=1\nsize=5\n", 6, "pad=1 is only defined"),
]


@pytest.mark.parametrize(("body", "line", "reason"), REFUSED + WRONG)
def test_refusals_name_file_line_section_and_reason(body: str, line: int, reason: str) -> None:
    with pytest.raises(CfgError, match=re.escape(reason)) as error:
        network(body)
    assert (error.value.path, error.value.line) == ("test.cfg", line)
    assert f"[{error.value.section}]" in body
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: str(case[2]))
def test_what_darknet_would_run_is_unsupported_and_not_wrong(case: tuple[str, int, str]) -> None:
    with pytest.raises(UnsupportedError):
        network(case[0])


def test_a_mask_beyond_the_anchors_is_refused() -> None:
    text = cfg_text("").replace("mask=0,1", "mask=0,2")
    with pytest.raises(UnsupportedError, match="mask=2 must be below num=2"):
        build_network(parse_cfg(text))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("filters=14", "filters=15", "has 15 channels"),
        ("mask=0,1", "mask=", "names no anchor"),
        ("anchors=4,6, 10,8", "anchors=4,6, 1x,8", "anchors= must be a number"),
        ("classes=2", "classes=2\nnms_kind=odd", "nms_kind must be one of"),
    ],
)
def test_wrong_heads(old: str, new: str, reason: str) -> None:
    from boxwright.darknet.heads import read_nms

    with pytest.raises(CfgError, match=reason):
        read_nms(build_network(parse_cfg(cfg_text("").replace(old, new))).heads[-1].section)


def test_a_head_has_no_output_to_read() -> None:
    text = cfg_text("") + "[route]\nlayers=-1\n" + cfg_text("").split("channels=3\n")[1]
    with pytest.raises(UnsupportedError, match=r"reads layer 1, \[yolo\]"):
        build_network(parse_cfg(text))


def test_heads_must_agree_on_their_classes() -> None:
    second = cfg_text("").split("channels=3\n")[1].replace("classes=2", "classes=1")
    text = cfg_text("") + "[route]\nlayers=0\n" + second.replace("filters=14", "filters=12")
    with pytest.raises(UnsupportedError, match="one class list"):
        build_network(parse_cfg(text))


def test_a_classifier_is_no_detector() -> None:
    with pytest.raises(UnsupportedError, match="no detection head"):
        build_network(parse_cfg(NET.format(width=8, height=8, channels=3) + "[convolutional]\n"))


def test_anchors_not_given_are_half_a_unit() -> None:
    text = cfg_text("").replace("anchors=4,6, 10,8", "anchors=4,6")
    assert build_network(parse_cfg(text)).heads[0].anchors == ((4, 6), (0.5, 0.5))


def test_size_can_be_given_and_must_be_somewhere(tmp_path: Path) -> None:
    path = tmp_path / "a.cfg"
    path.write_text(cfg_text("").replace("width=8\n", ""))
    with pytest.raises(CfgError, match="width= is missing"):
        read_network(path)
    read = read_network(path, size=(4, 6))
    assert read.shape == Shape(3, 4, 6)
    assert read.heads[0].rows == 4 * 6 * 2


def test_channels_are_grey_or_rgb() -> None:
    assert network("", channels=1).shape.channels == 1
    with pytest.raises(UnsupportedError, match="channels=4"):
        network("", channels=4)


def test_too_many_candidates_are_refused() -> None:
    with pytest.raises(CfgError, match="more than 4194304 candidates"):
        network("", width=8192, height=8192)


def test_sharing_reaches_through_to_the_first() -> None:
    body = (
        "[convolutional]\nfilters=3\n"
        "[convolutional]\nfilters=3\nshare_index=-1\n"
        "[convolutional]\nfilters=3\nshare_index=-1\n"
    )
    layers = network(body).layers
    assert [layer.share for layer in layers[:3] if isinstance(layer, Convolutional)] == [
        None,
        0,
        0,
    ]
    assert [layer.weight_count for layer in layers[:3]] == [12, 0, 0]


def write_tree(folder: Path, lines: list[str]) -> Path:
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "t.tree").write_text("\n".join(lines) + "\n")
    cfg = folder / "cfg" / "t.cfg"
    cfg.parent.mkdir(exist_ok=True)
    cfg.write_text(
        NET.format(width=4, height=4, channels=3)
        + "[convolutional]\nfilters=9\n[region]\nnum=1\nclasses=4\nsoftmax=1\ntree=data/t.tree\n"
    )
    return cfg


def test_class_trees_are_found_beside_the_cfg_folder(tmp_path: Path) -> None:
    cfg = write_tree(tmp_path, ["a -1", "b -1", "c 0", "d 0"])
    head = read_network(cfg).layers[-1]
    assert isinstance(head, Head)
    assert head.tree is not None
    assert head.tree.parents == (-1, -1, 0, 0)
    assert head.tree.group_sizes == (2, 2)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["a -1", "b -1", "c 0"], "holds 3 classes, classes=4"),
        (["a -1", "b -1", "c 3", "d 0"], "parent 3 must stand before"),
        (["a -1", "b", "c 0", "d 0"], "expected 'name parent'"),
        (["a -1", "b x", "c 0", "d 0"], "expected 'name parent'"),
    ],
)
def test_broken_class_trees(tmp_path: Path, lines: list[str], reason: str) -> None:
    with pytest.raises(CfgError, match=reason):
        read_network(write_tree(tmp_path, lines))


@pytest.mark.parametrize("entry", ["{far}", "../../../../far/t.tree"])
def test_a_class_tree_of_another_place(tmp_path: Path, entry: str) -> None:
    far = tmp_path / "far" / "t.tree"
    far.parent.mkdir()
    far.write_text("a -1\nb -1\nc 0\nd 0\n")
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    cfg = write_tree(deep, ["a -1"])
    cfg.write_text(cfg.read_text().replace("data/t.tree", entry.format(far=far)))
    with pytest.raises(CfgError, match=r"outside of the cfg's own folders.*put a copy beside"):
        read_network(cfg)
    (cfg.parent / "t.tree").write_bytes(far.read_bytes())
    assert isinstance(read_network(cfg).layers[-1], Head)


def test_a_missing_class_tree(tmp_path: Path) -> None:
    cfg = write_tree(tmp_path, [])
    (tmp_path / "data" / "t.tree").unlink()
    with pytest.raises(CfgError, match=r"'data/t.tree' is not there"):
        read_network(cfg)
