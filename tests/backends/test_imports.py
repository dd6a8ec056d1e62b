"""Every imported model on ONNX Runtime and OpenVINO, held to the reference backend.

The ordinary run has what a runner must do, for all of them; ``-m slow`` adds what concerns
engine files, for the trained ones. What does not depend on the model (caches, killed builds,
names of files) is shown for each backend on one small model, in its own tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest

from boxwright import backends
from boxwright.backends.comparison import compare_outputs
from boxwright.engine import Engine
from boxwright.model import Model
from tests.backends.conformance import EngineConformance, ModelConformance, reference_results
from tests.importers import catalogue
from tests.importers.catalogue import ENTRIES, Entry, Images, Sources

if TYPE_CHECKING:
    from boxwright.backends.base import Runner, Tensors

BACKENDS = ("onnxruntime", "openvino")

# A batch of two lets OpenVINO compile one model, and five images go through it in parts.
BATCH = (1, 1, 16)


@dataclass(frozen=True)
class Subject:
    """A model and what the reference backend computes with it, which takes longest."""

    entry: Entry
    model: Model
    pictures: Images
    expected: Tensors


_SUBJECT: dict[str, Subject] = {}


@pytest.fixture(scope="module")
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    entry: Entry = request.param
    if entry.name not in _SUBJECT:
        sources = Sources(request, tmp_path_factory.mktemp("source"))
        model = catalogue.load(entry, sources)
        pictures = catalogue.images(entry, sources, 5)
        found = Subject(entry, model, pictures, reference_results(model, pictures))
        _SUBJECT.clear()  # results of thousands of candidates need not all be kept
        _SUBJECT[entry.name] = found
    return _SUBJECT[entry.name]


@pytest.fixture(scope="module")
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if (reason := backends.available()[name]) is not None:
        pytest.skip(f"{name} cannot work here: {reason}")
    return name


@pytest.fixture(scope="module")
def model(subject: Subject) -> Model:
    return subject.model


@pytest.fixture(scope="module")
def pictures(subject: Subject) -> Images:
    return subject.pictures


@pytest.fixture(scope="module")
def expected(subject: Subject) -> Tensors:
    return subject.expected


@pytest.fixture(scope="module")
def engine(
    backend: str, model: Model, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    path = tmp_path_factory.mktemp("built") / "engine.bw"
    yield backends.build(model, backend=backend, output=path, batch=BATCH)
    path.unlink()


@pytest.fixture(scope="module")
def runner(engine: Engine) -> Iterator[Runner]:
    with backends.load(engine) as runner:
        yield runner


class _Imported(ModelConformance):
    """Tolerances for real networks: a hundred layers that add up in another order."""

    box_tolerance = 2e-2
    score_tolerance = 1e-4
    deviations: ClassVar[dict[str, float]] = {"boxes": 1, "scores": 1e-3}

    @pytest.fixture(autouse=True)
    def _entry(self, subject: Subject) -> None:
        self.quantised = subject.entry.quantised

    def assert_close(self, got: Tensors, expected: Tensors) -> None:
        assert set(got) == set(expected)
        for name, array in expected.items():
            atol = self.box_tolerance if name in ("boxes", "landmarks") else self.score_tolerance
            np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=atol, err_msg=name)

    def assert_agrees(self, got: Tensors, expected: Tensors) -> None:
        if self.quantised:  # a sum that rounds the other way goes on through all layers
            compare_outputs(expected, got, plan="the backend", judged="int8")
        else:
            self.assert_close(got, expected)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize(
    "subject",
    [pytest.param(e, id=e.name, marks=[pytest.mark.slow] if e.heavy else []) for e in ENTRIES],
    indirect=True,
)
class TestImported(_Imported):
    """All of them, with one runner for each."""


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize(
    "subject", [e for e in ENTRIES if e.real], indirect=True, ids=lambda entry: entry.name
)
class TestImportedEngines(_Imported, EngineConformance):
    """Of the trained ones also what builds and loads anew."""

    @pytest.fixture(autouse=True)
    def _backend(self, backend: str) -> None:
        self.backend = backend
