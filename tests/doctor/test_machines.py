"""What the doctor concludes of machines that are not at hand."""

from __future__ import annotations

from typing import Any

import pytest

from boxwright.doctor import report as report_module
from boxwright.doctor.finding import Finding
from boxwright.doctor.machine import Outcome
from boxwright.doctor.nvml import NvmlReading
from boxwright.doctor.report import Report
from tests.doctor.forms import assert_copyable
from tests.doctor.machines import (
    AMAZON,
    BASE,
    HANG,
    KERNEL_MODULE,
    OPEN_MODULE,
    PCI_GPU,
    SEGFAULT,
    UBUNTU_24,
    FakeMachine,
    driver,
    gpu,
    jetson,
    workstation,
)

# nvml.h: NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_LIB_RM_VERSION_MISMATCH.
NOT_LOADED, MISMATCH = 9, 18

A10G, T4, H100 = gpu("NVIDIA A10G", "8.6"), gpu("Tesla T4", "7.5"), gpu("NVIDIA H100", "9.0")
V100, BLACKWELL = gpu("Tesla V100", "7.0"), gpu("NVIDIA B200", "10.0")


def trt(version: str, cuda: int) -> dict[str, str]:
    name = f"tensorrt-cu{cuda}"
    return {name: version, f"{name}-libs": version, f"{name}-bindings": version}


def examine(machine: FakeMachine) -> Report:
    """The report, after a look at every command and word in it."""
    report = report_module.examine(machine)
    for finding in report.findings:
        assert finding.what.endswith((".", "!")) or ": " in finding.what
        assert "None" not in f"{finding.what}{finding.why}{finding.advice}", finding
        for command in finding.commands:
            assert_copyable(command)
    for backend in ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"):
        recipe = report.recipe(backend)
        assert recipe is not None
        for step in recipe.steps:
            for command in step.commands:
                assert_copyable(command)
    return report


def codes(report: Report, *severities: str) -> list[str]:
    return [f.code for f in report.findings if not severities or f.severity in severities]


def the(report: Report, code: str) -> Finding:
    (found,) = [finding for finding in report.findings if finding.code == code]
    return found


def troubles(report: Report) -> list[str]:
    return codes(report, "error", "warn")


def ec2(kind: str, **more: Any) -> dict[str, Any]:
    files = {
        "/sys/class/dmi/id/sys_vendor": "Amazon EC2\n",
        "/sys/class/dmi/id/product_name": f"{kind}\n",
        "/etc/os-release": UBUNTU_24,
        **PCI_GPU,
        **more.pop("files", {}),
    }
    return {"files": files, **more}


def test_a_pc_in_order_has_nothing_to_complain_of() -> None:
    report = examine(
        workstation(
            "580.65.06",
            13000,
            A10G,
            packages={**BASE, **trt("10.14.1", 13)},
            modules={"tensorrt": {"version": "10.14.1"}},
            backends={"onnxruntime": None},
        )
    )
    assert report.platform.name == "linux-nvidia"
    assert troubles(report) == []
    assert report.ok
    assert the(report, "driver-ok").what == (
        "The NVIDIA driver (580.65.06) serves CUDA up to 13.0."
    )
    assert report.facts.tensorrt.cuda == 13


def test_a_wheel_for_cuda_13_on_a_driver_for_12() -> None:
    report = examine(
        workstation("525.60.13", 12000, A10G, packages={**BASE, **trt("10.14.1.48", 13)})
    )
    found = the(report, "tensorrt-driver")
    assert found.severity == "error"
    assert found.what == (
        "The driver (525.60.13) serves CUDA up to 12.0; the installed tensorrt-cu13 10.14.1.48 "
        "needs CUDA 13 (driver 580 or newer)."
    )
    assert "sudo reboot" in found.commands
    assert found.commands[-2:] == (
        "python -m pip uninstall -y tensorrt-cu13 tensorrt-cu13-bindings tensorrt-cu13-libs",
        'python -m pip install "boxwright[tensorrt]" "cuda-core[cu12]" "tensorrt-cu12<11"',
    )
    assert not report.ok


