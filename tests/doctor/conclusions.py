"""What tests ask of the doctor's conclusions, and machines that many of them use."""

from __future__ import annotations

from typing import Any

from boxwright.doctor import report as report_module
from boxwright.doctor.finding import Finding
from boxwright.doctor.report import Report
from tests.doctor.forms import assert_copyable
from tests.doctor.machines import PCI_GPU, UBUNTU_24, FakeMachine, gpu

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
