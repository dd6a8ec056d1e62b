"""Conclusions about TensorRT and TensorRT-RTX against driver, GPU and Python."""

from __future__ import annotations

import re
from collections.abc import Iterator

from boxwright.doctor.commands import driver_branch, driver_step, tensorrt_step, weakest_gpu
from boxwright.doctor.compatibility import (
    OLDEST_TENSORRT,
    TENSORRT_RTX_GPUS,
    dotted,
    driver_needed,
    in_range,
    numbers,
    release_of,
)
from boxwright.doctor.facts import Facts
from boxwright.doctor.finding import Finding
from boxwright.doctor.platforms import identify

_TRT = ("tensorrt",)
_RTX = ("tensorrt-rtx",)


def check(facts: Facts) -> Iterator[Finding]:
    """Every conclusion about the TensorRT that is installed."""
    if facts.tensorrt.version is not None:
        yield from _packages(facts)
        yield from _age(facts)
        yield from _driver(facts)
        yield from _gpus(facts)
        yield from _python(facts)
    if facts.tensorrt_rtx is not None:
        yield from _rtx(facts)


def _label(facts: Facts) -> str:
    packages = facts.tensorrt.packages
    top = min(packages, key=len) if packages else "TensorRT"
    return f"{top} {facts.tensorrt.version}"


def _packages(facts: Facts) -> Iterator[Finding]:
    packages = facts.tensorrt.packages
    majors = sorted({found[1] for name in packages if (found := re.search(r"-cu(\d+)", name))})
    if len(majors) > 1:
        yield Finding(
            "tensorrt-twice",
            "error",
            f"TensorRT is installed for CUDA {' and '.join(majors)} at the same time.",
            "Both bring the module tensorrt, and their files overwrite each other.",
            "Remove all of it, then install one:",
            (f"python -m pip uninstall -y {' '.join(sorted(packages))}", *_install(facts)),
            _TRT,
        )
    halves = {name.rpartition("-")[2] for name in packages if name.endswith(("-libs", "-bindings"))}
    if packages and len(halves) < 2:
        missing = "its libraries" if "libs" not in halves else "its Python bindings"
        if "libs" not in halves and facts.tensorrt.system:
            return  # the libraries are the system's
        if facts.modules.get("tensorrt") and facts.modules["tensorrt"].state == "ok":
            return
        yield Finding(
            "tensorrt-half",
            "error",
            f"{_label(facts)} is installed without {missing}.",
            "pip fetches them from NVIDIA's own index, which must have been out of reach.",
            "Install it again:",
            (f"python -m pip uninstall -y {' '.join(sorted(packages))}", *_install(facts)),
            _TRT,
        )


def _age(facts: Facts) -> Iterator[Finding]:
    version = facts.tensorrt.version
    # On JetPack 4 a rule of its own says so.
    if facts.jetson is None and numbers(version) < OLDEST_TENSORRT:
        yield Finding(
            "tensorrt-old",
            "error",
            f"TensorRT {version} is too old: {dotted(OLDEST_TENSORRT)} or newer is needed.",
            "The backend addresses tensors by name, which came with that version.",
            commands=_install(facts),
            concerns=_TRT,
        )


def _driver(facts: Facts) -> Iterator[Finding]:
    branch, cuda = driver_branch(facts), facts.tensorrt.cuda
    if facts.jetson is not None or branch is None or cuda is None:
        return
    needed = driver_needed(cuda, facts.tensorrt.version)
    if needed is None or branch >= needed:
        return
    upgrade = driver_step(facts.system, weakest_gpu(facts))
    other = _install(facts)
    serves = f" serves CUDA up to {facts.nvidia.cuda}" if facts.nvidia.cuda else ""
    # Where the driver is the host's or Windows' there is no command for it here.
    can_upgrade = identify(facts).name.startswith(("linux", "ec2"))
    advice = "Either upgrade the driver (first commands) or install the TensorRT that suits it:"
    yield Finding(
        "tensorrt-driver",
        "error",
        f"The driver ({facts.nvidia.driver}){serves}; the installed {_label(facts)} needs "
        f"CUDA {cuda} (driver {needed} or newer).",
        "A CUDA program runs on the driver branch its CUDA needs, or on a newer one.",
        advice if can_upgrade else "Upgrade the driver of the host, or install another TensorRT:",
        (
            *(upgrade.commands if can_upgrade else ()),
            f"python -m pip uninstall -y {' '.join(sorted(facts.tensorrt.packages))}",
            *other,
        ),
        _TRT,
    )


def _gpus(facts: Facts) -> Iterator[Finding]:
    version = facts.tensorrt.version or ""
    row = release_of(version)
    if row is None:
        return
    for gpu in facts.nvidia.gpus:
        capability = numbers(gpu.compute_capability)
        if not capability or in_range(capability, row.oldest_gpu, row.newest_gpu):
            continue
        upper = dotted(row.newest_gpu) if row.newest_gpu else "newer"
        yield Finding(
            "tensorrt-gpu",
            "error",
            f"TensorRT {version} does not serve {gpu.name} (compute capability "
            f"{gpu.compute_capability}).",
            f"It serves {dotted(row.oldest_gpu)} to {upper}.",
            "Install the TensorRT that does:",
            _install(facts),
            _TRT,
        )


def _python(facts: Facts) -> Iterator[Finding]:
    version = facts.tensorrt.version or ""
    row, python = release_of(version), numbers(facts.python.version)[:2]
    works = facts.modules.get("tensorrt")
    if row is None or facts.jetson is not None or (works and works.state == "ok"):
        return
    if python > row.newest_python:
        yield Finding(
            "tensorrt-python",
            "error",
            f"TensorRT {version} has wheels for Python up to {dotted(row.newest_python)}; this "
            f"is {dotted(python)}.",
            "",
            "Use an older Python, or another TensorRT:",
            _install(facts),
            _TRT,
        )


def _rtx(facts: Facts) -> Iterator[Finding]:
    served = ", ".join(dotted(item) for item in sorted(TENSORRT_RTX_GPUS))
    for gpu in facts.nvidia.gpus:
        capability = numbers(gpu.compute_capability)
        if capability and capability not in TENSORRT_RTX_GPUS:
            yield Finding(
                "tensorrt-rtx-gpu",
                "warn",
                f"TensorRT-RTX {facts.tensorrt_rtx} does not run on {gpu.name} (compute "
                f"capability {gpu.compute_capability}).",
                f"It runs on {served}. Engines for those can still be built here.",
                "On this GPU use TensorRT:",
                _install(facts),
                _RTX,
            )
    branch = driver_branch(facts)
    cuda = 13 if "tensorrt-rtx-cu13" in facts.packages else None
    cuda = 12 if "tensorrt-rtx-cu12" in facts.packages else cuda
    needed = driver_needed(cuda) if cuda else None
    if branch is not None and needed is not None and branch < needed:
        yield Finding(
            "tensorrt-rtx-driver",
            "error",
            f"The driver ({facts.nvidia.driver}) is older than TensorRT-RTX for CUDA {cuda} "
            f"needs ({needed}).",
            "",
            "Upgrade the driver:",
            driver_step(facts.system, weakest_gpu(facts)).commands,
            _RTX,
        )


def _install(facts: Facts) -> tuple[str, ...]:
    """The command for the TensorRT that fits this machine, if one does."""
    if facts.jetson is not None:
        return ()
    step = tensorrt_step(identify(facts), facts)
    return step.commands if step else ()
