"""The image that a quantised model keeps."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from boxwright.backends.comparison import judged_as, sample_images
from boxwright.errors import ModelError
from boxwright.model import Model
from boxwright.probe import PROBE_KEY, probe_of, with_probe
from tests.models import make_model


@pytest.fixture
def model() -> Model:
    return make_model()


def smooth(model: Model) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Red to the right and green downwards, so that a turned or swapped image shows."""
    height, width = model.card.input_size
    rows, columns = np.mgrid[:height, :width]
    planes = (columns * 255 // width, rows * 255 // height, rows * 0)
    return np.stack(planes, axis=-1).astype(np.uint8)


def test_it_comes_back_nearly_as_it_was(model: Model) -> None:
    image = smooth(model)
    with_probe(model.proto, image)
    kept = probe_of(model.proto, model.card)
    assert kept is not None
    # JPEG of quality 90 halves the resolution of colours.
    assert np.abs(kept.astype(int) - image).mean() < 6
    again = Model.from_bytes(model.to_bytes())
    np.testing.assert_array_equal(probe_of(again.proto, again.card), kept)


def test_a_second_one_takes_the_place_of_the_first(model: Model) -> None:
    with_probe(model.proto, smooth(model))
    with_probe(model.proto, smooth(model)[::-1].copy())
    assert [p.key for p in model.proto.metadata_props].count(PROBE_KEY) == 1
    kept = probe_of(model.proto, model.card)
    assert kept is not None
    assert kept[0, 0, 1] > kept[-1, 0, 1]


def test_without_one_there_is_none(model: Model) -> None:
    assert probe_of(model.proto, model.card) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("not base64 !", "is no image"),
        (base64.b64encode(b"not an image").decode(), "is no image"),
        ("", "is no image"),
        ("A" * (9 << 20), "larger than 8 MiB"),
    ],
    ids=["letters", "bytes", "nothing", "too much"],
)
def test_what_is_no_image_is_refused(model: Model, text: str, reason: str) -> None:
    model.proto.metadata_props.add(key=PROBE_KEY, value=text)
    with pytest.raises(ModelError, match=reason):
        probe_of(model.proto, model.card)


def test_one_of_another_size_is_refused(model: Model) -> None:
    with_probe(model.proto, smooth(model)[:-2, :-4].copy())
    with pytest.raises(ModelError, match="must be of its size"):
        probe_of(model.proto, model.card)


def test_only_a_quantised_model_is_tried_on_it(model: Model) -> None:
    with_probe(model.proto, smooth(model))
    assert judged_as(model) == "float"
    kept = probe_of(model.proto, model.card)
    assert kept is not None
    assert not np.array_equal(sample_images(model)[0], kept)
    model.proto.graph.node.add(op_type="QuantizeLinear")
    assert judged_as(model) == "int8 on an image"
    np.testing.assert_array_equal(sample_images(model, 3), np.stack([kept] * 3))
