"""No importer knows another: what they share is beside them, not inside of one."""

from __future__ import annotations

import ast
from pathlib import Path

import boxwright.importers
from boxwright.importers import formats

_FOLDER = Path(boxwright.importers.__file__).parent
_PACKAGE = "boxwright.importers"


def _imported(path: Path) -> set[str]:
    """Full names of modules, and of what is taken out of them, anywhere in a file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def _strangers(path: Path, own: str | None) -> set[str]:
    """Formats other than `own` that a file imports from."""
    others = {name for name in formats() if name != own}
    return {
        name
        for name in others
        for module in _imported(path)
        if f"{module}.".startswith(f"{_PACKAGE}.{name}.")
    }


def test_formats_import_nothing_from_each_other() -> None:
    crossed = {}
    for path in sorted(_FOLDER.rglob("*.py")):
        part = path.relative_to(_FOLDER).parts[0].removesuffix(".py")
        strangers = _strangers(path, part if part in formats() else None)
        if strangers:
            crossed[str(path.relative_to(_FOLDER))] = sorted(strangers)
    assert crossed == {}
