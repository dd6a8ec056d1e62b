"""Every module imports where no optional package is installed."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import boxwright

# Packages that an extra may bring; none may be needed to import a module.
OPTIONAL = (
    "yaml",
    "faster_coco_eval",
    "pycocotools",
    "torch",
    "tensorflow",
    "tensorrt",
    "matplotlib",
    "openvino",
    "onnxslim",
    "av",
    "ray",
    "fastapi",
    "hypothesis",
    "pytest",
)

_IMPORT_ALL = f"""
import importlib, sys
for name in {OPTIONAL!r}:
    sys.modules[name] = None  # as if it were not installed
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def _modules() -> list[str]:
    found = pkgutil.walk_packages(boxwright.__path__, "boxwright.")
    return sorted(module.name for module in found if module.name != "boxwright.__main__")


def test_every_module_imports_without_the_extras() -> None:
    modules = _modules()
    assert "boxwright.cli.detect" in modules
    assert "boxwright.backends.registry" in modules
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _IMPORT_ALL, *modules],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_module_says_what_it_is() -> None:
    silent = [name for name in _modules() if not importlib.import_module(name).__doc__]
    assert silent == []
