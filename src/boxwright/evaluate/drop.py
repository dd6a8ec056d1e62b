"""Accuracy of source and engine on the same labels, and what lies between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.datasets import map_classes
from boxwright.detections import Detections
from boxwright.evaluate.run import DETECTIONS_FILE, EVALUATION_FILE, evaluate
from boxwright.evaluate.worst import worst_images
from boxwright.files import write_text

if TYPE_CHECKING:
    from boxwright.card import ModelCard
    from boxwright.datasets import ClassMap, Dataset
    from boxwright.engine import Engine
    from boxwright.evaluate.report.pictures import Picture
    from boxwright.model import Model
    from boxwright.progress import ProgressCallback

_KEY = "key.txt"
_RESAMPLES = 1000


def measure(
    source: Engine | Model,
    dataset: Dataset,
    folder: Path,
    key: str,
    *,
    device: str,
    progress: ProgressCallback,
) -> None:
    """Evaluate into a folder. A run that was stopped goes on if it had the same `key`."""
    mark = folder / _KEY
    same = mark.is_file() and mark.read_text() == key
    if not same:
        write_text(mark, key)
    evaluate(source, dataset, device=device, output=folder, resume=same, progress=progress)


def compare_sides(
    folder: Path, dataset: Dataset, card: ModelCard, *, seed: int, progress: ProgressCallback
) -> tuple[dict[str, Any], list[Picture]]:
    """From the detections in ``folder/source`` and ``folder/engine``.

    Returns:
        JSON values for the report, and pictures of the engine's worst images.
    """
    from boxwright.evaluate.bootstrap import bootstrap_ap
    from boxwright.evaluate.confusion import confusion
    from boxwright.evaluate.matches import match_image

    classes = map_classes(card.class_names, dataset.class_names)
    evaluations = {
        side: json.loads((folder / side / EVALUATION_FILE).read_bytes())
        for side in ("source", "engine")
    }
    unreadable = set(evaluations["engine"]["unreadable"])
    readable = tuple(image for image in dataset.images if str(image.path) not in unreadable)
    dataset = replace(dataset, images=readable)
    found = {side: _read(folder / side, dataset, classes) for side in evaluations}
    matches = {
        side: [
            match_image(detections, image.boxes, len(dataset.class_names))
            for image, detections in zip(dataset.images, found[side], strict=True)
        ]
        for side in found
    }
    difference = bootstrap_ap(
        matches["engine"],
        matches["source"],
        dataset.class_names,
        resamples=_RESAMPLES,
        seed=seed,
        progress=progress,
    )
    score = card.score_threshold
    content = {
        "metric": "AP",
        "ap_source": evaluations["source"]["accuracy"]["ap"],
        "ap_engine": evaluations["engine"]["accuracy"]["ap"],
        **evaluations,
        "difference": difference.to_dict(),
        "confusion": confusion(dataset, found["engine"], score=score).to_dict(),
    }
    return content, worst_images(dataset, found["engine"], score)


def _read(folder: Path, dataset: Dataset, classes: ClassMap) -> Sequence[Detections]:
    """The detections of each image, with classes of the dataset."""
    records = {}
    with (folder / DETECTIONS_FILE).open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            records[record["path"]] = record
    found = []
    for image in dataset.images:
        items = records[str(image.path)]["detections"]
        table = np.array([(*i["xyxy"], i["score"], i["class_id"]) for i in items], np.float64)
        table = table.reshape(-1, 6)
        detections = Detections(
            table[:, :4].astype(np.float32),
            table[:, 4].astype(np.float32),
            table[:, 5].astype(np.int64),
        )
        found.append(classes.apply(detections))
    return found


def without_curves(evaluation: dict[str, Any]) -> dict[str, Any]:
    """An evaluation without its precision-recall curves, which a receipt has no room for."""
    accuracy = dict(evaluation["accuracy"])
    accuracy["classes"] = [
        {name: value for name, value in item.items() if name not in ("precision", "scores")}
        for item in accuracy["classes"]
    ]
    return {**evaluation, "accuracy": accuracy}
