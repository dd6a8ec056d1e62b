"""Which revision of the quantiser this is: a hash of the source that decides what comes out.

What was measured of a quantised model belongs to the code that quantised it. A number raised
by hand would be forgotten; the text of the modules cannot be.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Sequence
from importlib.machinery import ModuleSpec

from boxwright._version import __version__

DECISIVE = (
    *("boxwright.quantize.variants", "boxwright.quantize.quantizer", "boxwright.quantize.rules"),
    *("boxwright.quantize.layers", "boxwright.quantize.placement", "boxwright.quantize.sets"),
    *("boxwright.quantize.insert", "boxwright.quantize.ranges", "boxwright.quantize.histogram"),
    *("boxwright.quantize.calibration", "boxwright.quantize.activations"),
    *("boxwright.quantize.legacy_ranges", "boxwright.quantize.legacy_cache"),
    *("boxwright.quantize.store", "boxwright.quantize.bias", "boxwright.quantize.canonical"),
    *("boxwright.quantize.probing", "boxwright.quantize.preactivation"),
    "boxwright.quantize.revision",
    *("boxwright.graph.view", "boxwright.graph.builder", "boxwright.graph.session"),
    *("boxwright.graph.legalise", "boxwright.graph.legalise.editing"),
    "boxwright.graph.legalise.numbers",
    *("boxwright.probe", "boxwright.ranges", "boxwright.preprocess"),
)
"""The modules that a variant's graph, weights and scales follow from (a test holds the list
to what they import)."""


@functools.cache
def revision() -> str:
    """Equal only where the same quantiser would do the same.

    Sources are read when it is first asked for. Where there are none, as in a frozen
    application, the version has to do.
    """
    return revision_of(DECISIVE)


def revision_of(modules: Sequence[str]) -> str:
    """A hash of the modules' source; the version where one cannot be read."""
    total = hashlib.sha256()
    for name in modules:
        source = read_source(name)
        if source is None:
            return f"version {__version__}"
        # With their lengths, so that text cannot move from one to another unseen.
        total.update(f"{name} {len(source)}\n{source}".encode())
    return total.hexdigest()[:16]


def read_source(module: str) -> str | None:
    """The text of a module, from a folder or a zip file; ``None`` where there is only bytecode."""
    try:
        spec: ModuleSpec | None = importlib.util.find_spec(module)
        get_source = getattr(spec.loader, "get_source", None) if spec is not None else None
        found = None if get_source is None else get_source(module)
    except (ImportError, OSError, SyntaxError, UnicodeDecodeError):
        return None
    return None if found is None else str(found)
