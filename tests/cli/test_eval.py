"""`eval`: numbers in text and JSON, files, budgets, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import boxwright
from boxwright import images, runs
from tests.cli.conftest import Run
from tests.cli.material import write_darknet, write_image
from tests.datasets.material import annotation, write_coco, write_text

COUNT = 4
CATEGORIES = [{"id": 4, "name": "dog"}, {"id": 2, "name": "cat"}]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    boxwright.build(boxwright.import_model(write_darknet(folder)), output=folder / "tiny.bw")
    return folder / "tiny.bw"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """COCO annotations of images of noise; one box takes up most of each."""
    path = write_coco(
        tmp_path / "data",
        *(annotation(n, 4, (5, 4, 70, 30)) for n in range(1, COUNT + 1)),
        images=COUNT,
        categories=CATEGORIES,
    )
    for n in range(1, COUNT + 1):
        write_image(tmp_path / "data" / "val" / f"{n}.png", seed=n, size=(40, 80))
    return path


def _eval(run: Run, *arguments: str | Path, code: int = 0) -> Any:
    done = run("eval", *arguments, "--json")
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_numbers_and_files(run: Run, engine: Path, labels: Path) -> None:
    found = _eval(run, engine, "--annotations", labels, "-o", "out", "--save", "mine.json")
    assert 0 <= found["accuracy"]["ap"] <= found["accuracy"]["ap50"] <= 1
    assert found["accuracy"]["images"] == COUNT
    assert found["class_map"]["only_model"] == ["bird"]
    # Curves would be most of the document; the file has them.
    assert "precision" not in found["accuracy"]["classes"][0]
    kept = json.loads(Path("out/evaluation.json").read_text())
    assert len(kept["accuracy"]["classes"][1]["precision"]) == 101
    assert Path("out/results.json").read_bytes() == Path("mine.json").read_bytes()
    same = _eval(run, engine, "--data", labels)
    assert same["accuracy"] == found["accuracy"]
    assert (same["output"], same["save"], same["budget"]) == (None, None, None)


def test_tables(run: Run, engine: Path, labels: Path) -> None:
    done = run("eval", engine, "--data", labels)
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["counted", "4", "images,", "4", "objects,"] in [row[:5] for row in rows]
    assert any(row[:1] == ["AP50"] for row in rows)
    assert any(row[:1] == ["dog"] for row in rows)
    assert "note: 1 classes of the model are not in the dataset" in done.stderr
    quiet = run("eval", engine, "--data", labels, "-q")
    assert quiet.stderr == ""
    voc = run("eval", engine, "--data", labels, "--metric", "voc", "--points", "11")
    assert "11 recall points" in voc.stdout
    assert "TP" in voc.stdout
    assert not any(line != line.rstrip() for line in (done.stdout + voc.stdout).splitlines())


def test_options_reach_the_evaluation(run: Run, engine: Path, labels: Path) -> None:
    options = ("--score", "0.3", "--iou", "0.9", "--limit", "2", "--batch", "1")
    found = _eval(run, engine, "--data", labels, *options, "--metric", "voc")
    assert found["accuracy"]["images"] == 2
    assert found["accuracy"]["definition"] == "darknet"
    assert found["settings"]["score_threshold"] == 0.3
    assert found["settings"]["nms"]["iou_threshold"] == 0.9
    fewer = found["accuracy"]["detections"]
    assert fewer < _eval(run, engine, "--data", labels, "--limit", "2")["accuracy"]["detections"]


@pytest.mark.parametrize(
    ("options", "several"), [((), True), (("--best-class",), False), (("--multi-label",), True)]
)
def test_several_classes_a_box_or_the_best(
    options: tuple[str, ...], several: bool, run: Run, engine: Path, labels: Path
) -> None:
    found = _eval(run, engine, "--data", labels, *options)
    assert found["settings"]["nms"]["multi_label"] is several


@pytest.mark.parametrize("metric", ["coco", "voc"])
def test_a_budget(run: Run, engine: Path, labels: Path, metric: str) -> None:
    options = (engine, "--data", labels, "--metric", metric, "--min-ap")
    assert _eval(run, *options, "0")["budget"] == {"min_ap": 0.0, "met": True}
    assert _eval(run, *options, "1", code=3)["budget"] == {"min_ap": 1.0, "met": False}
    done = run("eval", *options, "1")
    assert done.exit_code == 3
    assert done.stderr.splitlines()[-1].endswith("below the budget of 1: exit code 3")
    assert done.stdout


def test_yolo_labels_with_names(run: Run, engine: Path, labels: Path) -> None:
    folder = labels.parent / "val"
    for n in range(1, COUNT + 1):
        write_text(folder / f"{n}.txt", "0 0.5 0.5 0.8 0.8\n")
    names = write_text(labels.parent / "my.names", "dog\n")
    found = _eval(run, engine, "--data", folder, "--names", names, "-o", "out")
    assert found["accuracy"]["classes"][0]["name"] == "dog"
    assert Path("out/annotations.json").is_file()


def test_faults_are_told_once(run: Run, engine: Path, labels: Path) -> None:
    content = json.loads(labels.read_text())
    content["annotations"] += [annotation(1, 4, (5, 4, 0, 0)), annotation(2, 4, (5, 4, 0, 0))]
    labels.write_text(json.dumps(content))
    (labels.parent / "val" / "3.png").write_bytes(b"not a picture")
    done = run("eval", engine, "--data", labels)
    assert done.exit_code == 0
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert "2 x box without width or height (label skipped)" in warnings[0]
    assert "1 x image cannot be read" in warnings[1]
    assert "1 images could not be read and do not count" in done.stdout
    found = _eval(run, engine, "--data", labels)
    assert found["dataset"]["problems"]["no_size"]["count"] == 2
    assert len(found["unreadable"]) == 1


def test_a_stopped_run_goes_on(
    run: Run, engine: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = images.load_image

    def stop_at_3(path: Path, **settings: Any) -> Any:
        if path.name == "3.png":
            raise KeyboardInterrupt
        return load(path, **settings)

    options = (engine, "--data", labels, "-o", "out", "--batch", "1")
    monkeypatch.setattr(runs, "load_image", stop_at_3)
    assert run("eval", *options).exit_code == 130
    monkeypatch.setattr(runs, "load_image", load)
    assert _eval(run, *options)["timing"]["resumed"] == 2
    monkeypatch.setattr(runs, "load_image", stop_at_3)
    assert run("eval", *options).exit_code == 130
    monkeypatch.setattr(runs, "load_image", load)
    assert _eval(run, *options, "--no-resume")["timing"]["resumed"] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "give the labels with one of --annotations and --data"),
        (("--data", "a.json", "--annotations", "b.json"), 2, "one of --annotations and --data"),
        (("--data", "nowhere"), 1, "error: no such file or folder: nowhere"),
        (("--data", "x.json"), 1, "error: x.json is not valid JSON"),
        (("--data", "x.json", "--min-ap", "30"), 2, "30"),
    ],
)
def test_what_is_wrong_is_said(
    run: Run, engine: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    Path("x.json").write_text("{")
    done = run("eval", engine, *arguments)
    assert done.exit_code == code
    assert message in done.stderr


def test_without_the_extra_the_command_is_named(
    run: Run, engine: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    done = run("eval", engine, "--data", labels)
    assert done.exit_code == 1
    assert "pip install 'boxwright[eval]'" in done.stderr
    # Darknet's metric needs none.
    assert run("eval", engine, "--data", labels, "--metric", "voc").exit_code == 0
