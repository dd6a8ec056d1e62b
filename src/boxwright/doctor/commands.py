"""Every command the doctor shows, as a table by backend and platform.

The page docs/how-to/check-a-machine.md is written from the same table, so that the two
cannot disagree. Nothing here is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from boxwright.doctor.compatibility import (
    DRIVER_BRANCH,
    DRIVER_FOR_CUDA,
    TENSORRT_RTX_GPUS,
    Version,
    choose_tensorrt,
    dotted,
    numbers,
)
from boxwright.doctor.facts import Facts, System
from boxwright.doctor.platforms import PLATFORMS, Platform

BACKENDS = ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "reference")


@dataclass(frozen=True)
class Step:
    """One step of a recipe: what it is for, and the commands, if it has any."""

    why: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """How to get a backend to work.

    Attributes:
        backend: The backend.
        platform: Name of the platform.
        steps: In order; empty where `impossible` says why there are none.
        impossible: Why the backend cannot work on this platform.
        instead: Backends that can.
    """

    backend: str
    platform: str
    steps: tuple[Step, ...] = ()
    impossible: str | None = None
    instead: tuple[str, ...] = ()


_LINUX_VENV = ("python3 -m venv .venv", ". .venv/bin/activate")
_OWN_VENV = "With Python 3.11 or newer, make an environment of its own and use it."
_REBOOT = "sudo reboot"
_AMAZON = "https://developer.download.nvidia.com/compute/cuda/repos/amzn2023/x86_64"
_RHEL9 = "https://developer.download.nvidia.com/compute/cuda/repos/rhel9/x86_64"
_GUIDE = "https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/"
_OLD_GPU = (
    " A GPU older than Turing (GTX 10 series, P100, V100) needs the closed modules instead: see "
    f"{_GUIDE}kernel-modules.html."
)
_TURING: Version = (7, 5)

# How to install NVIDIA's driver, by /etc/os-release's ID. Names and streams are those of
# packages.ubuntu.com and of NVIDIA's driver installation guide, "Kernel modules".
DRIVER_STEPS: Mapping[str, Step] = {
    "ubuntu": Step(
        f"Install NVIDIA's driver {DRIVER_BRANCH} and restart.",
        (
            "sudo apt-get update",
            f"sudo apt-get install -y linux-headers-$(uname -r) "
            f"nvidia-headless-{DRIVER_BRANCH}-server-open nvidia-utils-{DRIVER_BRANCH}-server",
            _REBOOT,
        ),
    ),
    "amzn": Step(
        f"Install NVIDIA's driver {DRIVER_BRANCH} (Amazon Linux 2023) and restart.",
        (
            "sudo dnf install -y kernel-devel-$(uname -r)",
            f"sudo dnf config-manager --add-repo {_AMAZON}/cuda-amzn2023.repo",
            f"sudo dnf module enable -y nvidia-driver:{DRIVER_BRANCH}-open",
            "sudo dnf install -y nvidia-open",
            _REBOOT,
        ),
    ),
    "rhel": Step(
        f"Install NVIDIA's driver {DRIVER_BRANCH} (Red Hat Enterprise Linux 9 and its kin) "
        "and restart.",
        (
            "sudo dnf install -y kernel-devel-$(uname -r)",
            f"sudo dnf config-manager --add-repo {_RHEL9}/cuda-rhel9.repo",
            f"sudo dnf module enable -y nvidia-driver:{DRIVER_BRANCH}-open",
            "sudo dnf install -y nvidia-open",
            _REBOOT,
        ),
    ),
    "other": Step(
        f"Install NVIDIA's driver {DRIVER_BRANCH} or newer as {_GUIDE} says for your "
        "distribution, and restart.",
        (_REBOOT,),
    ),
}

STEPS: Mapping[str, Step] = {
    "windows-driver": Step(
        "Install NVIDIA's driver for Windows, "
        f"{DRIVER_BRANCH} or newer, from https://www.nvidia.com/drivers and restart."
    ),
    "wsl-driver": Step(
        "In Windows, install NVIDIA's driver from https://www.nvidia.com/drivers (in Linux "
        "install none: it would hide the one of Windows), then, in PowerShell:",
        ("wsl --update", "wsl --shutdown"),
    ),
    "host-driver": Step(
        "On the host, not in the container: with NVIDIA's driver in place, let Docker hand "
        "out GPUs (package nvidia-container-toolkit, https://docs.nvidia.com/datacenter/"
        "cloud-native/container-toolkit/latest/install-guide.html).",
        (
            "sudo nvidia-ctk runtime configure --runtime=docker",
            "sudo systemctl restart docker",
            "docker run --rm --gpus all ubuntu nvidia-smi",
        ),
    ),
    "host-gpus": Step("Start this container with `--gpus all` after `docker run`."),
    "venv": Step(_OWN_VENV, _LINUX_VENV),
    "debian-venv": Step(
        f"{_OWN_VENV} Ubuntu 24.04's Python is new enough, 22.04's is not.",
        ("sudo apt-get install -y python3-venv", *_LINUX_VENV),
    ),
    "windows-venv": Step(
        _OWN_VENV,
        ("py -m venv .venv", r".venv\Scripts\activate"),
    ),
    "system-venv": Step(
        "Make an environment that sees JetPack's TensorRT, and use it.",
        (
            "sudo apt-get install -y python3-venv",
            "python3 -m venv --system-site-packages .venv",
            ". .venv/bin/activate",
        ),
    ),
    "uv-venv": Step(
        "This JetPack's Python is older than Boxwright needs (3.11): get a newer one beside it.",
        (
            "sudo apt-get install -y python3-pip",
            "python3 -m pip install --user uv",
            "python3 -m uv venv --seed --python 3.12 .venv",
            ". .venv/bin/activate",
        ),
    ),
    "docker-python": Step(
        "This JetPack's system is older than today's wheels need: work in a container, on the CPU.",
        ('sudo docker run --rm -it -v "$PWD":/work -w /work python:3.12-slim bash',),
    ),
    "jetpack": Step(
        "Install JetPack's libraries, TensorRT among them.",
        (
            "sudo apt-get update",
            "sudo apt-get install -y nvidia-jetpack python3-libnvinfer",
        ),
    ),
    "jetson-power": Step(
        "For full speed (until the next start).", ("sudo nvpmodel -m 0", "sudo jetson_clocks")
    ),
    "boxwright": Step("Install Boxwright.", ("python -m pip install boxwright",)),
    "openvino": Step(
        "Install Boxwright with OpenVINO.", ('python -m pip install "boxwright[openvino]"',)
    ),
    "tensorrt-extra": Step(
        "Install Boxwright with what it needs for TensorRT.",
        ('python -m pip install "boxwright[tensorrt]" "cuda-core[cu13]"',),
    ),
    "tensorrt-rtx": Step(
        "Install Boxwright with TensorRT-RTX, which is for CUDA 13.",
        ('python -m pip install "boxwright[rtx]" "cuda-core[cu13]"',),
    ),
}

_CPU_ONLY: Mapping[str, tuple[str, ...]] = {
    "linux-cpu": ("venv",),
    "linux-nvidia": ("venv",),
    **{name: ("debian-venv",) for name in PLATFORMS if name.startswith("ec2-")},
    "jetson-jp4": ("docker-python",),
    "jetson-jp5": ("uv-venv",),
    "jetson-jp6": ("uv-venv",),
    "jetson-jp7": ("debian-venv",),
    "wsl": ("debian-venv",),
    "container": (),
    "windows": ("windows-venv",),
    "windows-nvidia": ("windows-venv",),
    "macos": ("venv",),
}
_DISCRETE: Mapping[str, tuple[str, ...]] = {
    "linux-nvidia": ("driver", "venv"),
    **{name: ("driver", "debian-venv") for name in PLATFORMS if name.startswith("ec2-")},
    "wsl": ("wsl-driver", "debian-venv"),
    "container": ("host-driver", "host-gpus"),
    "windows-nvidia": ("windows-driver", "windows-venv"),
}

# Names of steps, by backend and platform. "driver" and "tensorrt" depend on the machine.
RECIPES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "reference": {name: (*steps, "boxwright") for name, steps in _CPU_ONLY.items()},
    "onnxruntime": {name: (*steps, "boxwright") for name, steps in _CPU_ONLY.items()},
    "openvino": {name: (*steps, "openvino") for name, steps in _CPU_ONLY.items()},
    "tensorrt": {
        **{name: (*steps, "tensorrt") for name, steps in _DISCRETE.items()},
        "jetson-jp7": ("jetpack", "system-venv", "tensorrt-extra", "jetson-power"),
    },
    "tensorrt-rtx": {
        name: (*steps, "tensorrt-rtx") for name, steps in _DISCRETE.items() if name != "ec2-p5"
    },
}

_NO_GPU = "TensorRT needs an NVIDIA GPU, and this platform has none"
_JETPACK_PYTHON = (
    "JetPack {jetpack}'s TensorRT is built for the system's Python {python}, and Boxwright needs "
    "Python 3.11 or newer; JetPack 7 (Python 3.12) is the first that serves both"
)
IMPOSSIBLE: Mapping[tuple[str, str], str] = {
    **{
        (backend, name): _NO_GPU
        for backend in ("tensorrt", "tensorrt-rtx")
        for name in ("linux-cpu", "windows", "macos")
    },
    ("tensorrt", "jetson-jp4"): "JetPack 4 has TensorRT 8.2 at most, which knows no tensors "
    "addressed by name (they came with 8.5), for Python 3.6",
    ("tensorrt", "jetson-jp5"): _JETPACK_PYTHON.format(jetpack=5, python="3.8"),
    ("tensorrt", "jetson-jp6"): _JETPACK_PYTHON.format(jetpack=6, python="3.10"),
    **{
        ("tensorrt-rtx", f"jetson-jp{major}"): "TensorRT-RTX is for RTX GPUs in PCs; there is "
        "none for Jetson"
        for major in (4, 5, 6, 7)
    },
    ("tensorrt-rtx", "ec2-p5"): "TensorRT-RTX does not run on GPUs of compute capability 9.0 "
    "(H100, H200)",
}


def recipe(backend: str, platform: str, facts: Facts | None = None) -> Recipe:
    """The shortest way to a working backend.

    Args:
        backend: One of :data:`BACKENDS`.
        platform: Name of a platform.
        facts: Of the machine at hand; what it has already is left out. Without, the
            platform's own assumptions are used, and Ubuntu on EC2.
    """
    reason = _impossible(backend, platform, facts)
    if reason is not None:
        instead = tuple(
            name
            for name in ("tensorrt", "onnxruntime", "openvino")
            if name != backend and _impossible(name, platform, facts) is None
        )
        return Recipe(backend, platform, impossible=reason, instead=instead)
    names = RECIPES[backend][platform]
    wanted = [name for name in names if facts is None or not _has(name, backend, facts)]
    steps = [_step(name, PLATFORMS[platform], facts) for name in wanted]
    check = Step("Look again.", (f"boxwright doctor --for {backend}",))
    return Recipe(backend, platform, (*(step for step in steps if step), check))


def driver_step(system: System | None, gpu: Version | None = None) -> Step:
    """How to install NVIDIA's driver on a Linux distribution.

    Args:
        system: The system; Ubuntu where there is none at hand.
        gpu: Compute capability, where it is known; it decides between the open kernel
            modules, which need Turing or newer, and the closed ones.
    """
    step = DRIVER_STEPS["ubuntu" if system is None else _distribution(system)]
    if gpu is not None and gpu >= _TURING:
        return step
    return Step(step.why + _OLD_GPU, step.commands)


def _distribution(system: System) -> str:
    """Which of :data:`DRIVER_STEPS` fits; the repositories named there are of x86-64."""
    names = {system.distribution, *(system.distribution_like or "").split()}
    version, intel = system.distribution_version or "", system.architecture == "x86-64"
    if "ubuntu" in names:
        return "ubuntu"
    if "amzn" in names:
        return "amzn" if version.startswith("2023") and intel else "other"
    if names & {"rhel", "ol", "centos"} and system.distribution != "fedora":
        return "rhel" if version.split(".")[0] == "9" and intel else "other"
    return "other"


def driver_branch(facts: Facts) -> int | None:
    """The driver's branch, such as 580; ``None`` without a driver."""
    version = numbers(facts.nvidia.driver)
    return version[0] if version else None