@pytest.mark.parametrize(
    ("version", "cuda", "tensorrt", "expected"),
    [
        # The oldest branch of CUDA 12 serves TensorRT 10 but not 11.
        ("525.147.05", 12, "10.13.3", []),
        ("525.147.05", 12, "11.1.0", ["tensorrt-driver"]),
        ("535.183.01", 12, "11.1.0", []),
        ("570.26", 13, "11.1.0", ["tensorrt-driver"]),
        ("580.65.06", 13, "11.1.0", []),
        # CUDA's compatibility goes backwards for ever.
        ("610.10.01", 12, "10.13.3", []),
    ],
)
def test_which_driver_serves_which_tensorrt(
    version: str, cuda: int, tensorrt: str, expected: list[str]
) -> None:
    report = examine(
        workstation(version, cuda * 1000, A10G, packages={**BASE, **trt(tensorrt, cuda)})
    )
    assert codes(report, "error") == expected


def test_a_driver_too_old_for_anything() -> None:
    report = examine(workstation("470.82.01", 11040, T4))
    found = the(report, "driver-old")
    assert "470.82.01" in found.what
    assert "CUDA 12 needs 525 or newer, CUDA 13 needs 580" in found.why
    assert "It serves CUDA up to 11.4" in found.why
    assert any("nvidia-headless-580-server-open" in line for line in found.commands)
    # Nothing is broken: the CPU does.
    assert report.ok


@pytest.mark.parametrize("template", [KERNEL_MODULE, OPEN_MODULE])
def test_an_upgraded_driver_before_the_restart(template: str) -> None:
    machine = FakeMachine(
        files={
            "/etc/os-release": UBUNTU_24,
            "/proc/driver/nvidia/version": template.format("550.90.07"),
            "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1": "",
            "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.107.02": "",
            **PCI_GPU,
        },
        nvml=NvmlReading(MISMATCH),
    )
    found = the(examine(machine), "driver-mismatch")
    assert found.severity == "error"
    assert "550.90.07" in found.what
    assert "550.107.02" in found.what
    assert found.commands == ("sudo reboot",)


def test_nvml_alone_may_say_that_versions_differ() -> None:
    machine = FakeMachine(files={"/etc/os-release": UBUNTU_24}, nvml=NvmlReading(MISMATCH))
    assert codes(examine(machine), "error") == ["driver-mismatch"]


def test_a_module_that_is_not_loaded() -> None:
    files = {"/etc/os-release": UBUNTU_24, **PCI_GPU}
    report = examine(FakeMachine(files=files, nvml=NvmlReading(NOT_LOADED)))
    assert "sudo modprobe nvidia" in the(report, "driver-not-loaded").commands


def test_nouveau_holds_the_gpu() -> None:
    files = {
        "/etc/os-release": UBUNTU_24,
        "/proc/modules": "snd 1 0 - Live 0x0\nnouveau 2306048 5 - Live 0x0000000000000000\n",
        **PCI_GPU,
    }
    report = examine(FakeMachine(files=files))
    found = the(report, "nouveau")
    assert found.severity == "warn"
    assert "sudo reboot" in found.commands
    assert "older than Turing" in found.advice, "which GPU it is cannot be told"


def test_a_g4dn_without_driver() -> None:
    report = examine(FakeMachine(**ec2("g4dn.xlarge")))
    assert report.platform.name == "ec2-g4dn"
    found = the(report, "driver-missing")
    assert "EC2 g4dn.xlarge" in found.what
    assert any("linux-headers-$(uname -r)" in line for line in found.commands)
    assert "older than Turing" not in found.advice, "a T4 is Turing"
    recipe = report.recipe("tensorrt")
    assert recipe is not None
    assert [line for step in recipe.steps for line in step.commands][-2:] == [
        'python -m pip install "boxwright[tensorrt]" "cuda-core[cu13]" "tensorrt-cu13<12"',
        "boxwright doctor --for tensorrt",
    ]


def test_amazon_linux_has_commands_of_its_own() -> None:
    files = {"/etc/os-release": AMAZON}
    found = the(examine(FakeMachine(**ec2("g5.2xlarge", files=files))), "driver-missing")
    assert "sudo dnf install -y nvidia-open" in found.commands
    assert not any("apt-get" in line for line in found.commands)


