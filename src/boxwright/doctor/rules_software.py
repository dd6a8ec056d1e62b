"""Conclusions about Python packages, runtimes and room on the disk."""

from __future__ import annotations

from collections.abc import Iterator

from boxwright.doctor import rules_tensorrt
from boxwright.doctor.commands import driver_branch
from boxwright.doctor.compatibility import driver_needed, numbers
from boxwright.doctor.facts import Facts, ModuleCheck
from boxwright.doctor.finding import Finding
from boxwright.doctor.machine import normalised

_FREE_BYTES = 2 << 30
_SHM_BYTES = 64 << 20
_OPEN_FILES = 1024
_OPENCV = (
    *("opencv-python", "opencv-python-headless"),
    *("opencv-contrib-python", "opencv-contrib-python-headless"),
)
# What importing a runtime needs, by module: the package to install again, the backend.
_RUNTIMES = {
    "onnxruntime": ("onnxruntime", "onnxruntime"),
    "openvino": ("openvino", "openvino"),
    "tensorrt": ("tensorrt", "tensorrt"),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx"),
}


def check(facts: Facts) -> Iterator[Finding]:
    """Every conclusion about software and storage."""
    yield from _backends(facts)
    yield from _requirements(facts)
    yield from _conflicts(facts)
    for module, result in facts.modules.items():
        yield from _module(facts, module, result)
    yield from rules_tensorrt.check(facts)
    yield from _cuda_of_others(facts)
    yield from _python(facts)
    yield from _storage(facts)


def _backends(facts: Facts) -> Iterator[Finding]:
    working = [check.name for check in facts.backends if check.works and check.name != "reference"]
    if working:
        yield Finding("backends", "ok", f"Backends that work here: {', '.join(working)}.")
    else:
        yield Finding(
            "no-backend",
            "error",
            "No backend but the reference works here.",
            "; ".join(f"{c.name}: {c.reason}" for c in facts.backends if c.reason),
            "The one that runs everywhere:",
            ("python -m pip install --force-reinstall onnxruntime",),
        )
    known = {backend for _, backend in _RUNTIMES.values()}
    for check in facts.backends:
        module = next((m for m, (_, name) in _RUNTIMES.items() if name == check.name), None)
        explained = module in facts.modules and facts.modules[module].state != "ok"
        if not check.works and not explained and _is_broken(check.reason):
            yield Finding(
                "backend-broken",
                "error",
                f"Backend {check.name} cannot be asked: {check.reason}",
                "" if check.name in known else "It comes from another package.",
                concerns=(check.name,),
            )


def _is_broken(reason: str | None) -> bool:
    """Whether asking a backend failed, rather than that it said no."""
    return (reason or "").startswith("asking it") or "cannot be imported: " in (reason or "")


def _requirements(facts: Facts) -> Iterator[Finding]:
    for item in facts.requirements:
        if item.fits or (item.extra is not None and item.installed is None):
            continue
        have = f"{item.installed} is installed" if item.installed else "it is not installed"
        whose = f"The extra {item.extra} of Boxwright" if item.extra else "Boxwright"
        yield Finding(
            "requirement",
            "warn" if item.extra else "error",
            f"{whose} needs {item.package}{item.wanted}, and {have}.",
            commands=(f'python -m pip install "{item.package}{item.wanted}"',),
        )


def _conflicts(facts: Facts) -> Iterator[Finding]:
    runtimes = [
        name
        for name in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml")
        if name in facts.packages
    ]
    if len(runtimes) > 1:
        keep = runtimes[-1]
        yield Finding(
            "onnxruntime-twice",
            "warn",
            f"{' and '.join(runtimes)} are both installed.",
            "They put their files into the same folder, so whichever came last decides which "
            "execution providers there are; usually CUDA is what is lost.",
            f"Keep one; for {keep}:",
            (
                f"python -m pip uninstall -y {' '.join(runtimes)}",
                f"python -m pip install {keep}",
            ),
            ("onnxruntime",),
        )
    opencvs = [name for name in _OPENCV if name in facts.packages]
    if len(opencvs) > 1:
        yield Finding(
            "opencv-twice",
            "warn",
            f"{' and '.join(opencvs)} are both installed.",
            "They put their files into the same folder; removing or upgrading one breaks the "
            "other.",
            "Keep one:",
            (
                f"python -m pip uninstall -y {' '.join(opencvs)}",
                "python -m pip install opencv-python-headless",
            ),
        )


def _module(facts: Facts, module: str, result: ModuleCheck) -> Iterator[Finding]:
    if result.state == "ok":
        return
    package, backend = _RUNTIMES[module]
    if module == "tensorrt" and facts.tensorrt.packages:
        packages = sorted(facts.tensorrt.packages)
    elif module == "tensorrt_rtx":
        packages = sorted(name for name in facts.packages if name.startswith("tensorrt-rtx"))
    else:
        packages = [name for name in facts.packages if name.startswith(package)][:1] or [package]
    if _numpy_abi(result):
        yield Finding(
            "numpy-abi",
            "error",
            f"{module} was built for another NumPy than {facts.packages.get('numpy', 'this')}.",
            f"Importing it fails: {result.error}",
            "Take a newer one, or, where there is none, the NumPy it was built for:",
            (f"python -m pip install --upgrade {package}", 'python -m pip install "numpy<2"'),
            (backend,),
        )
        return
    what = {
        "crashed": f"Importing {module} crashes Python.",
        "hung": f"Importing {module} does not come to an end.",
    }.get(result.state, f"{module} is installed but cannot be imported.")
    yield Finding(
        f"{module.replace('_', '-')}-{result.state}",
        "error",
        what,
        f"What it said last: {result.error}." if result.error else "",
        "Its native libraries are damaged or do not fit this system. Install it again:",
        (
            f"python -m pip uninstall -y {' '.join(packages)}",
            f"python -m pip install --no-cache-dir {_reinstalled(packages, facts)}",
        )
        if not _is_systems(facts, module)
        else ("sudo apt-get install --reinstall -y python3-libnvinfer",),
        (backend,),
    )


