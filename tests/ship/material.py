"""A small network, labelled photos of noise, and settings that take a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from boxwright.ship.settings import ShipSettings
from tests.cli.material import write_darknet, write_image

IMAGES = 5


def write_material(folder: Path, count: int = IMAGES) -> dict[str, Path]:
    """Weights, images and labels; where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = write_darknet(folder)
    images = []
    annotations = []
    for number in range(1, count + 1):
        name = f"{number:04d}.png"
        write_image(folder / "images" / name, seed=number)
        images.append({"id": number, "file_name": name, "width": 60, "height": 40})
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1 + number % 3,
                "bbox": [5 * (number % 6), 4, 20, 18],
                "area": 360,
                "iscrowd": 0,
            }
        )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(("cat", "dog", "bird"))]
    labels = folder / "labels.json"
    labels.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return {"weights": weights, "images": folder / "images", "labels": labels}


def make_settings(material: dict[str, Path], output: Path, **changes: Any) -> ShipSettings:
    """Settings for the material; with labels unless `annotations` says otherwise."""
    values: dict[str, Any] = {
        "weights": (material["weights"],),
        "images": (str(material["images"]),),
        "annotations": material["labels"],
        "output": output,
        "import_options": {"names": material["weights"].with_suffix(".names")},
        "batches": (1,),
        "bench_seconds": 0.05,
        "verify_images": 2,
        **changes,
    }
    return ShipSettings(**values)
