"""Importers: foreign weights in, a :class:`~boxwright.model.Model` out.

Each format is one module (or folder) with an :class:`Importer`; :func:`import_model` finds
the one that recognises the file.
"""

from __future__ import annotations

from boxwright.importers.registry import (
    Check,
    Confidence,
    Importer,
    ImportRequest,
    Recognition,
    Verification,
    check_options,
    choose,
    formats,
    import_model,
    make_request,
)

__all__ = [
    "Check",
    "Confidence",
    "ImportRequest",
    "Importer",
    "Recognition",
    "Verification",
    "check_options",
    "choose",
    "formats",
    "import_model",
    "make_request",
]
