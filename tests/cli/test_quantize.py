"""``boxwright quantize``: what it writes, says, and answers with which exit code."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from boxwright.errors import BuildError
from boxwright.model import Model
from boxwright.probe import PROBE_KEY
from boxwright.quantize import job, on_target
from boxwright.quantize.objective import LabelledObjective
from tests.cli.conftest import Run
from tests.models import make_model
from tests.quantize.looks import saw
from tests.quantize.test_calibration import write_images
from tests.ship.material import write_material


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, images to calibrate on, and labelled ones."""
    folder = tmp_path_factory.mktemp("made")
    write_material(folder)
    write_images(folder / "calibration", 5, seed=3)
    model = make_model()
    # It finds something in noise.
    card = dataclasses.replace(model.card, score_threshold=0.05)
    model.with_card(card).save(folder / "tiny-float.onnx")
    return folder


def test_a_model_is_quantised_and_can_be_built(run: Run, made: Path) -> None:
    done = run(
        "quantize", made / "tiny-float.onnx", "--calibration", made / "calibration", "-o", "q.onnx"
    )
    assert done.exit_code == 0, done.output
    for said in ("in INT8", "in float", "gives a head's output", "build it with", "int8"):
        assert said in done.stdout
    assert "calibrated on 5 images; at least 100 are advised" in done.stdout
    model = Model.load("q.onnx")
    assert any(node.op_type == "QuantizeLinear" for node in model.proto.graph.node)
    assert {path.name for path in Path("q.onnx.work").iterdir()} == {
        "calibration.npz",
        "measurements.json",
    }
    built = run("build", "q.onnx", "--precision", "int8", "-o", "q.bw")
    assert built.exit_code == 0, built.output
    shown = run("report", "q.bw", "-o", "q.html")
    assert shown.exit_code == 0, shown.output
    assert "How INT8 was decided" in Path("q.html").read_text()


def test_a_model_without_an_image_is_built_all_the_same(run: Run, made: Path) -> None:
    done = run(
        *("quantize", made / "tiny-float.onnx", "--calibration", made / "calibration"),
        *("--method", "minmax", "--no-probe", "-o", "q.onnx"),
    )
    assert done.exit_code == 0, done.output
    assert PROBE_KEY.encode() not in Path("q.onnx").read_bytes()
    built = run("build", "q.onnx", "--precision", "int8", "-o", "q.bw")
    assert built.exit_code == 0, built.output
    assert PROBE_KEY.encode() not in Path("q.bw").read_bytes()


def test_json_has_the_whole_search(run: Run, made: Path) -> None:
    done = run(
        *("quantize", made / "tiny-float.onnx", "--calibration", made / "calibration"),
        *("--images", made / "images", "--annotations", made / "labels.json"),
        *("--max-drop", "100", "-o", "q.onnx", "--json"),
    )
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert content["output"] == "q.onnx"
    assert content["met"] is True
    assert content["precision"] == "int8"
    assert content["budget"]["objective"] == "AP on 5 labelled images"
    assert [item["method"] for item in content["budget"]["candidates"]] == [
        *("minmax", "percentile", "entropy", "mse"),
    ]
    assert {item["precision"] for item in content["layers"]} == {"int8", "float"}


