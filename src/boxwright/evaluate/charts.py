"""Charts of a benchmark as SVG, drawn with matplotlib (the ``report`` extra).

They stand on a transparent ground with greys and colours that read on white and on
near-black alike. The colours are Okabe and Ito's, which the colour-blind can tell apart,
the darkest and lightest left out. The same result gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.evaluate.stages import STAGES
from boxwright.extras import require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from boxwright.evaluate.speed import BenchmarkResult, Measurement

# Okabe and Ito, "Color Universal Design" (2008).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_INK = "#7a7a7a"  # 4.3:1 on white, 4.4:1 on #111
_WIDTH = 7.2
_HASH_SALT = "boxwright"
_CURVE_POINTS = 200

_STYLE = {
    "svg.hashsalt": _HASH_SALT,
    # Text stays text: small, searchable, in the reader's own font.
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 10,
    # Names of files are no formulas, whatever dollars are in them.
    "text.parse_math": False,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.titlecolor": _INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _INK,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def check_available() -> None:
    """Raise MissingExtraError where matplotlib is not installed."""
    require("matplotlib", "report")


def charts_of(result: BenchmarkResult) -> dict[str, str]:
    """Every chart that a result has data for: name to SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    charts = {
        "throughput": throughput(result),
        "stages": stage_breakdown(result),
        "latency": latency_distribution(result),
    }
    if len(result.participants) > 1:
        charts["acceleration"] = acceleration(result)
    return charts


def throughput(result: BenchmarkResult) -> str:
    """Images per second of the network for each batch size, a bar per contender."""
    names, batches = _names(result), result.batches
    with _figure(_height(3.2, len(names))) as (figure, axes):
        values = [
            [_value(result.of(name, batch), "images_per_second") for batch in batches]
            for name in names
        ]
        _grouped_bars(axes, names, batches, values, "{:.1f}")
        axes.set_title("Throughput by batch size (network, synchronous)", pad=12)
        axes.set_ylabel("images/s")
        return _finish(figure, axes, len(names))


def acceleration(result: BenchmarkResult, baseline: str | None = None) -> str:
    """How many times the baseline's throughput each contender reaches.

    Args:
        result: Of a benchmark with two contenders or more.
        baseline: Name of a contender; by default PyTorch in FP16 where it took part, as
            is customary, else the subject.
    """
    base = baseline or default_baseline(result)
    names, batches = _names(result), result.batches
    with _figure(_height(3.2, len(names))) as (figure, axes):
        values = []
        for name in names:
            row = []
            for batch in batches:
                own = _value(result.of(name, batch), "images_per_second")
                row.append(own / _value(result.of(base, batch), "images_per_second"))
            values.append(row)
        _grouped_bars(axes, names, batches, values, "{:.2f}×")
        axes.axhline(1, color=_INK, linewidth=1, linestyle="--", zorder=0)
        axes.set_title(f"Throughput relative to {base} (network)", pad=12)
        axes.set_ylabel("times as many images/s")
        return _finish(figure, axes, len(names))


def default_baseline(result: BenchmarkResult) -> str:
    """Whom the acceleration chart compares with."""
    for item in result.participants:
        if item.backend.startswith("torch") and item.precision == "fp16":
            return item.name
    return result.subject.name