def weakest_gpu(facts: Facts) -> Version | None:
    """Compute capability of the least able GPU; ``None`` where it is not known."""
    known = [numbers(gpu.compute_capability) for gpu in facts.nvidia.gpus if gpu.compute_capability]
    return min(known) if known else None


def _impossible(backend: str, platform: str, facts: Facts | None) -> str | None:
    reason = IMPOSSIBLE.get((backend, platform))
    if reason is not None:
        return reason
    if backend not in ("tensorrt", "tensorrt-rtx"):
        return None
    gpu = weakest_gpu(facts) if facts else PLATFORMS[platform].gpu
    if backend == "tensorrt-rtx" and gpu is not None and gpu not in TENSORRT_RTX_GPUS:
        served = ", ".join(dotted(item) for item in sorted(TENSORRT_RTX_GPUS))
        return f"TensorRT-RTX does not run on compute capability {dotted(gpu)}, only on {served}"
    if backend == "tensorrt" and not platform.startswith("jetson"):
        python, architecture = _python(facts), _architecture(facts, platform)
        if choose_tensorrt(gpu, None, python, architecture) is None:
            shown = dotted(gpu) if gpu else "unknown"
            return (
                f"no TensorRT has wheels for Python {dotted(python[:2])} that serve compute "
                f"capability {shown} on {architecture}"
            )
    return None


