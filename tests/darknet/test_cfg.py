from __future__ import annotations

from pathlib import Path

import pytest

from boxwright.darknet.cfg import MAX_CFG_BYTES, parse_cfg, read_cfg
from boxwright.errors import CfgError, ImportFailedError


def options(line: str) -> dict[str, str]:
    sections = parse_cfg(f"[net]\n[convolutional]\n{line}\n")
    return {key: option.value for key, option in sections[1].options.items()}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("filters=32", {"filters": "32"}),
        ("  filters =\t32  ", {"filters": "32"}),
        ("filters=32 ### thirty-two", {"filters": "32"}),
        ("filters=32;old", {"filters": "32"}),
        ("# filters=32", {}),
        ("; filters=32", {}),
        ("anchors = 10, 14,  23,27", {"anchors": "10,14,23,27"}),
        ("filters=1\nfilters=2", {"filters": "1"}),  # the first wins, as in Darknet
        ("filters=\r", {"filters": ""}),
        ("a=b=c", {"a": "b=c"}),
    ],
)
def test_lines(line: str, expected: dict[str, str]) -> None:
    assert options(line) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [(".5", 0.5), ("2.f", 2.0), (".00001", 1e-5), ("1e-3", 1e-3), ("-7", -7.0), ("+.5F", 0.5)],
)
def test_numbers(text: str, value: float) -> None:
    section = parse_cfg(f"[net]\n[convolutional]\nscale={text}\n")[1]
    assert section.number("scale") == value


@pytest.mark.parametrize("text", ["", "abc", "1.2.3", "0x10", "nan", "inf", "1e999", "--1"])
def test_what_is_not_a_number(text: str) -> None:
    section = parse_cfg(f"[net]\n\n[convolutional]\nscale={text}\n", "a.cfg")[1]
    with pytest.raises(CfgError, match=r"^a\.cfg:4: \[convolutional\] scale= must be"):
        section.number("scale")


def test_integers_are_whole_and_bounded() -> None:
    section = parse_cfg("[net]\n[a]\nwhole=3.0\nhalf=1.5\nlarge=99\n")[1]
    assert section.integer("whole") == 3
    with pytest.raises(CfgError, match="half= must be a whole number"):
        section.integer("half")
    with pytest.raises(CfgError, match="large= must be 0 to 9, got 99"):
        section.integer("large", low=0, high=9)
    with pytest.raises(CfgError, match=r":2: \[a\] absent= is missing"):
        section.integer("absent")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "starts with a .net."),
        ("# only a comment", "starts with a .net."),
        ("[convolutional]\n[net]\n", "starts with a .net."),
        ("[net]\nwidth=1\n", "no layers"),
        ("width=1\n[net]\n", "x.cfg:1: an option stands before"),
        ("[net]\n[yolo\n", r"x.cfg:2: expected \[section\]"),
        ("[net]\n[]\n", r"x.cfg:2: expected \[section\]"),
        ("[net]\nwidth 3\n[yolo]", "x.cfg:2: expected key=value"),
        ("[net]\n=3\n[yolo]", "x.cfg:2: expected key=value"),
    ],
)
def test_what_is_not_a_cfg(text: str, message: str) -> None:
    with pytest.raises(CfgError, match=message):
        parse_cfg(text, "x.cfg")


def test_network_is_another_word_for_net_and_a_byte_order_mark_is_no_text() -> None:
    assert parse_cfg("\ufeff[Network]\n[yolo]\n")[0].name == "network"


def test_files_that_are_no_cfg_are_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(ImportFailedError, match="cannot read"):
        read_cfg(tmp_path / "absent.cfg")
    large = tmp_path / "large.cfg"
    with open(large, "wb") as stream:
        stream.truncate(MAX_CFG_BYTES + 1)
    with pytest.raises(ImportFailedError, match="is this the weights file"):
        read_cfg(large)
    binary = tmp_path / "binary.cfg"
    binary.write_bytes(b"[net]\n\0")
    with pytest.raises(ImportFailedError, match="binary data"):
        read_cfg(binary)