def stage_breakdown(result: BenchmarkResult) -> str:
    """Median milliseconds an image spends in each stage, a bar per contender and batch."""
    items = result.measurements
    with _figure(1.5 + 0.42 * len(items)) as (figure, axes):
        places = np.arange(len(items))[::-1]
        left = np.zeros(len(items))
        shares = {
            name: np.array([item.stages[name].p50 / item.batch for item in items])
            for name in STAGES
        }
        longest = float(sum(shares.values()).max())  # type: ignore[union-attr]
        for colour, name in zip(COLOURS, STAGES, strict=False):
            values = shares[name]
            axes.barh(places, values, 0.66, left=left, color=colour, label=name)
            for place, value, start in zip(places, values, left, strict=True):
                if value > 0.07 * longest:
                    _inside(axes, start + value / 2, place, f"{value:.1f}")
            left += values
        for place, total in zip(places, left, strict=True):
            axes.annotate(
                f"{total:.1f}", (total, place), (4, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks(places, [f"{_short(i.contender)}, batch {i.batch}" for i in items])
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 1.1 * longest)
        axes.set_xlabel("ms an image, from file bytes to boxes (medians)")
        axes.set_title("Where the time goes", pad=12)
        return _finish(figure, axes, len(STAGES))


def latency_distribution(result: BenchmarkResult) -> str:
    """Share of network runs that took no longer than a time, at the smallest batch size."""
    batch = min(result.batches)
    found = [m for name in _names(result) if (m := result.of(name, batch)) is not None]
    with _figure(_height(3.2, len(found))) as (figure, axes):
        for colour, item in zip(COLOURS * len(found), found, strict=False):
            values = np.sort(item.network_samples)
            share = np.arange(1, len(values) + 1) / len(values)
            if len(values) > _CURVE_POINTS:
                share = np.linspace(1 / len(values), 1, _CURVE_POINTS)
                values = np.quantile(values, share, method="inverted_cdf")
            label = f"{_short(item.contender)}: p50 {item.network.p50:.2f} ms"
            axes.step(values, share, where="post", color=colour, linewidth=1.8, label=label)
        axes.set_ylim(0, 1.02)
        axes.set_yticks((0, 0.5, 0.9, 1), ("0 %", "50 %", "90 %", "100 %"))
        axes.set_xlim(left=0)
        axes.grid(visible=True)
        axes.set_xlabel("ms a batch, at most")
        axes.set_ylabel("share of runs")
        axes.set_title(f"Latency of the network, batch {batch}", pad=12)
        return _finish(figure, axes, 2)


def _grouped_bars(
    axes: Any,
    names: Sequence[str],
    batches: Sequence[int],
    values: Sequence[Sequence[float]],
    form: str,
) -> None:
    width = 0.8 / len(names)
    places = np.arange(len(batches))
    # A label is about as wide as its bar at most; smaller where bars are many.
    size = 9 if len(names) * len(batches) <= 12 else 7
    for index, (name, row) in enumerate(zip(names, values, strict=True)):
        offset = (index - (len(names) - 1) / 2) * width
        colour = COLOURS[index % len(COLOURS)]
        bars = axes.bar(places + offset, row, 0.92 * width, color=colour, label=_short(name))
        axes.bar_label(bars, [form.format(value) for value in row], padding=2, fontsize=size)
    axes.set_xticks(places, [f"batch {batch}" for batch in batches])
    axes.tick_params(axis="x", length=0)
    axes.margins(y=0.12)
    axes.grid(visible=True, axis="y")
    axes.set_axisbelow(True)


def _inside(axes: Any, x: float, y: float, text: str) -> None:
    """A number on a bar, in black: every colour of `COLOURS` is light enough for it."""
    axes.text(x, y, text, ha="center", va="center", fontsize=8, color="#000000")


def _names(result: BenchmarkResult) -> list[str]:
    return [item.name for item in result.participants]


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:25]}..."


def _value(item: Measurement | None, name: str) -> float:
    return float("nan") if item is None else float(getattr(item, name))


def _height(least: float, entries: int) -> float:
    return least + 0.2 * -(-entries // 3)


@contextmanager
def _figure(height: float) -> Iterator[tuple[Any, Any]]:
    """A figure of its own, outside pyplot's global state, drawn in our style."""
    matplotlib = require("matplotlib", "report")
    figures = require("matplotlib.figure", "report")
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE}):
        figure = figures.Figure(figsize=(_WIDTH, height), layout="constrained")
        yield figure, figure.add_subplot()


def _finish(figure: Any, axes: Any, columns: int) -> str:
    """The figure as SVG text, its legend below, without a date or a program's version."""
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        figure.legend(handles, labels, loc="outside lower left", ncols=min(columns, 4))
    content = io.StringIO()
    figure.savefig(
        content,
        format="svg",
        metadata={"Date": None, "Creator": None, "Type": None, "Format": None},
    )
    return _trim(content.getvalue())


def _trim(svg: str) -> str:
    """What a page needs of it: no XML prologue, no names that nothing refers to.

    Matplotlib calls the parts of every figure alike, and a page may hold several.
    """
    svg = svg[svg.index("<svg") :]
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', svg))
    return re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in used else "", svg)
