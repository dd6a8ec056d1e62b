"""Evaluating a detector: from files to numbers, damaged images, and going on after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import boxwright
from boxwright import datasets, images, runs
from boxwright.datasets import Dataset
from boxwright.errors import InputError
from boxwright.evaluate.accuracy import Accuracy, VocAccuracy
from boxwright.evaluate.run import evaluate, save_results
from tests.datasets.material import annotation, write_coco, write_text
from tests.evaluate.judges import pycocotools
from tests.models import make_model

COUNT = 6
CATEGORIES = [{"id": 4, "name": "Dog"}, {"id": 2, "name": "cat"}, {"id": 9, "name": "cow"}]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    labels = [
        annotation(n, 4, (5 + n, 4, 40, 30), id=n, area=1200, iscrowd=0)
        for n in range(1, COUNT + 1)
    ]
    path = write_coco(tmp_path, *labels, images=COUNT, categories=CATEGORIES)
    random = np.random.default_rng(0)
    for n in range(1, COUNT + 1):
        noise = random.integers(0, 256, (40, 80, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "val" / f"{n}.png")
    return datasets.open(path)


def test_the_files_say_what_was_measured(dataset: Dataset, tmp_path: Path) -> None:
    model = make_model()
    evaluation = evaluate(model, dataset, output=tmp_path / "out")
    accuracy = evaluation.accuracy
    assert isinstance(accuracy, Accuracy)
    assert dataset.annotations is not None
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    judged = pycocotools(json.loads(dataset.annotations.read_text()), results)
    ours = [-1 if value is None else value for value in accuracy.stats()]
    np.testing.assert_allclose(ours, judged.stats, rtol=0, atol=1e-9)
    assert {item["category_id"] for item in results} <= {2, 4}
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content == json.loads(json.dumps(evaluation.to_dict()))
    assert content["settings"]["score_threshold"] == 0.001
    assert content["settings"]["max_detections"] == 100
    assert content["dataset"]["sha256"] == dataset.sha256
    assert content["class_map"]["only_model"] == ["bird"]
    assert content["class_map"]["only_dataset"] == ["cow"]
    assert content["timing"]["images_per_second"] > 0
    # The labels are a COCO file already, and no journal is left.
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "detections.jsonl",
        "evaluation.json",
        "results.json",
    ]
    save_results(evaluation, tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == results


def test_nothing_is_written_unless_asked_for(dataset: Dataset, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    once = evaluate(make_model(), dataset)
    assert sorted(tmp_path.rglob("*")) == before
    # With files or without, one image at a time or several: the same detections.
    again = evaluate(make_model(), dataset, output=tmp_path / "out", batch_size=1)
    assert again.accuracy.images == once.accuracy.images == COUNT
    np.testing.assert_allclose(
        [item["score"] for item in again.results],
        [item["score"] for item in once.results],
        atol=1e-6,
    )


def test_other_labels_are_written_as_coco(dataset: Dataset, tmp_path: Path) -> None:
    for n in range(1, COUNT + 1):
        write_text(tmp_path / "val" / f"{n}.txt", "0 0.5 0.5 0.4 0.5\n")
    yolo = datasets.open(tmp_path / "val", names=["dog"])
    evaluation = evaluate(make_model(), yolo, output=tmp_path / "out")
    read = [
        json.loads((tmp_path / "out" / f"{name}.json").read_text())
        for name in ("annotations", "results")
    ]
    judged = pycocotools(*read)
    assert evaluation.accuracy.headline == pytest.approx(judged.stats[0], abs=1e-9)


def test_voc_looks_at_all_and_does_not_clip(dataset: Dataset) -> None:
    evaluation = evaluate(make_model(), dataset, metric="voc", points=11)
    assert isinstance(evaluation.accuracy, VocAccuracy)
    assert evaluation.accuracy.points == 11
    settings = evaluation.settings
    assert (settings["score_threshold"], settings["clip"]) == (0.005, False)
    assert settings["max_detections"] is None
    assert any((found.xyxy < 0).any() for found in evaluation.detections)


def test_a_damaged_image_is_told_and_does_not_count(dataset: Dataset) -> None:
    damaged = dataset.images[2].path
    damaged.write_bytes(b"not a picture")
    evaluation = evaluate(make_model(), dataset)
    assert list(evaluation.unreadable) == [str(damaged)]
    assert evaluation.accuracy.images == len(evaluation.dataset) == COUNT - 1
    assert evaluation.accuracy.objects == COUNT - 1
    assert dict(evaluation.dataset.report.counts) == {"damaged_image": 1}
    # The dataset that was given is as it was.
    assert (len(dataset), dataset.report.ok) == (COUNT, True)
    for image in dataset:
        image.path.write_bytes(b"not a picture")
    with pytest.raises(InputError, match="none of the 6 images could be read"):
        evaluate(make_model(), dataset)


def test_a_part_of_coco_s_labels_is_written_too(dataset: Dataset, tmp_path: Path) -> None:
    dataset.images[2].path.write_bytes(b"not a picture")
    for number, part in enumerate((dataset, dataset.head(2))):
        out = tmp_path / str(number)
        evaluation = evaluate(make_model(), part, output=out)
        read = [json.loads((out / f"{n}.json").read_text()) for n in ("annotations", "results")]
        assert len(read[0]["images"]) == evaluation.accuracy.images
        judged = pycocotools(*read)
        assert evaluation.accuracy.headline == pytest.approx(judged.stats[0], abs=1e-9)


def test_labels_of_another_size_are_told(dataset: Dataset) -> None:
    Image.new("RGB", (40, 20)).save(dataset.images[0].path)
    report = evaluate(make_model(), dataset).dataset.report
    assert dict(report.counts) == {"size_differs": 1}
    assert "40 x 20, the labels say 80 x 40" in report.lines()[0]


def test_a_stopped_run_goes_on(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(make_model(), dataset, output=tmp_path / "whole", batch_size=2)
    load = images.load_image

    def stop_at_5(path: Path, **more: Any) -> Any:
        if path.name == "5.png":
            raise KeyboardInterrupt
        return load(path, **more)

    out = tmp_path / "out"
    monkeypatch.setattr(runs, "load_image", stop_at_5)
    with pytest.raises(KeyboardInterrupt):
        evaluate(make_model(), dataset, output=out, batch_size=2)
    monkeypatch.setattr(runs, "load_image", load)
    with pytest.raises(InputError, match="other settings"):
        evaluate(make_model(), dataset, output=out, score_threshold=0.5)
    with pytest.raises(InputError, match="other settings"):
        evaluate(make_model(), dataset.head(5), output=out)
    rest = evaluate(make_model(), dataset, output=out, batch_size=2)
    assert rest.timing["resumed"] == 4
    assert rest.accuracy == whole.accuracy
    for name in ("results.json", "detections.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_stopped_run_may_start_over(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = images.load_image
    monkeypatch.setattr(runs, "load_image", _stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(make_model(), dataset, output=tmp_path / "out")
    monkeypatch.setattr(runs, "load_image", load)
    again = evaluate(
        make_model(), dataset, output=tmp_path / "out", score_threshold=0.3, resume=False
    )
    assert again.timing["resumed"] == 0


def _stop(*_arguments: Any, **_more: Any) -> Any:
    raise KeyboardInterrupt


def test_a_detector_keeps_its_settings_and_stays_open(dataset: Dataset) -> None:
    with boxwright.Detector(make_model(), score_threshold=0.55) as detector:
        evaluation = evaluate(detector, dataset)
        assert evaluation.settings["score_threshold"] == 0.55
        detector(dataset.images[0].path)
    assert all((found.score > 0.55).all() for found in evaluation.detections)


def test_the_best_class_or_several(dataset: Dataset) -> None:
    several = evaluate(make_model(), dataset, multi_label=True)
    best = evaluate(make_model(), dataset, multi_label=False)
    assert best.settings["nms"]["multi_label"] is False
    assert 0 < best.accuracy.detections < several.accuracy.detections


def test_progress_and_arguments(dataset: Dataset) -> None:
    told: list[tuple[str, int, int | None]] = []
    evaluate(make_model(), dataset, batch_size=4, progress=lambda *a: told.append(a))
    assert told == [("detecting", 0, 6), ("detecting", 4, 6), ("detecting", 6, 6)]
    with pytest.raises(InputError, match="metric must be one of coco, voc"):
        evaluate(make_model(), dataset, metric="iou")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no class in common"):
        evaluate(make_model(), datasets.Dataset("d", "coco", ("car",), (1,), dataset.images))
