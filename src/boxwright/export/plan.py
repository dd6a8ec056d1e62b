"""A bare plan, as its runtime reads it, and a JSON file with what one has to know of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from boxwright._version import __version__
from boxwright.backends.plans import Fingerprint, explain_misfit
from boxwright.backends.selection import choose
from boxwright.builds import build_of
from boxwright.engine import Engine
from boxwright.errors import InputError, NoPlanError
from boxwright.export.registry import Exported, Request
from boxwright.files import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = 1


class PlanTarget:
    """See :class:`boxwright.export.registry.Target`."""

    suffix = ".plan"

    def paths(self, output: Path) -> tuple[Path, ...]:
        """The plan, and its description beside it."""
        return output, output.with_name(f"{output.name}.json")

    def write(self, request: Request) -> Exported:
        """The plan that was asked for, or the one that runs on this machine."""
        engine = request.source
        if not isinstance(engine, Engine):
            raise InputError(
                f"{engine.card.name} is a model, and only engines hold plans: build it first, "
                "boxwright build"
            )
        plan = request.plan or _plan_for_here(engine, request.device)
        engine.plan_size(plan)  # refuses one that is not there, by name
        description = describe(engine, plan)
        text = json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        main, beside = self.paths(request.output)
        pieces = engine.plan_pieces(plan)
        # Both are whole before either takes its name; the plan comes last.
        with atomic_write(main) as stream:
            stream.writelines(pieces)
            with atomic_write(beside) as described:
                described.write(text.encode())
        return Exported("plan", (main, beside), {"plan": plan, "sha256": engine.plan_sha256(plan)})


def describe(engine: Engine, plan: str) -> dict[str, Any]:
    """What a program needs besides a bare plan to run it and to read its results.

    Raises:
        NoPlanError: The engine has no such plan.
        EngineError: Its model is damaged.
    """
    parts = Fingerprint.parse(plan)
    build = build_of(engine.receipt, plan)
    graph = engine.model().proto.graph
    weights = {tensor.name for tensor in graph.initializer}
    return {
        "boxwright_plan": SCHEMA,
        "boxwright": __version__,
        "fingerprint": plan,
        "bytes": engine.plan_size(plan),
        "sha256": engine.plan_sha256(plan),
        "model_sha256": engine.model_sha256,
        "backend": None if parts is None else parts.backend,
        "version": None if parts is None else parts.version,
        "device": None if parts is None else parts.device,
        "precision": None if parts is None else parts.precision,
        "inputs": [_tensor(value) for value in graph.input if value.name not in weights],
        "outputs": [_tensor(value) for value in graph.output],
        "build": None if build is None else dict(build.facts),
        "card": json.loads(engine.card.to_json()),
    }


def _plan_for_here(engine: Engine, device: str) -> str:
    from boxwright.backends import registry

    choice = choose(engine, device=device)
    if choice.plan is not None:
        return choice.plan
    held = ", ".join(engine.plans) or "none"
    advice = f"name one with --plan, or add one for this machine: boxwright build {engine.path}"
    backend = registry.get(choice.backend)
    if backend.unavailable() is not None or not engine.plans:
        raise NoPlanError(
            f"{engine.path} holds no plan that runs on this machine; it holds: {held}. {advice}"
        )
    raise NoPlanError(f"{explain_misfit(backend, engine, choice.spec)} {advice}")


def _tensor(value: Any) -> dict[str, Any]:
    """Name, type and shape of a graph's input or output; a free extent is its name."""
    from onnx import helper

    tensor = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return {
        "name": value.name,
        "type": str(dtype),
        "shape": [
            extent.dim_value if extent.HasField("dim_value") else extent.dim_param or None
            for extent in tensor.shape.dim
        ],
    }
