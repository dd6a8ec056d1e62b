"""Graphs that take four images at a time, no more and no fewer, are quantised and built too."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxwright import backends
from boxwright.backends.comparison import fixed_batch, sample_images
from boxwright.model import Model
from boxwright.probe import probe_of
from boxwright.quantize.job import Request, quantize_model
from boxwright.quantize.probing import ProbeCheck, choose_probe
from boxwright.quantize.rules import Rules
from tests.models import make_images, make_model

_RULES = Rules(min_channels=1, first=True)


def make_fixed(batch: int = 4) -> Model:
    model = make_model()
    graph = model.proto.graph
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return Model(model.proto, model.card)


def test_the_batch_of_a_graph_is_known() -> None:
    assert fixed_batch(make_fixed()) == 4
    assert fixed_batch(make_model()) is None
    assert len(sample_images(make_fixed())) == 4
    assert len(sample_images(make_model())) == 1


def test_the_image_to_keep_is_the_one_chosen_without_a_fixed_batch(images: list[Path]) -> None:
    chosen = choose_probe(make_fixed(), images)
    expected = choose_probe(make_model(), images)
    assert chosen is not None
    assert expected is not None
    assert (chosen == expected).all()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("probe", [True, False])
def test_it_is_quantised_and_built(
    images: list[Path], tmp_path: Path, backend: str, probe: bool
) -> None:
    if backends.get(backend).unavailable() is not None:
        pytest.skip(f"{backend} is not installed")
    model = make_fixed()
    made = quantize_model(
        model, Request(calibration=images, method="minmax", rules=_RULES, probe=probe)
    ).model
    assert (probe_of(made.proto, made.card) is not None) == probe
    with backends.load(made, backend=backend, precision="int8") as runner:
        ProbeCheck(backend)(made, runner)
    engine = backends.build(
        made,
        output=tmp_path / "fixed.bw",
        backend=backend,
        precision="int8",
    )
    with backends.load(engine, backend=backend) as runner:
        assert len(runner.infer({"images": make_images(model, 4)})["boxes"]) == 4
