"""MXNet's ``symbol.json``: the operators of a network and how they are connected.

The text is that of nnvm's graph (``src/pass/saveload_json.cc``). What changed over the
years is evened out here, as MXNet does when it loads an old file
(``src/nnvm/legacy_json_util.cc``): an operator's settings are called ``param``, ``attr``
or ``attrs``, and before 0.9 a batch normalisation did not list its moving statistics.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxwright.errors import ImportFailedError
from boxwright.files import human_size, open_regular
from boxwright.importers.mxnet.settings import Settings

_MAX_BYTES = 64 << 20
_MAX_NODES = 100_000
_MAX_INPUTS = 4096
_MAX_NAME = 1024
_VARIABLE = "null"


@dataclass(frozen=True)
class Entry:
    """One output of a node: the node's index, and which of its outputs."""

    node: int
    output: int


@dataclass(frozen=True, eq=False)  # a node is itself, whatever it says
class Node:
    """An operator, or a variable.

    Attributes:
        index: Its place in the file.
        operator: MXNet's name of the operator; ``null`` for a variable.
        name: Its name; tensors of ours bear it.
        settings: What the file says about it.
        inputs: Where its inputs come from, all of them before it.
    """

    index: int
    operator: str
    name: str
    settings: Settings
    inputs: tuple[Entry, ...]

    @property
    def is_variable(self) -> bool:
        """Whether it is an input of the network or one of its weights."""
        return self.operator == _VARIABLE

    def __str__(self) -> str:
        return f"node {self.index} ({self.operator} {self.name!r})"


@dataclass(frozen=True)
class Symbol:
    """A network as its file describes it.

    Attributes:
        path: The file.
        nodes: In an order in which they can be computed.
        heads: The outputs.
        version: MXNet's version as a number, such as 10901 for 1.9.1; ``None`` where the file
            does not say.
    """

    path: Path
    nodes: tuple[Node, ...]
    heads: tuple[Entry, ...]
    version: int | None = None

    def error(self, reason: str) -> ImportFailedError:
        """The error to raise, with the file."""
        return ImportFailedError(f"{self.path}: {reason}")

    def needed(self, heads: tuple[Entry, ...] | None = None) -> list[Node]:
        """The nodes that some outputs (by default all) are computed from, in order."""
        wanted = {entry.node for entry in (self.heads if heads is None else heads)}
        # Inputs come before the nodes that read them, so one pass backwards finds all.
        for node in reversed(self.nodes):
            if node.index in wanted:
                wanted.update(entry.node for entry in node.inputs)
        return [node for node in self.nodes if node.index in wanted]


def looks_like_symbol(path: Path) -> bool:
    """Whether a file may be a symbol: JSON with a list of nodes near its beginning."""
    try:
        with open_regular(path) as stream:
            start = stream.read(4096)
    except (OSError, ValueError):
        return False
    return start.lstrip()[:1] == b"{" and b'"nodes"' in start and b'"op"' in start


def read_symbol(path: Path) -> Symbol:
    """Read and check a symbol.

    Raises:
        ImportFailedError: The file is missing, too large, not a symbol, or a node refers to
            one that does not exist or does not come before it.
    """
    content = _read_json(path)
    listed = content.get("nodes")
    if not isinstance(listed, list) or not listed:
        raise ImportFailedError(f"{path}: it has no list of nodes, so it is not MXNet's symbol")
    if len(listed) > _MAX_NODES:
        raise ImportFailedError(f"{path}: it has {len(listed)} nodes, at most {_MAX_NODES}")
    nodes: list[Node] = []
    for index, item in enumerate(listed):
        nodes.append(_read_node(path, index, item))
    heads = content.get("heads", [[len(nodes) - 1, 0]])
    if not isinstance(heads, list) or not 0 < len(heads) <= _MAX_INPUTS:
        raise ImportFailedError(f"{path}: heads must be a list of outputs, got {_brief(heads)}")
    outputs = tuple(_read_entry(path, "heads", item, len(nodes)) for item in heads)
    return Symbol(path, tuple(nodes), outputs, _version(content))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path) as stream:
            data = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ImportFailedError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > _MAX_BYTES:
        raise ImportFailedError(f"{path}: a symbol may have {human_size(_MAX_BYTES)}, it has more")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImportFailedError(f"{path}: it is not valid JSON: {reason}") from error
    if not isinstance(content, dict):
        raise ImportFailedError(f"{path}: a symbol is a JSON object, got {_brief(content)}")
    return content


def _read_node(path: Path, index: int, item: object) -> Node:
    where = f"node {index}"
    if not isinstance(item, dict):
        raise ImportFailedError(f"{path}: {where} must be an object, got {_brief(item)}")
    operator, name = item.get("op"), item.get("name")
    for key, value in (("op", operator), ("name", name)):
        if not isinstance(value, str) or not 0 < len(value) <= _MAX_NAME:
            raise ImportFailedError(f"{path}: {where}: {key} must be text, got {_brief(value)}")
    if item.get("subgraphs"):
        raise ImportFailedError(
            f"{path}: {where} ({operator} {name!r}) holds a graph of its own (a loop, a "
            "condition or a fused part), which cannot be imported; save the plain network"
        )
    texts: dict[str, str] = {}
    for key in ("param", "attr", "attrs"):
        values = item.get(key, {})
        if not isinstance(values, dict):
            raise ImportFailedError(f"{path}: {where}: {key} must be an object")
        texts.update((k, v) for k, v in values.items() if isinstance(v, str))
    inputs = item.get("inputs", [])
    if not isinstance(inputs, list) or len(inputs) > _MAX_INPUTS:
        raise ImportFailedError(f"{path}: {where}: inputs must be a list, got {_brief(inputs)}")
    settings = Settings(f"{path}: {where} ({operator} {_printable(str(name))!r})", texts)
    entries = tuple(_read_entry(path, where, entry, index) for entry in inputs)
    return Node(index, str(operator), _printable(str(name)), settings, entries)


def _read_entry(path: Path, where: str, item: object, limit: int) -> Entry:
    """``[node, output, version]``; the version, of a tensor written in place, is always 0."""
    numbers: list[Any] = item if isinstance(item, list) else [item, 0]
    if not 1 <= len(numbers) <= 3 or not all(type(n) is int and n >= 0 for n in numbers):
        raise ImportFailedError(
            f"{path}: {where} must refer to an output as [node, output], got {_brief(item)}"
        )
    node, output = numbers[0], numbers[1] if len(numbers) > 1 else 0
    if node >= limit:
        raise ImportFailedError(
            f"{path}: {where} refers to node {node}, and only the {limit} before it can be read; "
            "the nodes are in a circle, or some are missing"
        )
    return Entry(node, output)


def _version(content: dict[str, Any]) -> int | None:
    attributes = content.get("attrs")
    stated = attributes.get("mxnet_version") if isinstance(attributes, dict) else None
    if isinstance(stated, list) and len(stated) == 2 and type(stated[1]) is int:
        return stated[1]
    return None


def _printable(name: str) -> str:
    """A name that messages and ONNX can hold: JSON may carry halves of characters."""
    return name.encode("utf-8", "backslashreplace").decode()


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
