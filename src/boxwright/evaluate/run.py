"""Running a detector over a dataset, and measuring how accurate it is."""

from __future__ import annotations

import contextlib
import copy
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from boxwright.datasets import ClassMap, Dataset, map_classes, to_coco
from boxwright.detections import Detections
from boxwright.errors import InputError
from boxwright.evaluate.accuracy import Metric
from boxwright.evaluate.coco import MAX_DETECTIONS, coco_accuracy, coco_results
from boxwright.evaluate.confusion import Confusion, confusion
from boxwright.evaluate.voc import DARKNET_SCORE, Definition, voc_accuracy
from boxwright.extras import require
from boxwright.files import atomic_write, sha256_file
from boxwright.outputs import ResultWriter, failure_record, image_record
from boxwright.progress import ProgressCallback, silent
from boxwright.runs import detect_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from boxwright.detector import Detector
    from boxwright.engine import Engine
    from boxwright.evaluate.accuracy import Accuracy, VocAccuracy
    from boxwright.model import Model
    from boxwright.runs import FileResult, RunSummary

COCO_SCORE = 0.001
"""Score threshold for AP: low, because AP looks at the whole precision-recall curve."""

DETECTIONS_FILE = "detections.jsonl"
RESULTS_FILE = "results.json"
ANNOTATIONS_FILE = "annotations.json"
EVALUATION_FILE = "evaluation.json"


@dataclass(frozen=True)
class Evaluation:
    """An accuracy, and everything it depends on.

    Attributes:
        accuracy: What was measured.
        dataset: The labels, less the images that could not be read.
        detections: One for each image of `dataset`, with its classes.
        class_map: Which class of the model is which.
        settings: Preprocessing, thresholds, suppression and backend; JSON values.
        model: Name and SHA-256 of what was run.
        unreadable: Images that could not be read, and why; they do not count.
        timing: ``seconds`` and ``images_per_second``, files to results, of the images done
            now, and how many an earlier run had done.
        results: COCO's results format; AP was computed from these.
    """

    accuracy: Accuracy | VocAccuracy
    dataset: Dataset
    detections: tuple[Detections, ...]
    class_map: ClassMap
    settings: Mapping[str, Any]
    model: Mapping[str, Any]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    timing: Mapping[str, Any] = field(default_factory=dict)
    results: Sequence[dict[str, Any]] = ()

    def confusion(self, *, score: float = 0.25, iou: float = 0.5) -> Confusion:
        """Which class is taken for which at a score threshold."""
        return confusion(self.dataset, self.detections, score=score, iou=iou)

    def to_dict(self, *, curves: bool = True) -> dict[str, Any]:
        """As JSON values; without `curves`, what a receipt keeps."""
        return {
            "accuracy": self.accuracy.to_dict(curves=curves),
            "dataset": self.dataset.to_dict(),
            "class_map": self.class_map.to_dict(),
            "model": dict(self.model),
            "settings": dict(self.settings),
            "unreadable": dict(self.unreadable),
            "timing": dict(self.timing),
        }


