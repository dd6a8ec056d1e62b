"""What the doctor concludes of packages, runtimes and storage that are not at hand."""

from __future__ import annotations

from typing import Any

import pytest

from boxwright.doctor.machine import Outcome
from tests.doctor.conclusions import (
    A10G,
    BLACKWELL,
    H100,
    T4,
    V100,
    codes,
    examine,
    the,
    troubles,
    trt,
)
from tests.doctor.machines import (
    BASE,
    HANG,
    SEGFAULT,
    FakeMachine,
    workstation,
)


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
