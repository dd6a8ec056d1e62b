"""Targets are found by their names; versions nobody knows are said to be judged by others."""

from __future__ import annotations

import pytest

from boxwright.errors import InputError
from boxwright.graph.targets import find_target, known_targets


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("tensorrt@8.6", "tensorrt@8.6"),
        # A patch release is its minor's.
        ("tensorrt@8.6.1", "tensorrt@8.6"),
        ("tensorrt@8.6.1.6", "tensorrt@8.6"),
        # Without a minor number: the first of that major.
        ("tensorrt@10", "tensorrt@10.0"),
        ("tensorrt@11", "tensorrt@11.0"),
        ("openvino@2024", "openvino@2024.0"),
        # Between two known ones: the older.
        ("tensorrt@10.7", "tensorrt@10.5"),
        ("onnxruntime@1.21", "onnxruntime@1.20"),
        # Beyond the newest: the newest. Without a version: too.
        ("openvino@2031.1", "openvino@2026.4"),
        ("onnxruntime", "onnxruntime@1.31"),
        ("tensorrt-rtx", "tensorrt-rtx@1.7"),
    ],
)
def test_a_target_is_found(text: str, name: str) -> None:
    assert find_target(text).name == name


@pytest.mark.parametrize("text", ["tensorrt@10.7", "onnxruntime@1.21", "openvino@2031.1"])
def test_a_version_that_nobody_knows_is_said_so(text: str) -> None:
    target = find_target(text)
    assert target.remark is not None
    assert text in target.remark
    assert target.name in target.remark


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tensorflow", "did you mean 'tensorrt'"),
        ("tensorrt@8.5", "the oldest tensorrt to be judged for is tensorrt@8.6"),
        ("tensorrt@", "unknown target"),
        ("tensorrt@x", "unknown target"),
        ("tensorrt@10.0; rm -rf", "unknown target"),
        ("", "unknown target"),
    ],
)
def test_anything_else_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        find_target(text)


def test_every_known_target_finds_itself_and_names_its_sources() -> None:
    for target in known_targets():
        assert find_target(target.name).version == target.version
        assert target.sources
        assert target.opsets[0] < target.opsets[1]
