"""What the doctor concludes of systems, drivers and GPUs that are not at hand."""

from __future__ import annotations

import pytest

from boxwright.doctor.machine import Outcome
from boxwright.doctor.nvml import NvmlReading
from tests.doctor.conclusions import (
    A10G,
    MISMATCH,
    NOT_LOADED,
    T4,
    codes,
    ec2,
    examine,
    the,
    troubles,
    trt,
)
from tests.doctor.machines import (
    AMAZON,
    BASE,
    KERNEL_MODULE,
    OPEN_MODULE,
    PCI_GPU,
    UBUNTU_24,
    FakeMachine,
    driver,
    gpu,
    jetson,
    workstation,
)


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
    found = the(report, "driver-not-loaded")
    assert found.severity == "error"
    assert "sudo modprobe nvidia" in found.commands
    # A machine without GPU that was set up from the same image has nothing broken.
    plain = examine(FakeMachine(nvml=NvmlReading(NOT_LOADED)))
    assert the(plain, "driver-not-loaded").severity == "warn"
    assert plain.ok


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
