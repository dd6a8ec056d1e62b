"""Importers: foreign weights in, a :class:`~boxwright.model.Model` out.

Each format is one module (or folder) with an :class:`Importer`; :func:`import_model` finds
the one that recognises the file.
"""

from __future__ import annotations

from boxwright.importers.registry import Importer, ImportRequest, formats, import_model

__all__ = ["ImportRequest", "Importer", "formats", "import_model"]
