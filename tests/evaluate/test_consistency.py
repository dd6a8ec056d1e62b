from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from boxwright import backends
from boxwright.backends.base import TensorSpec
from boxwright.closing import Closing
from boxwright.errors import InputError
from boxwright.evaluate.consistency import check_consistency, noise_images
from tests.models import make_model

Outputs = dict[str, NDArray[Any]]
NAMES = ("repeated run", "permuted batch", "duplicated row", "batch of one")


class FakeRunner(Closing):
    """Boxes and scores worked out from pixels; `fault` spoils them."""

    def __init__(
        self, fault: Callable[[Outputs, int], None] | None = None, batch: int | None = None
    ) -> None:
        self.inputs = (TensorSpec("images", np.dtype(np.uint8), (batch, 8, 8, 3)),)
        self.outputs = ()
        self.fault = fault
        self.batch = batch
        self.runs = 0

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Outputs:
        images = feed["images"].astype(np.float32)
        if self.batch is not None:
            assert len(images) == self.batch
        flat = images.reshape(len(images), -1)
        boxes = flat[:, :20].reshape(-1, 5, 4) / 32
        scores = flat[:, 20:30].reshape(-1, 5, 2) / 255
        outputs = {"boxes": boxes, "scores": scores}
        if self.fault is not None:
            self.fault(outputs, self.runs)
        self.runs += 1
        return outputs


IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)


def failing(fault: Callable[[Outputs, int], None]) -> list[str]:
    return [c.name for c in check_consistency(FakeRunner(fault), IMAGES) if not c.ok]


def test_an_engine_that_agrees_with_itself() -> None:
    checks = check_consistency(FakeRunner(), IMAGES)
    assert [check.name for check in checks] == list(NAMES)
    assert all(check.ok and check.identical for check in checks)
    assert str(checks[0]) == "repeated run: identical to the bit"


def test_a_run_that_depends_on_the_one_before() -> None:
    def fault(outputs: Outputs, run: int) -> None:
        outputs["scores"] += 0.001 * run

    assert failing(fault) == list(NAMES)


def test_a_row_that_depends_on_its_place() -> None:
    def fault(outputs: Outputs, run: int) -> None:
        outputs["boxes"][-1] += 1  # the last row is off by one pixel

    assert failing(fault) == ["permuted batch", "duplicated row", "batch of one"]


def test_a_row_read_from_its_neighbour_in_batches() -> None:
    def fault(outputs: Outputs, run: int) -> None:
        if len(outputs["scores"]) > 1:
            outputs["scores"][1] = outputs["scores"][0]

    assert "batch of one" in failing(fault)
    assert "permuted batch" in failing(fault)


def test_rounding_passes_and_says_how_much() -> None:
    def fault(outputs: Outputs, run: int) -> None:
        outputs["scores"] *= 1 + 1e-6 * (run % 2)

    (check, *_) = check_consistency(FakeRunner(fault), IMAGES)
    assert check.ok
    assert not check.identical
    assert 1e-7 < check.score_difference < 2e-6
    assert "within 1e-05" in str(check)


def test_not_a_number_on_one_side_fails() -> None:
    def fault(outputs: Outputs, run: int) -> None:
        if run == 1:
            outputs["scores"][2, 3, 1] = np.nan

    assert failing(fault) == ["repeated run"]


def test_boxes_nobody_sees_do_not_count() -> None:
    def fault(outputs: Outputs, run: int) -> None:
        outputs["scores"][:, 0] = 1e-4
        outputs["boxes"][:, 0] = 1e9 * (run + 1)

    assert failing(fault) == []


def test_fixed_batches() -> None:
    checks = check_consistency(FakeRunner(batch=6), IMAGES)
    assert [check.skipped for check in checks] == ["", "", "", "the engine's batch is fixed at 6"]
    checks = check_consistency(FakeRunner(batch=1), IMAGES)
    assert all(check.ok for check in checks)
    assert [bool(check.skipped) for check in checks] == [False, True, True, True]
    assert "skipped" in str(checks[1])

    def fault(outputs: Outputs, run: int) -> None:
        outputs["scores"] += 0.001 * run

    assert not check_consistency(FakeRunner(fault, batch=1), IMAGES)[0].ok


def test_bad_input() -> None:
    with pytest.raises(InputError, match="at least 2 different images, got 1"):
        check_consistency(FakeRunner(), IMAGES[:1])
    with pytest.raises(InputError, match="at least 2 different images"):
        check_consistency(FakeRunner(), IMAGES[[0, 0]])
    with pytest.raises(InputError, match="precision must be one of"):
        check_consistency(FakeRunner(), IMAGES, "fp8")


def test_noise_is_different_repeatable_and_fills_the_range() -> None:
    images = noise_images(3, 40, 64)
    assert images.shape == (3, 40, 64, 3)
    assert len({image.tobytes() for image in images}) == 3
    np.testing.assert_array_equal(images, noise_images(3, 40, 64))
    assert images.std() > 40


def test_a_real_engine_agrees_with_itself() -> None:
    model = make_model()
    height, width = model.card.input_size
    with backends.load(model) as runner:
        checks = check_consistency(runner, noise_images(3, height, width))
    assert all(check.ok for check in checks)
    assert json.loads(json.dumps([check.to_dict() for check in checks]))[0]["name"] == NAMES[0]


def test_landmarks_are_compared_too() -> None:
    """Those of a box that is seen, in pixels as the boxes are."""

    def fault(outputs: Outputs, run: int) -> None:
        outputs["landmarks"] = outputs["boxes"].reshape(-1, 5, 2, 2).copy()
        outputs["landmarks"][-1] += 1

    assert failing(fault) == ["permuted batch", "duplicated row", "batch of one"]
    with backends.load(make_model(landmarks=True)) as runner:
        checks = check_consistency(runner, noise_images(3, 32, 64))
    assert all(check.ok for check in checks)
