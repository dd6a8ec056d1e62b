"""Which plans run here besides those built here, read off their fingerprints.

A plan runs on its own TensorRT version and kind of GPU. Built with ``version_compatible`` it
runs on newer TensorRT too, up to the next major version (8 to 10, 10 to 11: NVIDIA's
"Version Compatibility"). Built with ``hardware`` it runs on more GPUs. TensorRT-RTX's plans
run on the compute capabilities they were built for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from boxwright.environment import cpu_architecture

if TYPE_CHECKING:
    from boxwright.backends.plans import Fingerprint

# There is no TensorRT 9 for these GPUs: 10 follows 8.
_NEXT_MAJOR = {8: 10, 10: 11}
_AMPERE = (8, 0)
_SM = re.compile(r"sm(\d{1,2})(\d)")


@dataclass(frozen=True)
class Target:
    """What a plan was built for, as the device part of its fingerprint says.

    Attributes:
        gpus: ``ampere-plus``, or compute capabilities such as ``sm86``, the last possibly
            with the name of one GPU: ``sm90-NVIDIA-H200``.
        platform: Such as ``linux-x86-64``.
        dla: ``dla0`` and so on, or empty.
    """

    gpus: tuple[str, ...]
    platform: str
    dla: str = ""

    @classmethod
    def parse(cls, text: str) -> Target | None:
        """The device part taken apart, or ``None`` where it is of another form."""
        parts = text.split("+")
        dla = parts.pop() if re.fullmatch(r"dla\d+", parts[-1]) else ""
        if len(parts) < 2:
            return None
        *gpus, platform = parts
        return cls(tuple(gpus), platform, dla)

    def __str__(self) -> str:
        return "+".join((*self.gpus, self.platform, *([self.dla] if self.dla else [])))


def platform_name(system: str) -> str:
    """Operating system and processor: plans do not travel between them."""
    return f"{'windows' if system == 'win32' else system}-{cpu_architecture()}"


def version_misfit(built: str, here: str) -> str | None:
    """Why a plan of version field `built` does not run under the version field `here`."""
    library, revision, marks = _split_version(built)
    ours, our_revision, our_marks = _split_version(here)
    # A stripped plan is nothing without its weights, and an ordinary one takes none.
    if revision != our_revision or ("strip" in marks) != ("strip" in our_marks):
        return f"version {built} (here {here})"
    if library == ours:
        return None
    if "vc" not in marks:
        return f"version {built} (here {here}), and it was not built version_compatible"
    old, new = _numbers(library), _numbers(ours)
    if old is None or new is None or new < old:
        return f"version {built}, and an older TensorRT is here: {here}"
    if new[0] not in (old[0], _NEXT_MAJOR.get(old[0])):
        return f"version {built}: it runs up to the next major version, here is {here}"
    return None


def device_misfit(built: Fingerprint, capability: tuple[int, int], own: Target) -> str | None:
    """Why a plan does not run on this GPU.

    Args:
        built: The plan's fingerprint.
        capability: This GPU's compute capability.
        own: What a plan built here is built for.
    """
    target = Target.parse(built.device)
    sm = f"sm{capability[0]}{capability[1]}"
    if target is None:
        return f"device {built.device} (here {own})"
    if (target.platform, target.dla) != (own.platform, own.dla):
        return f"device {built.device} (here {own})"
    if target.gpus == own.gpus or sm in target.gpus:
        return None
    if target.gpus == ("ampere-plus",):
        return None if capability >= _AMPERE else f"it needs an Ampere GPU or newer, here is {sm}"
    return f"device {built.device} (here {own})"


def _split_version(text: str) -> tuple[str, str, frozenset[str]]:
    library, _, rest = text.partition("+")
    revision, *marks = rest.split("+")
    return library, revision, frozenset(marks)


def _numbers(version: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in version.split("."))
    except ValueError:
        return None
