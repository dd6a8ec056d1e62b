"""Small labelled folders, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (40, 80)
"""Height and width of every image made here."""


def write_image(path: Path, size: tuple[int, int] = SIZE) -> Path:
    """A grey picture of ``(height, width)``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path)
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def annotation(image: int = 1, category: Any = 3, bbox: Any = (10, 5, 20, 10), **more: Any) -> Any:
    bbox = list(bbox) if isinstance(bbox, tuple) else bbox
    return {"image_id": image, "category_id": category, "bbox": bbox, **more}


def write_coco(folder: Path, *annotations: Any, images: int = 2, **sections: Any) -> Path:
    """``instances_val.json`` with images ``1.png``, ... in ``val/``; classes 3 cat, 7 dog."""
    entries = [
        {"id": n, "file_name": f"{n}.png", "height": SIZE[0], "width": SIZE[1]}
        for n in range(1, images + 1)
    ]
    for entry in entries:
        write_image(folder / "val" / str(entry["file_name"]))
    content = {
        "images": entries,
        "annotations": list(annotations),
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        **sections,
    }
    return write_text(folder / "instances_val.json", json.dumps(content))


def voc_object(
    name: str = "cat", box: tuple[Any, Any, Any, Any] = (11, 6, 30, 15), difficult: int = 0
) -> str:
    sides = "".join(
        f"<{side}>{value}</{side}>"
        for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{sides}</bndbox></object>"
    )


def write_voc(folder: Path, stem: str, *objects: str, size: bool = True) -> Path:
    """``Annotations/STEM.xml`` and its image."""
    write_image(folder / "JPEGImages" / f"{stem}.png")
    extent = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height></size>" if size else ""
    return write_text(
        folder / "Annotations" / f"{stem}.xml",
        f"<annotation><filename>{stem}.jpg</filename>{extent}{''.join(objects)}</annotation>",
    )
