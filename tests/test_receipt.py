from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from boxwright import backends, receipt
from boxwright.engine import Engine
from boxwright.receipt import add_evidence, differences, machine, measured_elsewhere
from tests.models import make_model


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return backends.build(make_model(channels=4), output=tmp_path / "tiny.bw")


def test_sections_are_added_with_a_stamp_and_nothing_else_changes(engine: Engine) -> None:
    before, content = engine.receipt, engine.content_sha256
    added = add_evidence(engine, {"consistency": [{"ok": True}]}, "boxwright verify tiny.bw")
    again = Engine.open(engine.path)
    assert again.receipt == added.receipt
    assert again.content_sha256 == content
    stamp = again.receipt["measured"]["consistency"]
    assert stamp["command"] == "boxwright verify tiny.bw"
    assert stamp["machine"] == machine()
    assert {
        k: v for k, v in again.receipt.items() if k not in ("measured", "consistency")
    } == before
    later = add_evidence(again, {"speed": {}, "consistency": []}, "other")
    assert later.receipt["consistency"] == []
    assert set(later.receipt["measured"]) == {"consistency", "speed"}
    later.verify()


def test_only_known_sections(engine: Engine) -> None:
    with pytest.raises(ValueError, match=r"got .'build'"):
        add_evidence(engine, {"build": {}}, "")


def test_a_command_with_stray_bytes_is_kept_readable(engine: Engine) -> None:
    added = add_evidence(engine, {"speed": {}}, "boxwright bench a\udcfe.bw")
    assert added.receipt["measured"]["speed"]["command"] == "boxwright bench a\\xfe.bw"


def test_numbers_of_another_machine_are_told(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = add_evidence(engine, {"speed": {}}, "")
    assert measured_elsewhere(added.receipt) == {}
    other = {**machine(), "cpu": "other"}
    monkeypatch.setattr(receipt, "describe_environment", lambda: other)
    assert measured_elsewhere(added.receipt) == {"speed": "cpu"}
    assert measured_elsewhere({"measured": "nonsense"}) == {}
    assert measured_elsewhere({"measured": {"speed": 3, "x": {"machine": 4}}}) == {}


RESULT: dict[str, Any] = {
    "verified": [{"ok": True, "tensors": [{"name": "boxes", "nrmse": 1e-7, "where": [0, 3]}]}],
    "accuracy": {"ap": 0.25, "images": 80, "timing": {"seconds": 3.0}},
    "consistency": [{"name": "repeated run", "ok": True}],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    result = copy.deepcopy(RESULT)
    *parents, last = path.split(".")
    place: Any = result
    for part in parents:
        place = place[int(part) if part.isdigit() else part]
    place[last] = value
    return result


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("accuracy.timing", {"seconds": 9.0}),
        ("accuracy.ap", 0.25 + 1e-8),
        ("verified.0.tensors.0.nrmse", 5e-7),
        ("verified.0.tensors.0.where", [1, 2]),
    ],
)
def test_what_may_differ(path: str, value: Any) -> None:
    assert differences(RESULT, changed(path, value)) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("accuracy.ap", 0.24, "accuracy.ap: 0.25 before, 0.24 now"),
        ("accuracy.images", 79, "accuracy.images: 80 before, 79 now"),
        ("verified.0.ok", False, "verified[0].ok: True before, False now"),
        ("verified.0.tensors.0.nrmse", 0.5, "verified[0].tensors[0].nrmse: 1e-07 before"),
        ("consistency", [], "consistency: 1 before, 0 now"),
        ("consistency.0.extra", 1, "consistency[0].extra: only in the new result"),
    ],
)
def test_what_may_not(path: str, value: Any, said: str) -> None:
    (line,) = differences(RESULT, changed(path, value))
    assert line.startswith(said)
