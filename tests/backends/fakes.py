"""A backend whose version, machine and compatibility a test chooses."""

from __future__ import annotations

import os
import time
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

from boxwright.backends import registry
from boxwright.backends.onnxruntime import OnnxRuntimeBackend
from boxwright.backends.plans import Fingerprint, Plan
from boxwright.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from boxwright.backends.base import BuildSpec
    from boxwright.model import Model


class FakeBackend(OnnxRuntimeBackend):
    """ONNX Runtime's plans under fingerprints of our own; plans are compiled for any precision.

    ``$FAKE_VERSION`` and ``$FAKE_GPU`` make the machine; ``$FAKE_LOG`` names a file that
    gets a line for each compilation, and ``$FAKE_SECONDS`` is what one takes.
    """

    name = "fake"

    def fingerprint(self, spec: BuildSpec) -> str:
        version, gpu = os.environ.get("FAKE_VERSION", "1"), os.environ.get("FAKE_GPU", "sm90")
        return str(Fingerprint.of(self.name, version, gpu, spec))

    def compile(self, model: Model, spec: BuildSpec, progress: ProgressCallback = silent) -> Plan:
        import dataclasses

        if log := os.environ.get("FAKE_LOG"):
            with open(log, "a") as stream:
                stream.write(f"{spec.precision}\n")
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
        return super().compile(model, dataclasses.replace(spec, precision="fp32"), progress)

    def load(self, source: Any, spec: BuildSpec, progress: ProgressCallback = silent) -> Any:
        from boxwright.backends.onnxruntime.session import (
            OnnxRuntimeRunner,
            open_session,
            session_options,
        )
        from boxwright.backends.plans import load_engine
        from boxwright.errors import BuildError, EngineError

        def open_plan(data: bytes) -> OnnxRuntimeRunner:
            try:
                return OnnxRuntimeRunner(
                    open_session(data, session_options({}, optimise=False), "cpu")
                )
            except BuildError as error:
                raise EngineError(str(error)) from error

        return load_engine(self, source, spec, open_plan, progress)


class MatchingBackend(FakeBackend):
    """Plans of a version run on any later one of the same major version."""

    name = "matching"

    def fits(self, plan_fingerprint: str, spec: BuildSpec) -> str | None:
        plan = Fingerprint.parse(plan_fingerprint)
        here = Fingerprint.parse(self.fingerprint(spec))
        assert plan is not None
        assert here is not None
        if plan.device != here.device:
            return f"device {plan.device} (here {here.device})"
        old, new = plan.version.split("."), here.version.split(".")
        return None if old[0] == new[0] and old <= new else f"version {plan.version}"


class AbsentBackend(FakeBackend):
    name = "absent"

    def unavailable(self) -> str | None:
        return os.environ.get("ABSENT", "its runtime is not installed")


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the fakes backends like any other."""
    points = [
        EntryPoint(cls.name, f"{__name__}:{cls.__name__}", registry.GROUP)
        for cls in (FakeBackend, MatchingBackend, AbsentBackend)
    ]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points)


def compiled(log: Path) -> int:
    """How often something was compiled."""
    return len(log.read_text().splitlines()) if log.exists() else 0