@pytest.mark.parametrize(
    ("kind", "platform"),
    [
        ("g4dn.xlarge", "ec2-g4dn"),
        ("g5.xlarge", "ec2-g5"),
        ("g6e.12xlarge", "ec2-g6"),
        ("p4de.24xlarge", "ec2-p4"),
        ("p5en.48xlarge", "ec2-p5"),
        # No NVIDIA GPU, or one that is not in the table: by what is plugged in.
        ("m7i.large", "linux-nvidia"),
        ("g5g.xlarge", "linux-nvidia"),
    ],
)
def test_ec2_by_its_instance_type(kind: str, platform: str) -> None:
    assert examine(FakeMachine(**ec2(kind))).platform.name == platform


@pytest.mark.parametrize(
    ("release", "package_manager"),
    [
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\nVERSION_ID="22"\n', "apt-get"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.5"\n', "dnf"),
        # Another release needs another repository: NVIDIA's guide has it.
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="8.10"\n', None),
        ('ID=fedora\nVERSION_ID="42"\n', None),
        ("ID=debian\n", None),
        ("", None),
    ],
)
def test_drivers_by_distribution(release: str, package_manager: str | None) -> None:
    files = {**PCI_GPU, "/etc/os-release": release}
    found = the(examine(FakeMachine(files=files)), "driver-missing")
    if package_manager is None:
        assert "https://docs.nvidia.com/" in found.advice
        assert found.commands == ("sudo reboot",)
    else:
        assert any(f"sudo {package_manager} " in line for line in found.commands)


@pytest.mark.parametrize("status", [4, 15, 999])
def test_a_driver_that_does_not_answer(status: int) -> None:
    report = examine(FakeMachine(files=PCI_GPU, nvml=NvmlReading(status)))
    assert codes(report, "error") == ["driver-failing"]
    assert f"NVML status {status}" in report.findings[0].what


def test_a_driver_that_drives_no_gpu() -> None:
    report = examine(FakeMachine(files=PCI_GPU, nvml=driver("580.65.06", 13000)))
    assert codes(report, "error") == ["driver-no-gpu"]


@pytest.mark.parametrize(("value", "hidden"), [("", True), ("-1", True), ("0,1", False)])
def test_gpus_that_are_hidden(value: str, hidden: bool) -> None:
    environ = {"CUDA_VISIBLE_DEVICES": value}
    report = examine(workstation("580.65.06", 13000, A10G, environ=environ))
    assert ("gpus-hidden" in codes(report)) is hidden


def test_stubs_before_the_driver() -> None:
    environ = {"LD_LIBRARY_PATH": "/usr/lib:/usr/local/cuda/lib64/stubs"}
    report = examine(workstation("580.65.06", 13000, A10G, environ=environ))
    assert troubles(report) == ["cuda-stubs"]


def test_a_g5_in_order() -> None:
    machine = FakeMachine(**ec2("g5.xlarge", nvml=driver("580.65.06", 13000, A10G)))
    report = examine(machine)
    assert troubles(report) == []
    recipe = report.recipe("tensorrt")
    assert recipe is not None
    assert not any("apt-get" in line for step in recipe.steps for line in step.commands)


def test_a_pc_without_gpu() -> None:
    report = examine(FakeMachine(files={"/etc/os-release": UBUNTU_24}))
    assert report.platform.name == "linux-cpu"
    assert troubles(report) == []
    recipe = report.recipe("tensorrt")
    assert recipe is not None
    assert "needs an NVIDIA GPU" in (recipe.impossible or "")
    assert recipe.instead == ("onnxruntime", "openvino")


def test_another_vendors_gpu_is_no_nvidia_gpu() -> None:
    files = {path: text.replace("0x10de", "0x1002") for path, text in PCI_GPU.items()}
    assert examine(FakeMachine(files=files)).platform.name == "linux-cpu"
    # An NVIDIA sound device is none either.
    files = {path: text.replace("0x0302", "0x0403") for path, text in PCI_GPU.items()}
    assert examine(FakeMachine(files=files)).platform.name == "linux-cpu"


def test_jetpack_4_is_too_old_and_says_what_to_use() -> None:
    report = examine(jetson("32.7.1", "Nano Developer Kit", dpkg={"libnvinfer8": "8.2.1-1"}))
    assert report.platform.name == "jetson-jp4"
    found = the(report, "jetpack-old")
    assert "TensorRT 8.2.1: too old" in found.what
    assert "onnxruntime or openvino" in found.advice
    recipe = report.recipe("tensorrt")
    assert recipe is not None
    assert recipe.impossible is not None
    assert recipe.instead == ("onnxruntime", "openvino")