def test_a_missed_budget_is_exit_code_3_and_the_float_model(
    run: Run, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([80.0])
    monkeypatch.setattr(LabelledObjective, "measure", lambda *_, **__: next(answers, 10.0))
    done = run(
        *("quantize", made / "tiny-float.onnx", "--calibration", made / "calibration"),
        *("--images", made / "images", "--annotations", made / "labels.json"),
        *("--max-drop", "1", "-o", "q.onnx", "--write-cache", "c.cache"),
    )
    assert done.exit_code == 3, done.output
    assert "c.cache was not written: no INT8 model was found" in done.stdout
    assert not Path("c.cache").exists()
    assert "exit code 3" in done.stderr
    assert "missed" in done.stdout
    assert "--precision fp32" in done.stdout
    assert not any(n.op_type == "QuantizeLinear" for n in Model.load("q.onnx").proto.graph.node)


def test_measuring_on_images_calibrated_on_is_said(run: Run, made: Path) -> None:
    done = run(
        *("quantize", made / "tiny-float.onnx", "--calibration", made / "images"),
        *("--images", made / "images", "--annotations", made / "labels.json"),
        *("--max-drop", "100", "-o", "q.onnx"),
    )
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "WARNING: 5 of 5 images measured on were calibrated on as well" in said
    notes = Model.load("q.onnx").card.transforms[-1].effect["notes"]
    assert any(note.startswith("WARNING: 5 of 5") for note in notes)


def test_layers_can_be_listed_and_kept(run: Run, made: Path) -> None:
    done = run("quantize", made / "tiny-float.onnx", "--list", "--json")
    assert done.exit_code == 0, done.output
    layers = json.loads(done.stdout)["layers"]
    quantised = [layer["name"] for layer in layers if layer["precision"] == "int8"]
    assert quantised
    kept = run("quantize", made / "tiny-float.onnx", "--list", "--keep", quantised[0])
    assert "asked to stay in float" in kept.stdout
    few = run("quantize", made / "tiny-float.onnx", "--list", "--min-channels", "64")
    assert "16 channels, fewer than 64" in few.stdout


def test_a_cache_of_tensorrt_is_written_and_read(run: Run, made: Path) -> None:
    first = run(
        *("quantize", made / "tiny-float.onnx", "--calibration", made / "calibration"),
        *("--method", "entropy", "--write-cache", "c.cache", "-o", "a.onnx"),
    )
    assert first.exit_code == 0, first.output
    assert Path("c.cache").read_text().startswith("TRT-8601-EntropyCalibration2\n")
    second = run(
        *("quantize", made / "tiny-float.onnx", "--from-cache", "c.cache"),
        *("--write-cache", "d.cache", "-o", "b.onnx"),
    )
    assert second.exit_code == 0, second.output
    assert "a calibration cache" in second.stdout
    assert Path("d.cache").read_bytes() == Path("c.cache").read_bytes()


_WRONG: list[tuple[tuple[str, ...], int, str]] = [
    (("-o", "q.onnx"), 1, "needs images to calibrate on"),
    (("--calibration", "{0}/calibration"), 2, "give the file to write with -o"),
    (("--calibration", "{0}/calibration", "--latency", "-o", "q.onnx"), 2, "needs --target"),
    (("--calibration", "{0}/calibration", "-o", "{0}/tiny-float.onnx"), 1, "would destroy it"),
    (
        ("--calibration", "{0}/calibration", "--keep", "nothing", "-o", "q.onnx"),
        1,
        "cannot keep 'nothing' in float",
    ),
    (("--calibration", "nowhere", "-o", "q.onnx"), 1, "nowhere"),
    (("--calibration", "{0}/calibration", "--max-drop", "200", "-o", "q.onnx"), 2, "max-drop"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), _WRONG)
def test_wrong_use_is_told(
    run: Run, made: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = run("quantize", made / "tiny-float.onnx", *(a.format(made) for a in arguments))
    assert done.exit_code == code, done.output
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output


_COLLISIONS: list[tuple[tuple[str, ...], int, str]] = [
    (("--from-cache", "c.cache", "-o", "c.cache"), 1, "would destroy it"),
    (("--from-cache", "c.cache", "-o", "q.onnx", "--write-cache", "c.cache"), 1, "destroy it"),
    (("--from-cache", "c.cache", "-o", "q.onnx", "--write-cache", "./q.onnx"), 2, "two files"),
    (("--from-cache", "c.cache", "-o", "folder"), 1, "it is a folder"),
    (("--from-cache", "c.cache", "-o", "q.onnx", "--write-cache", "folder"), 1, "is a folder"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), _COLLISIONS)
def test_nothing_is_written_over_what_is_read(
    run: Run,
    made: Path,
    arguments: tuple[str, ...],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And it is said before there is any work to lose."""
    monkeypatch.setattr(job, "quantize_model", _never)
    Path("c.cache").write_text("TRT-8601-MinMaxCalibration\n")
    Path("folder").mkdir()
    done = run("quantize", made / "tiny-float.onnx", *arguments)
    assert done.exit_code == code, done.output
    assert message in " ".join(done.output.split())
    assert Path("c.cache").read_text() == "TRT-8601-MinMaxCalibration\n"


def _never(*_: object) -> None:
    raise AssertionError("it must not come to this")


def test_what_a_runtime_refuses_is_told(
    run: Run, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise BuildError("the plan computes another 'boxes'")

    saw(monkeypatch)
    monkeypatch.setattr(on_target, "load_precision", refuse)
    done = run(
        *("quantize", made / "tiny-float.onnx", "--calibration", made / "calibration"),
        *("--target", "onnxruntime", "--latency", "--max-drop", "5", "-o", "q.onnx"),
    )
    assert done.exit_code == 3, done.output
    assert "does not run: the plan computes another 'boxes'" in done.stdout
    assert "onnxruntime runs no candidate" in done.stderr


def test_a_quantised_model_is_not_quantised_again(run: Run, made: Path) -> None:
    arguments = ("--calibration", made / "calibration", "--method", "minmax")
    assert run("quantize", made / "tiny-float.onnx", *arguments, "-o", "q.onnx").exit_code == 0
    again = run("quantize", "q.onnx", *arguments, "-o", "r.onnx")
    assert again.exit_code == 1
    assert "quantised already" in again.output
    assert not list(Path.cwd().glob("r.onnx*"))


def test_a_model_is_fine_tuned(run: Run, made: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    given = ("quantize", made / "tiny-float.onnx", "--calibration", made / "calibration")
    short = ("--method", "minmax", "--finetune", "--finetune-steps", "2", "--device", "cpu")
    done = run(*given, *short, "-o", tmp_path / "tuned.onnx")
    assert done.exit_code == 0, done.output
    assert "fine-tuned" in done.output
    step = Model.load(tmp_path / "tuned.onnx").card.transforms[-1]
    assert step.parameters["fine_tuning"]["steps"] == 2
    assert list((tmp_path / "tuned.onnx.work").glob("finetuning-*.npz"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--finetune-steps", "5"), "needs --finetune"),
        (("--finetune", "--finetune-steps", "0"), "0 is not in the range"),
        (("--finetune", "--write-cache", "c.cache"), "also changes weights"),
    ],
)
def test_what_does_not_go_with_fine_tuning(
    run: Run, made: Path, arguments: tuple[str, ...], message: str
) -> None:
    given = ("quantize", made / "tiny-float.onnx", "--calibration", made / "calibration")
    done = run(*given, *arguments, "-o", "q.onnx")
    assert done.exit_code == 2
    assert message in done.output


def test_without_pytorch_fine_tuning_names_the_extra(
    run: Run, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    given = ("quantize", made / "tiny-float.onnx", "--calibration", made / "calibration")
    done = run(*given, "--finetune", "-o", "q.onnx")
    assert done.exit_code == 1
    assert "pip install 'boxwright[train]'" in done.output


def test_heads_are_in_int8_where_asked_for(run: Run, made: Path) -> None:
    def heads(*options: str) -> str:
        done = run(
            *("quantize", made / "tiny-float.onnx", "--calibration", made / "calibration"),
            *("--min-channels", "1", "--method", "minmax", "-o", "q.onnx", "--json", *options),
        )
        assert done.exit_code == 0, done.output
        layers = json.loads(done.stdout)["layers"]
        return str(layers[-1].get("reason", layers[-1]["precision"]))

    budget = ("--images", str(made / "images"), "--max-drop", "100")
    assert heads() == "gives a head's output"
    assert heads("--heads") == "int8"
    assert heads(*budget) == "int8"
    assert heads(*budget, "--no-heads") == "gives a head's output"
    assert heads(*budget, "--heads", "--keep", "node/conv_19") == "asked to stay in float"


def test_int8_that_cannot_be_faster_is_told_without_a_search(
    run: Run, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saw(monkeypatch, fp32=1.0, int8=1.25)
    arguments = (
        *("quantize", made / "tiny-float.onnx", "--calibration", made / "calibration"),
        *("--target", "onnxruntime", "--latency", "--max-drop", "5", "-o", "q.onnx"),
    )
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "no layers were searched" in said
    assert "0.80 (0.80 to 0.80)" in said
    assert "over the budget" not in said
    assert said.count("times as fast as FP32") == 2, "above its table and as a note"
    assert "build it with --precision fp32" in said
    assert not Model.load("q.onnx").quantized
    content = json.loads(run(*arguments, "--json").stdout)
    assert content["budget"] is None
    assert content["choice"]["precision"] == "fp32"
    assert content["look"]["forms"][0]["times_as_fast"]["median"] == 0.8
