"""Machines that are not at hand: file trees, package lists and answers of programs."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping, Sequence
from typing import Any

from boxwright.doctor import probe
from boxwright.doctor.machine import Machine, Outcome
from boxwright.doctor.nvml import NvmlReading

UBUNTU_24 = 'ID=ubuntu\nVERSION_ID="24.04"\n'
AMAZON = 'ID="amzn"\nVERSION_ID="2023"\n'
PCI_GPU = {
    "/sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
    "/sys/bus/pci/devices/0000:01:00.0/class": "0x030200\n",
}
KERNEL_MODULE = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Fri May 31 09:35:42 UTC 2024\n"
OPEN_MODULE = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build\n"
BASE = {"numpy": "2.3.0", "onnx": "1.19.0", "onnxruntime": "1.23.0"}
SEGFAULT = Outcome(-11)
HANG = Outcome(None, timed_out=True)


def gpu(name: str, capability: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "compute_capability": capability, "memory_mib": 24576, **more}


def driver(version: str, cuda: int, *gpus: dict[str, Any]) -> NvmlReading:
    return NvmlReading(0, version, cuda, gpus)


def answer(name: str, **facts: Any) -> str:
    return f"{probe.BEGIN}{name}\n{probe.ANSWER}{json.dumps({'name': name, **facts})}\n"


class FakeMachine(Machine):
    """A machine made of what a test says; everything else is absent.

    Args:
        files: Content by path; patterns and looks go to it.
        modules: What importing a module prints or does; a dict is the probe's answer.
        backends: What asking a backend gives: a dict, a reason, ``None`` for "works", or
            an :class:`Outcome` for a process that does not survive it.
        dpkg: The system's packages.
    """

    def __init__(
        self,
        *,
        system: str = "Linux",
        architecture: str = "x86-64",
        python: tuple[int, int, int] = (3, 12, 3),
        files: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
        packages: Mapping[str, str] | None = None,
        requires: Mapping[str, Sequence[str]] | None = None,
        modules: Mapping[str, dict[str, Any] | Outcome] | None = None,
        backends: Mapping[str, dict[str, Any] | str | Outcome | None] | None = None,
        dpkg: Mapping[str, str] | None = None,
        programs: Mapping[str, Outcome] | None = None,
        nvml: NvmlReading | None = None,
        libcuda: int | None = None,
        virtual: bool = True,
        externally_managed: bool = False,
        writable: bool = True,
        free: int = 100 << 30,
        shm: int = 8 << 30,
        open_files: int = 65536,
    ) -> None:
        self.given = {"system": system, "architecture": architecture, "python": python}
        self.files = dict(files or {})
        self.environ = dict(environ or {})
        self.installed = dict(packages if packages is not None else BASE)
        self.required = dict(requires or {})
        self.modules = dict(modules or {})
        self.backends = backends if backends is not None else {"onnxruntime": None}
        self.dpkg = dict(dpkg or {})
        self.programs = dict(programs or {})
        self.reading = nvml or NvmlReading()
        self.cuda = libcuda
        self.is_virtual, self.managed, self.can_write = virtual, externally_managed, writable
        self.free, self.shm, self.files_limit = free, shm, open_files
        self.ran: list[list[str]] = []

    system = property(lambda self: self.given["system"])
    release = property(lambda self: "6.8.0")
    architecture = property(lambda self: self.given["architecture"])
    python = property(lambda self: self.given["python"])
    executable = property(lambda self: "/opt/python")
    virtual = property(lambda self: self.is_virtual)
    externally_managed = property(lambda self: self.managed)
    glibc = property(lambda self: "2.39")

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def glob(self, pattern: str) -> list[str]:
        depth = pattern.count("/")
        return sorted(
            path
            for path in self.files
            if path.count("/") == depth and fnmatch.fnmatchcase(path, pattern)
        )

    def run(
        self, command: Sequence[str], timeout: float, environ: Mapping[str, str] | None = None
    ) -> Outcome:
        self.ran.append(list(command))
        if command[0] == "dpkg-query" and self.dpkg:
            lines = "".join(f"ii  {name} {version}\n" for name, version in self.dpkg.items())
            return Outcome(1, lines)  # 1: some of the packages are not there
        return self.programs.get(command[0], Outcome(None, stderr=f"{command[0]}: not found"))

    def run_python(self, module: str, arguments: Sequence[str], timeout: float) -> Outcome:
        assert module == "boxwright.doctor.probe"
        kind, *names = arguments
        if kind == "module":
            found = self.modules[names[0]]
            return found if isinstance(found, Outcome) else Outcome(0, answer(names[0], **found))
        return self._ask_backends(names)

    def _ask_backends(self, names: Sequence[str]) -> Outcome:
        text = ""
        for name in names:
            said = self.backends.get(name, f"{name} is not installed")
            said = None if name == "reference" else said
            if isinstance(said, Outcome):
                return Outcome(
                    said.code, f"{text}{probe.BEGIN}{name}\n", said.stderr, said.timed_out
                )
            if isinstance(said, str):
                text += answer(name, works=False, reason=said)
            else:
                can = said or {"precisions": ["fp32"], "devices": ["cpu"]}
                text += answer(name, works=True, reason=None, **can)
        return Outcome(0, text)

    def packages(self) -> dict[str, str]:
        return dict(self.installed)

    def requires(self, package: str) -> list[str]:
        return list(self.required.get(package, ()))

    def has_module(self, name: str) -> bool:
        return name in self.modules

    def module_file(self, name: str, inner: str) -> str | None:
        return self.files.get(f"{name}/{inner}")

    def nvml(self) -> NvmlReading:
        return self.reading

    def libcuda(self) -> int | None:
        return self.cuda

    def cpu(self) -> dict[str, object]:
        return {"model": "Fake CPU", "features": ["avx2"], "usable_cores": 8}

    def memory_mib(self) -> int | None:
        return 32768

    def free_bytes(self, path: str) -> int | None:
        return self.free

    def total_bytes(self, path: str) -> int | None:
        return self.shm

    def writable(self, path: str) -> bool:
        return self.can_write

    def folder_bytes(self, path: str) -> int:
        return 0

    def open_files(self) -> int | None:
        return self.files_limit


def workstation(version: str, cuda: int, *gpus: dict[str, Any], **more: Any) -> FakeMachine:
    """An Ubuntu PC with NVIDIA's driver in order."""
    files = {
        "/etc/os-release": UBUNTU_24,
        "/proc/driver/nvidia/version": KERNEL_MODULE.format(version),
        **PCI_GPU,
        **more.pop("files", {}),
    }
    return FakeMachine(files=files, nvml=driver(version, cuda, *gpus), **more)


def jetson(
    l4t: str, model: str, python: tuple[int, int, int] = (3, 12, 3), **more: Any
) -> FakeMachine:
    """A Jetson; `l4t` such as ``36.4.3``."""
    release, _, revision = l4t.partition(".")
    files = {
        "/etc/nv_tegra_release": f"# R{release} (release), REVISION: {revision}, GCID: 1, "
        "BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n",
        "/proc/device-tree/model": f"NVIDIA Jetson {model}\0",
        "/etc/os-release": UBUNTU_24,
        "/var/lib/nvpmodel/status": "pmode:0002",
        **more.pop("files", {}),
    }
    return FakeMachine(architecture="arm64", python=python, files=files, **more)