@pytest.mark.parametrize(
    ("l4t", "platform", "jetpack", "built_for"),
    [("35.4.1", "jetson-jp5", "5.1.2", "3.8"), ("36.4.3", "jetson-jp6", "6.2", "3.10")],
)
def test_jetpack_5_and_6_bring_bindings_of_an_older_python(
    l4t: str, platform: str, jetpack: str, built_for: str
) -> None:
    report = examine(jetson(l4t, "AGX Orin Developer Kit", (3, 11, 9)))
    assert report.platform.name == platform
    assert report.facts.jetson is not None
    assert report.facts.jetson.jetpack == jetpack
    assert report.facts.jetson.power_mode == 2
    assert report.facts.nvidia.gpus[0].compute_capability == "8.7"
    found = the(report, "jetpack-python")
    assert found.what == (
        f"JetPack {jetpack}'s TensorRT is built for Python {built_for}; this is Python 3.11."
    )
    assert "JetPack 7" in found.advice
    assert "tensorrt-python" not in codes(report)


def test_jetpack_7_in_order() -> None:
    machine = jetson(
        "39.2.0",
        "AGX Orin Developer Kit",
        dpkg={
            "nvidia-jetpack": "7.2-b131",
            "nvidia-l4t-core": "39.2.0-20260601",
            "libnvinfer10": "10.16.0.72-1+cuda13.2",
            "python3-libnvinfer": "10.16.0.72-1+cuda13.2",
        },
        modules={"tensorrt": {"version": "10.16.0.72"}},
        files={
            "/sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
            "/sys/class/devfreq/17000000.gpu/max_freq": "1300500000\n",
        },
    )
    report = examine(machine)
    assert report.platform.name == "jetson-jp7"
    assert troubles(report) == []
    assert report.facts.jetson is not None
    assert report.facts.jetson.jetpack == "7.2"
    assert (report.facts.tensorrt.version, report.facts.tensorrt.cuda) == ("10.16.0.72", 13)
    assert "sudo jetson_clocks" in the(report, "jetson-clocks").commands


def test_tensorrt_11_needs_a_newer_jetpack_7() -> None:
    packages = {**BASE, **trt("11.4.1", 13)}
    early = examine(jetson("38.4.0", "AGX Thor Developer Kit", packages=packages))
    assert "TensorRT 11 needs JetPack 7.2.2 or newer" in the(early, "jetpack-tensorrt").why
    dpkg = {"nvidia-jetpack": "7.2.2-b10"}
    late = examine(jetson("39.2.2", "AGX Orin Developer Kit", packages=packages, dpkg=dpkg))
    assert "jetpack-tensorrt" not in codes(late)


WSL = {
    "/proc/version": "Linux version 5.15.153.1-microsoft-standard-WSL2 (root@x) #1 SMP\n",
    "/etc/os-release": UBUNTU_24,
}


def test_wsl_in_order() -> None:
    files = {**WSL, "/usr/lib/wsl/lib/libcuda.so.1": ""}
    report = examine(FakeMachine(files=files, nvml=driver("580.97", 13000, gpu("RTX 4090", "8.9"))))
    assert report.platform.name == "wsl"
    assert troubles(report) == []
    assert report.facts.system.container is None


def test_wsl_without_the_driver_of_windows() -> None:
    report = examine(FakeMachine(files={**WSL, "/.dockerenv": ""}))
    found = the(report, "wsl-no-driver")
    assert "in Linux install none" in found.advice
    assert found.commands == ("wsl --update", "wsl --shutdown")


def test_a_linux_driver_inside_wsl_hides_the_right_one() -> None:
    files = {
        **WSL,
        "/usr/lib/wsl/lib/libcuda.so.1": "",
        "/usr/lib/x86_64-linux-gnu/libcuda.so.550.90.07": "",
    }
    report = examine(FakeMachine(files=files))
    assert troubles(report) == ["wsl-linux-driver", "wsl-no-gpu"]


def test_a_container_without_gpus() -> None:
    machine = FakeMachine(
        files={"/.dockerenv": "", "/etc/os-release": UBUNTU_24, **PCI_GPU},
        environ={"NVIDIA_VISIBLE_DEVICES": "all"},
    )
    report = examine(machine)
    assert report.platform.name == "container"
    found = the(report, "container-no-gpu")
    assert found.severity == "warn"
    assert "--gpus all" in found.advice
    # No driver can be installed in there.
    assert not any("nvidia-headless" in line for line in found.commands)
    # An image that was not made for GPUs is not told off.
    assert troubles(examine(FakeMachine(files={"/.dockerenv": ""}))) == []


