"""MXNet's networks, read without MXNet: ``symbol.json`` and ``.params``."""

from __future__ import annotations

from boxwright.importers.mxnet.importer import IMPORTER

__all__ = ["IMPORTER"]
