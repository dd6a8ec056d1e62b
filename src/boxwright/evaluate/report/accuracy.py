"""How accurate: AP, class by class, curves, confusions, and the images that went worst."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from boxwright.evaluate.report.access import listing, mapping, mappings, real, whole
from boxwright.evaluate.report.evidence import Evidence
from boxwright.evaluate.report.faithful import pictures
from boxwright.evaluate.report.layout import absent, note, section
from boxwright.evaluate.report.markup import Html, el, fold, join, table
from boxwright.evaluate.report.numbers import percent, signed
from boxwright.evaluate.report.svg import COLOURS, Curve, unit_chart

Json = Mapping[str, Any]

# So many classes stand in the open; above, the table is folded.
_OPEN_CLASSES = 12
_MATRIX_CLASSES = 14
_COCO = (
    ("AP", "ap", "mean over IoU 0.50 to 0.95"),
    ("AP50", "ap50", "IoU 0.50"),
    ("AP75", "ap75", "IoU 0.75"),
    ("AP small", "ap_small", "objects below 32² pixels"),
    ("AP medium", "ap_medium", "32² to 96² pixels"),
    ("AP large", "ap_large", "above 96² pixels"),
    ("AR 1", "ar_1", "recall with 1 detection an image and class"),
    ("AR 10", "ar_10", "with 10"),
    ("AR 100", "ar_100", "with 100"),
)
_VOC = (
    ("mAP", "map", "over all classes"),
    ("mAP of present classes", "map_present", "classes with objects"),
)


def render(evidence: Evidence) -> Html:
    """The section."""
    intro = "What the engine finds, held against labels that people made."
    if evidence.accuracy is None:
        command = f"boxwright eval {evidence.engine} --images IMAGES/ --annotations LABELS.json"
        return section(
            "How accurate",
            intro,
            absent("Accuracy needs labelled images, and none were given.", command),
            pictures(evidence, "accurate"),
        )
    own = _accuracy(evidence.accuracy)
    parts: list[object] = [_summary(evidence), _dataset(evidence.accuracy)]
    parts += _curves(own)
    parts += _per_class(evidence)
    if evidence.confusion is not None:
        parts += _confusion(evidence.confusion)
    worst = pictures(evidence, "accurate")
    if worst:
        parts += [el("h3", "Where it went wrong most"), *worst]
    return section("How accurate", intro, parts)


def headline(evaluation: Json) -> tuple[str, float | None]:
    """Name and value of the one number that stands for all."""
    accuracy = _accuracy(evaluation)
    name, key = ("mAP", "map") if accuracy.get("metric") == "voc" else ("AP", "ap")
    value = accuracy.get(key)
    return name, value if isinstance(value, int | float) else None


def _summary(evidence: Evidence) -> Html:
    own = _accuracy(evidence.accuracy or {})
    source = None if evidence.source_accuracy is None else _accuracy(evidence.source_accuracy)
    rows = []
    for name, key, meaning in _VOC if own.get("metric") == "voc" else _COCO:
        row: list[object] = [name, percent(own.get(key))]
        if source is not None:
            row += [percent(source.get(key)), signed(_difference(own.get(key), source.get(key)))]
        rows.append((*row, meaning))
    columns = ["metric", "engine"] + (["source", "difference"] if source is not None else [])
    drop = None if evidence.drop is None else _drop(evidence.drop)
    sheet = table((*columns, "meaning"), rows, numbers=columns[1:], caption="per cent")
    return join(sheet, drop)


def _drop(drop: Json) -> Html | None:
    low, high = drop.get("low"), drop.get("high")
    if low is None or high is None:
        return None
    if low == high == 0:
        return note("Engine and source have the same AP on every resample of the images.")
    return note(
        f"The difference of engine and source lies between {signed(low)} and {signed(high)} "
        "points with 95 % confidence (bootstrap over images)."
    )


def _dataset(evaluation: Json) -> list[Html]:
    data = mapping(evaluation.get("dataset"))
    parts = [
        el(
            "p",
            f"{data.get('images')} images and {data.get('objects')} objects of "
            f"{data.get('name')} ({data.get('format')}); labels ",
            el("span", str(data.get("sha256") or "")[:16], class_="hash"),
        )
    ]
    unreadable = mapping(evaluation.get("unreadable"))
    if unreadable:
        parts.append(note(f"{len(unreadable)} images could not be read and do not count."))
    return parts


def _curves(accuracy: Json) -> list[Html]:
    classes = [(c, [real(v) for v in listing(c.get("precision"))]) for c in _classes(accuracy)]
    length = max((len(points) for _, points in classes), default=0)
    classes = [(c, points) for c, points in classes if points and len(points) == length]
    if not classes:
        return []
    mean = [sum(points[i] for _, points in classes) / len(classes) for i in range(length)]
    curves = [Curve(f"mean of {len(classes)} classes", mean, strong=True)]
    most = sorted(classes, key=lambda item: -whole(item[0].get("objects")))[: len(COLOURS) - 1]
    curves += [Curve(f"{c.get('name')} ({c.get('objects')})", points) for c, points in most]
    return [
        el("h3", "Precision over recall, at IoU 0.50"),
        unit_chart(curves if len(classes) > 1 else curves[1:], "recall", "precision"),
    ]


def _per_class(evidence: Evidence) -> list[Html]:
    own = _classes(_accuracy(evidence.accuracy or {}))
    source = {str(c.get("name")): c for c in _classes(_accuracy(evidence.source_accuracy or {}))}
    present = sorted(
        (c for c in own if whole(c.get("objects"))),
        key=lambda c: (-c["objects"], str(c.get("name"))),
    )
    rows = []
    for item in present:
        other = source.get(str(item.get("name")))
        row: list[object] = [item.get("name"), item.get("objects"), item.get("detections")]
        row += [percent(item.get("ap")), percent(item.get("ap50"))]
        if source:
            row.append(signed(_difference(item.get("ap"), (other or {}).get("ap"))))
        rows.append(row)
    columns = ["class", "objects", "detections", "AP", "AP50"] + (
        ["AP difference"] if source else []
    )
    sheet = table(columns, rows, numbers=columns[1:])
    absent_ = len(own) - len(present)
    rest = note(f"{absent_} classes have no labelled object here.") if absent_ else None
    if len(present) <= _OPEN_CLASSES:
        return [el("h3", "Class by class"), join(sheet, rest)]
    return [
        el("h3", "Class by class"),
        fold(f"All {len(present)} classes with objects", sheet, rest),
    ]


def _confusion(content: Json) -> list[Html]:
    entries = [tuple(entry) for entry in content.get("entries", ())]
    if not entries:
        return []
    counts = {(row, column): int(count) for row, column, count in entries}
    weight: Counter[Any] = Counter()
    for (row, column), count in counts.items():
        for name in {row, column} - {None}:
            weight[name] += count
    shown = [name for name, _ in weight.most_common(_MATRIX_CLASSES)]
    parts = [
        el("h3", "Confusion matrix"),
        el(
            "p",
            f"Rows: what was labelled; columns: what was found, at scores above "
            f"{content.get('score')} and IoU from {content.get('iou')}."
            + (f" The {len(shown)} most frequent classes." if len(weight) > len(shown) else ""),
            class_="soft",
        ),
        _matrix(shown, counts),
    ]
    wrong = sorted(
        ((n, r, c) for (r, c), n in counts.items() if r != c and r is not None and c is not None),
        key=lambda item: (-item[0], str(item[1]), str(item[2])),
    )[:5]
    if wrong:
        text = "; ".join(f"{row} taken for {column}: {count}" for count, row, column in wrong)
        parts.append(note(f"Most often: {text}."))
    return parts


def _matrix(shown: Sequence[str], counts: Mapping[tuple[Any, Any], int]) -> Html:
    rows = [*shown, None]
    columns = [*shown, None]
    largest = max((counts.get((r, c), 0) for r in rows for c in columns), default=1) or 1
    head = el("tr", el("th", "labelled"), [el("th", "missed" if c is None else c) for c in columns])
    body = []
    for row in rows:
        cells = []
        for column in columns:
            count = counts.get((row, column), 0)
            heat = 0.75 * (count / largest) ** 0.5
            style = f"background:rgba(var(--heat),{heat:.2f})" if count else None
            cells.append(el("td", count or "", style=style))
        body.append(el("tr", el("th", "nothing there" if row is None else row), cells))
    sheet = el("table", el("thead", head), el("tbody", body), class_="matrix")
    return el("div", sheet, class_="scroll", tabindex="0")


def _accuracy(evaluation: Json) -> Json:
    return mapping(evaluation.get("accuracy"))


def _classes(accuracy: Json) -> list[dict[str, Any]]:
    return mappings(accuracy.get("classes"))


def _difference(own: object, source: object) -> float | None:
    if isinstance(own, int | float) and isinstance(source, int | float):
        return float(own) - float(source)
    return None
