"""Collecting the facts of the system and its hardware."""

from __future__ import annotations

import dataclasses
import re
from concurrent.futures import ThreadPoolExecutor

from boxwright.doctor import software
from boxwright.doctor.compatibility import JETSON_GPUS, jetpack_of, numbers
from boxwright.doctor.facts import Facts, Gpu, Jetson, Nvidia, Python, Storage, System
from boxwright.doctor.machine import Machine

_SECONDS = 2.0
_NVIDIA_VENDOR = "0x10de"
_LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib/aarch64-linux-gnu")
_WSL_LIBCUDA = "/usr/lib/wsl/lib/libcuda.so.1"


def gather(machine: Machine) -> Facts:
    """Everything the doctor asks; what cannot be told is ``None``, and nothing raises."""
    packages = machine.packages()
    with ThreadPoolExecutor(max_workers=4) as pool:  # it waits for processes, mostly
        backends = pool.submit(software.check_backends, machine)
        modules = pool.submit(software.check_modules, machine)
        dpkg = pool.submit(software.system_packages, machine)
        nvidia = pool.submit(_nvidia, machine)
        installed = dpkg.result()
        jetson = _jetson(machine, installed)
        return Facts(
            system=_system(machine),
            python=_python(machine),
            cpu=dict(machine.cpu()),
            memory_mib=machine.memory_mib(),
            nvidia=_with_jetson_gpu(nvidia.result(), jetson),
            jetson=jetson,
            packages=software.relevant(packages),
            tensorrt=software.tensorrt(machine, packages, installed),
            tensorrt_rtx=software.tensorrt_rtx(packages),
            torch_cuda=software.torch_cuda(machine, packages),
            ort_gpu_cuda=software.ort_gpu_cuda(machine, packages),
            modules=modules.result(),
            requirements=software.requirements(machine, packages),
            backends=backends.result(),
            storage=_storage(machine),
        )


def _system(machine: Machine) -> System:
    distribution = _os_release(machine)
    kernel = (machine.read("/proc/version") or "").lower()
    wsl = "microsoft" in kernel
    wsl_libcuda = wsl and bool(machine.glob(_WSL_LIBCUDA))
    return System(
        name=machine.system,
        release=machine.release,
        architecture=machine.architecture,
        distribution=distribution.get("ID"),
        distribution_version=distribution.get("VERSION_ID"),
        distribution_like=distribution.get("ID_LIKE"),
        glibc=machine.glibc,
        container=None if wsl else _container(machine),
        # NVIDIA's images set it; its container runtime reads it.
        gpu_container="NVIDIA_VISIBLE_DEVICES" in machine.environ,
        wsl=wsl,
        wsl_libcuda=wsl_libcuda,
        linux_libcuda_in_wsl=wsl
        and any(machine.glob(f"{folder}/libcuda.so.[0-9]*.*") for folder in _LIBRARY_FOLDERS),
        ec2=_ec2(machine),
    )


def _os_release(machine: Machine) -> dict[str, str]:
    text = machine.read("/etc/os-release") or ""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}


def _container(machine: Machine) -> str | None:
    """Which kind of container this is; ``None`` for none."""
    if machine.read("/.dockerenv") is not None:
        return "docker"
    if machine.read("/run/.containerenv") is not None:
        return "podman"
    if "KUBERNETES_SERVICE_HOST" in machine.environ:
        return "kubernetes"
    found = re.search(r"docker|kubepods|containerd|lxc", machine.read("/proc/1/cgroup") or "")
    return found[0] if found else None


def _ec2(machine: Machine) -> str | None:
    """The EC2 instance's type, such as ``g5.xlarge``; ``None`` elsewhere."""
    vendor = machine.read("/sys/class/dmi/id/sys_vendor") or ""
    product = (machine.read("/sys/class/dmi/id/product_name") or "").strip()
    return product or None if vendor.strip().lower().startswith("amazon") else None


def _python(machine: Machine) -> Python:
    return Python(
        version=".".join(map(str, machine.python)),
        executable=machine.executable,
        virtual=machine.virtual,
        externally_managed=machine.externally_managed,
    )


def _nvidia(machine: Machine) -> Nvidia:
    reading = machine.nvml()
    gpus = tuple(Gpu(**{"name": "unknown", **facts}) for facts in reading.gpus)
    driver, cuda = reading.driver, reading.cuda or machine.libcuda()
    if not gpus:
        driver_by_program, gpus = _nvidia_smi(machine)
        driver = driver or driver_by_program
    kernel = machine.read("/proc/driver/nvidia/version") or ""
    module = re.search(r"Kernel Module(?:\s+for\s+\S+)?\s+(\d+(?:\.\d+)+)", kernel)
    modules = machine.read("/proc/modules") or ""
    return Nvidia(
        on_pci=_on_pci(machine),
        driver=driver,
        kernel_module=module[1] if module else None,
        library=driver or _library_version(machine),
        nvml_status=reading.status,
        cuda=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        nouveau=re.search(r"(?m)^nouveau\s", modules) is not None,
        gpus=gpus,
        toolkits=_toolkits(machine),
        nvcc=_nvcc(machine),
        visible_devices=machine.environ.get("CUDA_VISIBLE_DEVICES"),
        stub_libraries="/stubs" in machine.environ.get("LD_LIBRARY_PATH", ""),
    )


