"""Conclusions about NVIDIA's driver, GPUs and Jetsons."""

from __future__ import annotations

from collections.abc import Iterator

from boxwright.doctor.commands import STEPS, driver_branch, driver_step, weakest_gpu
from boxwright.doctor.compatibility import (
    DRIVER_FOR_CUDA,
    OLDEST_TENSORRT,
    TENSORRT_11_JETPACK,
    dotted,
    jetpack_of,
    numbers,
)
from boxwright.doctor.facts import Facts
from boxwright.doctor.finding import Finding, Severity
from boxwright.doctor.nvml import NVML_DRIVER_NOT_LOADED, NVML_SUCCESS, NVML_VERSION_MISMATCH
from boxwright.doctor.platforms import identify, jetpack_major

_GPU_BACKENDS = ("tensorrt", "tensorrt-rtx")
# Of nvmlReturn_t.
_STATUSES = {
    4: "This user may not use it: see who owns /dev/nvidia0 and /dev/nvidiactl.",
    15: "A GPU has fallen off the bus and must be reset, by a restart at the latest.",
}


def check(facts: Facts) -> Iterator[Finding]:
    """Every conclusion about NVIDIA's hardware."""
    if facts.jetson is not None:
        yield from _jetson(facts)
    elif facts.system.wsl:
        yield from _wsl(facts)
    elif facts.system.name == "Darwin":
        return
    elif facts.system.container is not None and not facts.nvidia.gpus:
        yield from _container(facts)
    else:
        yield from _driver(facts)
    yield from _gpus(facts)


def _driver(facts: Facts) -> Iterator[Finding]:
    nvidia = facts.nvidia
    module, library = nvidia.kernel_module, nvidia.library
    differs = module and library and numbers(module) != numbers(library)
    if nvidia.nvml_status == NVML_VERSION_MISMATCH or differs:
        yield Finding(
            "driver-mismatch",
            "error",
            f"The NVIDIA driver in the kernel ({module or 'of unknown version'}) and its "
            f"libraries on disk ({library or 'of unknown version'}) are of different versions.",
            "The driver was upgraded, and the old one is still loaded until the next start "
            '("Driver/library version mismatch").',
            commands=("sudo reboot",),
            concerns=_GPU_BACKENDS,
        )
    elif nvidia.gpus:
        return
    elif nvidia.nouveau:
        yield _missing(
            facts,
            "nouveau",
            "The NVIDIA GPU is driven by nouveau, the open driver, which knows no CUDA.",
            "NVIDIA's own driver is not installed, or nouveau was loaded before it.",
        )
    elif nvidia.nvml_status or (nvidia.nvml_status == NVML_SUCCESS and nvidia.on_pci):
        yield _failing(facts)
    elif nvidia.on_pci or _gpu_instance(facts):
        yield _missing(
            facts,
            "driver-missing",
            f"There is an NVIDIA GPU{_where(facts)}, and no driver for it.",
            "Without NVIDIA's driver no program can use CUDA.",
        )
    else:
        yield Finding("no-gpu", "ok", "No NVIDIA GPU: the backends run on the CPU.")


def _failing(facts: Facts) -> Finding:
    """A driver that is installed and gives no GPU."""
    nvidia = facts.nvidia
    # An image made for GPU machines may well run on one without: then nothing is broken.
    severity: Severity = "error" if nvidia.on_pci or _gpu_instance(facts) else "warn"
    seen = "" if severity == "error" else " No NVIDIA GPU is to be seen, either."
    if nvidia.nvml_status == NVML_DRIVER_NOT_LOADED:
        return Finding(
            "driver-not-loaded",
            severity,
            f"NVIDIA's driver is installed, but its kernel module is not loaded.{seen}",
            "Usual causes: no restart since the installation; a new kernel that the module "
            "was not built for; Secure Boot, which refuses modules that are not signed.",
            "See why the module does not load; then build it for this kernel and restart.",
            ("sudo modprobe nvidia", "sudo dkms autoinstall", "sudo reboot"),
            _GPU_BACKENDS,
        )
    if nvidia.nvml_status:
        return Finding(
            "driver-failing",
            severity,
            "NVIDIA's driver is installed, but does not answer (NVML status "
            f"{nvidia.nvml_status}).{seen}",
            _STATUSES.get(nvidia.nvml_status, "The kernel's log has the reason."),
            commands=("sudo dmesg --level=err,warn", "nvidia-smi"),
            concerns=_GPU_BACKENDS,
        )
    return Finding(
        "driver-no-gpu",
        "error",
        f"NVIDIA's driver ({nvidia.driver}) is loaded and drives no GPU, and one is there.",
        "The GPU is too old for this driver (its open modules need Turing or newer), or it "
        "does not answer; the kernel's log says which.",
        commands=("sudo dmesg --level=err,warn",),
        concerns=_GPU_BACKENDS,
    )


