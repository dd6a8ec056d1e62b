"""The one way the doctor looks at a machine: files, environment, programs, packages.

Every look goes through :class:`Machine`, so that a test can put another machine in its
place. Nothing here writes, installs or opens a connection, and every program that is
started has a time limit.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from boxwright.doctor.nvml import NvmlReading, read_libcuda, read_nvml

_MAX_BYTES = 4 << 20
# A process that ends by itself uses these up to 0xBFFFFFFF; above are Windows' exceptions,
# such as 0xC0000005, an access violation.
_WINDOWS_EXCEPTION = 0xC0000000


@dataclass(frozen=True)
class Outcome:
    """What became of a program.

    Attributes:
        code: Its exit status; negative for the signal that ended it; ``None`` where it could
            not be started or was stopped for taking too long.
        stdout: What it printed.
        stderr: What it complained about.
        timed_out: Whether it was stopped for taking too long.
    """

    code: int | None
    stdout: str = ""
    stderr: str = ""
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with status 0."""
        return self.code == 0

    @property
    def crashed(self) -> bool:
        """Whether the system ended it, as after a segmentation fault."""
        return self.code is not None and (self.code < 0 or self.code >= _WINDOWS_EXCEPTION)


class Machine:
    """This machine. Tests subclass it; see :mod:`tests.doctor.machines`."""

    environ: Mapping[str, str] = os.environ

    @property
    def system(self) -> str:
        """``Linux``, ``Darwin`` or ``Windows``."""
        return platform.system()

    @property
    def release(self) -> str:
        """The system's own version."""
        return platform.release()

    @property
    def architecture(self) -> str:
        """``x86-64``, ``arm64``, ..."""
        from boxwright.environment import cpu_architecture

        return cpu_architecture()

    @property
    def python(self) -> tuple[int, int, int]:
        """Python's version."""
        return sys.version_info[:3]

    @property
    def executable(self) -> str:
        """The Python that runs."""
        return sys.executable

    @property
    def virtual(self) -> bool:
        """Whether Python runs in a virtual environment."""
        return sys.prefix != sys.base_prefix

    @property
    def externally_managed(self) -> bool:
        """Whether the system forbids pip to install into this Python (PEP 668)."""
        folder = sysconfig.get_path("stdlib")
        return not self.virtual and (Path(folder) / "EXTERNALLY-MANAGED").is_file()

    @property
    def glibc(self) -> str | None:
        """The C library's version, where it is GNU's."""
        name, version = platform.libc_ver()
        return version if name == "glibc" else None

    def read(self, path: str) -> str | None:
        """A file's text, ``None`` where there is none; at most 4 MiB of it."""
        try:
            with open(path, "rb") as stream:
                return stream.read(_MAX_BYTES).decode(errors="replace").rstrip("\0")
        except OSError:
            return None

    def glob(self, pattern: str) -> list[str]:
        """Paths that fit an absolute pattern, sorted."""
        anchor = Path(pattern).anchor or "/"
        with contextlib.suppress(OSError, ValueError):
            found = Path(anchor).glob(pattern.removeprefix(anchor))
            return sorted(path.as_posix() for path in found)
        return []

    def run(
        self, command: Sequence[str], timeout: float, environ: Mapping[str, str] | None = None
    ) -> Outcome:
        """Run a program without a shell; never raises.

        Args:
            command: The program and its arguments.
            timeout: Seconds after which it is stopped.
            environ: Variables to add to this process's own.
        """
        if not Path(command[0]).is_absolute() and shutil.which(command[0]) is None:
            return Outcome(None, stderr=f"{command[0]}: not found")
        variables = {**self.environ, "LC_ALL": "C", **(environ or {})}
        try:
            done = subprocess.run(  # noqa: S603 - a fixed list of programs, no shell
                list(command),
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=timeout,
                env=variables,
                check=False,
                text=True,
                errors="replace",
            )
        except subprocess.TimeoutExpired as error:
            partial = error.stdout or b""
            text = partial.decode(errors="replace") if isinstance(partial, bytes) else partial
            return Outcome(None, text, timed_out=True)
        except (OSError, ValueError) as error:
            return Outcome(None, stderr=str(error))
        return Outcome(done.returncode, done.stdout, done.stderr)

    def run_python(self, module: str, arguments: Sequence[str], timeout: float) -> Outcome:
        """Run one of our modules in a Python of its own.

        It sees the packages of this one, but not the current folder, writes no byte code,
        and has ONNX Runtime's usage reporting switched off.
        """
        source = str(Path(__file__).parents[2])
        paths = [source, *filter(None, [self.environ.get("PYTHONPATH")])]
        environ = {
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONIOENCODING": "utf-8",
            "ORT_DISABLE_TELEMETRY": "1",
        }
        return self.run([self.executable, "-P", "-m", module, *arguments], timeout, environ)

    def packages(self) -> dict[str, str]:
        """Installed Python packages by normalised name (PEP 503), with their versions."""
        found: dict[str, str] = {}
        for distribution in importlib.metadata.distributions():
            with contextlib.suppress(Exception):  # damaged metadata raises all sorts
                name, version = distribution.metadata["Name"], distribution.version
                # The first on the path is the one that is imported.
                found.setdefault(normalised(name), version)
        return found

    def requires(self, package: str) -> list[str]:
        """What a package says it needs, in PEP 508's words; empty where it is not there."""
        try:
            return importlib.metadata.requires(package) or []
        except importlib.metadata.PackageNotFoundError:
            return []

    def has_module(self, name: str) -> bool:
        """Whether a top-level module can be found; it is not imported."""
        with contextlib.suppress(ImportError, ValueError, AttributeError):
            return importlib.util.find_spec(name) is not None
        return False

    def module_file(self, name: str, inner: str) -> str | None:
        """The text of a file inside an installed package, which is not imported."""
        with contextlib.suppress(ImportError, ValueError, AttributeError):
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.origin:
                return self.read(str(Path(spec.origin).parent / inner))
        return None

    def nvml(self) -> NvmlReading:
        """What NVIDIA's management library says."""
        return read_nvml()

    def libcuda(self) -> int | None:
        """Newest CUDA version of the driver's library, as 1000 x major + 10 x minor."""
        return read_libcuda()

    def cpu(self) -> dict[str, object]:
        """Processor model, features and cores."""
        from boxwright import environment

        return {
            "model": environment.cpu_model(),
            "features": list(environment.cpu_features()),
            "usable_cores": environment.usable_cores(),
        }

    def memory_mib(self) -> int | None:
        """Main memory."""
        found = re.search(r"(?m)^MemTotal:\s*(\d+) kB$", self.read("/proc/meminfo") or "")
        return int(found[1]) // 1024 if found else None

    def free_bytes(self, path: str) -> int | None:
        """Free space where `path` is, or will be."""
        with contextlib.suppress(OSError):
            return shutil.disk_usage(self._existing(path)).free
        return None

    def total_bytes(self, path: str) -> int | None:
        """Size of the file system that is mounted at `path`; ``None`` where none is."""
        with contextlib.suppress(OSError):
            return shutil.disk_usage(path).total
        return None

    def writable(self, path: str) -> bool:
        """Whether files may be made at `path`; makes none."""
        nearest = self._existing(path)
        return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)

    def folder_bytes(self, path: str) -> int:
        """Bytes in a folder's files."""
        total = 0
        for folder, _, names in os.walk(path):
            for name in names:
                with contextlib.suppress(OSError):
                    total += (Path(folder) / name).lstat().st_size
        return total

    def open_files(self) -> int | None:
        """How many files a process may have open; ``None`` where that is not limited."""
        try:
            import resource
        except ImportError:  # Windows
            return None
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return None if limit == resource.RLIM_INFINITY else limit

    def _existing(self, path: str) -> Path:
        nearest = Path(path).absolute()
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
        return nearest


def normalised(name: str) -> str:
    """A package's name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()
