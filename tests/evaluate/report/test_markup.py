"""Text becomes HTML in one place, and cannot leave it."""

from __future__ import annotations

import pytest

from boxwright.evaluate.report.markup import Html, el, facts, inline_svg, join, table, text
from boxwright.evaluate.report.numbers import duration, number, percent, power, signed


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("<b>", "&lt;b&gt;"),
        ("\"'&", "&quot;&#x27;&amp;"),
        ("a\x00b\x1b[0m", "a\ufffdb\ufffd[0m"),
        ("\u202e\u2066x", "\ufffd\ufffdx"),
        ("\ud800", "\ufffd"),
        ("line\nbreak", "line\nbreak"),
        (7, "7"),
    ],
)
def test_text_is_escaped(value: object, expected: str) -> None:
    assert text(value) == expected
    assert isinstance(text(value), Html)


def test_html_is_not_escaped_twice() -> None:
    assert el("p", el("b", "<")) == "<p><b>&lt;</b></p>"
    assert text(text("<")) == "&lt;"


def test_attributes_are_escaped_and_may_be_left_out() -> None:
    assert el("a", href='"><script>', title=None, hidden=True) == (
        '<a href="&quot;&gt;&lt;script&gt;" hidden></a>'
    )
    assert el("img", src="x", aria_label="y") == '<img src="x" aria-label="y">'
    assert el("p", class_="a b") == '<p class="a b"></p>'


def test_children_may_be_lists_and_nothing() -> None:
    assert join("a", None, ["b", [el("i", "c")]], 0) == "ab<i>c</i>0"


def test_a_concatenation_is_text_again() -> None:
    # `Html + str` is a str: it is escaped as a whole rather than trusted.
    assert text(el("b") + "<i>") == "&lt;b&gt;&lt;/b&gt;&lt;i&gt;"


def test_tables_align_numbers() -> None:
    assert 'class="number">1<' in table(("a", "b"), [("x", 1)], numbers=("b",))
    assert facts([("a", None), ("b", ""), ("c", 0)]).count("<dt>") == 1


def test_a_drawing_gets_ids_of_its_own() -> None:
    drawing = (
        '<svg width="9pt" height="8pt" viewBox="0 0 9 8"><metadata>x</metadata>'
        '<g id="a"/><use xlink:href="#a" clip-path="url(#a)"/></svg>'
    )
    assert inline_svg(drawing, "p") == (
        '<figure class="chart"><svg viewBox="0 0 9 8"><g id="p-a"/>'
        '<use xlink:href="#p-a" clip-path="url(#p-a)"/></svg></figure>'
    )


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (number(0.012345), "0.0123"),
        (number(12.345), "12.3"),
        (number(1234.5), "1234"),
        (number(0), "0"),
        (number(None), "–"),
        (number(float("nan")), "–"),
        (number(True), "–"),
        (percent(0.2956), "29.6"),
        (percent("x"), "–"),
        (power(0.0), "0"),
        (power(8.4e-7), "8.4e-07"),
        (signed(0.001), "+0.10"),
        (signed(-0.0), "0.00"),
        (signed(0.0), "0.00"),
        (duration(0.42), "0.4 s"),
        (duration(59), "59 s"),
        (duration(200), "3 min 20 s"),
        (duration(7300), "2 h 1 min"),
    ],
)
def test_numbers_for_people(shown: str, expected: str) -> None:
    assert shown == expected
