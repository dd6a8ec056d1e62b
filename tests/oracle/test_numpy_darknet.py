"""The numpy Darknet must earn its place as a judge: it is held to Darknet's own outputs."""

from __future__ import annotations

import numpy as np

from boxwright.evaluate.matching import box_error, match
from boxwright.evaluate.reference import Candidates
from boxwright.evaluate.tensors import nrmse
from tests.oracle.conftest import Case


def test_it_computes_what_darknet_computed(case: Case) -> None:
    results = case.numpy_network.run(case.images[0])
    assert len(results) == len(case.reference.heads)
    for result, name in zip(results, case.reference.heads, strict=True):
        recorded = case.reference.tensors[name]
        assert result.raw.shape == recorded.shape[1:]
        error = nrmse(result.raw.reshape(-1)[recorded.at], recorded.values)
        assert error < (1e-5 if case.trained else 1e-4)
    boxes = np.concatenate([result.boxes for result in results])
    scores = np.concatenate([result.scores for result in results])
    ours = Candidates.above(boxes, scores, 0.005)
    (theirs,) = case.reference.candidates[0.005]
    pairs = match(ours, theirs, case.reference.input_size, by_row=False)
    assert len(pairs.only_second) == 0
    first, second = ours[pairs.first], theirs[pairs.second]
    assert box_error(first.xyxy, second.xyxy, case.reference.input_size).max() < 1e-4
    assert np.abs(first.score - second.score).max() < (1e-5 if case.trained else 1e-3)
