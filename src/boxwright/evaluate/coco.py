"""AP as COCO defines it, through faster-coco-eval (Apache-2.0), equal to pycocotools.

What is computed here is only bookkeeping: the ids, and the means over the array of
precisions, in the way of ``COCOeval.summarize`` (cocoapi, ``PythonAPI/pycocotools/
cocoeval.py``): a class without objects is left out of every mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.datasets.dataset import to_coco
from boxwright.evaluate.accuracy import Accuracy, ClassAccuracy
from boxwright.extras import require
from boxwright.outputs import image_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from boxwright.datasets import Dataset
    from boxwright.detections import Detections

MAX_DETECTIONS = 100
"""COCO counts the best hundred detections."""

_LIMITS = (1, 10, MAX_DETECTIONS)
# Small, medium and large on the area axis of the results; 0 is all.
_AREAS = (1, 2, 3)


def coco_results(dataset: Dataset, detections: Sequence[Detections]) -> list[dict[str, Any]]:
    """Detections in COCO's results format, with the ids of `dataset`.

    Args:
        dataset: Gives image ids and category ids.
        detections: One for each image, in the same order, with classes of the dataset
            (see :meth:`ClassMap.apply`).

    Returns:
        Items of ``image_id``, ``category_id``, ``bbox`` (left, top, width, height, to a
        thousandth of a pixel) and ``score``. AP is computed from these very numbers, so
        the file says all there is.
    """
    results = []
    for image, found in zip(dataset.images, detections, strict=True):
        record = image_record(image.path, (image.height or 0, image.width or 0), found)
        for item in record["detections"]:
            left, top, right, bottom = item["xyxy"]
            results.append(
                {
                    "image_id": image.image_id,
                    "category_id": dataset.category_ids[item["class_id"]],
                    "bbox": [round(v, 3) for v in (left, top, right - left, bottom - top)],
                    "score": item["score"],
                }
            )
    return results


def coco_accuracy(dataset: Dataset, results: Sequence[dict[str, Any]]) -> Accuracy:
    """COCO's metrics of some results.

    Args:
        dataset: The labels.
        results: As :func:`coco_results` gives them, or from a results file; items of
            images or categories that the dataset lacks do not count.

    Raises:
        MissingExtraError: faster-coco-eval is not installed; it comes with ``eval``.
    """
    library = require("faster_coco_eval", extra="eval")
    labels = library.COCO(to_coco(dataset))
    evaluation = library.COCOeval_faster(labels, library.COCO(_as_annotations(dataset, results)))
    evaluation.params = type(evaluation.params)(iouType="bbox")
    evaluation.params.imgIds = sorted(image.image_id for image in dataset.images)
    evaluation.params.catIds = sorted(dataset.category_ids)
    evaluation.params.maxDets = list(_LIMITS)
    evaluation.evaluate()
    evaluation.accumulate()
    # (IoU, recall, class, area, limit) and (IoU, class, area, limit); -1 for "no object".
    precision = np.asarray(evaluation.eval["precision"], np.float64)
    recall = np.asarray(evaluation.eval["recall"], np.float64)
    scores = np.asarray(evaluation.eval["scores"], np.float64)
    thresholds = np.asarray(evaluation.params.iouThrs)
    half, three_quarters = (int(np.argmin(abs(thresholds - iou))) for iou in (0.5, 0.75))
    detections = _per_class(dataset, results)
    classes = _classes(dataset, precision, scores, half, detections)
    small, medium, large = (_mean(precision[:, :, :, area, -1]) for area in _AREAS)
    ar_1, ar_10, ar_100 = (_mean(recall[:, :, 0, limit]) for limit in range(len(_LIMITS)))
    ar_small, ar_medium, ar_large = (_mean(recall[:, :, area, -1]) for area in _AREAS)
    return Accuracy(
        ap=_mean(precision[:, :, :, 0, -1]),
        ap50=_mean(precision[half, :, :, 0, -1]),
        ap75=_mean(precision[three_quarters, :, :, 0, -1]),
        ap_small=small,
        ap_medium=medium,
        ap_large=large,
        ar_1=ar_1,
        ar_10=ar_10,
        ar_100=ar_100,
        ar_small=ar_small,
        ar_medium=ar_medium,
        ar_large=ar_large,
        classes=classes,
        images=len(dataset),
        objects=sum(item.objects for item in classes),
        detections=sum(detections),
        max_detections=MAX_DETECTIONS,
    )


def _as_annotations(dataset: Dataset, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What ``COCO.loadRes`` makes of results; it fails on an empty list."""
    known = {image.image_id for image in dataset.images}
    annotations: list[dict[str, Any]] = []
    for item in results:
        if item["image_id"] in known:
            left, top, width, height = item["bbox"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": item["image_id"],
                    "category_id": item["category_id"],
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "score": item["score"],
                    "iscrowd": 0,
                }
            )
    empty = to_coco(dataset.head(0))
    images = [{"id": number} for number in sorted(known)]
    return {**empty, "images": images, "annotations": annotations}


def _per_class(dataset: Dataset, results: Sequence[dict[str, Any]]) -> list[int]:
    known = {image.image_id for image in dataset.images}
    counts = dict.fromkeys(dataset.category_ids, 0)
    for item in results:
        if item["category_id"] in counts and item["image_id"] in known:
            counts[item["category_id"]] += 1
    return [counts[number] for number in dataset.category_ids]


def _classes(
    dataset: Dataset,
    precision: NDArray[np.float64],
    scores: NDArray[np.float64],
    half: int,
    detections: list[int],
) -> tuple[ClassAccuracy, ...]:
    objects = np.zeros(len(dataset.class_names), int)
    for image in dataset.images:
        counted = image.boxes.class_id[~image.boxes.crowd]
        objects += np.bincount(counted, minlength=len(objects))
    # The library's axis is sorted by category id; ours is the dataset's order.
    rank = {number: row for row, number in enumerate(sorted(dataset.category_ids))}
    result = []
    for i, (name, category) in enumerate(
        zip(dataset.class_names, dataset.category_ids, strict=True)
    ):
        row = rank[category]
        curve = precision[half, :, row, 0, -1]
        present = bool((curve > -1).any())
        result.append(
            ClassAccuracy(
                name=name,
                ap=_mean(precision[:, :, row, 0, -1]),
                ap50=_mean(curve),
                objects=int(objects[i]),
                detections=detections[i],
                precision=tuple(curve.tolist()) if present else (),
                scores=(
                    tuple(np.maximum(scores[half, :, row, 0, -1], 0).tolist()) if present else ()
                ),
            )
        )
    return tuple(result)


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None
