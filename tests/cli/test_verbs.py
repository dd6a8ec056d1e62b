"""The verbs do their work, say so in text and JSON, and refuse bad input in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import boxwright
from tests.cli.conftest import Run
from tests.cli.material import CFG, write_darknet, write_image
from tests.models import make_model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``tiny.onnx`` and ``tiny.bw`` of the same Darknet network."""
    folder = tmp_path_factory.mktemp("made")
    model = boxwright.import_model(write_darknet(folder))
    model.save(folder / "tiny.onnx")
    boxwright.build(model, output=folder / "tiny.bw")
    return folder


def _json(run: Run, *arguments: str | Path, code: int = 0) -> Any:
    done = run(*arguments, "--json")
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_from_weights_to_evidence(run: Run, tmp_path: Path) -> None:
    weights = write_darknet(tmp_path)
    image = write_image(tmp_path / "noise.png")
    imported = _json(run, "import", weights)
    assert imported["output"] == "tiny.onnx"
    assert imported["card"]["class_names"] == ["cat", "dog", "bird"]
    assert imported["bytes"] == Path("tiny.onnx").stat().st_size
    built = _json(run, "build", "tiny.onnx")
    assert built["output"] == "tiny.bw"
    assert len(built["plans"]) == 1
    found = _json(run, "detect", "tiny.bw", image, "--score", "0.01")
    assert found["summary"]["images"] == 1
    assert len(found["images"][0]["detections"]) == found["summary"]["detections"] > 0
    verified = _json(run, "verify", "tiny.bw", "--images", image)
    assert verified["ok"] is True
    assert verified["reference"].endswith("on reference")
    # The same in text.
    for arguments in (
        ("import", weights),
        ("build", "tiny.onnx"),
        ("detect", "tiny.bw", image),
        ("verify", "tiny.bw", "--images", image),
        ("inspect", "tiny.bw"),
    ):
        done = run(*arguments)
        assert done.exit_code == 0, done.output
        assert done.stdout.strip()
        assert not any(line != line.rstrip() for line in done.stdout.splitlines())


def test_build_passes_options_to_the_backend(run: Run, made: Path) -> None:
    model, option = made / "tiny.onnx", ("--option", "intra_op_num_threads=2")
    built = _json(run, "build", model, *option)
    assert built["options"] == {"intra_op_num_threads": 2}
    receipt = _json(run, "inspect", "tiny.bw")["receipt"]
    assert receipt["build"]["options"] == {"intra_op_num_threads": 2}
    assert "intra_op_num_threads=2" in run("build", model, *option).stdout
    Path("c.toml").write_text('[build]\noption = ["intra_op_num_threads=1"]\n')
    built = _json(run, "build", model, "--config", "c.toml")
    assert built["options"] == {"intra_op_num_threads": 1}
    line = _is_one_error(run, "build", model, "--option", "intra_op_num_thread=2")
    assert "did you mean 'intra_op_num_threads'?" in line
    done = run("build", model, *option, *option)
    assert done.exit_code == 2
    assert "given twice" in done.stderr


def test_import_takes_a_size_a_resize_and_a_name(run: Run, tmp_path: Path) -> None:
    weights = write_darknet(tmp_path)
    options = ("--size", "64x128", "--resize", "letterbox", "--interpolation", "opencv")
    card = _json(run, "import", weights, "-o", "sub/wide.onnx", *options, "--licence", "MIT")[
        "card"
    ]
    assert card["input_size"] == [64, 128]
    assert (card["resize"], card["interpolation"]) == ("letterbox", "opencv")
    assert card["licence"] == "MIT"
    assert Path("sub/wide.onnx").is_file()


def test_inspect_shows_the_graph_of_a_model(run: Run, made: Path) -> None:
    content = _json(run, "inspect", made / "tiny.onnx", "--layers")
    # 3 x 3 x 3 over 8 x 4 cells to 4 channels, then 4 to 16.
    assert content["graph"]["macs"] == 4 * 8 * 4 * 27 + 16 * 8 * 4 * 4
    assert content["graph"]["flops"] == 2 * content["graph"]["macs"]
    assert content["graph"]["parameters"] == (4 + 4 * 27) + (16 + 16 * 4)
    assert sum(content["graph"]["operators"].values()) == len(content["layers"])
    assert content["graph"]["inputs"] == [
        {"name": "images", "type": "uint8", "shape": ["N", 32, 64, 3]}
    ]
    assert "plans" not in content
    assert "Layers" in run("inspect", made / "tiny.onnx", "--layers").stdout


def test_inspect_says_whether_a_plan_fits(run: Run, made: Path) -> None:
    from boxwright.engine import Engine

    engine = Engine.open(made / "tiny.bw")
    (mine,) = engine.plans
    foreign = mine.replace("onnxruntime_", "onnxruntime_0.1-", 1)
    engine.with_plan(foreign, b"x", "two.bw")
    content = _json(run, "inspect", "two.bw")
    fits = {plan["fingerprint"]: plan["fits"] for plan in content["plans"]}
    assert fits == {mine: True, foreign: False}
    (reason,) = [plan["reason"] for plan in content["plans"] if not plan["fits"]]
    assert reason.startswith("version 0.1-")
    assert content["receipt"]["build"]["backend"] == "onnxruntime"
    assert reason in run("inspect", "two.bw").stdout


@pytest.mark.parametrize("name", ["tiny.weights", "tiny.cfg"])
def test_inspect_reads_weights_too(run: Run, made: Path, name: str) -> None:
    content = _json(run, "inspect", made / name)
    assert content["kind"] == "weights"
    assert content["card"]["name"] == "tiny"


