"""What a receipt says of several builds, and that old receipts read as they did."""

from __future__ import annotations

from typing import Any

import pytest

from boxwright.builds import (
    build_of,
    builds,
    merged,
    newest,
    receipt_of,
    unvouched,
    with_build,
    with_sections,
    without_builds,
)


def record(fingerprint: str | None, **more: Any) -> dict[str, Any]:
    return {"created": "2026", "build": {"backend": "b", "fingerprint": fingerprint}, **more}


def receipt(*fingerprints: str) -> dict[str, Any]:
    first, *others = fingerprints
    made: dict[str, Any] = {
        "schema": 1,
        "sources": [{"name": "w"}],
        **record(first, layers={"a": 1}),
    }
    for fingerprint in others:
        made = with_build(made, record(fingerprint), fingerprint)
    return made


def prints(content: dict[str, Any]) -> list[str | None]:
    return [build.fingerprint for build in builds(content)]


def test_a_receipt_of_one_build_is_as_it_always_was() -> None:
    old = receipt("one")
    assert "plans" not in old
    assert prints(old) == ["one"]
    assert receipt_of(old, None) == old == receipt_of(old, "unknown")


def test_the_build_added_last_comes_first_and_the_engines_own_last() -> None:
    assert prints(receipt("one", "two", "three")) == ["three", "two", "one"]
    # Built again, it is the one added last.
    again = with_build(receipt("one", "two", "three"), record("two"), "two")
    assert prints(again) == ["two", "three", "one"]


def test_the_record_of_an_added_build_says_nothing_of_the_file() -> None:
    two = receipt("one", "two")
    assert two["plans"] == {"two": record("two")}
    assert receipt_of(two, "two") == {"schema": 1, "sources": [{"name": "w"}], **record("two")}


def test_a_build_made_again_loses_the_evidence_for_the_old_plan() -> None:
    proven = with_sections(receipt("one", "two"), None, {"verified": [1]})
    assert proven["verified"] == [1]
    again = with_build(proven, record("one", layers={}), "one")
    assert "verified" not in again
    assert prints(again) == ["two", "one"]


def test_evidence_goes_to_the_build_it_is_about() -> None:
    two = with_sections(receipt("one", "two"), "two", {"speed": 3})
    assert "speed" not in two
    assert two["plans"]["two"]["speed"] == 3
    assert two["layers"] == {"a": 1}


def test_dropping_the_first_build_promotes_the_next() -> None:
    left = without_builds(receipt("one", "two", "three"), ["one"])
    assert prints(left) == ["three", "two"]
    assert left["build"]["fingerprint"] == "two"
    assert "layers" not in left
    assert left["sources"] == [{"name": "w"}]


def test_dropping_every_build_leaves_how_to_build_it() -> None:
    bare = without_builds(with_sections(receipt("one"), None, {"n": 1}), ["one"])
    assert bare["build"] == {"backend": "b", "fingerprint": None}
    assert prints(bare) == [None]
    assert without_builds(receipt("one", "two"), ["one", "two"])["build"]["fingerprint"] is None


def test_merging_keeps_the_first_of_two_and_the_order() -> None:
    a, b = receipt("one", "two"), with_sections(receipt("three", "two"), "two", {"speed": 9})
    both = merged(a, [b])
    assert prints(both) == ["three", "two", "one"]
    assert "speed" not in both["plans"]["two"]
    assert both["plans"]["three"]["layers"] == {"a": 1}
    assert merged(a, [a, a]) == a


def test_the_newest_is_the_one_an_earlier_receipt_lacks() -> None:
    one = receipt("one")
    assert newest(with_build(one, record("two"), "two"), one).key == "two"
    assert newest(with_build(one, record("one", x=1), "one"), one).key is None
    assert newest(one, {}).fingerprint == "one"


def test_a_replaced_plan_is_not_vouched_for() -> None:
    stated = {"build": {"fingerprint": "one", "plan_sha256": "ab"}}
    assert build_of(stated, "one").plan_sha256 == "ab"  # type: ignore[union-attr]
    assert unvouched(stated, "one") == {"build": {"fingerprint": "one"}}
    assert unvouched(stated, "two") == stated
    added = {**receipt("one"), "plans": {"x": stated}}
    assert "plan_sha256" not in unvouched(added, "x")["plans"]["x"]["build"]


@pytest.mark.parametrize(
    "nonsense",
    [
        {"plans": []},
        {"plans": {"x": 3}},
        {"build": "no"},
        {"build": {"fingerprint": 3, "plan_sha256": []}},
        {"build": None, "plans": {"x": {"build": []}}},
    ],
)
def test_receipts_of_any_form_are_answered(nonsense: dict[str, Any]) -> None:
    for build in builds(nonsense):
        assert build.fingerprint in (None, "x")
        assert build.plan_sha256 is None
    without_builds(merged(nonsense, [nonsense]), ["x"])
    receipt_of(with_sections(nonsense, "x", {"a": 1}), "x")
    unvouched(nonsense, "x")