def _python(facts: Facts | None) -> Version:
    return numbers(facts.python.version) if facts else (3, 12)


def _architecture(facts: Facts | None, platform: str) -> str:
    return facts.system.architecture if facts else PLATFORMS[platform].architecture


def _has(name: str, backend: str, facts: Facts) -> bool:
    """Whether the machine at hand has what a step brings."""
    if name in ("venv", "debian-venv", "windows-venv"):
        return facts.python.virtual
    if name in ("uv-venv", "docker-python"):
        return True  # Boxwright runs, so its Python is new enough
    if name == "boxwright":
        return True
    if name in ("driver", "wsl-driver", "windows-driver", "host-driver", "host-gpus"):
        branch = driver_branch(facts)
        needed = DRIVER_FOR_CUDA[13 if backend == "tensorrt-rtx" else 12]
        return bool(facts.nvidia.gpus) and branch is not None and branch >= needed
    if name == "jetpack":
        return "python3-libnvinfer" in facts.tensorrt.system
    if name == "system-venv":
        module = facts.modules.get("tensorrt")
        return module is not None and module.state == "ok"
    if name == "jetson-power":
        return bool(facts.jetson and facts.jetson.clocks_locked)
    if name in ("openvino", "tensorrt-rtx", "tensorrt-extra", "tensorrt"):
        check = facts.backend(backend)
        return check is not None and check.works
    return False


def _step(name: str, platform: Platform, facts: Facts | None) -> Step | None:
    if name == "driver":
        gpu = (weakest_gpu(facts) if facts else None) or platform.gpu
        return driver_step(facts.system if facts else None, gpu)
    if name == "tensorrt":
        return tensorrt_step(platform, facts)
    return STEPS[name]


def tensorrt_step(platform: Platform, facts: Facts | None) -> Step | None:
    """Installing the TensorRT that fits; ``None`` where none does."""
    gpu = weakest_gpu(facts) if facts else platform.gpu
    branch = driver_branch(facts) if facts else None
    # A driver that is too old for any TensorRT gets replaced by an earlier step.
    usable = branch if branch is not None and branch >= DRIVER_FOR_CUDA[12] else DRIVER_BRANCH
    choice = choose_tensorrt(gpu, usable, _python(facts), _architecture(facts, platform.name))
    if choice is None:
        return None
    return Step(
        f"Install Boxwright with TensorRT for CUDA {choice.cuda}.",
        (
            f'python -m pip install "boxwright[tensorrt]" "cuda-core[cu{choice.cuda}]" '
            f'"{choice.pip}"',
        ),
    )
