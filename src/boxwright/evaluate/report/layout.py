"""The page around the sections: head, style, verdict, and what is on top."""

from __future__ import annotations

import importlib.resources
import re
from typing import TYPE_CHECKING

from boxwright._version import __version__
from boxwright.evaluate.report.markup import Html, el, join

if TYPE_CHECKING:
    from collections.abc import Sequence

    from boxwright.evaluate.report.evidence import Check, Evidence

# Nothing may be fetched and nothing may run; styles are needed inline, by charts too.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
_WORDS = {True: ("good", "passed"), False: ("bad", "FAILED"), None: ("none", "not measured")}


def page(title: str, *body: object) -> str:
    """A whole document."""
    style = importlib.resources.files(__package__ or "").joinpath("style.css").read_text("utf-8")
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="referrer", content="no-referrer"),
        el("meta", name="generator", content=f"Boxwright {__version__}"),
        # Otherwise browsers ask the server for one.
        el("link", rel="icon", href="data:,"),
        el("title", title),
        el("style", Html(style)),
    )
    document = el("html", head, el("body", el("main", *body)), lang="en")
    return f"<!doctype html>\n{document}\n"


def anchor(title: str) -> str:
    """What a section is linked by."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def section(title: str, intro: str, *children: object) -> Html:
    """A section with a heading and a sentence on what it shows."""
    return el("section", el("h2", title), el("p", intro), *children, id=anchor(title))


def mark(ok: bool | None) -> Html:
    """``passed``, ``FAILED`` or ``not measured``, in a colour and in words."""
    kind, word = _WORDS[ok]
    return el("span", word, class_=f"mark {kind}")


def absent(what: str, command: str) -> Html:
    """What stands where nothing was measured."""
    return el(
        "div", el("p", f"{what} This measures it:"), el("pre", el("code", command)), class_="absent"
    )


def note(text: str) -> Html:
    """A remark."""
    return el("p", text, class_="note")


def verdict(evidence: Evidence) -> Html:
    """The outcome in one line, then every check."""
    checks = evidence.checks()
    ran = [check for check in checks if check.ok is not None]
    failed = [check for check in ran if not check.ok]
    missing = len(checks) - len(ran)
    if not ran:
        kind, line = "none", "Nothing was checked yet"
    elif failed:
        kind, line = "bad", f"{len(failed)} of {len(ran)} checks failed"
    else:
        kind, line = "good", f"All {len(ran)} checks passed" if len(ran) > 1 else "1 check, passed"
    rest = f"{missing} more {'was' if missing == 1 else 'were'} not measured." if missing else None
    return el(
        "div",
        el("h2", line),
        None if rest is None else el("p", rest, class_="soft"),
        _list(checks),
        class_=f"verdict {kind}",
        id="verdict",
    )


def _list(checks: Sequence[Check]) -> Html:
    ordered = sorted(checks, key=lambda check: (check.ok is None, check.ok is True))
    return el(
        "ul",
        [
            el("li", mark(c.ok), el("b", c.name), el("span", c.detail, class_="detail"))
            for c in ordered
        ],
        class_="checks",
    )


def tile(value: str, unit: str, what: str) -> Html:
    """One number, large."""
    return el(
        "div",
        el("div", value, join(" ", el("span", unit, class_="unit")), class_="value"),
        el("div", what, class_="what"),
        class_="tile",
    )
