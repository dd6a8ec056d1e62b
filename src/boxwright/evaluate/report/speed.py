"""How fast: charts, percentiles, and where the time goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from boxwright.evaluate.report.access import listing, mapping, mappings, real, whole
from boxwright.evaluate.report.evidence import Evidence
from boxwright.evaluate.report.layout import absent, note, section
from boxwright.evaluate.report.markup import Html, el, fold, inline_svg, table
from boxwright.evaluate.report.numbers import number
from boxwright.evaluate.report.svg import COLOURS

Json = Mapping[str, Any]
_STAGES = ("decode", "resize", "network", "postprocess")


def render(evidence: Evidence) -> Html:
    """The section."""
    intro = (
        "Network: pixels at input size to outputs. File to boxes: decoding, resizing, the "
        "network and postprocessing, one batch after the other."
    )
    command = f"boxwright bench {evidence.engine} --images YOUR_IMAGES/"
    if evidence.speed is None:
        return section("How fast", intro, absent("Nothing was timed.", command))
    speed = evidence.speed
    parts: list[object] = [_noise(speed)]
    drawn = [inline_svg(svg, f"chart-{name}") for name, svg in evidence.charts.items()]
    parts.append(el("div", drawn, class_="charts") if drawn else None)
    parts += [el("h3", "Latency and throughput"), _percentiles(speed)]
    parts += [el("h3", "Where the time goes"), _stages(speed), _ratios(speed), _peers(speed)]
    parts += [note(str(text)) for text in listing(speed.get("notes"))]
    return section("How fast", intro, parts)


def measurements(speed: Json | None) -> list[dict[str, Any]]:
    """The batches, whether a benchmark or a receipt holds them."""
    held = speed or {}
    return mappings(held.get("measurements")) or mappings(held.get("batches"))


def first_batch(speed: Json | None) -> Json | None:
    """The subject at its smallest batch size."""
    own = [item for item in measurements(speed) if _is_subject(speed or {}, item)]
    return min(own, key=lambda item: whole(item.get("batch"), 1), default=None)


def best_throughput(speed: Json | None) -> float | None:
    """The subject's largest end-to-end throughput."""
    own = [item for item in measurements(speed) if _is_subject(speed or {}, item)]
    values = [item.get("end_to_end_images_per_second") for item in own]
    return max((float(v) for v in values if isinstance(v, int | float)), default=None)


def _is_subject(speed: Json, item: Json) -> bool:
    return item.get("contender") in (None, speed.get("subject"))


def _noise(speed: Json) -> Html | None:
    reasons = listing(mapping(speed.get("noise")).get("reasons"))
    if not reasons:
        return None
    return note("The machine was not quiet: " + "; ".join(map(str, reasons)) + ".")


def _percentiles(speed: Json) -> Html:
    rows = []
    for item in measurements(speed):
        for what, key, rate in (
            ("network", "network_ms", "images_per_second"),
            ("file to boxes", "end_to_end_ms", "end_to_end_images_per_second"),
        ):
            times = mapping(item.get(key))
            rows.append(
                (
                    str(item.get("contender") or "this engine"),
                    item.get("batch"),
                    what,
                    *(number(times.get(name)) for name in ("min", "p50", "p90", "p99")),
                    number(item.get(rate)),
                    times.get("count", "–"),
                )
            )
    columns = ("who", "batch", "what", "min ms", "p50 ms", "p90 ms", "p99 ms", "images/s", "runs")
    numbers = ("batch", *columns[3:])
    return table(columns, rows, numbers=numbers, caption="milliseconds are of a whole batch")


def _stages(speed: Json) -> Html:
    rows = []
    for item in measurements(speed):
        batch = whole(item.get("batch")) or 1
        medians = {k: _median(v) / batch for k, v in mapping(item.get("stages_ms")).items()}
        total = sum(medians.values())
        if not total:
            continue
        bar = el(
            "div",
            [
                el("i", style=f"width:{100 * medians.get(s, 0) / total:.2f}%;background:{c}")
                for s, c in zip(_STAGES, COLOURS, strict=False)
            ],
            class_="bar",
        )
        who = str(item.get("contender") or "this engine")
        rows.append((who, batch, bar, *(number(medians.get(s)) for s in _STAGES), number(total)))
    key = [
        el("span", el("i", style=f"background:{c}"), s)
        for s, c in zip(_STAGES, COLOURS, strict=False)
    ]
    columns = ("who", "batch", "share", *_STAGES, "sum")
    caption = "median milliseconds an image"
    sheet = table(columns, rows, numbers=("batch", *_STAGES, "sum"), caption=caption)
    return el("div", el("div", key, class_="key"), sheet)


def _median(value: object) -> float:
    return max(real(value.get("p50") if isinstance(value, dict) else value), 0.0)


def _ratios(speed: Json) -> list[Html]:
    ratios = mappings(speed.get("ratios"))
    if not ratios:
        return []
    rows = [
        (r.get("peer"), r.get("batch"), _interval(r.get("network")), _interval(r.get("end_to_end")))
        for r in ratios
    ]
    return [
        el("h3", "Beside its peers"),
        table(
            ("peer", "batch", "network", "file to boxes"),
            rows,
            numbers=("batch", "network", "file to boxes"),
            caption="times as fast as the peer, with the interval of 95 % confidence; "
            "above 1 this engine is faster",
        ),
    ]


def _interval(value: object) -> str:
    if not isinstance(value, dict):
        return "–"
    low, high = number(value.get("low")), number(value.get("high"))
    return f"{number(value.get('median'))} ({low} to {high})"


def _peers(speed: Json) -> Html | None:
    peers = mappings(speed.get("participants"))
    if len(peers) < 2:
        return None
    rows = []
    for peer in peers:
        agreement = peer.get("agreement")
        found = "–"
        if isinstance(agreement, dict):
            found = "yes" if agreement.get("agrees") else f"NO: {agreement.get('reason')}"
        facts = (peer.get("backend"), peer.get("precision"), peer.get("threads") or "–")
        rows.append((peer.get("name"), *facts, found))
    columns = ("who", "runtime", "precision", "threads", "finds the same")
    return fold("Who took part", table(columns, rows, numbers=("threads",)))
