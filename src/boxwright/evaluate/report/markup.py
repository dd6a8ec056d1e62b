"""HTML that cannot be broken into: text is escaped unless it was made here."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence

_VOID = frozenset({"br", "hr", "img", "link", "meta"})
# Text that turns its neighbours round (bidirectional controls) could make a hash or a
# verdict read otherwise than it is.
_INVISIBLE = frozenset("\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Html(str):
    """A piece of HTML as it is to stand in the page. Only this module makes one of text."""

    __slots__ = ()


def text(value: object) -> Html:
    """A value as text: escaped, with what cannot be seen made visible."""
    if isinstance(value, Html):
        return value
    return Html(html.escape("".join(map(_visible, str(value))), quote=True))


def join(*children: object) -> Html:
    """Pieces one after the other; lists are taken apart, ``None`` is nothing."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, list | tuple):
            parts.append(join(*child))
        else:
            parts.append(text(child))
    return Html("".join(parts))


def el(tag: str, /, *children: object, **attributes: object) -> Html:
    """An element. ``class_`` is the class; an attribute of ``None`` or ``False`` is left out."""
    head = tag
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        head += f" {key}" if value is True else f' {key}="{text(value)}"'
    if tag in _VOID:
        return Html(f"<{head}>")
    return Html(f"<{head}>{join(*children)}</{tag}>")


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    numbers: Sequence[str] = (),
    caption: str | None = None,
) -> Html:
    """A table in a box that scrolls by itself; columns in `numbers` are aligned right."""
    classes = ["number" if column in numbers else None for column in columns]
    head = el(
        "tr",
        [el("th", c, class_=k, scope="col") for c, k in zip(columns, classes, strict=True)],
    )
    body = [
        el(
            "tr",
            [
                el("td", cell, class_=k or _width(cell))
                for cell, k in zip(row, classes, strict=True)
            ],
        )
        for row in rows
    ]
    sheet = el(
        "table",
        None if caption is None else el("caption", caption),
        el("thead", head),
        el("tbody", body),
    )
    return el("div", sheet, class_="scroll", tabindex="0")


def _width(cell: object) -> str | None:
    """Sentences want a column of some width, however narrow the screen."""
    return "long" if not isinstance(cell, Html) and len(str(cell)) > 26 else None


def facts(rows: Iterable[tuple[str, object]]) -> Html:
    """Names and values; rows without a value are left out."""
    return el(
        "dl",
        [
            el("div", el("dt", name), el("dd", value))
            for name, value in rows
            if value not in (None, "")
        ],
    )


def fold(title: object, *children: object, open_: bool = False) -> Html:
    """Something long that is shown on demand."""
    return el("details", el("summary", title), *children, open=open_)


def inline_svg(svg: str, prefix: str) -> Html:
    """An SVG drawing of ours for the middle of a page.

    Its ids get a prefix, for a page may hold several drawings; it is scaled to the page's
    width instead of its own.

    Args:
        svg: From our own drawing code, never from a file: it is not escaped.
        prefix: Letters, digits and dashes.
    """
    body = svg[svg.index("<svg") :].encode("utf-8", "replace").decode()
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", body)
    head, _, rest = body.partition(">")
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    return el("figure", Html(f"{head}>{rest}"), class_="chart")


def _visible(character: str) -> str:
    if character in _INVISIBLE:
        return "\N{REPLACEMENT CHARACTER}"
    if unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t":
        return "\N{REPLACEMENT CHARACTER}"
    return character