def _missing(facts: Facts, code: str, what: str, why: str) -> Finding:
    step = STEPS["windows-driver"] if facts.system.name == "Windows" else None
    step = step or driver_step(facts.system, identify(facts).gpu)
    return Finding(code, "warn", what, why, step.why, step.commands, _GPU_BACKENDS)


def _gpu_instance(facts: Facts) -> bool:
    family = (facts.system.ec2 or "").split(".")[0]
    return family.startswith(("g4dn", "g5", "g6", "p4", "p5")) and not family.startswith("g5g")


def _where(facts: Facts) -> str:
    return f" in this EC2 {facts.system.ec2}" if facts.system.ec2 else ""


def _container(facts: Facts) -> Iterator[Finding]:
    wants = facts.system.gpu_container or "onnxruntime-gpu" in facts.packages
    wants = wants or facts.tensorrt.version is not None
    yield Finding(
        "container-no-gpu",
        "warn" if wants else "ok",
        f"This container ({facts.system.container}) has not been given a GPU.",
        "A container sees only the GPUs it is started with; the driver is the host's, and "
        "none can be installed in here.",
        "If the host has an NVIDIA GPU: " + STEPS["host-gpus"].why + " If Docker refuses that, "
        "on the host:",
        STEPS["host-driver"].commands,
        _GPU_BACKENDS,
    )


def _wsl(facts: Facts) -> Iterator[Finding]:
    if facts.system.linux_libcuda_in_wsl:
        yield Finding(
            "wsl-linux-driver",
            "warn",
            "A Linux driver of NVIDIA's is installed inside WSL.",
            "Its libcuda hides the one that Windows gives to WSL in /usr/lib/wsl/lib, and it "
            "finds no device.",
            "Remove it; the driver of Windows is the only one needed.",
            ("sudo apt-get purge 'libnvidia-compute-*' 'nvidia-driver-*'",),
            _GPU_BACKENDS,
        )
    if not facts.system.wsl_libcuda:
        step = STEPS["wsl-driver"]
        yield Finding(
            "wsl-no-driver",
            "warn",
            "Windows gives no NVIDIA driver to WSL: /usr/lib/wsl/lib/libcuda.so.1 is missing.",
            "Either Windows has no NVIDIA driver with WSL support, or WSL itself is too old.",
            step.why,
            step.commands,
            _GPU_BACKENDS,
        )
    elif not facts.nvidia.gpus:
        yield Finding(
            "wsl-no-gpu",
            "warn",
            "The driver of Windows is here, but shows no GPU to WSL.",
            "WSL version 1 has no GPUs, nor has a WSL that was started before the driver came.",
            "In PowerShell (in `wsl --list --verbose` the version must be 2):",
            ("wsl --list --verbose", "wsl --shutdown"),
            _GPU_BACKENDS,
        )


def _gpus(facts: Facts) -> Iterator[Finding]:
    nvidia, branch = facts.nvidia, driver_branch(facts)
    if not nvidia.gpus or branch is None:
        return
    yield from _environment(facts)
    if branch < DRIVER_FOR_CUDA[12]:
        step = driver_step(facts.system, weakest_gpu(facts))
        if facts.system.wsl or facts.system.name == "Windows":
            step = STEPS["wsl-driver" if facts.system.wsl else "windows-driver"]
        yield Finding(
            "driver-old",
            "warn",
            f"The NVIDIA driver ({nvidia.driver}) is too old for CUDA 12.",
            f"It serves CUDA {_serves(facts)}; CUDA 12 needs {DRIVER_FOR_CUDA[12]} or newer, "
            f"CUDA 13 needs {DRIVER_FOR_CUDA[13]}.",
            step.why,
            step.commands,
            _GPU_BACKENDS,
        )
    else:
        yield Finding(
            "driver-ok",
            "ok",
            f"The NVIDIA driver ({nvidia.driver}) serves CUDA {_serves(facts)}.",
        )
    if any(gpu.mig for gpu in nvidia.gpus):
        yield Finding(
            "mig",
            "ok",
            "A GPU is split into parts (MIG): engines are built for, and timed on, one part.",
            concerns=_GPU_BACKENDS,
        )


