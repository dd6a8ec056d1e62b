"""The report as JSON: its form is a promise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from boxwright.doctor.finding import SEVERITIES
from boxwright.doctor.report import SCHEMA, examine, recipe_to_dict
from tests.doctor.machines import BASE, FakeMachine, gpu, jetson, workstation

# Taking one of these away, or giving it another meaning, raises SCHEMA.
KEYS = {
    *("schema", "boxwright", "ok", "platform.name", "platform.title"),
    *("backends.name", "backends.works", "backends.reason"),
    *("backends.precisions", "backends.devices"),
    *("findings.code", "findings.severity", "findings.what", "findings.why"),
    *("findings.advice", "findings.commands", "findings.concerns"),
    *("facts.system.name", "facts.system.architecture", "facts.system.container"),
    *("facts.system.wsl", "facts.system.ec2", "facts.system.glibc"),
    *("facts.python.version", "facts.python.executable", "facts.python.virtual"),
    *("facts.nvidia.driver", "facts.nvidia.cuda", "facts.nvidia.kernel_module"),
    *("facts.nvidia.gpus.name", "facts.nvidia.gpus.compute_capability"),
    *("facts.nvidia.gpus.memory_mib", "facts.nvidia.toolkits"),
    *("facts.jetson.l4t", "facts.jetson.jetpack", "facts.jetson.model"),
    *("facts.tensorrt.version", "facts.tensorrt.cuda", "facts.tensorrt_rtx"),
    *("facts.requirements.package", "facts.requirements.fits", "facts.storage.cache"),
    *("facts.cpu.model", "facts.memory_mib", "facts.packages.numpy"),
    *("facts.modules.onnxruntime.state", "facts.modules.onnxruntime.version"),
}


def paths(content: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(content, dict) and content:
        for key, value in content.items():
            yield from paths(value, f"{prefix}.{key}" if prefix else key)
    elif isinstance(content, list | tuple) and content and isinstance(content[0], dict):
        for item in content:
            yield from paths(item, prefix)
    else:
        yield prefix


def test_the_form_of_the_json() -> None:
    machines: tuple[FakeMachine, ...] = (
        workstation(
            *("580.65.06", 13000, gpu("NVIDIA A10G", "8.6")),
            modules={"onnxruntime": {"version": "1.23.0", "providers": ["CPUExecutionProvider"]}},
            requires={"boxwright": ["numpy>=1.26"]},
        ),
        jetson("36.4.3", "AGX Orin Developer Kit"),
    )
    found: set[str] = set()
    for machine in machines:
        content = examine(machine).to_dict()
        assert content["schema"] == SCHEMA == 1
        # Nothing but plain JSON values, NaN excluded.
        again = json.loads(json.dumps(content, allow_nan=False))
        found |= set(paths(again))
        assert {item["severity"] for item in again["findings"]} <= set(SEVERITIES)
    assert found >= KEYS, KEYS - found


def test_nothing_in_it_tells_who_or_where() -> None:
    import getpass
    import socket

    machine = workstation("580.65.06", 13000, gpu("NVIDIA A10G", "8.6"))
    content = json.dumps(examine(machine).to_dict()["facts"]["system"])
    assert socket.gethostname() not in content
    assert getpass.getuser() not in content.split('"')


def test_a_recipe_as_json() -> None:
    report = examine(FakeMachine(packages=BASE))
    recipe = report.recipe("tensorrt")
    assert recipe is not None
    content = recipe_to_dict(recipe)
    assert content["possible"] is False
    assert content["steps"] == []
    assert report.recipe("somebody-elses") is None
