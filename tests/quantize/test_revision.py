"""What was measured is stale when the code that decides what a variant is was changed."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import boxwright
from boxwright._version import __version__
from boxwright.quantize import revision as module
from boxwright.quantize.revision import DECISIVE, revision, revision_of

# What they import and a variant does not follow from.
_INDIFFERENT = {
    # Nouns and messages.
    *("boxwright._version", "boxwright.card", "boxwright.errors", "boxwright.model"),
    # How files, images and other packages are had. Images are in the key by their content.
    *("boxwright.extras", "boxwright.files", "boxwright.images", "boxwright.metadata"),
    "boxwright.external_data",
    "boxwright.evaluate.npz",
    *("boxwright.parallel", "boxwright.progress", "boxwright.values", "boxwright.locks"),
    # What runs float graphs; its version is in the key of every measurement.
    *("boxwright.backends", "boxwright.backends.base", "boxwright.backends.comparison"),
    *("boxwright.backends.onnxruntime", "boxwright.backends.onnxruntime.lowering"),
    "boxwright.backends.onnxruntime.session",
    # Of the passes over a graph only batch normalisation is folded, which is decisive.
    *("boxwright.graph.diagnose", "boxwright.graph.targets", "boxwright.graph.external"),
    *("boxwright.graph.checks.quantized", "boxwright.graph.legalise.container"),
    *("boxwright.graph.legalise.operators", "boxwright.graph.legalise.quantisation"),
    *("boxwright.graph.legalise.resize_pad", "boxwright.graph.legalise.shapes"),
    "boxwright.graph.legalise.structure",
    # What is fine-tuned has the tuner's own key in its.
    "boxwright.quantize.finetune.tune",
    # Where boxes go in the original image.
    "boxwright.boxes",
}


def imported(name: str) -> Iterator[str]:
    """Modules of Boxwright that a module imports, at its top or inside of functions."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found = [f"{node.module}.{item.name}" for item in node.names]
            inner = [each for each in found if is_module(each)]
            yield from inner or [node.module]


def is_module(name: str) -> bool:
    if not name.startswith("boxwright"):
        return False
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("name", DECISIVE)
def test_what_a_decisive_module_imports_is_decisive_too_or_known_not_to_be(name: str) -> None:
    own = {each for each in imported(name) if each.startswith("boxwright")}
    assert own <= {*DECISIVE, *_INDIFFERENT}


@pytest.mark.parametrize("name", DECISIVE)
def test_a_change_of_one_module_is_another_revision(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = revision_of(DECISIVE)
    read = module.read_source

    def changed(wanted: str) -> str | None:
        text = read(wanted)
        return f"{text}\n# changed" if wanted == name and text is not None else text

    assert revision_of(DECISIVE) == before == revision()
    monkeypatch.setattr(module, "read_source", changed)
    assert revision_of(DECISIVE) != before


def test_without_sources_the_version_has_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert revision_of(["boxwright.no_such_module"]) == f"version {__version__}"
    assert revision_of(["itertools"]) == f"version {__version__}"
    monkeypatch.setattr(module, "read_source", lambda name: None)
    assert revision_of(DECISIVE) == f"version {__version__}"


def test_it_is_the_same_where_the_package_is_imported_from_a_zip_file(tmp_path: Path) -> None:
    folder = Path(boxwright.__file__).parent
    path = tmp_path / "package.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*.py"):
            archive.write(file, file.relative_to(folder.parent))
    code = "import boxwright.quantize.revision as m; print(m.__file__, m.revision())"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    ).stdout.split()
    assert str(path) in found[0]
    assert found[1] == revision()
