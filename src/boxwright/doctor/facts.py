"""What is known of a machine before anything is concluded from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU; what is unknown is ``None``."""

    name: str
    compute_capability: str | None = None
    memory_mib: int | None = None
    power_limit_w: float | None = None
    persistence: bool | None = None
    ecc: bool | None = None
    mig: bool | None = None


@dataclass(frozen=True)
class Nvidia:
    """NVIDIA's driver and GPUs.

    Attributes:
        on_pci: Whether an NVIDIA GPU is plugged in, whatever drives it.
        driver: Version of the driver that answers.
        kernel_module: Version of the module that is loaded.
        library: Version of the driver's libraries on disk.
        nvml_status: See :class:`boxwright.doctor.nvml.NvmlReading`.
        cuda: Newest CUDA version the driver serves, such as ``12.4``.
        nouveau: Whether the open driver that knows no CUDA holds the GPU.
        gpus: GPUs the driver gives to this process.
        toolkits: Versions of CUDA toolkits in ``/usr/local``.
        nvcc: Version of the ``nvcc`` on the path.
        visible_devices: ``CUDA_VISIBLE_DEVICES``; ``None`` where it is not set.
        stub_libraries: Whether ``LD_LIBRARY_PATH`` leads to CUDA's stubs, which a program
            is linked with but cannot run with.
    """

    on_pci: bool = False
    driver: str | None = None
    kernel_module: str | None = None
    library: str | None = None
    nvml_status: int | None = None
    cuda: str | None = None
    nouveau: bool = False
    gpus: tuple[Gpu, ...] = ()
    toolkits: tuple[str, ...] = ()
    nvcc: str | None = None
    visible_devices: str | None = None
    stub_libraries: bool = False


@dataclass(frozen=True)
class Jetson:
    """A Jetson.

    Attributes:
        l4t: Jetson Linux release, such as ``36.4.3``.
        jetpack: JetPack's version, by its package or by the release.
        model: The board.
        power_mode: Number of the power mode, as ``nvpmodel`` counts.
        clocks_locked: Whether the GPU's clock is held at its top, as ``jetson_clocks`` does.
    """

    l4t: str
    jetpack: str | None = None
    model: str | None = None
    power_mode: int | None = None
    clocks_locked: bool | None = None


@dataclass(frozen=True)
class System:
    """The operating system, and what it runs in.

    Attributes:
        name: ``Linux``, ``Darwin`` or ``Windows``.
        release: The kernel's, or the system's, version.
        architecture: As :func:`boxwright.environment.cpu_architecture` gives it.
        distribution: ``ID`` of ``/etc/os-release``.
        distribution_version: Its ``VERSION_ID``.
        distribution_like: Its ``ID_LIKE``: the distributions it is made from.
        glibc: The C library's version, where it is GNU's.
        container: The kind of container this is in; ``None`` for none.
        gpu_container: Whether the container's image was made for GPUs.
        wsl: Whether it is Linux inside Windows.
        wsl_libcuda: Whether Windows gives WSL its NVIDIA driver.
        linux_libcuda_in_wsl: Whether a Linux driver is installed inside WSL as well.
        ec2: Type of the EC2 instance; ``None`` elsewhere.
    """

    name: str
    release: str
    architecture: str
    distribution: str | None = None
    distribution_version: str | None = None
    distribution_like: str | None = None
    glibc: str | None = None
    container: str | None = None
    gpu_container: bool = False
    wsl: bool = False
    wsl_libcuda: bool = False
    linux_libcuda_in_wsl: bool = False
    ec2: str | None = None


@dataclass(frozen=True)
class Python:
    """The Python that runs Boxwright."""

    version: str
    executable: str
    virtual: bool
    externally_managed: bool


@dataclass(frozen=True)
class ModuleCheck:
    """What importing a runtime gave, in a process of its own.

    Attributes:
        state: ``ok``, ``broken`` (it raised), ``crashed`` (the process died) or ``hung``.
        version: Its ``__version__``.
        error: What it raised, or the last words of the process.
        details: Of ONNX Runtime ``providers``, and ``cuda_error`` where its CUDA provider
            cannot be loaded; of OpenVINO ``devices``.
    """

    state: str
    version: str | None = None
    error: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorRt:
    """TensorRT as it is installed, whether or not it works.

    Attributes:
        version: Of the Python package or the system's library.
        cuda: CUDA major it was built for, where that can be told.
        packages: Python packages, with versions.
        system: The system's packages, with versions.
    """

    version: str | None = None
    cuda: int | None = None
    packages: dict[str, str] = field(default_factory=dict)
    system: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Requirement:
    """One of Boxwright's requirements.

    Attributes:
        package: What is required.
        wanted: Which versions, such as ``>=1.26``.
        installed: Version that is here, of it or of what stands in for it; ``None`` without.
        fits: Whether that version is a wanted one.
        extra: The extra that requires it; ``None`` for the base.
    """

    package: str
    wanted: str
    installed: str | None
    fits: bool
    extra: str | None = None


@dataclass(frozen=True)
class BackendCheck:
    """One of Boxwright's backends on this machine.

    Attributes:
        name: The backend's name.
        works: Whether it can build here.
        reason: Why not.
        precisions: Those it builds; ``None`` where it does not say.
        devices: Those it runs on here.
        note: What else it says.
    """

    name: str
    works: bool
    reason: str | None = None
    precisions: tuple[str, ...] | None = None
    devices: tuple[str, ...] = ()
    note: str | None = None


@dataclass(frozen=True)
class Storage:
    """Room for what Boxwright keeps.

    Attributes:
        cache: The cache folder.
        cache_bytes: What it holds.
        cache_writable: Whether it can hold more.
        free_bytes: Room on its disk.
        shm_bytes: Size of ``/dev/shm``.
        open_files: How many files a process may have open.
    """

    cache: str
    cache_bytes: int = 0
    cache_writable: bool = True
    free_bytes: int | None = None
    shm_bytes: int | None = None
    open_files: int | None = None


@dataclass(frozen=True)
class Facts:
    """Everything the doctor knows of a machine.

    Attributes:
        packages: Runtime packages that matter here, with their versions.
        torch_cuda: CUDA version torch was built for.
        ort_gpu_cuda: CUDA major onnxruntime-gpu was built for.
        modules: What importing each installed runtime gave, by module.
    """

    system: System
    python: Python
    cpu: dict[str, Any] = field(default_factory=dict)
    memory_mib: int | None = None
    nvidia: Nvidia = Nvidia()
    jetson: Jetson | None = None
    packages: dict[str, str] = field(default_factory=dict)
    tensorrt: TensorRt = TensorRt()
    tensorrt_rtx: str | None = None
    torch_cuda: str | None = None
    ort_gpu_cuda: int | None = None
    modules: dict[str, ModuleCheck] = field(default_factory=dict)
    requirements: tuple[Requirement, ...] = ()
    backends: tuple[BackendCheck, ...] = ()
    storage: Storage = Storage("")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    def backend(self, name: str) -> BackendCheck | None:
        """The check of one backend; ``None`` where this Boxwright has none of that name."""
        return next((check for check in self.backends if check.name == name), None)
