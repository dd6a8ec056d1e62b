"""TensorRT-RTX really builds every imported model, for a GPU that need not be there.

The lowest optimisation level, one GPU and small batches: what is refused is refused at any
level. That every convolution of a graph is in the engine once is read in the build's log.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from boxwright import backends
from boxwright.errors import BuildError
from boxwright.graph.compare import compare
from boxwright.graph.diagnose import diagnose, is_accepted
from boxwright.graph.legalise import legalise
from boxwright.graph.targets import find_target
from boxwright.model import Model
from tests.backends.tensorrt.rtx import (
    BuiltNetwork,
    build_with_log,
    check_bindings,
    check_counts,
    check_nodes,
    check_types,
)
from tests.importers import catalogue
from tests.importers.catalogue import ENTRIES, Entry, Sources

_REASON = backends.available()["tensorrt-rtx"]
pytestmark = pytest.mark.skipif(
    _REASON is not None, reason=f"TensorRT-RTX cannot build here: {_REASON}"
)

QUICK = {"compute_capabilities": "8.6", "optimization_level": 0, "profiles": [[1, 1, 2]]}
REFUSED = [entry for entry in ENTRIES if entry.refused is not None]


def named(entry: Entry) -> str:
    return entry.name


@pytest.fixture
def sources(request: pytest.FixtureRequest, tmp_path: Path) -> Sources:
    return Sources(request, tmp_path)


def check_build(model: Model, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, log = build_with_log(model, output, monkeypatch, **QUICK)
    network = BuiltNetwork(model, engine, log)
    check_bindings(network)
    # An activation of several nodes that is not fused is a kernel named after its convolution,
    # too; that no convolution is doubled shows in the kernels' kinds.
    check_nodes(network, once=False)
    check_counts(network)
    check_types(network)


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.refused is None], ids=named)
def test_it_builds(
    entry: Entry, sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = catalogue.load(entry, sources)
    check_build(model, tmp_path / "engine.bw", monkeypatch)
    # The doctor says the same beforehand.
    assert is_accepted(diagnose(model.proto, find_target("tensorrt-rtx")))


@pytest.mark.parametrize("entry", REFUSED, ids=named)
def test_it_is_refused_as_the_doctor_says(entry: Entry, sources: Sources, tmp_path: Path) -> None:
    assert entry.refused is not None
    message, code = entry.refused
    model = catalogue.load(entry, sources)
    output = tmp_path / "engine.bw"
    with pytest.raises(BuildError, match=message) as caught:
        backends.build(
            model, backend="tensorrt-rtx", output=output, options={**QUICK, "isolate": False}
        )
    assert "`boxwright inspect MODEL --for tensorrt-rtx@" in str(caught.value)
    assert not output.exists()
    found = diagnose(model.proto, find_target("tensorrt-rtx"))
    assert [(f.code, f.cure) for f in found if f.severity == "error"] == [(code, entry.cure)]


@pytest.mark.parametrize("entry", REFUSED, ids=named)
def test_it_builds_when_it_is_cured(
    entry: Entry, sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And computes the same to the bit."""
    model = catalogue.load(entry, sources)
    cured, reports = legalise(model.proto, find_target("tensorrt-rtx"))
    assert entry.cure in [report.name for report in reports]
    assert compare(model.proto, cured).difference == 0
    check_build(Model(cured, model.card), tmp_path / "engine.bw", monkeypatch)


def test_the_table_has_every_source() -> None:
    """And nothing twice."""
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)
    assert {name.split("-")[0] for name in names} == {
        *("darknet", "caffe", "mxnet", "onnx", "pytorch", "tensorflow")
    }
