"""Which backends there are. None is imported before it is asked for.

A package adds a backend by an entry point in the group ``boxwright.backends``: its name
is the backend's, its value a class or function that makes a
:class:`~boxwright.backends.base.Backend` when called without arguments.
"""

from __future__ import annotations

import importlib.metadata
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

from boxwright.backends.options import explain_unknown
from boxwright.errors import BackendUnavailableError, InputError

if TYPE_CHECKING:
    from boxwright.backends.base import Backend

GROUP = "boxwright.backends"

_BUILT_IN = {
    "onnxruntime": "boxwright.backends.onnxruntime:OnnxRuntimeBackend",
    "openvino": "boxwright.backends.openvino:OpenVinoBackend",
    "reference": "boxwright.backends.reference:ReferenceBackend",
    "tensorrt": "boxwright.backends.tensorrt:TensorRtBackend",
    "tensorrt-rtx": "boxwright.backends.tensorrt:TensorRtRtxBackend",
}


def names() -> tuple[str, ...]:
    """Names of all backends, those that cannot work here included."""
    return tuple(sorted(_entry_points()))


def available() -> dict[str, str | None]:
    """Every backend's name, with the reason why it cannot work here or ``None``."""
    reasons: dict[str, str | None] = {}
    for name in names():
        try:
            reasons[name] = get(name).unavailable()
        except BackendUnavailableError as error:
            reasons[name] = str(error)
    return reasons


def get(name: str) -> Backend:
    """The backend of that name.

    Raises:
        InputError: There is none; the message lists what there is.
        BackendUnavailableError: Its package cannot be imported.
    """
    known = _entry_points()
    if name not in known:
        raise InputError(explain_unknown("backend", str(name), known))
    try:
        factory = known[name].load()
        backend: Backend = factory()
    except Exception as error:  # a third party's import may raise whatever it likes
        raise BackendUnavailableError(
            f"backend {name!r} ({known[name].value}) cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error
    return backend


def _entry_points() -> dict[str, EntryPoint]:
    """Installed entry points; ours cannot be replaced by another package's."""
    found = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    ours = {name: EntryPoint(name, value, GROUP) for name, value in _BUILT_IN.items()}
    return found | ours