def test_a_container_with_gpus_needs_nothing_of_its_host() -> None:
    machine = FakeMachine(files={"/.dockerenv": ""}, nvml=driver("580.65.06", 13000, A10G))
    report = examine(machine)
    assert troubles(report) == []
    recipe = report.recipe("tensorrt")
    assert recipe is not None
    assert recipe.steps[0].commands[0].startswith("python -m pip install")


def test_shared_memory_of_a_container() -> None:
    machine = FakeMachine(files={"/.dockerenv": ""}, shm=64 << 20)
    assert "--shm-size" in the(examine(machine), "shm-small").advice
    assert "shm-small" not in codes(examine(FakeMachine(shm=64 << 20)))


def test_windows() -> None:
    report = examine(FakeMachine(system="Windows", nvml=driver("581.15", 13000, A10G)))
    assert report.platform.name == "windows-nvidia"
    assert troubles(report) == []
    plain = examine(FakeMachine(system="Windows"))
    assert plain.platform.name == "windows"
    assert troubles(plain) == []


def test_macos() -> None:
    report = examine(FakeMachine(system="Darwin", architecture="arm64"))
    assert report.platform.name == "macos"
    assert troubles(report) == []
    recipe = report.recipe("tensorrt")
    assert recipe is not None
    assert recipe.impossible is not None


def test_nvidia_smi_answers_where_the_library_cannot_be_asked() -> None:
    listing = "NVIDIA A10G, 535.183.01, 8.6, 23028\n"
    machine = FakeMachine(programs={"nvidia-smi": Outcome(0, listing)}, libcuda=12020)
    nvidia = examine(machine).facts.nvidia
    assert (nvidia.driver, nvidia.cuda) == ("535.183.01", "12.2")
    assert nvidia.gpus[0].compute_capability == "8.6"
    assert nvidia.gpus[0].memory_mib == 23028


def test_nvidia_smi_may_print_nonsense() -> None:
    for text in ("No devices were found\n", "a, b, [N/A], [N/A]\n", "\n,,,\n"):
        examine(FakeMachine(programs={"nvidia-smi": Outcome(0, text)}))


def test_both_onnxruntimes() -> None:
    packages = {**BASE, "onnxruntime-gpu": "1.23.0"}
    found = the(examine(FakeMachine(packages=packages)), "onnxruntime-twice")
    assert found.commands == (
        "python -m pip uninstall -y onnxruntime onnxruntime-gpu",
        "python -m pip install onnxruntime-gpu",
    )


def test_both_opencvs() -> None:
    packages = {**BASE, "opencv-python": "4.12.0.88", "opencv-python-headless": "4.12.0.88"}
    found = the(examine(FakeMachine(packages=packages)), "opencv-twice")
    assert found.commands[-1] == "python -m pip install opencv-python-headless"


@pytest.mark.parametrize(
    ("outcome", "code", "what"),
    [
        (SEGFAULT, "tensorrt-crashed", "Importing tensorrt crashes Python."),
        (Outcome(0xC0000005), "tensorrt-crashed", "Importing tensorrt crashes Python."),
        (HANG, "tensorrt-hung", "Importing tensorrt does not come to an end."),
        (
            {"error": "ImportError: libnvinfer.so.10: cannot open shared object file"},
            "tensorrt-broken",
            "tensorrt is installed but cannot be imported.",
        ),
    ],
)
def test_a_tensorrt_that_cannot_be_imported(outcome: Any, code: str, what: str) -> None:
    machine = workstation(
        *("580.65.06", 13000, A10G),
        packages={**BASE, **trt("10.14.1", 13)},
        modules={"tensorrt": outcome, "onnxruntime": {"version": "1.23.0"}},
    )
    report = examine(machine)
    found = the(report, code)
    assert (found.severity, found.what) == ("error", what)
    assert found.commands == (
        "python -m pip uninstall -y tensorrt-cu13 tensorrt-cu13-bindings tensorrt-cu13-libs",
        'python -m pip install --no-cache-dir "tensorrt-cu13==10.14.1"',
    )
    assert found.concerns == ("tensorrt",)
    assert not report.ok
    assert report.facts.modules["onnxruntime"].state == "ok"


