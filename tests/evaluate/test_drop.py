"""Accuracy within a ship: a run that was stopped goes on, unless it is another run now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import boxwright
from boxwright import datasets
from boxwright.evaluate.drop import measure
from tests.ship.material import write_material

IMAGES = 20


class StoppedError(Exception):
    """As if killed."""


@pytest.mark.parametrize(("key", "kept"), [("same", 8), ("other", 0)])
def test_a_stopped_run_goes_on_only_with_the_same_key(key: str, kept: int, tmp_path: Path) -> None:
    material = write_material(tmp_path, IMAGES)
    model = boxwright.import_model(material["weights"])
    folder = tmp_path / "eval"
    seen: list[int] = []

    def stop(stage: str, done: int, total: int | None) -> None:
        if done:
            raise StoppedError

    def watch(stage: str, done: int, total: int | None) -> None:
        seen.append(done)

    def dataset() -> datasets.Dataset:
        return datasets.open(material["labels"], images=material["images"])

    with pytest.raises(StoppedError):
        measure(model, dataset(), folder, "same", device="cpu", progress=stop)
    measure(model, dataset(), folder, key, device="cpu", progress=watch)
    assert seen[0] == kept
    assert seen[-1] == IMAGES
    result = json.loads((folder / "evaluation.json").read_bytes())
    assert result["accuracy"]["images"] == IMAGES