def test_verify_is_3_when_the_networks_differ(run: Run, made: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = boxwright.import_model(write_darknet(tmp_path / "other", seed=1))
    other.save("other.onnx")
    image = write_image(tmp_path / "noise.png")
    arguments = ("verify", made / "tiny.onnx", "--against", "other.onnx", "--images", image)
    content = _json(run, *arguments, code=3)
    assert content["ok"] is False
    assert content["first_divergence"]
    done = run(*arguments)
    assert done.exit_code == 3
    assert "DIFFERS from" in done.stdout
    assert "FAILED" in done.stdout
    fault = "the network: head 001_convolutional/conv"
    assert done.stderr == f"outside tolerance ({fault}): exit code 3\n"


def test_verify_draws_its_images_by_the_seed(
    run: Run, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from boxwright import images
    from boxwright.evaluate import sampling

    for number in range(6):
        write_image(tmp_path / "many" / f"{number}.png", seed=number)
    read: list[str] = []
    load = images.load_image

    def note_and_load(path: Path) -> Any:
        read.append(path.name)
        return load(path)

    monkeypatch.setattr(sampling, "load_image", note_and_load)
    chosen = []
    for seed in ("1", "1", "2"):
        read.clear()
        options = ("--images", "many", "--limit", "3", "--seed", seed)
        assert _json(run, "verify", made / "tiny.bw", *options)["images"] == 3
        chosen.append(list(read))
    assert chosen[0] == chosen[1] != chosen[2]


BAD = {
    # A file that is not there, and what stands in its place otherwise.
    "missing": "nowhere",
    "empty": "empty",
    "noise": "noise",
    "folder": "folder",
    # A real picture, which no verb takes for a network.
    "image": "image.png",
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize(
    ("before", "suffix", "after"),
    [
        (["import"], ".weights", []),
        (["inspect"], ".onnx", []),
        (["inspect"], ".bw", []),
        (["inspect"], ".weights", []),
        (["build"], ".onnx", []),
        (["detect"], ".bw", ["image.png"]),
        (["detect"], ".onnx", ["image.png"]),
        (["verify"], ".bw", ["--images", "image.png"]),
        (["verify"], ".onnx", ["--images", "image.png"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_bad_file_is_one_line(
    run: Run, tmp_path: Path, kind: str, before: list[str], suffix: str, after: list[str]
) -> None:
    write_image(tmp_path / "image.png")
    (tmp_path / "tiny.cfg").write_text(CFG)
    name = BAD[kind] + suffix
    if kind == "folder":
        Path(name).mkdir()
    elif kind == "image":
        Path(name).write_bytes(Path("image.png").read_bytes())
    elif kind != "missing":
        Path(name).write_bytes(b"" if kind == "empty" else bytes(range(256)) * 20)
    _is_one_error(run, *before, name, *after)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["detect", "{made}/tiny.bw", "nowhere.jpg"], "no such file or folder: nowhere.jpg"),
        (["detect", "{made}/tiny.bw", "empty"], "holds no images"),
        (["detect", "{made}/tiny.bw", "image.png", "--class", "dogg"], "did you mean 'dog'?"),
        (["detect", "{made}/tiny.bw", "image.png", "--backend", "onnx"], "unknown backend 'onnx'"),
        (["build", "{made}/tiny.onnx", "--backend", "tensort"], "unknown backend 'tensort'"),
        (["build", "{made}/tiny.onnx", "--precision", "int8"], "is not quantised"),
        (["import", "{made}/tiny.weights", "--format", "caffee"], "unknown format 'caffee'"),
        (["import", "{made}/tiny.weights", "--cfg", "none.cfg"], "none.cfg"),
        (["import", "{made}/tiny.weights", "-o", "image.png/x.onnx"], "cannot write"),
        (["verify", "{made}/tiny.bw"], "needs images"),
        (["verify", "{made}/tiny.bw", "--images", "empty"], "holds no images"),
        (["verify", "{made}/tiny.bw", "--against", "no.npz", "--images", "image.png"], "no.npz"),
        (["demo", "-o", "image.png/demo"], "cannot write"),
    ],
)
def test_other_bad_input_is_one_line_too(
    run: Run, made: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    write_image(tmp_path / "image.png")
    (tmp_path / "empty").mkdir()
    line = _is_one_error(run, *(word.format(made=made) for word in arguments))
    assert words in line


def _is_one_error(run: Run, *arguments: str | Path) -> str:
    done = run(*arguments)
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    remarks = ("fetching", "warning: ")
    (line,) = [text for text in done.stderr.splitlines() if not text.startswith(remarks)]
    assert line.startswith("error: ")
    assert "this is a bug" not in line
    content = _json(run, *arguments, code=1)
    assert set(content) == {"error"}
    assert content["error"]["exit_code"] == 1
    return line


def test_a_model_of_another_task_does_not_detect(run: Run, tmp_path: Path) -> None:
    import dataclasses

    model = make_model()
    model.with_card(dataclasses.replace(model.card, task="classify")).save("c.onnx")
    image = write_image(tmp_path / "image.png")
    assert "needs task 'detect'" in _is_one_error(run, "detect", "c.onnx", image)


def test_a_report_of_a_changed_model_is_refused(run: Run, made: Path) -> None:
    from tests.engines import read_members, write_members

    members = read_members(made / "tiny.bw")
    model = bytearray(members["model.onnx"])
    model[-1] ^= 1
    write_members(Path("changed.bw"), {**members, "model.onnx": bytes(model)})
    done = run("report", "changed.bw")
    assert done.exit_code == 1
    assert "'model.onnx' does not match its SHA-256" in done.stderr
    assert not Path("changed.html").exists()


def test_one_image_is_counted_in_the_singular(run: Run, made: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "one.png")
    done = run("detect", made / "tiny.bw", "one.png")
    assert "\n1 image, " in done.stderr