def test_a_wheel_for_another_numpy() -> None:
    modules = {"openvino": {"error": "ImportError: numpy.core.multiarray failed to import"}}
    found = the(examine(FakeMachine(modules=modules)), "numpy-abi")
    assert 'python -m pip install "numpy<2"' in found.commands
    assert found.concerns == ("openvino",)


def test_an_h100_with_tensorrt_rtx() -> None:
    machine = workstation(
        *("580.65.06", 13000, H100),
        packages={**BASE, "tensorrt-rtx": "1.7.1.116", "tensorrt-rtx-cu13": "1.7.1.116"},
        modules={"tensorrt_rtx": {"version": "1.7.1.116"}},
    )
    report = examine(machine)
    found = the(report, "tensorrt-rtx-gpu")
    assert "does not run on NVIDIA H100 (compute capability 9.0)" in found.what
    assert found.commands == (
        'python -m pip install "boxwright[tensorrt]" "cuda-core[cu13]" "tensorrt-cu13<12"',
    )
    recipe = report.recipe("tensorrt-rtx")
    assert recipe is not None
    assert "9.0" in (recipe.impossible or "")
    assert recipe.instead[0] == "tensorrt"


def test_tensorrt_rtx_and_its_driver() -> None:
    packages = {**BASE, "tensorrt-rtx": "1.7.1", "tensorrt-rtx-cu13": "1.7.1"}
    report = examine(workstation("550.54.14", 12040, A10G, packages=packages))
    assert codes(report, "error") == ["tensorrt-rtx-driver"]


@pytest.mark.parametrize(
    ("version", "device", "bad"),
    [
        ("10.4.0", V100, False),
        # 10.5 left Volta behind.
        ("10.5.0", V100, True),
        ("8.6.1", V100, False),
        ("8.6.1", BLACKWELL, True),
        ("10.7.0", BLACKWELL, True),
        ("10.8.0", BLACKWELL, False),
        ("11.1.0", T4, False),
    ],
)
def test_which_tensorrt_serves_which_gpu(version: str, device: dict[str, Any], bad: bool) -> None:
    packages = {**BASE, **trt(version, 12)}
    report = examine(workstation("580.65.06", 13000, device, packages=packages))
    assert ("tensorrt-gpu" in codes(report)) is bad


def test_a_v100_is_offered_the_last_tensorrt_for_it() -> None:
    packages = {**BASE, **trt("10.14.1", 12)}
    report = examine(workstation("570.26", 12080, V100, packages=packages))
    assert the(report, "tensorrt-gpu").commands == (
        'python -m pip install "boxwright[tensorrt]" "cuda-core[cu12]" "tensorrt-cu12==10.4.0"',
    )


def test_tensorrt_for_two_cudas_at_once() -> None:
    packages = {**BASE, **trt("10.14.1", 12), **trt("10.14.1", 13)}
    report = examine(workstation("580.65.06", 13000, A10G, packages=packages))
    assert "12 and 13" in the(report, "tensorrt-twice").what


def test_half_a_tensorrt() -> None:
    packages = {**BASE, "tensorrt-cu13": "10.14.1", "tensorrt-cu13-bindings": "10.14.1"}
    report = examine(workstation("580.65.06", 13000, A10G, packages=packages))
    assert "without its libraries" in the(report, "tensorrt-half").what


def test_a_tensorrt_that_is_too_old() -> None:
    machine = workstation("535.183.01", 12020, A10G, dpkg={"libnvinfer8": "8.4.3-1+cuda11.6"})
    found = the(examine(machine), "tensorrt-old")
    assert "TensorRT 8.4.3 is too old: 8.5 or newer" in found.what


def test_a_tensorrt_for_an_older_python() -> None:
    packages = {**BASE, **trt("10.4.0", 12)}
    machine = workstation("580.65.06", 13000, A10G, packages=packages, python=(3, 13, 1))
    assert "Python up to 3.12; this is 3.13" in the(examine(machine), "tensorrt-python").what


