"""The charts of a benchmark: what they show, that they repeat, and that they fit a page."""

from __future__ import annotations

import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from boxwright.errors import MissingExtraError
from boxwright.evaluate import charts
from boxwright.evaluate.machine import Noise
from boxwright.evaluate.speed import BenchmarkResult, Measurement, Participant
from boxwright.evaluate.stages import STAGES
from boxwright.evaluate.timing import Summary, WarmUp


def _measurement(name: str, batch: int, network: float, count: int = 50) -> Measurement:
    samples = tuple(network + 0.01 * n for n in range(count))
    stages = dict(zip(STAGES, (2.0 * batch, 1.0 * batch, network, 0.5), strict=True))
    return Measurement(
        name,
        batch,
        Summary.of([network]),
        Summary.of([network + 4]),
        {stage: Summary.of([value]) for stage, value in stages.items()},
        (network,),
        (network + 4,),
        samples,
        WarmUp(10, stable=True),
    )


def _result(*names: str, precision: str = "fp32", backend: str = "onnxruntime") -> BenchmarkResult:
    participants = [Participant(name, "engine", "onnxruntime", "fp32", 2) for name in names[:-1]]
    participants.append(Participant(names[-1], "engine", backend, precision, 2))
    measurements = [
        _measurement(name, batch, 10.0 * 2**index * batch)
        for batch in (1, 4)
        for index, name in enumerate(names)
    ]
    noise = Noise(0.0, None, None, ())
    return BenchmarkResult("now", tuple(participants), tuple(measurements), (), {}, {}, {}, noise)


def _texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return ["".join(node.itertext()) for node in root.iter() if node.tag.endswith("}text")]


def test_every_chart_repeats_exactly_is_sound_xml_and_small() -> None:
    result = _result("ours <b> & co", "theirs")
    found = charts.charts_of(result)
    assert set(found) == {"throughput", "stages", "latency", "acceleration"}
    assert found == charts.charts_of(result)
    for svg in found.values():
        ElementTree.fromstring(svg)
        assert svg.startswith("<svg")
        assert len(svg) < 40_000
        assert not re.search(r"<dc:date|http://matplotlib|\bv?3\.\d+\.\d+", svg)
        # The ground is the page's, so that a dark page stays dark.
        assert "#ffffff" not in svg
        used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', svg))
        assert set(re.findall(r' id="([^"]+)"', svg)) == used


def test_one_contender_has_nothing_to_be_compared_with() -> None:
    assert set(charts.charts_of(_result("alone"))) == {"throughput", "stages", "latency"}


def test_bars_are_labelled_with_their_numbers() -> None:
    texts = _texts(charts.throughput(_result("ours", "theirs")))
    assert {"batch 1", "batch 4", "100.0", "50.0", "images/s", "ours", "theirs"} <= set(texts)
    texts = _texts(charts.stage_breakdown(_result("ours", "theirs")))
    # 2 + 1 + 10 + 0.5 an image, of which the network and its neighbour have room for text.
    assert {"13.5", "10.0", "ours, batch 1", "theirs, batch 4", *STAGES} <= set(texts)
    texts = _texts(charts.latency_distribution(_result("ours", "theirs")))
    assert {"ours: p50 10.00 ms", "theirs: p50 20.00 ms", "90 %"} <= set(texts)


def test_acceleration_is_relative_to_pytorch_fp16_where_it_took_part() -> None:
    texts = _texts(charts.acceleration(_result("ours", "theirs")))
    assert {"1.00×", "0.50×", "Throughput relative to ours (network)"} <= set(texts)
    custom = _result("ours", "torch fp16", backend="torch 2.11", precision="fp16")
    assert charts.default_baseline(custom) == "torch fp16"
    assert {"2.00×", "1.00×"} <= set(_texts(charts.acceleration(custom)))
    other = _result("ours", "torch", backend="torch 2.11", precision="fp32")
    assert charts.default_baseline(other) == "ours"
    assert "2.00×" in _texts(charts.acceleration(other, baseline="torch"))


def test_many_samples_make_no_larger_curve() -> None:
    few, many = _result("a"), _result("a")
    long = _measurement("a", 1, 10.0, count=50_000)
    many = BenchmarkResult(many.created, many.participants, (long,), (), {}, {}, {}, many.noise)
    assert len(charts.latency_distribution(many)) < 8 * len(charts.latency_distribution(few))
    assert len(charts.latency_distribution(many)) < 40_000


def _luminance(colour: str) -> float:
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def _contrast(first: str, second: str) -> float:
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_text_can_be_read_on_white_on_black_and_on_bars() -> None:
    for ground in ("#ffffff", "#111111"):
        assert _contrast(charts._INK, ground) > 4
    for colour in charts.COLOURS:
        assert _contrast("#000000", colour) > 4


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"boxwright\[report\]"):
        charts.charts_of(_result("a", "b"))


def test_dollars_in_a_name_are_no_formula() -> None:
    names = (r"a$\frac{$.bw", "b$x$")
    for chart in charts.charts_of(_result(*names)).values():
        assert "x" not in _texts(chart)  # as it would stand in a formula
    assert set(names) <= set(_texts(charts.throughput(_result(*names))))
