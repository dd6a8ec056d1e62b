"""`detect` over many files: what is written, damaged images, and going on after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import boxwright
from boxwright import images, runs
from boxwright.card import Crop, TemplatePoint
from boxwright.runs import drawn_names
from tests.classifiers import COLOURS, make_classifier
from tests.cli.conftest import Run
from tests.cli.material import write_darknet, write_image
from tests.models import POINTS, make_model

COUNT = 7


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    boxwright.build(boxwright.import_model(write_darknet(folder)), output=folder / "tiny.bw")
    return folder / "tiny.bw"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(COUNT):
        write_image(tmp_path / "photos" / f"{number:03}.png", seed=number)
    return tmp_path / "photos"


def _detect(run: Run, *arguments: str | Path, code: int = 0) -> Any:
    done = run("detect", *arguments, "--score", "0.3", "--json")
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_everything_is_written(run: Run, engine: Path, photos: Path) -> None:
    found = _detect(run, engine, photos, "-o", "out", "--save", "drawn,jsonl,coco,yolo")
    out = Path("out")
    lines = [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]
    assert lines == found["images"]
    assert [Path(line["path"]).name for line in lines] == [f"{n:03}.png" for n in range(COUNT)]
    total = sum(len(line["detections"]) for line in lines)
    assert found["summary"]["detections"] == total > 0
    assert len(json.loads((out / "coco.json").read_text())) == total
    labels = sorted((out / "labels").glob("*.txt"))
    assert sum(len(path.read_text().splitlines()) for path in labels) == total
    assert len(labels) == COUNT
    for path in sorted(photos.iterdir()):
        with Image.open(out / "drawn" / path.name) as drawn, Image.open(path) as source:
            assert drawn.size == source.size
            assert drawn.tobytes() != source.tobytes()
    # Nothing of the run itself is left.
    assert sorted(p.name for p in out.iterdir()) == [
        "coco.json",
        "detections.jsonl",
        "drawn",
        "labels",
    ]


def test_nothing_is_written_unless_asked_for(run: Run, engine: Path, photos: Path) -> None:
    before = sorted(Path().rglob("*"))
    _detect(run, engine, photos)
    assert sorted(Path().rglob("*")) == before
    _detect(run, engine, photos, "--save", "jsonl")
    assert sorted(p.name for p in Path("detected").iterdir()) == ["detections.jsonl"]


def test_a_few_images_get_tables_and_many_get_lines(run: Run, engine: Path, photos: Path) -> None:
    few = run("detect", engine, photos / "000.png", "--score", "0.3")
    assert "class" in few.stdout
    assert "(60 x 40)" in few.stdout
    many = run("detect", engine, photos, "--score", "0.3")
    assert len(many.stdout.splitlines()) == COUNT
    assert f"{COUNT} images" in many.stderr
    assert "images/s" in many.stderr


def test_options_reach_the_detector(run: Run, engine: Path, photos: Path) -> None:
    every = _detect(run, engine, photos)
    names = {d["class_name"] for i in every["images"] for d in i["detections"]}
    assert len(names) > 1
    only = _detect(run, engine, photos, "--class", "dog", "--max", "1", "--limit", "3")
    assert only["summary"]["images"] == 3
    assert {d["class_name"] for i in only["images"] for d in i["detections"]} == {"dog"}
    assert max(len(i["detections"]) for i in only["images"]) == 1
    one_by_one = _detect(run, engine, photos, "--batch", "1")
    assert [len(i["detections"]) for i in one_by_one["images"]] == [
        len(i["detections"]) for i in every["images"]
    ]
    loose = _detect(run, engine, photos, "--iou", "1")
    assert loose["summary"]["detections"] > every["summary"]["detections"]
    across = _detect(run, engine, photos, "--agnostic")
    assert across["summary"]["detections"] < every["summary"]["detections"]


def test_a_damaged_image_is_named_and_the_run_goes_on(run: Run, engine: Path, photos: Path) -> None:
    (photos / "003.png").write_bytes(b"not a picture")
    done = run("detect", engine, photos, "-o", "out", "--save", "jsonl")
    assert done.exit_code == 0
    assert done.stderr.count("003.png") == 1
    assert done.stderr.startswith("warning: ")
    assert "1 could not be read" in done.stderr
    lines = [json.loads(line) for line in Path("out/detections.jsonl").read_text().splitlines()]
    assert [number for number, line in enumerate(lines) if "error" in line] == [3]


def test_only_damaged_images_are_1(run: Run, engine: Path, photos: Path) -> None:
    for path in photos.iterdir():
        path.write_bytes(b"not a picture")
    found = _detect(run, engine, photos, code=1)
    assert found["summary"]["failed"] == COUNT
    assert found["error"]["message"] == "none of the images could be read"
    done = run("detect", engine, photos)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == "error: none of the images could be read"


def test_a_stopped_run_goes_on(
    run: Run, engine: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (engine, photos, "--save", "drawn,jsonl,coco", "--batch", "2")
    whole = _detect(run, *options, "-o", "whole")
    load = images.load_image

    def stop_at_4(path: Path, **settings: Any) -> Any:
        if path.name == "004.png":
            raise KeyboardInterrupt
        return load(path, **settings)

    monkeypatch.setattr(runs, "load_image", stop_at_4)
    assert run("detect", *options, "-o", "out", "--score", "0.3").exit_code == 130
    assert not Path("out/detections.jsonl").exists()

    monkeypatch.setattr(runs, "load_image", load)
    # Other settings would mix two runs.
    refused = run("detect", *options, "-o", "out", "--score", "0.4")
    assert refused.exit_code == 1
    assert "other settings" in refused.stderr
    write_darknet(Path(), seed=5)
    boxwright.build(boxwright.import_model("tiny.weights"), output="other.bw")
    refused = run("detect", "other.bw", *options[1:], "-o", "out", "--score", "0.3")
    assert refused.exit_code == 1
    assert "engine_sha256" in refused.stderr
    rest = _detect(run, *options, "-o", "out")
    assert rest["summary"]["resumed"] == 4
    assert [Path(image["path"]).name for image in rest["images"]] == [
        "004.png",
        "005.png",
        "006.png",
    ]
    for name in ("detections.jsonl", "coco.json"):
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()
    assert len(list(Path("out/drawn").iterdir())) == COUNT
    assert whole["summary"]["resumed"] == 0


def test_a_stopped_run_may_start_over(
    run: Run, engine: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = images.load_image

    def stop(path: Path, **settings: Any) -> Any:
        if path.name == "006.png":
            raise KeyboardInterrupt
        return load(path, **settings)

    monkeypatch.setattr(runs, "load_image", stop)
    options = ("-o", "out", "--batch", "1")
    assert run("detect", engine, photos, *options, "--score", "0.3").exit_code == 130
    monkeypatch.setattr(runs, "load_image", load)
    again = _detect(run, engine, photos, *options, "--no-resume")
    assert again["summary"]["resumed"] == 0


def test_drawings_are_told_apart() -> None:
    paths = [Path("a/1.jpg"), Path("b/1.jpg"), Path("b/1.webp"), Path("b/1.png")]
    assert list(drawn_names(paths).values()) == [
        Path("a/1.jpg"),
        Path("b/1.jpg"),
        Path("b/1.webp.png"),
        Path("b/1.png"),
    ]
    assert drawn_names([Path("x/y/1.bmp")]) == {Path("x/y/1.bmp"): Path("1.bmp.png")}


def test_evidence_in_the_receipt_does_not_stop_a_run_from_going_on(
    run: Run, engine: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path("own.bw")
    own.write_bytes(engine.read_bytes())
    load = images.load_image

    def stop(path: Path, **settings: Any) -> Any:
        if path.name == "004.png":
            raise KeyboardInterrupt
        return load(path, **settings)

    options = (own, photos, "-o", "out", "--save", "jsonl", "--batch", "1")
    monkeypatch.setattr(runs, "load_image", stop)
    assert run("detect", *options, "--score", "0.3").exit_code == 130
    monkeypatch.setattr(runs, "load_image", load)
    assert run("verify", own, "--images", photos, "--limit", "1").exit_code == 0
    assert own.read_bytes() != engine.read_bytes()
    refused = run("detect", *options, "--score", "0.4")
    assert "--no-resume" in refused.stderr
    assert _detect(run, *options)["summary"]["resumed"] == 4


def test_coco_ids_come_from_annotations(run: Run, engine: Path, photos: Path) -> None:
    labels = {
        "images": [{"id": 50 + n, "file_name": f"{n:03}.png"} for n in range(COUNT)],
        "categories": [{"id": 77, "name": "dog"}],
    }
    Path("labels.json").write_text(json.dumps(labels))
    _detect(run, engine, photos, "--save", "coco", "--annotations", "labels.json")
    results = json.loads(Path("detected/coco.json").read_text())
    assert {item["category_id"] for item in results} == {77}
    assert {item["image_id"] for item in results} <= set(range(50, 50 + COUNT))
    refused = run("detect", engine, photos, "--save", "jsonl", "--annotations", "labels.json")
    assert refused.exit_code == 2
    assert "--annotations needs --save coco" in refused.stderr


def test_attributes_of_each_box(run: Run, engine: Path, photos: Path, tmp_path: Path) -> None:
    """The table, the documents and a resumed run know what attribute models say."""
    for name, crop in (("plain", None), ("wide", Crop("square", 2.0))):
        make_classifier(crop=crop).save(tmp_path / f"{name}.onnx")
    plain, wide = tmp_path / "plain.onnx", tmp_path / "wide.onnx"
    photo = photos / "000.png"
    found = _detect(run, engine, photo, "--attributes", plain, "-o", "out")
    (image,) = found["images"]
    assert image == json.loads((Path("out") / "detections.jsonl").read_text())
    assert image["detections"]
    for detection in image["detections"]:
        assert detection["colour"] in COLOURS
        assert 1 / 3 <= detection["colour_score"] <= 1
        assert 0 <= detection["bright"] <= 255
    table = run("detect", engine, photo, "--score", "0.3", "--attributes", plain)
    assert "colour" in table.stdout
    assert "bright" in table.stdout
    other = _detect(run, engine, photo, "--attributes", wide, "-o", "out")
    assert other["summary"]["resumed"] == 0
    refused = run("detect", engine, photo, "--attributes", engine)
    assert refused.exit_code == 1
    assert "is a model to detect" in refused.stderr


def test_crops_aligned_by_landmarks(run: Run, photos: Path, tmp_path: Path) -> None:
    """From an engine whose detector has landmarks; where it has none, the message says it."""
    template = (TemplatePoint(POINTS[0], 0, 0), TemplatePoint(POINTS[1], 8, 8))
    make_classifier(crop=Crop("aligned", 1.0, template)).save(tmp_path / "turned.onnx")
    make_model().save(tmp_path / "without.onnx")
    boxwright.build(make_model(landmarks=True), output=tmp_path / "points.bw")
    photo, turned = photos / "000.png", tmp_path / "turned.onnx"
    (image,) = _detect(run, tmp_path / "points.bw", photo, "--attributes", turned)["images"]
    assert image["detections"]
    for item in image["detections"]:
        assert np.shape(item["landmarks"]) == (2, 2)
        assert item["colour"] in COLOURS
    refused = run("detect", tmp_path / "without.onnx", photo, "--attributes", turned)
    assert refused.exit_code == 1
    assert "gives no landmarks" in refused.stderr
    assert "--attributes-crop box" in refused.stderr
    both = ("--attributes", turned, "--attributes-crop")
    (image,) = _detect(run, tmp_path / "without.onnx", photo, *both, "box:1.2")["images"]
    assert "landmarks" not in image["detections"][0]
    assert run("detect", tmp_path / "without.onnx", photo, *both, "round").exit_code == 1
    lonely = run("detect", tmp_path / "without.onnx", photo, "--attributes-crop", "box")
    assert lonely.exit_code == 2
