from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from boxwright.errors import ImportFailedError
from boxwright.importers.mxnet.settings import Settings
from boxwright.importers.mxnet.symbol import looks_like_symbol, read_symbol
from tests.importers.mxnet.files import node


def write(folder: Path, nodes: list[Any], **more: Any) -> Path:
    path = folder / "net-symbol.json"
    path.write_text(json.dumps({"nodes": nodes, **more}))
    return path


def test_the_three_names_of_settings(tmp_path: Path) -> None:
    nodes = [node("null", "data")]
    for key in ("param", "attr", "attrs"):
        nodes.append({"op": "relu", "name": key, "inputs": [[0, 0]], key: {"slope": "0.5"}})
    symbol = read_symbol(write(tmp_path, nodes))
    assert looks_like_symbol(symbol.path)
    assert [n.settings.number("slope") for n in symbol.nodes[1:]] == [0.5] * 3
    assert [entry.node for entry in symbol.heads] == [3]
    assert symbol.version is None


def test_only_what_is_needed(tmp_path: Path) -> None:
    nodes = [node("null", "data"), node("relu", "a", [[0, 0, 0]]), node("relu", "b", [[0, 0, 0]])]
    symbol = read_symbol(write(tmp_path, nodes, heads=[[1, 0, 0]]))
    assert [n.name for n in symbol.needed()] == ["data", "a"]


REFUSED: dict[str, tuple[list[Any], str]] = {
    "a circle": ([node("relu", "a", [[1, 0, 0]]), node("relu", "b", [[0, 0, 0]])], "in a circle"),
    "itself": ([node("relu", "a", [[0, 0, 0]])], "in a circle"),
    "beyond the end": ([node("null", "a"), node("relu", "b", [[7, 0, 0]])], "node 7"),
    "a negative node": ([node("null", "a"), node("relu", "b", [[-1, 0, 0]])], r"\[node, output\]"),
    "no numbers": (
        [node("null", "a"), {"op": "relu", "name": "b", "inputs": [["a", 0]]}],
        r"\[node, output\]",
    ),
    "truth for a number": ([node("null", "a"), node("relu", "b", [[False, 0]])], r"\[node, output"),
    "no object": ([7], "node 0 must be an object"),
    "no name": ([{"op": "null"}], "node 0: name must be text"),
    "a name of a megabyte": ([node("null", "a" * (1 << 20))], "name must be text"),
    "inputs of another kind": ([{"op": "null", "name": "a", "inputs": "x"}], "must be a list"),
    "a graph inside": ([{**node("_foreach", "a"), "subgraphs": [{}]}], "a graph of its own"),
    "no nodes": ([], "no list of nodes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    nodes, message = REFUSED[case]
    with pytest.raises(ImportFailedError, match=message) as error:
        read_symbol(write(tmp_path, nodes))
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"nodes": ' + "[" * 100_000, "not valid JSON"),
        ("[]", "a symbol is a JSON object"),
        ('{"nodes": [{"op": "null", "name": "a"}], "heads": []}', "heads must be"),
        (
            '{"nodes": [{"op": "null", "name": "a"}], "heads": [[5, 0, 0]]}',
            "heads refers to node 5",
        ),
    ],
)
def test_not_a_symbol(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "net-symbol.json"
    path.write_text(text)
    with pytest.raises(ImportFailedError, match=message):
        read_symbol(path)


def test_too_many_nodes(tmp_path: Path) -> None:
    path = tmp_path / "net-symbol.json"
    path.write_text('{"nodes": [' + ",".join(["0"] * 100_001) + "]}")
    with pytest.raises(ImportFailedError, match="100001 nodes, at most 100000"):
        read_symbol(path)


def settings(**texts: str) -> Settings:
    return Settings("here", texts)


def test_settings() -> None:
    read = settings(
        a="(1, 2L)", b="[3,]", c="4", d="None", e="True", f="(1, None)", g="0.5", h="()", i="(-1,)"
    )
    assert read.wholes("a") == read.pair("a") == (1, 2)
    assert read.wholes("b") == (3,)
    assert read.wholes("c") == (4,)
    assert read.whole("d", 7) == 7
    assert read.truth("e") is True
    assert read.optional_wholes("f") == (1, None)
    assert read.number("g") == 0.5
    assert read.pair("h", 1) == (1, 1)
    assert read.wholes("i") == (-1,)
    assert read.whole("absent", 3) == 3


@pytest.mark.parametrize(
    ("method", "text", "message"),
    [
        ("whole", "1.5", "x must be whole numbers, got '1.5'"),
        ("whole", "9" * 30, "x must be whole numbers"),
        ("whole", "99999999999", "at most"),
        ("number", "nan", "a finite number"),
        ("number", "inf", "a finite number"),
        ("number", "two", "a finite number"),
        ("truth", "yes", "True or False"),
        ("pair", "(1, 2, 3)", r"two whole numbers \(height, width\)"),
        ("pair", "None", "x is missing"),
    ],
)
def test_wrong_settings(method: str, text: str, message: str) -> None:
    with pytest.raises(ImportFailedError, match=f"here: .*{message}"):
        getattr(settings(x=text), method)("x")
