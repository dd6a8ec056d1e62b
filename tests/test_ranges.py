"""Ranges of activations, kept in a model's metadata."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from boxwright.errors import ModelError
from boxwright.ranges import RANGES_KEY, ranges_of, with_ranges

LARGEST = float(np.finfo(np.float32).max)


def kept(text: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    proto.metadata_props.add(key=RANGES_KEY, value=text)
    return proto


def test_ranges_come_back_to_the_bit() -> None:
    random = np.random.default_rng(0)
    ranges = {
        "of random ends": tuple(sorted(random.normal(0, 1e3, 2).tolist())),
        'a/b:0 \u00fc \U0001f600 "quoted"': (-0.1, float(np.float32(0.1))),
        "everything": (-LARGEST, LARGEST),
        "subnormal": (0.0, 1e-45),
        "one value": (3.0, 3.0),
        "": (0.0, 0.0),
    }
    proto = onnx.ModelProto()
    with_ranges(proto, ranges)
    assert ranges_of(onnx.ModelProto.FromString(proto.SerializeToString())) == ranges


def test_ranges_replace_those_that_were_there_and_nothing_else() -> None:
    proto = onnx.ModelProto()
    proto.metadata_props.add(key="boxwright.card", value="{}")
    with_ranges(proto, {"a": (0.0, 1.0)})
    with_ranges(proto, {"b": (0.0, 2.0)})
    assert ranges_of(proto) == {"b": (0.0, 2.0)}
    assert [prop.key for prop in proto.metadata_props] == ["boxwright.card", RANGES_KEY]


def test_the_order_that_ranges_come_in_does_not_show() -> None:
    protos = onnx.ModelProto(), onnx.ModelProto()
    ranges = [("b", (0.0, 1.0)), ("a", (-1.0, 1.0))]
    with_ranges(protos[0], dict(ranges))
    with_ranges(protos[1], dict(reversed(ranges)))
    assert protos[0].SerializeToString() == protos[1].SerializeToString()


def test_a_model_without_ranges_has_none() -> None:
    assert ranges_of(onnx.ModelProto()) == {}


@pytest.mark.parametrize("ends", [(np.nan, 1.0), (0.0, np.inf), (1.0, 0.0), (0.0, 1e39)])
def test_what_is_no_range_is_not_written(ends: tuple[float, float]) -> None:
    proto = onnx.ModelProto()
    with pytest.raises(ModelError, match="for 'x'"):
        with_ranges(proto, {"x": ends})
    assert not proto.metadata_props


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"x": ' * 100_000, "cannot be read"),
        ("[]", r"must be an object, got \[\]"),
        ("null", "must be an object, got None"),
        ("1e400", "must be an object, got inf"),
        ('"text"', "must be an object, got 'text'"),
        ('{"x": 1}', "two numbers for 'x', got 1"),
        ('{"x": "12"}', "two numbers for 'x', got '12'"),
        ('{"x": {"1": 0, "2": 0}}', "two numbers for 'x'"),
        ('{"x": [1]}', r"two numbers for 'x', got \[1\]"),
        ('{"x": [1, 2, 3]}', "two numbers for 'x'"),
        ('{"x": [true, 2]}', "two numbers for 'x'"),
        ('{"x": [null, 2]}', "two numbers for 'x'"),
        ('{"x": ["0", "1"]}', "two numbers for 'x'"),
        ('{"x": [[0], 1]}', "two numbers for 'x'"),
        ('{"x": [NaN, 1]}', "nan to 1 for 'x'"),
        ('{"x": [0, NaN]}', "0 to nan for 'x'"),
        ('{"x": [-Infinity, 1]}', "-inf to 1"),
        ('{"x": [0, 1e39]}', r"0 to 1e\+39"),
        ('{"x": [2, 1]}', "2 to 1 for 'x'"),
        # Larger than any float, and than what Python shows.
        (f'{{"x": [0, {"9" * 4000}]}}', r"0 to 9+\.\.\. for 'x'"),
        (f'{{"x": [0, {"9" * 5000}]}}', "cannot be read"),
        (json.dumps({"x": [0, 0], "y": "z" * 10_000}), r"for 'y', got 'z+\.\.\."),
    ],
)
def test_hostile_ranges_are_refused(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        ranges_of(kept(text))
    assert len(str(caught.value)) < 300


def test_ranges_larger_than_any_models_are_not_even_parsed() -> None:
    with pytest.raises(ModelError, match="larger than 16 MiB"):
        ranges_of(kept(" " * ((16 << 20) + 1)))