def test_cuda_of_torch_and_onnxruntime_against_the_driver() -> None:
    machine = workstation(
        *("550.54.14", 12040, A10G),
        packages={"numpy": "2.3.0", "torch": "2.12.0", "onnxruntime-gpu": "1.27.0"},
        files={"torch/version.py": "__version__ = '2.12.0'\ncuda: Optional[str] = '13.0'\n"},
        requires={"onnxruntime-gpu": ["numpy", "nvidia-cuda-runtime~=13.0; extra == 'cuda'"]},
    )
    report = examine(machine)
    assert report.facts.torch_cuda == "13.0"
    assert report.facts.ort_gpu_cuda == 13
    assert codes(report, "warn") == ["cuda-driver", "cuda-driver"]
    assert "needs driver 580 or newer; here is 550.54.14" in report.findings[0].what


def test_a_cuda_provider_that_cannot_be_loaded() -> None:
    said = "libcublasLt.so.12: cannot open shared object file: No such file or directory"
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    machine = workstation(
        *("580.65.06", 13000, A10G),
        packages={"numpy": "2.3.0", "onnxruntime-gpu": "1.23.0"},
        modules={"onnxruntime": {"version": "1", "providers": providers, "cuda_error": said}},
    )
    found = the(examine(machine), "onnxruntime-cuda")
    assert said in found.why
    assert found.commands == ('python -m pip install "onnxruntime-gpu[cuda,cudnn]"',)


def test_a_gpu_runtime_without_a_driver() -> None:
    packages = {"numpy": "2.3.0", "onnxruntime-gpu": "1.20.1"}
    assert codes(examine(FakeMachine(packages=packages)), "warn") == ["onnxruntime-gpu-idle"]


REQUIRES = {
    "boxwright": [
        "numpy>=1.26",
        "onnxruntime>=1.18",
        "torch>=2.4; extra == 'torch'",
        "pyyaml>=6; extra == 'yaml'",
        "opencv-python-headless<5,>=4.10; extra == 'dev'",
    ]
}


def test_requirements_that_are_not_met() -> None:
    packages = {"numpy": "1.24.4", "onnxruntime-gpu": "1.20.0", "torch": "2.1.0"}
    report = examine(FakeMachine(packages=packages, requires=REQUIRES))
    found = [finding for finding in report.findings if finding.code == "requirement"]
    assert [(finding.severity, finding.what) for finding in found] == [
        ("error", "Boxwright needs numpy>=1.26, and 1.24.4 is installed."),
        ("warn", "The extra torch of Boxwright needs torch>=2.4, and 2.1.0 is installed."),
    ]
    assert found[0].commands == ('python -m pip install "numpy>=1.26"',)


def test_a_backend_that_crashes_costs_the_others_nothing() -> None:
    machine = FakeMachine(backends={"onnxruntime": SEGFAULT})
    report = examine(machine)
    checks = {check.name: check for check in report.facts.backends}
    assert not checks["onnxruntime"].works
    assert "crashes the process: signal 11" in (checks["onnxruntime"].reason or "")
    assert checks["reference"].works
    assert codes(report, "error") == ["no-backend", "backend-broken"]


def test_a_backend_that_hangs() -> None:
    report = examine(FakeMachine(backends={"onnxruntime": HANG}))
    (check,) = [c for c in report.facts.backends if c.name == "onnxruntime"]
    assert check.reason == "asking it took too long and was stopped"


def test_backends_that_cannot_even_be_begun() -> None:
    class Broken(FakeMachine):
        def run_python(self, module: str, arguments: Any, timeout: float) -> Outcome:
            return Outcome(1, "", "Fatal Python error: no")

    report = examine(Broken())
    assert all(not check.works for check in report.facts.backends)
    assert "no-backend" in codes(report, "error")


def test_a_python_of_the_system() -> None:
    report = examine(FakeMachine(virtual=False, externally_managed=True))
    assert the(report, "externally-managed").commands[0] == "python3 -m venv .venv"


def test_room_and_limits() -> None:
    report = examine(FakeMachine(writable=False, free=1 << 20, open_files=256))
    assert troubles(report) == ["cache-unwritable", "disk-full", "open-files"]


def test_worst_first() -> None:
    machine = workstation(
        "525.60.13", 12000, A10G, packages={**BASE, "opencv-python": "4", **trt("10.14.1", 13)},
        writable=False,
    )  # fmt: skip
    severities = [finding.severity for finding in examine(machine).findings]
    assert severities == sorted(severities, key=["error", "warn", "ok"].index)
    assert len(set(severities)) == 3