def _is_systems(facts: Facts, module: str) -> bool:
    return module == "tensorrt" and not facts.tensorrt.packages and bool(facts.tensorrt.system)


def _reinstalled(packages: list[str], facts: Facts) -> str:
    """The package that brings the others, at the version that was there."""
    top = min(packages, key=lambda name: (name.endswith(("-libs", "-bindings")), len(name)))
    version = facts.packages.get(normalised(top))
    return f'"{top}=={version}"' if version else top


def _numpy_abi(result: ModuleCheck) -> bool:
    error = result.error or ""
    return any(
        sign in error
        for sign in ("_ARRAY_API", "numpy.core.multiarray failed", "numpy.dtype size changed")
    )


def _cuda_of_others(facts: Facts) -> Iterator[Finding]:
    """Whether the driver serves the CUDA of torch and of onnxruntime-gpu.

    They bring a CUDA of their own.
    """
    branch = driver_branch(facts)
    if branch is None:
        if "onnxruntime-gpu" in facts.packages and facts.jetson is None:
            yield Finding(
                "onnxruntime-gpu-idle",
                "warn",
                "onnxruntime-gpu is installed, and there is no NVIDIA driver: it runs on the CPU.",
                concerns=("onnxruntime",),
            )
        return
    runtime = facts.modules.get("onnxruntime")
    cuda_error = runtime.details.get("cuda_error") if runtime else None
    if cuda_error:
        yield Finding(
            "onnxruntime-cuda",
            "warn",
            "onnxruntime-gpu cannot load its CUDA execution provider.",
            f"What the loader said: {cuda_error}.",
            "Install the CUDA and cuDNN it was built for; where the loader still does not find "
            "them, name their folders in LD_LIBRARY_PATH.",
            ('python -m pip install "onnxruntime-gpu[cuda,cudnn]"',),
            ("onnxruntime",),
        )
    torch = numbers(facts.torch_cuda)
    for what, cuda, concerns in (
        (f"torch {facts.packages.get('torch')}", torch[0] if torch else None, ()),
        (
            f"cuda-bindings {facts.packages.get('cuda-bindings')}",
            next(iter(numbers(facts.packages.get("cuda-bindings"))), None),
            ("tensorrt", "tensorrt-rtx"),
        ),
        (
            f"onnxruntime-gpu {facts.packages.get('onnxruntime-gpu')}",
            facts.ort_gpu_cuda,
            ("onnxruntime",),
        ),
    ):
        needed = driver_needed(cuda) if cuda else None
        if needed is not None and branch < needed:
            yield Finding(
                "cuda-driver",
                "warn",
                f"{what} is built for CUDA {cuda}, which needs driver {needed} or newer; here "
                f"is {facts.nvidia.driver}.",
                "Without a newer driver it runs on the CPU, or not at all.",
                concerns=concerns,
            )


def _python(facts: Facts) -> Iterator[Finding]:
    if facts.python.externally_managed:
        yield Finding(
            "externally-managed",
            "warn",
            "This Python belongs to the system, which forbids pip to change it.",
            "pip will refuse with «externally-managed-environment».",
            "Make an environment of its own:",
            ("python3 -m venv .venv", ". .venv/bin/activate"),
        )


def _storage(facts: Facts) -> Iterator[Finding]:
    storage = facts.storage
    if storage.cache and not storage.cache_writable:
        yield Finding(
            "cache-unwritable",
            "warn",
            f"The cache folder {storage.cache} cannot be written.",
            "Plans rebuilt on this machine are not kept, so they are built every time.",
            "Set BOXWRIGHT_CACHE to a folder of yours:",
            ('export BOXWRIGHT_CACHE="$HOME/boxwright-cache"',),
        )
    if storage.free_bytes is not None and storage.free_bytes < _FREE_BYTES:
        yield Finding(
            "disk-full",
            "warn",
            f"The disk of {storage.cache} has {storage.free_bytes >> 20} MiB left.",
            "A TensorRT build may need a gigabyte, and its packages several.",
        )
    small = storage.shm_bytes is not None and storage.shm_bytes <= _SHM_BYTES
    if small and facts.system.container is not None:
        yield Finding(
            "shm-small",
            "warn",
            f"The shared memory /dev/shm has {(storage.shm_bytes or 0) >> 20} MiB only.",
            "That is Docker's default; worker processes that pass images to each other run out.",
            "Start the container with more: --shm-size=1g after `docker run`.",
        )
    if storage.open_files is not None and storage.open_files < _OPEN_FILES:
        yield Finding(
            "open-files",
            "warn",
            f"A process may have {storage.open_files} files open.",
            "Servers and folders of videos need more.",
            commands=("ulimit -n 4096",),
        )
