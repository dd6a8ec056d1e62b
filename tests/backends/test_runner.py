"""What all runners share, on one that only counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from boxwright.backends.base import TensorSpec
from boxwright.backends.runner import CheckedRunner

if TYPE_CHECKING:
    from boxwright.backends.base import Tensors


class Counting(CheckedRunner):
    def __init__(self) -> None:
        super().__init__((TensorSpec("x", np.dtype(np.uint8), (None, 4)),), ())
        self.freed = 0

    def _run(self, feed: Tensors) -> Tensors:
        return feed

    def _free(self) -> None:
        self.freed += 1


def test_what_it_holds_is_freed_once() -> None:
    with Counting() as runner:
        assert runner.freed == 0
    runner.close()
    assert runner.freed == 1


def test_backends_see_contiguous_arrays_only() -> None:
    view = np.arange(64, dtype=np.uint8).reshape(8, 8)[::2, ::2]
    (array,) = Counting().infer({"x": view}).values()
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array, view)


def test_arrays_that_are_contiguous_are_not_copied() -> None:
    images = np.zeros((2, 4), np.uint8)
    assert Counting().infer({"x": images})["x"] is images