def _environment(facts: Facts) -> Iterator[Finding]:
    if (facts.nvidia.visible_devices or "").strip() in ("", "-1") and (
        facts.nvidia.visible_devices is not None
    ):
        yield Finding(
            "gpus-hidden",
            "warn",
            f'CUDA_VISIBLE_DEVICES is "{facts.nvidia.visible_devices}": it hides every GPU.',
            "CUDA programs started from here see none.",
            commands=("unset CUDA_VISIBLE_DEVICES",),
            concerns=_GPU_BACKENDS,
        )
    if facts.nvidia.stub_libraries:
        yield Finding(
            "cuda-stubs",
            "warn",
            "LD_LIBRARY_PATH leads to the stubs of the CUDA toolkit.",
            "The libcuda there is for linking only and finds no GPU; it comes before the driver's.",
            "Take the folder that ends in /stubs out of it.",
            concerns=_GPU_BACKENDS,
        )


def _serves(facts: Facts) -> str:
    """The CUDA versions a driver serves, in words."""
    branch = driver_branch(facts) or 0
    majors = [major for major, oldest in DRIVER_FOR_CUDA.items() if branch >= oldest]
    newest = facts.nvidia.cuda or (f"{majors[-1]}" if majors else "10")
    return f"up to {newest}"


def _jetson(facts: Facts) -> Iterator[Finding]:
    jetson = facts.jetson
    assert jetson is not None  # noqa: S101 - the caller asked
    major, row = jetpack_major(facts), jetpack_of(jetson.l4t)
    name = f"JetPack {jetson.jetpack or major}"
    if major <= 4:
        has = f"TensorRT {row.tensorrt}" if row and row.tensorrt else "TensorRT 8.2 at most"
        yield Finding(
            "jetpack-old",
            "warn",
            f"{name} has {has}: too old for the tensorrt backend.",
            f"It needs TensorRT {dotted(OLDEST_TENSORRT)} or newer, where tensors are addressed "
            "by name, and JetPack 4 is the last for this board's generation.",
            "Use onnxruntime or openvino on the CPU, in a container:",
            STEPS["docker-python"].commands,
            ("tensorrt",),
        )
    elif row and facts.python.version and numbers(facts.python.version)[:2] != row.python:
        yield Finding(
            "jetpack-python",
            "warn",
            f"{name}'s TensorRT is built for Python {dotted(row.python)}; this is Python "
            f"{dotted(numbers(facts.python.version)[:2])}.",
            "The bindings of another Python cannot be imported, and Boxwright needs Python 3.11 "
            "or newer.",
            "Use onnxruntime or openvino on the CPU, or JetPack 7, whose Python is 3.12 "
            "(7.2 also runs on Orin)."
            if major < 7
            else "Use the system's Python 3.12:",
            STEPS["system-venv"].commands if major >= 7 else (),
            ("tensorrt",),
        )
    if numbers(facts.tensorrt.version)[:1] >= (11,) and (
        numbers(jetson.jetpack) < TENSORRT_11_JETPACK
    ):
        yield _tensorrt_11(facts, name)
    if jetson.clocks_locked is False:
        yield Finding(
            "jetson-clocks",
            "ok",
            "The clocks follow the load: measured speed will vary.",
            "",
            "Before measuring (until the next start):",
            STEPS["jetson-power"].commands,
        )


def _tensorrt_11(facts: Facts, name: str) -> Finding:
    return Finding(
        "jetpack-tensorrt",
        "error",
        f"TensorRT {facts.tensorrt.version} does not support {name}.",
        f"TensorRT 11 needs JetPack {dotted(TENSORRT_11_JETPACK)} or newer (with TensorRT 11.4.1).",
        "Use the TensorRT that JetPack brings:",
        (
            *(
                f"python -m pip uninstall -y {package}"
                for package in sorted(facts.tensorrt.packages)
            ),
            *STEPS["jetpack"].commands,
        ),
        ("tensorrt",),
    )
