"""What a backend can do on this machine, for people who ask before they build."""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired, TypedDict

from boxwright.backends.base import BuildSpec
from boxwright.errors import BoxwrightError

if TYPE_CHECKING:
    from boxwright.backends.base import Backend

_DEVICES = ("cpu", "cuda")


class Capabilities(TypedDict):
    """What a working backend can do here.

    Attributes:
        precisions: Those it builds here, such as ``["fp32", "fp16"]``; ``None`` where the
            backend does not say.
        devices: Names that `device` may have here, such as ``["cpu", "cuda:0"]``.
        note: What else a user should know, in a sentence; left out where there is nothing.
    """

    precisions: list[str] | None
    devices: list[str]
    note: NotRequired[str]


def capabilities(backend: Backend) -> Capabilities:
    """What the backend says of itself, or what can be told from the outside.

    A backend may have a method ``capabilities()`` that gives a :class:`Capabilities`; it is
    called only where :meth:`~boxwright.backends.base.Backend.unavailable` gives ``None``.
    Without it, devices are those that the backend makes a fingerprint for.
    """
    own = getattr(backend, "capabilities", None)
    if own is not None:
        said = own()
        precisions = said.get("precisions")
        found: Capabilities = {
            "precisions": None if precisions is None else [str(item) for item in precisions],
            "devices": [str(item) for item in said.get("devices", ())],
        }
        if said.get("note"):
            found["note"] = str(said["note"])
        return found
    return {"precisions": None, "devices": [name for name in _DEVICES if _takes(backend, name)]}


def _takes(backend: Backend, device: str) -> bool:
    try:
        backend.fingerprint(BuildSpec(device=device))
    except BoxwrightError:
        return False
    return True
