"""Evidence of a detector that never was, with names that strangers might choose."""

from __future__ import annotations

from typing import Any

import numpy as np

from boxwright.card import ModelCard, SourceFile, Transform
from boxwright.detections import Detections
from boxwright.evaluate.report.evidence import BuiltFile, Check, Evidence
from boxwright.evaluate.report.pictures import Picture, draw

HOSTILE = "<script>fetch('https://evil.example/')</script>"
QUOTES = "\"'><img src=x onerror=alert(1)>"
CLASSES = ("cat", HOSTILE, "a" * 300, QUOTES, "\u202egpj.exe", "собака", "x\x00y")


def make_card(**changes: Any) -> ModelCard:
    values: dict[str, Any] = {
        "name": f"tiny{HOSTILE}",
        "class_names": CLASSES,
        "input_size": (32, 64),
        "family": QUOTES,
        "licence": HOSTILE,
        "source_format": "darknet",
        "source_files": (SourceFile(f"{HOSTILE}.weights", "ab" * 32, 12345),),
        "transforms": (Transform(HOSTILE, {"ratio": QUOTES}, {"boxwright": "1"}),),
        **changes,
    }
    return ModelCard(**values)


def make_picture(name: str = HOSTILE, topic: str = "accurate") -> Picture:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    boxes = Detections(
        np.array([[10, 10, 80, 60]], np.float32), np.array([0.9]), np.array([0]), ("cat",)
    )
    sides = (("labels", draw(pixels, boxes)), (QUOTES, draw(pixels, boxes)))
    return Picture(name, f"1 missed in {name}", sides, topic)


def make_speed() -> dict[str, Any]:
    times = {"count": 9, "mean": 5.0, "stdev": 1.0, "min": 4.0, "p50": 5.0, "p90": 6.0, "p99": 7.0}
    batches = [
        {
            "contender": who,
            "batch": batch,
            "network_ms": times,
            "end_to_end_ms": times,
            "stages_ms": dict.fromkeys(("decode", "resize", "network", "postprocess"), times),
            "images_per_second": 200.0,
            "end_to_end_images_per_second": 190.0 + batch,
        }
        for batch in (1, 4)
        for who in (HOSTILE, QUOTES)
    ]
    interval = {"median": 1.5, "low": 1.2, "high": 1.8}
    return {
        "subject": HOSTILE,
        "measurements": batches,
        "participants": [{"name": who, "backend": "x", "precision": "fp32"} for who in CLASSES[:2]],
        "ratios": [{"peer": QUOTES, "batch": 1, "network": interval, "end_to_end": interval}],
        "noise": {"reasons": [f"noise of {HOSTILE}"]},
        "notes": [HOSTILE],
        "environment": {"cpu": HOSTILE, "libraries": {QUOTES: HOSTILE}, "memory_mib": 2048},
    }


def make_evaluation() -> dict[str, Any]:
    classes = [
        {
            "name": name,
            "ap": 0.5,
            "ap50": 0.75,
            "objects": 3 + number,
            "detections": 9,
            "precision": [1 - i / 100 for i in range(101)],
        }
        for number, name in enumerate(CLASSES)
    ]
    accuracy = {"metric": "coco", "ap": 0.5, "ap50": 0.75, "ap_small": None, "classes": classes}
    dataset = {"name": HOSTILE, "format": "coco", "images": 4, "objects": 30, "sha256": "cd" * 32}
    return {"accuracy": accuracy, "dataset": dataset, "unreadable": {HOSTILE: HOSTILE}}


def make_parity(*, ok: bool = True) -> dict[str, Any]:
    return {
        "subject": HOSTILE,
        "reference": QUOTES,
        "images": 2,
        "ok": ok,
        "tensors": [
            {"kind": "output", "name": HOSTILE, "nrmse": 1e-6, "max_abs": 1e-4, "tolerance": 1e-3,
             "ok": ok},
            {"kind": "head", "name": "h", "note": HOSTILE, "nrmse": None, "ok": True},
        ],
        "boxes": [
            {"stage": "detections", "threshold": 0.25, "matched": 7, "reference_count": 8,
             "missing": 1, "box_error": 1e-7, "ok": ok},
        ],
        "notes": [HOSTILE],
    }  # fmt: skip


def make_evidence(**changes: Any) -> Evidence:
    """Everything measured, every text hostile."""
    values: dict[str, Any] = {
        "card": make_card(),
        "receipt": {
            "created": "2026-01-02T03:04:05+00:00",
            "build": {"backend": HOSTILE, "precision": "fp32", "seconds": 1.5},
            "layers": {HOSTILE: {QUOTES: 7}},
            "environment": {"cpu": HOSTILE, "cores": 8, "usable_cores": 2},
        },
        "engine": f"{QUOTES}.bw",
        "files": (BuiltFile(f"{HOSTILE}.bw", 4_000_000, "ef" * 32),),
        "parity": (make_parity(),),
        "consistency": ({"name": HOSTILE, "ok": True, "identical": True, "tolerance": 1e-5},),
        "accuracy": make_evaluation(),
        "source_accuracy": make_evaluation(),
        "drop": {"value": -0.01, "low": -0.02, "high": 0.0},
        "confusion": {
            "score": 0.25,
            "iou": 0.5,
            "entries": [
                ["cat", "cat", 5],
                ["cat", HOSTILE, 2],
                [HOSTILE, None, 1],
                [None, QUOTES, 3],
            ],
        },
        "speed": make_speed(),
        "charts": {"throughput": '<svg id="a" width="9"><use href="#a" fill="url(#a)"/></svg>'},
        "pictures": (make_picture(), make_picture(topic="faithful")),
        "budgets": (Check(HOSTILE, True, QUOTES),),
        "commands": (f"boxwright ship '{HOSTILE}'",),
        "remarks": (HOSTILE,),
        **changes,
    }
    return Evidence(**values)
