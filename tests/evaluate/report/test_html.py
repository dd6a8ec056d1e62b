"""The page: nothing of it can be broken into, and it says what was and was not measured."""

from __future__ import annotations

import copy
import html.parser
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from boxwright.engine import Engine
from boxwright.evaluate.report.evidence import Check, Evidence, of_engine, of_receipt
from boxwright.evaluate.report.html import render, write_report
from boxwright.evaluate.report.layout import POLICY
from tests.evaluate.report.material import (
    HOSTILE,
    make_card,
    make_evaluation,
    make_evidence,
    make_parity,
    make_speed,
)
from tests.models import make_model

_VOID = {"br", "hr", "img", "link", "meta"}


class Page(html.parser.HTMLParser):
    """Which elements and attributes a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


EMPTY = Evidence(make_card(), {}, "tiny.bw")


@pytest.mark.parametrize("evidence", [make_evidence(), EMPTY], ids=["everything", "nothing"])
def test_hostile_names_are_text(evidence: Evidence) -> None:
    page = Page(render(evidence))
    assert page.open == []
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on"), f"{name}={value}"
        if name in ("src", "href"):
            assert value.startswith(("#", "data:")), value
    assert HOSTILE in page.text
    # Neither a null byte nor a change of direction gets into the page.
    assert "\x00" not in page.text
    assert "\u202e" not in page.text


def test_the_page_asks_for_nothing_and_runs_nothing() -> None:
    page = render(make_evidence())
    assert f'content="{POLICY}"'.replace("'", "&#x27;") in page
    assert "default-src 'none'" in POLICY
    assert "script-src" not in POLICY
    without_namespaces = page.replace("http://www.w3.org", "")
    found = re.findall(r"(?:https?:)?//[\w.]+", re.sub(r"data:[^\"]+", "", without_namespaces))
    assert set(found) <= {"https://evil.example"}  # as text
    assert "@import" not in page
    assert "url(" not in page.split("</style>")[0]


def test_every_measurement_is_shown() -> None:
    text = Page(render(make_evidence())).text
    for piece in (
        "All 3 checks passed",
        "50.0 % AP on labelled images",
        "194 img/s throughput",
        "tensors within 1.0e-06 (nrmse), 7 of 8 detections matched",
        "7 of 8 matched, box 1.0e-07, score –, 1 missing",
        "1.50 (1.20 to 1.80)",
        "identical to the bit",
        "between -2.00 and 0.00 points with 95 % confidence",
        "Most often: cat taken for",
        "7 in",
    ):
        assert piece in text, piece


def test_what_was_not_measured_names_its_command() -> None:
    text = Page(render(EMPTY)).text
    assert "Nothing was checked yet" in text
    for verb in ("verify", "bench", "eval"):
        assert f"boxwright {verb} tiny.bw --images" in text


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"parity": (make_parity(ok=False),)}, "1 of 3 checks failed"),
        ({"budgets": (Check("Budget a", False, ""), Check("b", True, ""))}, "1 of 4 checks failed"),
        (
            {"consistency": ({"name": "permuted batch", "ok": False, "tolerance": 1e-5},)},
            "failed: permuted batch",
        ),
        ({"consistency": ({"name": "x", "ok": True, "skipped": "fixed"},)}, "skipped: fixed"),
        ({"accuracy": None, "parity": ()}, "2 more were not measured"),
    ],
)
def test_the_verdict_comes_first(changes: dict[str, Any], line: str) -> None:
    evidence = make_evidence(**changes)
    text = Page(render(evidence)).text
    assert line in text
    failed = "failed" in line
    assert evidence.ok is not failed
    assert ("FAILED" in text) is failed


def test_a_failed_check_is_above_those_that_passed() -> None:
    budgets = (Check("Budget good", True, ""), Check("Budget bad", False, ""))
    text = Page(render(make_evidence(budgets=budgets))).text
    assert text.index("Budget bad") < text.index("Budget good")


def test_an_engines_own_receipt_makes_a_report(tmp_path: Path) -> None:
    receipt = {
        "build": {"backend": "onnxruntime", "precision": "fp32", "batch": [1, 1, 16]},
        "verified": [make_parity()],
        "consistency": [{"name": "repeated run", "ok": True, "identical": True}],
    }
    engine = Engine.write(tmp_path / "tiny.bw", make_model(), receipt, {})
    evidence = of_engine(engine.path)
    size = write_report(evidence, tmp_path / "tiny.html")
    assert size == (tmp_path / "tiny.html").stat().st_size
    text = Page((tmp_path / "tiny.html").read_text()).text
    assert "All 2 checks passed" in text
    assert evidence.files[0].sha256 in text


@pytest.mark.parametrize("junk", [7, "x", [], [1], {"a": 1}, None])
def test_a_receipt_of_nonsense_still_makes_a_page(junk: Any, tmp_path: Path) -> None:
    names = ("build", "layers", "environment", "verified", "consistency", "accuracy", "speed")
    engine = Engine.write(tmp_path / "a.bw", make_model(), dict.fromkeys(names, junk), {})
    page = Page(render(of_engine(engine.path)))
    assert "What was built" in page.text


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from _leaves(item, (*path, key))


def _replaced(value: Any, path: tuple[Any, ...], junk: Any) -> Any:
    if not path:
        return junk
    changed = copy.copy(value)
    changed[path[0]] = _replaced(value[path[0]], path[1:], junk)
    return changed


@pytest.mark.parametrize("junk", ["x", -1, None, [], {}, [[]], [{}], True, 1e308])
def test_no_receipt_is_too_strange_for_a_page(junk: Any, tmp_path: Path) -> None:
    speed = make_speed()
    receipt = {
        **make_evidence().receipt,
        "verified": [make_parity()],
        "consistency": list(make_evidence().consistency),
        "accuracy": make_evaluation(),
        "speed": {**speed, "batches": speed["measurements"]},
    }
    # One class and one batch are as good as many.
    receipt["accuracy"]["accuracy"]["classes"] = receipt["accuracy"]["accuracy"]["classes"][:1]
    receipt["accuracy"]["accuracy"]["classes"][0]["precision"] = [1.0, 0.5]
    receipt["speed"]["measurements"] = receipt["speed"]["measurements"][:1]
    path = Engine.write(tmp_path / "a.bw", make_model(), receipt, {}).path
    whole = of_engine(path)
    for place in _leaves(receipt):
        evidence = of_receipt(whole, _replaced(receipt, place, junk))
        assert Page(render(evidence)).open == [], place


def test_a_page_of_several_plans_names_them_all(tmp_path: Path) -> None:
    one = {"build": {"backend": "b", "fingerprint": "one"}, "created": "then"}
    added = {HOSTILE: {"build": {}, "created": "now", "speed": {}}, "odd": 3}
    engine = Engine.write(tmp_path / "a.bw", make_model(), {**one, "plans": added}, {})
    page = Page(render(of_engine(engine.path)))
    assert "All 2 plans" in page.text
    assert HOSTILE in page.text
    alone = Engine.write(tmp_path / "b.bw", make_model(), one, {})
    assert not re.search(r"All \d+ plans", Page(render(of_engine(alone.path))).text)
