"""Files that an import may read without being told of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from boxwright.errors import InputError

# What describes a network: Darknet, Caffe, TensorFlow, MXNet.
_NETWORKS = (".cfg", ".prototxt", ".prototxt.txt", ".pbtxt", "-symbol.json")
_NAMES = (".names", ".data")
_EPOCH = re.compile(r"-\d{4}$")


def companions(trained: Path, named: Mapping[str, Path]) -> list[Path]:
    """Everything that the import of a file of weights may look for by itself, in order.

    One that turns out not to be read costs an import that was not needed when it changes; one
    that is missed would be an engine of another network than what lies there now.

    Args:
        trained: The weights.
        named: What was given beside them, as ``cfg``, ``names`` and ``data``. Then no other
            file is looked for in its place.
    """
    found = {*_described(trained, named), *_parts(trained)}
    if "data" in named and "names" not in named:
        found.update(_mentioned(Path(named["data"])))
    return sorted(found)


def _mentioned(data: Path) -> list[Path]:
    from boxwright.importers.darknet import names_of_data

    try:
        return [names_of_data(data)]
    except InputError:
        return []  # which the import says better


def _described(trained: Path, named: Collection[str]) -> Iterator[Path]:
    """Descriptions in the same folder."""
    suffixes = (() if "cfg" in named else _NETWORKS) + (() if "names" in named else _NAMES)
    stems = {trained.stem, _EPOCH.sub("", trained.stem)}
    wanted = set() if "cfg" in named else {f"{stem}.json".lower() for stem in stems}
    try:
        there = [path for path in trained.parent.iterdir() if path != trained and path.is_file()]
    except OSError:
        return
    for path in there:
        name = path.name.lower()
        if name.endswith(suffixes) or name in wanted:
            yield path


def _parts(trained: Path) -> Iterator[Path]:
    """Files that the weights themselves are in, beside the one that was named."""
    if trained.suffix.lower() == ".onnx":
        yield from _external_data(trained)
    elif trained.suffix.lower() == ".json":
        yield from trained.parent.glob("*.params")
    elif trained.name == "saved_model.pb":
        yield from (path for path in trained.parent.glob("variables/*") if path.is_file())


def _external_data(trained: Path) -> list[Path]:
    from boxwright.graph.doctor import read_graph
    from boxwright.graph.external import locations

    try:
        found = [Path(location) for location in locations(read_graph(trained))]
    except InputError:
        return []  # which the import says better
    # The import reads none outside of the folder.
    within = [path for path in found if not path.is_absolute() and ".." not in path.parts]
    return [trained.parent / path for path in within]
