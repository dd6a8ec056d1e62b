"""What is given out: whole, of the right content, and only if it computes the same."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import boxwright
from boxwright import backends
from boxwright.engine import Engine
from boxwright.errors import BuildError, EngineError, InputError, MissingExtraError, NoPlanError
from boxwright.export import export, names
from boxwright.export.registry import get
from boxwright.model import Model
from tests.engines import read_members, write_members
from tests.models import CLASSES, make_images, make_model

openvino_only = pytest.mark.skipif(
    not __import__("importlib").util.find_spec("openvino"), reason="openvino is not installed"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return backends.build(make_model(), output=tmp_path_factory.mktemp("made") / "tiny.bw")


@pytest.fixture
def engine(made: Engine, tmp_path: Path) -> Engine:
    (tmp_path / "tiny.bw").write_bytes(made.path.read_bytes())
    return Engine.open(tmp_path / "tiny.bw")


def test_the_formats() -> None:
    assert names() == ("plan", "onnx", "openvino")
    assert [get(name).suffix for name in names()] == [".plan", ".onnx", ".xml"]
    with pytest.raises(InputError, match=r"format to export to 'onx'.* did you mean 'onnx'"):
        get("onx")


def test_a_plan_is_what_its_runtime_reads(engine: Engine, tmp_path: Path) -> None:
    done = export(engine, "plan", tmp_path / "out" / "tiny.plan")
    plan, beside = done.files
    assert plan.read_bytes() == engine.plan_bytes(engine.plans[0])
    assert sorted(path.name for path in plan.parent.iterdir()) == ["tiny.plan", "tiny.plan.json"]
    said = json.loads(beside.read_text("utf-8"))
    assert said["boxwright_plan"] == 1
    assert said["fingerprint"] == engine.plans[0]
    assert said["sha256"] == hashlib.sha256(plan.read_bytes()).hexdigest()
    assert said["bytes"] == plan.stat().st_size
    assert (said["backend"], said["precision"]) == ("onnxruntime", "fp32")
    assert said["inputs"] == [{"name": "images", "type": "uint8", "shape": ["N", 32, 64, 3]}]
    assert said["outputs"] == [
        {"name": "boxes", "type": "float32", "shape": ["N", "A", 4]},
        {"name": "scores", "type": "float32", "shape": ["N", "A", len(CLASSES)]},
    ]
    assert said["card"]["class_names"] == list(CLASSES)
    # The runtime itself, without us.
    session = onnxruntime.InferenceSession(plan.read_bytes(), providers=["CPUExecutionProvider"])
    images = make_images(make_model(), 2)
    with backends.load(engine) as runner:
        for name, expected in runner.infer({"images": images}).items():
            (got,) = session.run([name], {"images": images})
            np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_plan_that_was_asked_for(engine: Engine, tmp_path: Path) -> None:
    more = engine.with_plan("x_1_gpu_fp16_b1-1-1", b"content", tmp_path / "more.bw")
    done = export(more, "plan", tmp_path / "x", plan="x_1_gpu_fp16_b1-1-1")
    assert done.files[0].read_bytes() == b"content"
    said = json.loads(done.files[1].read_text())
    assert (said["device"], said["precision"], said["build"]) == ("gpu", "fp16", None)
    odd = engine.with_plan("odd", b"odd", tmp_path / "odd.bw")
    said = json.loads(export(odd, "plan", tmp_path / "y", plan="odd").files[1].read_text())
    assert said["backend"] is None


def test_a_plan_that_is_not_there(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(NoPlanError, match="holds no plan 'z'; it holds: onnxruntime_"):
        export(engine, "plan", tmp_path / "x", plan="z")
    bare = Engine.write(tmp_path / "bare.bw", make_model(), engine.receipt, {})
    with pytest.raises(NoPlanError, match=r"it holds: none\. name one with --plan"):
        export(bare, "plan", tmp_path / "x")
    fields = engine.plans[0].split("_")
    old = "_".join((fields[0], "0.0.1", *fields[2:]))
    foreign = Engine.write(tmp_path / "old.bw", make_model(), engine.receipt, {old: b""})
    with pytest.raises(NoPlanError, match=r"version 0\.0\.1 \(here .* boxwright build"):
        export(foreign, "plan", tmp_path / "x")
    with pytest.raises(InputError, match="only engines hold plans"):
        export(make_model(), "plan", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_model_comes_out_as_it_went_in(engine: Engine, tmp_path: Path) -> None:
    done = export(str(engine.path), "onnx", tmp_path / "a.onnx")
    assert done.files[0].read_bytes() == read_members(engine.path)["model.onnx"]
    assert done.facts == {"sha256": engine.model_sha256}
    assert Model.load(done.files[0]).card == engine.card
    onnx.checker.check_model(onnx.load(done.files[0]), full_check=True)
    again = export(done.files[0], "onnx", tmp_path / "b.onnx")
    assert again.files[0].read_bytes() == done.files[0].read_bytes()


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_a_format_without_plans_refuses_the_choice(engine: Engine, tmp_path: Path, to: str) -> None:
    with pytest.raises(InputError, match="holds the portable model, not a plan"):
        export(engine, to, tmp_path / "x.xml", plan=engine.plans[0])


def test_nothing_is_written_over_what_is_read(engine: Engine, tmp_path: Path) -> None:
    before = engine.path.read_bytes()
    make_model().save(tmp_path / "m.onnx")
    (tmp_path / "link.plan").symlink_to(engine.path)
    # The file beside it counts as well.
    (tmp_path / "e").write_bytes(before)
    os.link(tmp_path / "e", tmp_path / "e2.json")
    cases: list[tuple[Engine | Path, str, Path]] = [
        (engine.path, "onnx", engine.path),
        (engine, "plan", tmp_path / "link.plan"),
        (tmp_path / "m.onnx", "onnx", tmp_path / "m.onnx"),
        (tmp_path / "e", "plan", tmp_path / "e2"),
    ]
    for source, to, output in cases:
        with pytest.raises(InputError, match="would destroy it"):
            export(source, to, output)
    assert engine.path.read_bytes() == before


@pytest.mark.parametrize("to", ["plan", "onnx", "openvino"])
def test_a_damaged_engine_gives_nothing(engine: Engine, tmp_path: Path, to: str) -> None:
    members = read_members(engine.path)
    name = f"plans/{engine.plans[0]}" if to == "plan" else "model.onnx"
    damaged = bytearray(members[name])
    damaged[len(damaged) // 2] ^= 1
    crafted = write_members(tmp_path / "bad.bw", {**members, name: bytes(damaged)})
    (tmp_path / "out").mkdir()
    with pytest.raises(EngineError, match="does not match its SHA-256"):
        export(crafted, to, tmp_path / "out" / "x.xml")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("to", ["plan", "onnx"])
def test_an_unwritable_place_is_said(engine: Engine, tmp_path: Path, to: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        export(engine, to, tmp_path / "file" / "x")
    (tmp_path / "x.json").mkdir()
    if to == "plan":
        with pytest.raises(InputError, match="is a folder"):
            export(engine, to, tmp_path / "x")
        assert not (tmp_path / "x").exists()


@openvino_only
def test_openvino_runs_it_to_the_same_results(engine: Engine, tmp_path: Path) -> None:
    import openvino

    done = export(engine, "openvino", tmp_path / "ir" / "tiny.xml")
    assert [path.name for path in done.files] == ["tiny.xml", "tiny.bin"]
    assert sorted(path.name for path in (tmp_path / "ir").iterdir()) == ["tiny.bin", "tiny.xml"]
    assert set(done.facts["nrmse"]) == {"boxes", "scores"}
    assert max(done.facts["nrmse"].values()) < 1e-5
    loaded = openvino.Core().read_model(done.files[0])
    assert json.loads(loaded.get_rt_info(["boxwright", "card"]).astype(str)) == json.loads(
        engine.card.to_json()
    )
    kinds = {
        output.get_element_type().get_type_name()
        for node in loaded.get_ops()
        for output in node.outputs()
    }
    assert "f32" in kinds
    assert "f16" not in kinds
    run = openvino.Core().compile_model(loaded, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    # A batch that the export did not try.
    images = make_images(make_model(), 5, seed=9)
    results = run({"images": images})
    with backends.load(make_model(), backend="reference") as reference:
        for name, expected in reference.infer({"images": images}).items():
            np.testing.assert_allclose(results[name], expected, atol=1e-3)


@openvino_only
def test_what_computes_something_else_is_not_kept(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from boxwright.export import openvino as target

    convert = target._convert

    def other(openvino: Any, model: Model, made: Path) -> None:
        convert(openvino, make_model(seed=8), made)

    monkeypatch.setattr(target, "_convert", other)
    with pytest.raises(BuildError, match="computes another 'boxes' than the model: nrmse"):
        export(engine, "openvino", tmp_path / "out" / "x.xml")
    assert not (tmp_path / "out").exists()


@openvino_only
def test_what_openvino_cannot_convert_is_one_line(tmp_path: Path) -> None:
    model = make_model()
    model.proto.graph.node[3].op_type = "NoSuchOperator"
    with pytest.raises(BuildError, match=r"OpenVINO cannot convert the model: .*NoSuchOperator"):
        export(model, "openvino", tmp_path / "x.xml")
    with pytest.raises(InputError, match=r"must be named \.xml"):
        export(model, "openvino", tmp_path / "x.bin")
    assert list(tmp_path.iterdir()) == []


def test_without_openvino_the_extra_is_named(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'boxwright\[openvino\]'"):
        export(engine, "openvino", tmp_path / "x.xml")


@openvino_only
def test_a_graph_never_stands_beside_weights_of_another(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the second of the two cannot take its place, neither export is there to be read."""
    xml, weights = tmp_path / "x.xml", tmp_path / "x.bin"
    export(make_model(seed=2), "openvino", xml)
    replace = Path.replace

    def fail(self: Path, target: Any) -> Path:
        if str(target).endswith(".xml"):
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(InputError, match="No space left"):
        export(engine, "openvino", xml)
    assert weights.exists()
    assert not xml.exists()
    assert not list(tmp_path.glob(".boxwright*"))


KILLED = """
import os, signal, sys
from boxwright.export import export
source, to, output, fatal = sys.argv[1:]
def progress(stage, done, total):
    if f"{stage} {done}" == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
if fatal == "piece":
    from boxwright.engine import Engine
    chunks = Engine._chunks
    def cut(self, name):
        if name != "card.json":
            yield next(chunks(self, name))
            os.kill(os.getpid(), signal.SIGKILL)
        yield from chunks(self, name)
    Engine._chunks = cut
export(source, to, output, progress=progress)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize(
    ("to", "fatal"),
    [
        ("plan", "piece"),
        ("onnx", "piece"),
        pytest.param("openvino", "convert 0", marks=openvino_only),
        pytest.param("openvino", "compare with ONNX Runtime 1", marks=openvino_only),
        pytest.param("openvino", "write 2", marks=openvino_only),
    ],
)
def test_a_killed_export_leaves_nothing(
    engine: Engine, tmp_path: Path, to: str, fatal: str
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(boxwright.__file__).parents[1]),
        "TMPDIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(engine.path), to, str(folder / "x.xml"), fatal],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(folder.iterdir()) == []
