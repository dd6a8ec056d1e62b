"""``boxwright doctor``: exit codes, what it prints, and that it only ever looks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from boxwright.doctor import report as report_module
from boxwright.doctor.platforms import PLATFORMS
from boxwright.doctor.report import Report, examine
from tests.cli.conftest import Run
from tests.doctor.machines import BASE, HANG, SEGFAULT, FakeMachine, gpu, workstation

A10G = gpu("NVIDIA A10G", "8.6")
TENSORRT = {"tensorrt-cu13": "10.14.1", "tensorrt-cu13-libs": "10.14.1"}


def play(monkeypatch: pytest.MonkeyPatch, machine: FakeMachine) -> None:
    def fake(_: Any = None) -> Report:
        return examine(machine)

    monkeypatch.setattr(report_module, "examine", fake)


def test_a_machine_in_order_is_0(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, workstation("580.65.06", 13000, A10G))
    done = run("doctor")
    assert done.exit_code == 0, done.output
    assert "NVIDIA A10G, compute capability 8.6, 24 GiB" in done.stdout
    assert "580.65.06, CUDA up to 13.0" in done.stdout
    assert "linux-nvidia" in done.stdout
    assert not any(line != line.rstrip() for line in done.stdout.splitlines())


def test_something_broken_is_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = workstation(
        "525.60.13", 12000, A10G, packages={**BASE, **TENSORRT}, modules={"tensorrt": SEGFAULT}
    )
    play(monkeypatch, machine)
    done = run("doctor")
    assert done.exit_code == 1
    assert "error Importing tensorrt crashes Python." in done.stdout
    lines = done.stdout.splitlines()
    # Commands stand alone on their lines, and errors come before what is well.
    assert "  $ sudo reboot" in lines
    ok = next(number for number, line in enumerate(lines) if line.startswith("ok "))
    assert not any(line.startswith(("error ", "warn ")) for line in lines[ok:])


def test_no_working_backend_is_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, FakeMachine(backends={"onnxruntime": HANG}))
    done = run("doctor")
    assert done.exit_code == 1
    assert "No backend but the reference works here." in done.stdout


def test_for_a_backend_that_works(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, FakeMachine())
    done = run("doctor", "--for", "onnxruntime")
    assert done.exit_code == 0
    assert "What to do" not in done.stdout


def test_for_a_backend_that_does_not(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, workstation("570.26", 12080, A10G, backends={"tensorrt": "no tensorrt"}))
    done = run("doctor", "--for", "tensorrt")
    assert done.exit_code == 1
    assert 'python -m pip install "boxwright[tensorrt]" "cuda-core[cu12]" "tensorrt-cu12<12"' in (
        done.stdout.splitlines()
    )
    done = run("doctor", "--for", "tensorrt", "--json")
    assert done.exit_code == 1
    content = json.loads(done.stdout)
    assert content["for"]["works"] is False
    assert content["for"]["reason"]
    assert content["for"]["recipe"]["possible"] is True


@pytest.mark.parametrize("platform", PLATFORMS)
def test_recipes_for_other_machines(run: Run, platform: str) -> None:
    done = run("doctor", "--platform", platform)
    assert done.exit_code == 0, done.output
    assert "python -m pip install boxwright" in done.stdout.splitlines()
    content = json.loads(run("doctor", "--platform", platform, "--json").stdout)
    assert [item["backend"] for item in content["recipes"]] == [
        *("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx")
    ]
    assert content["platform"]["name"] == platform


def test_a_recipe_may_not_exist(run: Run) -> None:
    done = run("doctor", "--platform", "jetson-jp4", "--for", "tensorrt")
    assert done.exit_code == 0
    assert "Not possible: JetPack 4 has TensorRT 8.2 at most" in done.stdout
    assert "Use instead: onnxruntime, openvino." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--for", "tensort"), "did you mean 'tensorrt'?"),
        (("--platform", "jetson-jp66"), "did you mean 'jetson-jp6'?"),
        (("--platform", "wsl", "--for", "nothing"), "unknown backend"),
    ],
)
def test_unknown_names_are_usage_errors(run: Run, arguments: tuple[str, ...], hint: str) -> None:
    done = run("doctor", *arguments)
    assert done.exit_code == 2
    assert hint in done.stderr


_NO_NETWORK = """
import socket, os
class Refused(socket.socket):
    def __init__(self, *a, **k):
        with open(os.environ["NETWORK_MARK"], "a") as mark:
            mark.write("socket\\n")
        raise OSError("no network in tests")
socket.socket = Refused
socket.create_connection = socket.getaddrinfo = Refused
"""


def _tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_this_machine_offline_unwritten_and_soon(tmp_path: Path) -> None:
    """The whole program and its processes: no socket, no file, no patience needed."""
    home, mark = tmp_path / "home", tmp_path / "mark"
    site = tmp_path / "site"
    for folder in (home, site):
        folder.mkdir()
    (site / "sitecustomize.py").write_text(_NO_NETWORK)
    before = _tree(tmp_path)
    source = Path(__file__).parents[2] / "src"
    environment = {
        **os.environ,
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "TMPDIR": str(home),
        "NETWORK_MARK": str(mark),
        "PYTHONPATH": os.pathsep.join((str(source), str(site))),
    }
    for name in ("BOXWRIGHT_CACHE", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(name, None)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-B", "-m", "boxwright", "doctor", "--json"],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    content = json.loads(done.stdout)
    assert done.returncode == (0 if content["ok"] else 1), done.stderr
    assert done.stderr == ""
    assert not mark.exists(), mark.read_text()
    assert _tree(tmp_path) == before
    # 2 s here; the margin is for machines that are busy with other tests.
    assert seconds < 20
    works = {item["name"]: item["works"] for item in content["backends"]}
    assert works["onnxruntime"] is works["reference"] is True
    assert content["facts"]["modules"]["onnxruntime"]["state"] == "ok"


def test_the_network_trap_works(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(_NO_NETWORK)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NETWORK_MARK": str(tmp_path / "m")}
    subprocess.run(
        [sys.executable, "-c", "import socket; socket.socket()"],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert (tmp_path / "m").exists()
