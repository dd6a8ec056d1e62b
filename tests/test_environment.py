"""Facts about the machine: complete, JSON, and nothing that identifies anybody."""

from __future__ import annotations

import getpass
import json
import platform
import sys
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest

from boxwright import environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    for function in (environment.cpu_model, environment.cpu_features):
        function.cache_clear()
    yield
    for function in (environment.cpu_model, environment.cpu_features):
        function.cache_clear()


def test_the_facts() -> None:
    facts = environment.describe_environment()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["python"] == platform.python_version()
    assert facts["libraries"]["numpy"] == np.__version__
    assert facts["libraries"]["onnxruntime"] == onnxruntime.__version__
    assert 1 <= facts["usable_cores"] <= facts["cores"]


def test_no_names_of_people_or_machines() -> None:
    text = json.dumps(environment.describe_environment())
    assert f'"{platform.node()}"' not in text
    assert f'"{getpass.getuser()}"' not in text


CPUINFO = """processor\t: 0
model name\t: Some CPU @ 2 GHz
flags\t\t: fpu avx2 fma avx512f avx512_vnni amx_int8 unknown_one

processor\t: 1
model name\t: Another
flags\t\t: sve
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp i8mm\n"


@pytest.mark.parametrize(
    ("text", "features", "model"),
    [
        (CPUINFO, ("avx2", "fma", "avx512f", "avx512vnni", "amxint8"), "Some CPU @ 2 GHz"),
        (ARM, ("asimd", "asimddp", "asimdhp", "i8mm"), None),
    ],
)
def test_cpuinfo_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    features: tuple[str, ...],
    model: str | None,
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(environment, "_CPUINFO", tmp_path / "cpuinfo")
    assert environment.cpu_features() == features
    if model is not None:
        assert environment.cpu_model() == model


@pytest.mark.skipif(sys.platform != "linux", reason="compares with /proc/cpuinfo")
def test_without_cpuinfo_numpy_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numpy knows fewer kinds, but those it knows must agree."""
    listed = set(environment.cpu_features())
    environment.cpu_features.cache_clear()
    monkeypatch.setattr(environment, "_CPUINFO", tmp_path / "none")
    monkeypatch.setattr(environment, "_GOVERNOR", tmp_path / "none")
    asked = set(environment.cpu_features())
    assert asked <= listed
    assert asked & {"avx2", "asimd"} == listed & {"avx2", "asimd"}
    assert environment.describe_environment()["governor"] is None


@pytest.mark.parametrize(
    ("machine", "name"),
    [("x86_64", "x86-64"), ("AMD64", "x86-64"), ("aarch64", "arm64"), ("riscv64", "riscv64")],
)
def test_one_name_per_architecture(
    monkeypatch: pytest.MonkeyPatch, machine: str, name: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert environment.cpu_architecture() == name
