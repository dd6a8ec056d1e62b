"""Boxwright takes a trained object detector and turns it into a proven engine.

The public names below are imported when first used, so that ``import boxwright`` costs
nothing and needs nothing but Python.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from boxwright._version import __version__ as __version__

if TYPE_CHECKING:
    from boxwright import errors as errors
    from boxwright.backends import build as build
    from boxwright.backends import load as load
    from boxwright.backends.base import Backend as Backend
    from boxwright.backends.base import Runner as Runner
    from boxwright.card import ModelCard as ModelCard
    from boxwright.detections import Detections as Detections
    from boxwright.detector import Detector as Detector
    from boxwright.engine import Engine as Engine
    from boxwright.errors import BoxwrightError as BoxwrightError
    from boxwright.importers import import_model as import_model
    from boxwright.importers.pytorch import import_torch as import_torch
    from boxwright.model import Model as Model

# Public name -> the module that defines it.
_HOMES = {
    "Backend": "boxwright.backends.base",
    "BoxwrightError": "boxwright.errors",
    "Detections": "boxwright.detections",
    "Detector": "boxwright.detector",
    "Engine": "boxwright.engine",
    "Model": "boxwright.model",
    "ModelCard": "boxwright.card",
    "Runner": "boxwright.backends.base",
    "build": "boxwright.backends",
    "errors": "boxwright.errors",
    "import_model": "boxwright.importers",
    "import_torch": "boxwright.importers.pytorch",
    "load": "boxwright.backends",
}

__all__ = [
    "Backend",
    "BoxwrightError",
    "Detections",
    "Detector",
    "Engine",
    "Model",
    "ModelCard",
    "Runner",
    "__version__",
    "build",
    "errors",
    "import_model",
    "import_torch",
    "load",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'boxwright' has no attribute {name!r}")
    module = importlib.import_module(home)
    value = module if name == home.rpartition(".")[2] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