def _nvidia_smi(machine: Machine) -> tuple[str | None, tuple[Gpu, ...]]:
    """What ``nvidia-smi`` says, where the library itself cannot be asked."""
    query = "--query-gpu=name,driver_version,compute_cap,memory.total"
    done = machine.run(["nvidia-smi", query, "--format=csv,noheader,nounits"], _SECONDS)
    driver, gpus = None, []
    for line in done.stdout.splitlines() if done.ok else ():
        fields = [word.strip() for word in line.split(",")]
        if len(fields) == 4:
            driver = fields[1]
            memory = numbers(fields[3])
            capability = fields[2] if numbers(fields[2]) else None
            gpus.append(Gpu(fields[0], capability, memory[0] if memory else None))
    return driver, tuple(gpus)


def _on_pci(machine: Machine) -> bool:
    """Whether a display or 3D controller (PCI class 03) of NVIDIA's is there."""
    for vendor in machine.glob("/sys/bus/pci/devices/*/vendor"):
        if (machine.read(vendor) or "").strip() == _NVIDIA_VENDOR:
            kind = machine.read(vendor.removesuffix("vendor") + "class") or ""
            if kind.strip().startswith("0x03"):
                return True
    return False


def _library_version(machine: Machine) -> str | None:
    """Version of the driver's libraries by their file names, for NVML that does not start."""
    for folder in _LIBRARY_FOLDERS:
        for path in reversed(machine.glob(f"{folder}/libnvidia-ml.so.*")):
            version = path.rpartition(".so.")[2]
            if len(numbers(version)) > 1:
                return version
    return None


def _toolkits(machine: Machine) -> tuple[str, ...]:
    folders = machine.glob("/usr/local/cuda-*")
    found = {path.rpartition("cuda-")[2] for path in folders}
    return tuple(sorted((item for item in found if len(numbers(item)) > 1), key=numbers))


def _nvcc(machine: Machine) -> str | None:
    found = re.search(r"release (\d+\.\d+)", machine.run(["nvcc", "--version"], _SECONDS).stdout)
    return found[1] if found else None


def _jetson(machine: Machine, installed: dict[str, str]) -> Jetson | None:
    text = machine.read("/etc/nv_tegra_release") or ""
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)", text)
    # Containers and JetPack 7 have the package but not always the file.
    l4t = f"{found[1]}.{found[2]}" if found else _upstream(installed.get("nvidia-l4t-core"))
    model = (machine.read("/proc/device-tree/model") or "").strip("\0 \n") or None
    if l4t is None:
        return None
    by_release = jetpack_of(l4t)
    return Jetson(
        l4t=l4t,
        jetpack=_upstream(installed.get("nvidia-jetpack"))
        or (by_release.name if by_release else None),
        model=model,
        power_mode=_power_mode(machine),
        clocks_locked=_clocks_locked(machine),
    )


def _upstream(version: str | None) -> str | None:
    """A Debian version without what Debian adds to it; ``None`` for none."""
    parts = numbers(version)
    return ".".join(map(str, parts)) if parts else None


def _power_mode(machine: Machine) -> int | None:
    found = re.search(r"pmode:(\d+)", machine.read("/var/lib/nvpmodel/status") or "")
    return int(found[1]) if found else None


def _clocks_locked(machine: Machine) -> bool | None:
    for lowest in machine.glob("/sys/class/devfreq/*gpu*/min_freq"):
        low = machine.read(lowest)
        high = machine.read(lowest.replace("min_freq", "max_freq"))
        if low and high:
            return low.strip() == high.strip()
    return None


def _with_jetson_gpu(nvidia: Nvidia, jetson: Jetson | None) -> Nvidia:
    """Older Jetsons have no NVML; the board's name tells the GPU."""
    if jetson is None or nvidia.gpus or jetson.model is None:
        return nvidia
    for word, capability in JETSON_GPUS:
        if word in jetson.model:
            return dataclasses.replace(nvidia, gpus=(Gpu(f"{word} (integrated)", capability),))
    return nvidia


def _storage(machine: Machine) -> Storage:
    from boxwright.backends.cache import cache_folder

    cache = str(cache_folder())
    return Storage(
        cache=cache,
        cache_bytes=machine.folder_bytes(cache),
        cache_writable=machine.writable(cache),
        free_bytes=machine.free_bytes(cache),
        shm_bytes=machine.total_bytes("/dev/shm"),  # noqa: S108 - its size alone
        open_files=machine.open_files(),
    )