def evaluate(
    source: str | Path | Engine | Model | Detector,
    dataset: Dataset,
    *,
    metric: Metric = "coco",
    definition: Definition = "darknet",
    points: int | None = None,
    backend: str | None = None,
    device: str = "auto",
    score_threshold: float | None = None,
    iou_threshold: float | None = None,
    multi_label: bool | None = None,
    batch_size: int | None = None,
    output: str | Path | None = None,
    resume: bool = True,
    progress: ProgressCallback = silent,
) -> Evaluation:
    """Detect in every image of a dataset, and compare with its labels.

    For ``coco``, scores above 0.001 count, boxes are clipped to the image, and each image
    keeps its 100 best detections. For ``voc``, scores above 0.005 count, boxes are not
    clipped and all are kept, as in Darknet. Suppression is the card's in both.

    Args:
        source: An engine (``.bw``) or model (``.onnx``), as a path or opened; or a
            detector, which then keeps its own settings and stays open.
        dataset: From :func:`boxwright.datasets.open`.
        metric: ``coco`` (needs the ``eval`` extra) or ``voc``.
        definition: With ``voc``: ``darknet``, ``voc2007`` or ``voc2010``.
        points: With ``voc`` and ``darknet``: recall points, 0 for the area.
        backend: Runtime; by default the one the engine was built for.
        device: ``auto``, ``cpu``, ``cuda:0``, ...
        score_threshold: Instead of the metric's.
        iou_threshold: Of suppression, instead of the card's.
        multi_label: Whether a candidate may count for several classes, instead of what the
            card says. YOLOv5 and its kin detect without and are validated with it, which
            is what their published AP are of (:mod:`boxwright.importers.families`).
        batch_size: Images run at once.
        output: Folder for :func:`save`'s files and for a journal, with which a run that
            was stopped goes on.
        resume: Go on with an unfinished run in `output`; otherwise start it anew.
        progress: Told about each batch.

    Raises:
        InputError: No class is in both model and dataset, not one image can be read, an
            argument is wrong, or an unfinished run had other settings.
        MissingExtraError: faster-coco-eval is not installed.
    """
    from boxwright.detector import Detector

    if metric not in get_args(Metric):
        raise InputError(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}")
    if metric == "coco":
        require("faster_coco_eval", extra="eval")  # now, not after an hour of detecting
    lowest = COCO_SCORE if metric == "coco" else DARKNET_SCORE
    with contextlib.ExitStack() as stack:
        if isinstance(source, Detector):
            detector = source
        else:
            detector = Detector(
                source,
                backend=backend,
                device=device,
                score_threshold=lowest if score_threshold is None else score_threshold,
                iou_threshold=iou_threshold,
                multi_label=multi_label,
                batch_size=batch_size,
                max_detections=MAX_DETECTIONS if metric == "coco" else None,
                clip=metric == "coco",
            )
            stack.enter_context(detector)
        class_map = map_classes(detector.card.class_names, dataset.class_names)
        settings = {**detector.settings, "backend": backend, "device": device}
        model = _identity(source, detector)
        facts = {**settings, "model": model, "dataset_sha256": dataset.sha256}
        run = _detect(detector, dataset, facts, output, resume, progress)
    evaluation = _measure(run, dataset, class_map, settings, model, metric, definition, points)
    if output is not None:
        save(evaluation, output)
    return evaluation


def _measure(
    run: _Run,
    dataset: Dataset,
    class_map: ClassMap,
    settings: Mapping[str, Any],
    model: Mapping[str, Any],
    metric: Metric,
    definition: Definition,
    points: int | None,
) -> Evaluation:
    readable, unreadable = _readable(dataset, run.records)
    found = [class_map.apply(_detections(run.records[str(i.path)])) for i in readable.images]
    results = coco_results(readable, found)
    accuracy = (
        coco_accuracy(readable, results)
        if metric == "coco"
        else voc_accuracy(readable, found, definition=definition, points=points)
    )
    return Evaluation(
        accuracy,
        readable,
        tuple(found),
        class_map,
        settings,
        model,
        unreadable,
        run.timing(),
        results,
    )


def save(evaluation: Evaluation, folder: str | Path, results: str | Path | None = None) -> None:
    """Write ``results.json`` (COCO's results format) and ``evaluation.json``.

    Where the labels were no COCO file, or not all of its images took part,
    ``annotations.json`` holds them as one, so that pycocotools can be run on the two.

    Args:
        evaluation: What to write.
        folder: Where to.
        results: Another place for the results.

    Raises:
        InputError: A file cannot be written.
    """
    folder = Path(folder)
    save_results(evaluation, results or folder / RESULTS_FILE)
    if evaluation.dataset.annotations is None:
        _write_json(folder / ANNOTATIONS_FILE, to_coco(evaluation.dataset))
    _write_json(folder / EVALUATION_FILE, evaluation.to_dict())


