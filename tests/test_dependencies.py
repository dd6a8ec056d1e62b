"""Which parts of the package may know which others."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import boxwright

_ROOT = Path(boxwright.__file__).parent

# Part -> parts that it must not import, at the top of a module or inside of a function.
_FORBIDDEN = {
    "graph": ("backends", "importers", "cli", "evaluate"),
    "backends": ("importers", "cli", "evaluate"),
    "importers": ("backends", "cli", "evaluate"),
}

# It runs what was imported beside the framework that it came from.
_EXEMPT = {"importers/mxnet/oracle.py": "backends"}


def _imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


@pytest.mark.parametrize("part", _FORBIDDEN)
def test_parts_do_not_know_each_other(part: str) -> None:
    files = sorted((_ROOT / part).rglob("*.py"))
    assert len(files) > 5
    for path in files:
        for module in _imported(path):
            other = module.split(".")[1] if module.startswith("boxwright.") else ""
            if _EXEMPT.get(path.relative_to(_ROOT).as_posix()) != other:
                assert other not in _FORBIDDEN[part], f"{path.name} imports {module}"


def test_one_place_of_the_backends_uses_the_graph() -> None:
    """What a backend needs of a graph is its own business; it is kept where it is found."""
    using = {
        path.relative_to(_ROOT).as_posix()
        for path in (_ROOT / "backends").rglob("*.py")
        if any(module.startswith("boxwright.graph") for module in _imported(path))
    }
    assert using == {"backends/tensorrt/typed.py"}
