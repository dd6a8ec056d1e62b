"""What a backend says it can do, and what is told of one that says nothing."""

from __future__ import annotations

from typing import Any

import pytest

from boxwright import backends
from boxwright.backends.base import BuildSpec
from boxwright.backends.capabilities import capabilities
from boxwright.errors import BackendUnavailableError, BuildError, InputError


@pytest.mark.parametrize("name", ["onnxruntime", "reference"])
def test_our_backends_build_what_they_say_they_can(name: str) -> None:
    found = capabilities(backends.get(name))
    assert found["precisions"] == ["fp32", "int8"]
    assert "cpu" in found["devices"]


@pytest.mark.parametrize("name", backends.names())
def test_a_precision_it_does_not_name_is_refused(name: str, tmp_path: Any) -> None:
    from tests.models import make_model

    backend = backends.get(name)
    if backend.unavailable() is not None:
        pytest.skip(f"{name} cannot work here")
    named = capabilities(backend)["precisions"]
    if named is None:
        pytest.skip(f"{name} names no precisions")
    for precision in {"fp32", "fp16", "int8"} - set(named):
        # INT8 is refused for the model, which is not quantised, before any backend is asked.
        with pytest.raises(InputError if precision == "int8" else BuildError):
            backends.build(
                make_model(),
                backend=name,
                precision=precision,  # type: ignore[arg-type]
                output=tmp_path / "x.bw",
            )


def test_a_backend_that_says_nothing_is_asked_for_fingerprints() -> None:
    class Silent:
        name = "silent"

        def fingerprint(self, spec: BuildSpec) -> str:
            if spec.device != "cpu":
                raise BackendUnavailableError("cpu only")
            return "silent"

    found = capabilities(Silent())  # type: ignore[arg-type]
    assert found == {"precisions": None, "devices": ["cpu"]}


def test_what_a_backend_says_is_taken_as_text() -> None:
    class Odd:
        def capabilities(self) -> dict[str, Any]:
            return {"devices": ("cuda:0",)}

    found = capabilities(Odd())  # type: ignore[arg-type]
    assert found == {"precisions": None, "devices": ["cuda:0"]}
