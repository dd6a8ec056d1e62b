"""Finding backends, and the arguments that all of them share."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import boxwright
from boxwright import backends
from boxwright.backends import registry
from boxwright.backends.options import make_spec
from boxwright.backends.plans import Fingerprint
from boxwright.backends.reference import ReferenceBackend
from boxwright.engine import Engine
from boxwright.errors import BackendUnavailableError, EngineError, InputError, ModelError
from tests.models import make_model

BUILT_IN = ("onnxruntime", "openvino", "reference", "tensorrt", "tensorrt-rtx")


class ThirdParty(ReferenceBackend):
    name = "third"

    def unavailable(self) -> str | None:
        return "no such accelerator in this machine"


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("third", f"{__name__}:ThirdParty", registry.GROUP),
        EntryPoint("broken", "no_such_module:Backend", registry.GROUP),
        EntryPoint("reference", f"{__name__}:ThirdParty", registry.GROUP),
    ]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points)


def test_what_there_is() -> None:
    assert backends.names() == BUILT_IN
    found = backends.available()
    assert set(found) == set(BUILT_IN)
    assert found["onnxruntime"] is None
    assert found["reference"] is None


@pytest.mark.usefixtures("third_party")
def test_other_packages_add_backends_and_replace_none() -> None:
    found = backends.available()
    assert set(found) == {"broken", *BUILT_IN, "third"}
    assert found["third"] == "no such accelerator in this machine"
    assert found["broken"] is not None
    assert "No module named 'no_such_module'" in found["broken"]
    assert type(backends.get("reference")) is ReferenceBackend


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize(
    ("name", "message"),
    [("third", "cannot work here: no such accelerator"), ("broken", "cannot be imported")],
)
def test_a_backend_that_cannot_work_says_why(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match=message):
        backends.build(make_model(), backend=name, output=tmp_path / "x.bw")
    with pytest.raises(BackendUnavailableError, match=message):
        backends.load(make_model(), backend=name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"backend": "onnxrutime"},
            f"there are: {', '.join(BUILT_IN)}; did you mean 'onnxruntime'",
        ),
        ({"backend": "zzz"}, f"there are: {', '.join(BUILT_IN)}$"),
        ({"precision": "fp61"}, "unknown precision 'fp61'; there are: fp16, fp32, int8; did you"),
        ({"batch": (2, 1, 3)}, "1 <= smallest <= usual <= largest"),
        ({"batch": (0, 1, 3)}, "1 <= smallest"),
        ({"batch": (1, 2)}, "three whole numbers"),
        ({"batch": (1, 2.0, 3)}, "three whole numbers"),
        ({"batch": (True, 2, 3)}, "three whole numbers"),
        ({"device": ""}, "device must be a name"),
        ({"options": {"intra_op_threads": 2}}, "did you mean 'intra_op_num_threads'"),
    ],
)
def test_a_wrong_argument_is_refused(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        backends.build(make_model(), **{"output": tmp_path / "x.bw", **arguments})
    assert list(tmp_path.iterdir()) == []


def test_an_engine_may_run_on_another_backend_than_it_was_built_for(tmp_path: Path) -> None:
    engine = backends.build(make_model(), backend="reference", output=tmp_path / "x.bw")
    assert engine.plans == ()
    with backends.load(engine, backend="onnxruntime") as runner:
        assert type(runner).__name__ == "OnnxRuntimeRunner"


def test_an_engine_keeps_the_options_it_was_built_with(tmp_path: Path) -> None:
    built = {"intra_op_num_threads": 2}
    engine = backends.build(make_model(), options=built, output=tmp_path / "x.bw")
    assert backends.spec_of(engine)[1].options == built
    asked = {"intra_op_num_threads": 1}
    assert backends.spec_of(engine, options=asked)[1].options == asked
    # They mean nothing to another backend.
    assert backends.spec_of(engine, backend="reference")[1].options == {}
    backends.load(engine, backend="reference").close()
    record = {**engine.receipt["build"], "options": {"nosuch": 1}}
    other = engine.with_receipt({**engine.receipt, "build": record}, tmp_path / "y.bw")
    with pytest.raises(InputError, match="unknown option of backend onnxruntime 'nosuch'"):
        backends.load(other)


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("missing.onnx", None, ModelError),
        ("missing.bw", None, EngineError),
        ("text.bw", b"text", EngineError),
        ("text.onnx", b"text", ModelError),
        ("archive.onnx", b"PK\x03\x04", EngineError),  # by content, whatever its name
    ],
)
def test_a_file_that_is_neither_is_refused(
    tmp_path: Path, name: str, content: bytes | None, error: type[Exception]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error):
        backends.load(tmp_path / name)


def test_importing_the_registry_imports_no_runtime() -> None:
    code = (
        "import sys, boxwright.backends as b; b.names();"
        "print([m for m in ('onnx', 'onnxruntime', 'openvino', 'cv2') if m in sys.modules])"
    )
    source = str(Path(boxwright.__file__).parents[1])
    output = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {source!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert output.stdout == "[]\n"


def test_a_fingerprint_is_read_back_and_compared() -> None:
    spec = make_spec("fp32", (1, 2, 4), "auto", None)
    print_ = Fingerprint.of("ort", "1.2+3", "cpu-x86_64 (AMD)", spec)
    assert str(print_) == "ort_1.2+3_cpu-x86-64--AMD-_fp32_b1-2-4"
    assert Fingerprint.parse(str(print_)) == print_
    assert Fingerprint.parse("something else") is None
    other = Fingerprint.of("ov", "1.2", "cpu", spec, computes="bf16")
    assert str(other) == "ov_1.2_cpu_fp32+bf16_b1-2-4"
    assert (other.asked_precision, print_.asked_precision) == ("fp32", "fp32")
    other = Fingerprint.of("ort", "9", "cpu-x86_64 (AMD)", spec)
    assert print_.differences(other) == "version 9 (here 1.2+3)"


def test_plans_of_another_form_are_named_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    built = backends.build(make_model(), output=tmp_path / "x.bw")
    foreign = Engine.write(tmp_path / "y.bw", make_model(), built.receipt, {"odd": b"", "b-c": b""})
    backends.load(foreign).close()
    assert "Present: b-c differs in: its form; odd differs in: its form." in caplog.text
    # Of another model, whose plan is not in the cache by now.
    bare = Engine.write(tmp_path / "z.bw", make_model(seed=1), built.receipt, {})
    backends.load(bare).close()
    assert "Present: it holds none." in caplog.text
