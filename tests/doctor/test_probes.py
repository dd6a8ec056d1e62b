"""The probes on this machine: real processes that crash, hang, chatter and answer."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from boxwright.doctor import gather, probe, software
from boxwright.doctor.machine import Machine, Outcome


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """This machine, with a folder of modules that may be put in the way."""
    monkeypatch.syspath_prepend(tmp_path)
    found = Machine()
    found.environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="signals are of Unix")
def test_a_module_that_crashes_is_survived(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("import ctypes; ctypes.string_at(0)\n")
    found = software.check_module(machine, "tensorrt")
    assert found.state == "crashed"
    assert "signal 11" in (found.error or "")


def test_a_module_that_hangs_is_stopped(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("import time; time.sleep(60)\n")
    monkeypatch.setattr(software, "MODULE_SECONDS", 1.0)
    assert software.check_module(machine, "tensorrt").state == "hung"


@pytest.mark.parametrize(
    ("text", "state", "version", "error"),
    [
        ("__version__ = '10.3.0'\n", "ok", "10.3.0", None),
        # What a package prints must not be taken for an answer.
        ("print('hello'); print('answer-ish')\n__version__ = '1'\n", "ok", "1", None),
        ("raise RuntimeError('no\\nlibrary')\n", "broken", None, "RuntimeError: no library"),
        ("import no_such_module_of_mine\n", "broken", None, "ModuleNotFoundError"),
        # Some packages leave the process when they do not like it.
        ("import sys; sys.exit(3)\n", "broken", None, "SystemExit: 3"),
        ("import os; os._exit(3)\n", "broken", None, "exit status 3"),
    ],
)
def test_what_importing_a_module_gives(
    machine: Machine, tmp_path: Path, text: str, state: str, version: str | None, error: str | None
) -> None:
    (tmp_path / "tensorrt.py").write_text(text)
    found = software.check_module(machine, "tensorrt")
    assert (found.state, found.version) == (state, version)
    assert found.error is None if error is None else error in (found.error or "")


def test_the_current_folder_is_not_imported_from(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "numpy.py").write_text("raise SystemExit('shadowed')\n")
    monkeypatch.chdir(here)
    assert all(check.works for check in software.check_backends(machine) if check.name in OURS)


OURS = ("onnxruntime", "reference")


def test_our_backends_on_this_machine() -> None:
    checks = {check.name: check for check in software.check_backends(Machine())}
    for name in OURS:
        assert checks[name].works
        assert "fp32" in (checks[name].precisions or ())
        assert "cpu" in checks[name].devices


def test_onnxruntime_says_its_providers() -> None:
    found = software.check_module(Machine(), "onnxruntime")
    assert found.state == "ok"
    assert "CPUExecutionProvider" in found.details["providers"]


@pytest.mark.skipif(sys.platform != "linux", reason="looked at on Linux only")
def test_a_cuda_provider_that_is_only_listed(machine: Machine, tmp_path: Path) -> None:
    package = tmp_path / "onnxruntime"
    (package / "capi").mkdir(parents=True)
    text = "def get_available_providers():\n    return ['CUDAExecutionProvider']\n"
    (package / "__init__.py").write_text(text)
    (package / "capi" / "libonnxruntime_providers_shared.so").write_bytes(b"no library")
    found = software.check_module(machine, "onnxruntime")
    assert found.details["providers"] == ["CUDAExecutionProvider"]
    assert "libonnxruntime_providers_shared.so" in found.details["cuda_error"]


def test_the_probe_without_a_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino_telemetry", None)  # put back afterwards
    assert probe.main(["module", "json", "no_such_module_of_mine"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["begin", "answer", "begin", "answer"]
    assert "ModuleNotFoundError" in lines[3]


def test_programs_that_are_not_there_or_take_too_long() -> None:
    machine = Machine()
    assert machine.run(["no-such-program-of-mine"], 1.0).code is None
    assert machine.run([sys.executable, "-c", "print(1)"], 20.0) == Outcome(0, "1\n")
    slow = machine.run([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)
    assert slow.timed_out
    assert not slow.ok


def test_files_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    machine = Machine()
    assert machine.read(str(tmp_path / "none")) is None
    assert machine.read(str(tmp_path)) is None
    (tmp_path / "bytes").write_bytes(b"\xff\xfeabc\0")
    assert (machine.read(str(tmp_path / "bytes")) or "").endswith("abc")
    assert machine.glob(f"{tmp_path}/b*") == [f"{tmp_path}/bytes"]
    assert machine.glob("/no/such/folder/*") == []


def test_a_folder_that_is_not_there_yet_is_judged_by_its_parent(tmp_path: Path) -> None:
    machine = Machine()
    new = tmp_path / "a" / "b"
    assert machine.writable(str(new))
    assert machine.free_bytes(str(new))
    assert not new.parent.exists()
    (tmp_path / "file").write_text("")
    assert not machine.writable(str(tmp_path / "file" / "cache"))


def test_this_machine_has_facts() -> None:
    facts = gather.gather(Machine())
    assert facts.system.architecture
    assert facts.packages["numpy"]
    assert {item.package for item in facts.requirements} >= {"numpy", "onnxruntime", "torch"}
    assert all(item.fits for item in facts.requirements if item.extra is None)


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("1.26", ">=1.26", True),
        ("1.26.0", ">=1.26", True),
        ("1.3", ">=1.26", False),
        ("5.0", "<5,>=4.10", False),
        ("4.14.0.94", "<5,>=4.10", True),
        ("2.0", "!=2.0", False),
        ("2.1.3", "==2.1.*", True),
        ("2.2", "==2.1.*", False),
        ("1.4.9", "~=1.4.2", True),
        ("1.5.0", "~=1.4.2", False),
        ("2.13.0+cpu", ">=2.4", True),
        ("odd", ">=1", True),
        ("1", "", True),
    ],
)
def test_which_versions_are_wanted(version: str, wanted: str, fits: bool) -> None:
    assert software.satisfies(version, wanted) is fits


def test_satisfies_agrees_with_packaging() -> None:
    specifiers: Any = pytest.importorskip("packaging.specifiers")
    versions = ("0.9", "1.0", "1.2.3", "1.2.10", "1.10", "2.0.0", "2.4.6")
    for wanted in (">=1.2", "<2", ">1.2.3,<2.4", "~=1.2", "~=1.2.3", "==1.2.*", "!=1.0", "<=1.10"):
        judge = specifiers.SpecifierSet(wanted)
        for version in versions:
            assert software.satisfies(version, wanted) is judge.contains(version), (version, wanted)
