"""Which TensorRT needs which driver, GPU and Python: a table, each row with its source.

What could not be read in NVIDIA's documents is not here; the doctor says nothing of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Version = tuple[int, ...]

DRIVER_FOR_CUDA: dict[int, int] = {
    # docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html, table 1: the
    # oldest driver branch that runs programs of any minor version of a CUDA major.
    11: 450,
    12: 525,
    13: 580,
}

# docs.nvidia.com/deeplearning/tensorrt/11.1.0 to 11.4.0/installing-tensorrt/prerequisites.html:
# "r535+ on Linux and r537+ on Windows" for the CUDA 12 wheels of TensorRT 11.
TENSORRT_11_CU12_DRIVER = 535

# The branch that the commands install: 580 is the newest that still has proprietary modules
# and is maintained until August 2028 (docs.nvidia.com/datacenter/tesla/drivers/
# supported-drivers-and-cuda-toolkit-versions.html, table 2). It serves CUDA 12 and 13.
DRIVER_BRANCH = 580


@dataclass(frozen=True)
class TensorRtRelease:
    """What a range of TensorRT releases runs on.

    Attributes:
        since: First version of the range; it ends where the next begins.
        oldest_gpu: Smallest compute capability.
        newest_gpu: Largest, or ``None`` where every newer one is served.
        newest_python: Newest Python that there are wheels for.
    """

    since: Version
    oldest_gpu: Version
    newest_gpu: Version | None
    newest_python: Version


TENSORRT_RELEASES: tuple[TensorRtRelease, ...] = (
    # GPUs: the 8.6.1 support matrix. Python: the wheels on PyPI, tensorrt-bindings 8.6.1.
    TensorRtRelease((8, 6), (5, 3), (9, 0), (3, 11)),
    # GPUs: the 10.1.0 support matrix, "SM 7.0 or higher". Python: the 10.0.1 release notes.
    TensorRtRelease((10, 0), (7, 0), (9, 0), (3, 12)),
    # The 10.5.0 release notes: Volta removed.
    TensorRtRelease((10, 5), (7, 5), (9, 0), (3, 12)),
    # The 10.8.0 release notes: Blackwell supported.
    TensorRtRelease((10, 8), (7, 5), None, (3, 12)),
    # The 10.9.0 release notes: Python 3.13.
    TensorRtRelease((10, 9), (7, 5), None, (3, 13)),
    # The 11.x prerequisites: "Turing architecture or later".
    TensorRtRelease((11, 0), (7, 5), None, (3, 13)),
    # github.com/NVIDIA/TensorRT/releases/tag/v11.1: Python 3.14.
    TensorRtRelease((11, 1), (7, 5), None, (3, 14)),
)

# Older ones lack what the backend calls: tensors addressed by name came with 8.5.
OLDEST_TENSORRT: Version = (8, 5)

# TensorRT-RTX 1.0 to 1.5 support matrices (12.1 with 1.5); 8.0 is accepted by 1.7 itself, and
# an H200 (9.0) was refused by it.
TENSORRT_RTX_GPUS: frozenset[Version] = frozenset(
    {(7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1)}
)


@dataclass(frozen=True)
class TensorRtChoice:
    """A TensorRT to install: what for pip, and what it needs.

    Attributes:
        pip: Requirement for pip.
        cuda: CUDA major of its wheels.
        driver: Oldest driver branch.
        oldest_gpu: Smallest compute capability.
        newest_gpu: Largest, or ``None``.
        newest_python: Newest Python that there are wheels for.
        arm64: Whether there are wheels for ARM servers (from 10.5: its release notes).
    """

    pip: str
    cuda: int
    driver: int
    oldest_gpu: Version
    newest_gpu: Version | None
    newest_python: Version
    arm64: bool


# Best first. That these versions exist was read off PyPI.
TENSORRT_CHOICES: tuple[TensorRtChoice, ...] = (
    TensorRtChoice("tensorrt-cu13<12", 13, 580, (7, 5), None, (3, 14), True),
    TensorRtChoice("tensorrt-cu12<12", 12, 535, (7, 5), None, (3, 14), True),
    TensorRtChoice("tensorrt-cu12<11", 12, 525, (7, 5), None, (3, 13), True),
    TensorRtChoice("tensorrt-cu12==10.4.0", 12, 525, (7, 0), (9, 0), (3, 12), False),
    TensorRtChoice("tensorrt==8.6.1", 12, 525, (5, 3), (9, 0), (3, 11), False),
)


@dataclass(frozen=True)
class JetPack:
    """What a JetPack release brings.

    Attributes:
        l4t: First Jetson Linux (L4T) release it comes with.
        name: JetPack's version.
        tensorrt: Its TensorRT, where that is documented.
        cuda: Its CUDA, where that is documented.
        python: The system's Python, which its TensorRT is built for.
    """

    l4t: Version
    name: str
    tensorrt: str | None
    cuda: str | None
    python: Version


JETPACKS: tuple[JetPack, ...] = (
    # The JetPack archive pages on developer.nvidia.com, named in each row.
    JetPack((32, 5), "4.5", "7.1.3", "10.2", (3, 6)),  # jetpack-archive
    JetPack((32, 6), "4.6", "8.0.1", "10.2", (3, 6)),  # jetpack-archive
    JetPack((32, 7), "4.6.1", "8.2.1", "10.2", (3, 6)),  # jetpack-sdk-461
    JetPack((35, 1), "5.0.2", "8.4.1", "11.4", (3, 8)),  # jetpack-sdk-502
    JetPack((35, 2), "5.1", "8.5.2", "11.4", (3, 8)),  # jetpack-sdk-51
    JetPack((35, 3), "5.1.1", "8.5.2", "11.4", (3, 8)),  # jetpack-sdk-511
    JetPack((35, 4), "5.1.2", "8.5.2", "11.4", (3, 8)),  # jetpack-sdk-512
    JetPack((35, 5), "5.1.3", "8.5.2", "11.4", (3, 8)),  # jetpack-sdk-514: same as 5.1.4
    JetPack((35, 6), "5.1.4", "8.5.2", "11.4", (3, 8)),  # jetpack-sdk-514
    JetPack((36, 3), "6.0", None, None, (3, 10)),
    # docs.pytorch.org/TensorRT/getting_started/jetpack.html
    JetPack((36, 4), "6.1", "10.3", "12.6", (3, 10)),
    JetPack((36, 4, 3), "6.2", "10.3", "12.6", (3, 10)),
    # nvidia.github.io/TensorRT-Edge-LLM, support matrix: CUDA. TensorRT's own 11.3 migration
    # page: a 10.x release.
    JetPack((38, 2), "7.0", "10", "13.0", (3, 12)),
    JetPack((38, 4), "7.1", "10", "13.0", (3, 12)),
    JetPack((39, 2), "7.2", "10", "13.2", (3, 12)),
)

# docs.nvidia.com/deeplearning/tensorrt/11.4.1/api/migration/tensorrt-10x-to-11x-jetson.html
TENSORRT_11_JETPACK: Version = (7, 2, 2)

# developer.nvidia.com/cuda-gpus, by a word of the device tree's model.
JETSON_GPUS: tuple[tuple[str, str], ...] = (
    ("Thor", "11.0"),
    ("Orin", "8.7"),
    ("Xavier", "7.2"),
    ("TX2", "6.2"),
    ("TX1", "5.3"),
    ("Nano", "5.3"),
)


def numbers(text: str | None) -> Version:
    """The leading numbers of a version: ``10.14.1.post1`` is ``(10, 14, 1)``; ``()`` for none."""
    found = re.match(r"\d+(?:\.\d+)*", (text or "").strip())
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def dotted(version: Version) -> str:
    """A version as text."""
    return ".".join(str(part) for part in version)


def release_of(version: str) -> TensorRtRelease | None:
    """The row of a TensorRT version; ``None`` for one older than the table."""
    found = None
    for row in TENSORRT_RELEASES:
        if numbers(version) >= row.since:
            found = row
    return found


def driver_needed(cuda: int, tensorrt: str | None = None) -> int | None:
    """Oldest driver branch for a CUDA major, or for a TensorRT built for it."""
    if tensorrt is not None and cuda == 12 and numbers(tensorrt) >= (11,):
        return TENSORRT_11_CU12_DRIVER
    return DRIVER_FOR_CUDA.get(cuda)


def jetpack_of(l4t: str) -> JetPack | None:
    """The JetPack that comes with a Jetson Linux release; ``None`` for an unknown one."""
    release = numbers(l4t)
    rows = [row for row in JETPACKS if row.l4t[0] == release[0] and row.l4t <= release]
    return rows[-1] if rows else None


def choose_tensorrt(
    gpu: Version | None, driver: int | None, python: Version, architecture: str
) -> TensorRtChoice | None:
    """The best TensorRT for a machine; what is ``None`` is not held against any.

    Args:
        gpu: Compute capability of the least able GPU.
        driver: Driver branch.
        python: Python's version.
        architecture: As :func:`boxwright.environment.cpu_architecture` gives it.
    """
    for choice in TENSORRT_CHOICES:
        if gpu is not None and not in_range(gpu, choice.oldest_gpu, choice.newest_gpu):
            continue
        if driver is not None and driver < choice.driver:
            continue
        if python[:2] > choice.newest_python:
            continue
        if architecture == "arm64" and not choice.arm64:
            continue
        return choice
    return None


def in_range(gpu: Version, oldest: Version, newest: Version | None) -> bool:
    """Whether a compute capability lies within bounds."""
    return gpu >= oldest and (newest is None or gpu <= newest)