def save_results(evaluation: Evaluation, path: str | Path) -> None:
    """Write the detections in COCO's results format.

    Raises:
        InputError: The file cannot be written.
    """
    _write_json(Path(path), list(evaluation.results))


@dataclass(frozen=True)
class _Run:
    """One record for each image, by path, and how the run went."""

    records: Mapping[str, dict[str, Any]]
    summary: RunSummary

    def timing(self) -> dict[str, Any]:
        return {
            "seconds": round(self.summary.seconds, 3),
            "images_per_second": round(self.summary.images_per_second, 2),
            "resumed": self.summary.resumed,
        }


def _detect(
    detector: Detector,
    dataset: Dataset,
    facts: Mapping[str, Any],
    output: str | Path | None,
    resume: bool,
    progress: ProgressCallback,
) -> _Run:
    paths = [image.path for image in dataset.images]
    records: dict[str, dict[str, Any]] = {}

    def keep(result: FileResult) -> None:
        if result.detections is None or result.size is None:
            record = failure_record(result.path, result.error or "unreadable")
        else:
            record = image_record(result.path, result.size, result.detections)
        records[record["path"]] = record

    if output is None:
        summary = detect_files(detector, paths, on_result=keep, progress=progress)
        return _Run(records, summary)
    file = Path(output) / DETECTIONS_FILE
    with ResultWriter(paths, facts, jsonl=file, restart=not resume) as writer:
        summary = detect_files(detector, paths, writer=writer, progress=progress)
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            records[record["path"]] = record
    return _Run(records, summary)


def _readable(
    dataset: Dataset, records: Mapping[str, dict[str, Any]]
) -> tuple[Dataset, dict[str, str]]:
    """The dataset less the images that could not be read, reported; and why they could not."""
    unreadable = {path: item["error"] for path, item in records.items() if "error" in item}
    if len(unreadable) == len(dataset):
        raise InputError(
            f"none of the {len(dataset)} images could be read; "
            f"the first: {next(iter(unreadable.values()), 'there are none')}"
        )
    # The caller's report stays as it was: the next run finds for itself.
    report = copy.deepcopy(dataset.report)
    for path, error in unreadable.items():
        report.add("damaged_image", path, error)
    rest = tuple(image for image in dataset.images if str(image.path) not in unreadable)
    whole = None if unreadable else dataset.annotations
    readable = replace(dataset, images=rest, report=report, annotations=whole)
    _check_sizes(readable, records)
    return readable, unreadable


def _check_sizes(dataset: Dataset, records: Mapping[str, dict[str, Any]]) -> None:
    """Labels made for an image of another size are of no use, however good they look."""
    for image in dataset.images:
        record = records[str(image.path)]
        if image.width is None or image.height is None:
            continue
        if (record["width"], record["height"]) != (image.width, image.height):
            dataset.report.add(
                "size_differs",
                image.path,
                f"{record['width']} x {record['height']}, the labels say "
                f"{image.width} x {image.height}",
            )


def _detections(record: Mapping[str, Any]) -> Detections:
    items: Iterable[dict[str, Any]] = record["detections"]
    rows = [(*item["xyxy"], item["score"], item["class_id"]) for item in items]
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(
        table[:, :4].astype(np.float32),
        table[:, 4].astype(np.float32),
        table[:, 5].astype(np.int64),
    )


def _identity(source: object, detector: Detector) -> dict[str, Any]:
    """What was run; a file by its hash, anything opened by its card and sources."""
    sha256 = sha256_file(source) if isinstance(source, str | Path) else None
    return {
        "name": detector.card.name,
        "sha256": sha256,
        "sources": {file.name: file.sha256 for file in detector.card.source_files},
    }


def _write_json(path: Path, content: object) -> None:
    with atomic_write(path) as stream:
        stream.write(json.dumps(content, allow_nan=False).encode() + b"\n")
