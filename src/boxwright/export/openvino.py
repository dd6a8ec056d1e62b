"""OpenVINO's intermediate representation, converted by OpenVINO itself and compared.

The files are kept only if OpenVINO runs them to the same results as ONNX Runtime runs
the model. The card is in the IR's runtime information, under ``boxwright/card``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.engine import Engine
from boxwright.errors import BuildError, InputError
from boxwright.export.registry import Exported, Request, refuse_plan
from boxwright.extras import require
from boxwright.files import atomic_write
from boxwright.model import IMAGES, Model

if TYPE_CHECKING:
    from collections.abc import Callable

    from boxwright.backends.base import Tensors

# Both compute in float32; kernels add up in different orders. Measured 1e-7 to 1e-5.
MAX_NRMSE = 1e-3
# One image, and a batch: the batch must have stayed free.
_BATCHES = (1, 3)
_STEPS = 3
_CHUNK = 1 << 20


class OpenVinoTarget:
    """See :class:`boxwright.export.registry.Target`."""

    suffix = ".xml"

    def paths(self, output: Path) -> tuple[Path, ...]:
        """The graph, and its weights beside it."""
        if output.suffix.lower() != self.suffix:
            raise InputError(f"OpenVINO's graph must be named .xml, got {output}")
        return output, output.with_suffix(".bin")

    def write(self, request: Request) -> Exported:
        """Convert, compare, then write both files."""
        refuse_plan(request, "openvino")
        openvino = require("openvino", extra="openvino")
        source = request.source
        model = source.model() if isinstance(source, Engine) else source
        # Not beside the output: a killed process must leave nothing there.
        with tempfile.TemporaryDirectory(prefix="boxwright-") as folder:
            made = Path(folder) / "model.xml"
            request.progress("convert", 0, _STEPS)
            _convert(openvino, model, made)
            request.progress("compare with ONNX Runtime", 1, _STEPS)
            compared = _compare(openvino, model, made, request.seed)
            request.progress("write", 2, _STEPS)
            paths = self.paths(request.output)
            _place(made, *paths)
        request.progress("write", _STEPS, _STEPS)
        facts = {"openvino": openvino.__version__, "images": sum(_BATCHES), "nrmse": compared}
        return Exported("openvino", paths, facts)


def _convert(openvino: Any, model: Model, made: Path) -> None:
    portable = made.with_suffix(".onnx")
    model.save(portable)
    try:
        converted = openvino.convert_model(portable)
        converted.set_rt_info(model.card.to_json(), ["boxwright", "card"])
        openvino.save_model(converted, made, compress_to_fp16=False)
    except Exception as error:  # its exceptions share no base but Exception
        raise BuildError(f"OpenVINO cannot convert the model: {_line(error)}") from error


def _compare(openvino: Any, model: Model, made: Path, seed: int) -> dict[str, float]:
    """The largest nrmse of each output over a few random batches.

    Raises:
        BuildError: OpenVINO cannot run what it made, or computes something else.
    """
    from boxwright import backends
    from boxwright.backends.comparison import allowed_nrmse

    quantised = model.quantized
    height, width = model.card.input_size
    random = np.random.default_rng(seed)
    worst: dict[str, float] = {}
    with backends.load(model, backend="onnxruntime", device="cpu") as reference:
        run = _runner(openvino, made)
        for batch in _BATCHES:
            images = random.integers(0, 256, (batch, height, width, 3), np.uint8)
            expected = reference.infer({IMAGES: images})
            for name, distance in _distances(expected, run({IMAGES: images})).items():
                limit = allowed_nrmse(expected[name], MAX_NRMSE) if quantised else MAX_NRMSE
                if not distance <= limit:
                    raise BuildError(
                        f"what OpenVINO converted computes another {name!r} than the model: "
                        f"nrmse {distance:.2g}, at most {limit:.2g} expected; nothing was written"
                    )
                worst[name] = max(distance, worst.get(name, 0.0))
    return worst


def _runner(openvino: Any, made: Path) -> Callable[[Tensors], Tensors]:
    """What runs a converted model on the processor."""
    try:
        # Processors with bfloat16 use it unless told otherwise.
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(made, "CPU", exact)
    except Exception as error:  # as above
        raise BuildError(f"OpenVINO cannot load what it converted: {_line(error)}") from error

    def run(feed: Tensors) -> Tensors:
        try:
            results = compiled(feed)
            return {output.get_any_name(): np.asarray(results[output]) for output in results}
        except Exception as error:  # as above
            raise BuildError(f"OpenVINO cannot run what it converted: {_line(error)}") from error

    return run


def _distances(expected: Tensors, got: Tensors) -> dict[str, float]:
    found = {}
    for name, want in expected.items():
        if name not in got:
            raise BuildError(f"what OpenVINO converted has no output {name!r}, but {sorted(got)}")
        have = got[name]
        if have.shape != want.shape or have.dtype != want.dtype:
            raise BuildError(
                f"what OpenVINO converted gives {name!r} as {have.dtype} {list(have.shape)}, "
                f"the model as {want.dtype} {list(want.shape)}; nothing was written"
            )
        a, b = want.astype(np.float64), have.astype(np.float64)
        # Random weights may overflow; then both must, at the same places.
        finite = np.isfinite(a)
        if not np.array_equal(finite, np.isfinite(b)):
            found[name] = float("inf")
            continue
        norm = float(np.linalg.norm(a[finite]))
        error = float(np.linalg.norm(b[finite] - a[finite]))
        found[name] = error / norm if norm else error
    return found


def _place(made: Path, graph: Path, weights: Path) -> None:
    """Put both files in place, the graph last: without it the weights are nobody's."""
    with atomic_write(graph) as graph_stream:
        graph_stream.write(made.read_bytes())
        with atomic_write(weights) as weight_stream:
            with made.with_suffix(".bin").open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    weight_stream.write(chunk)
            # A graph of an earlier export must never be found with the new weights.
            Path(os.path.realpath(graph)).unlink(missing_ok=True)


def _line(error: Exception) -> str:
    """OpenVINO's message in one line; of a long one the summary at its end."""
    return " ".join(str(error).rpartition("Summary:")[2].split())[:600]
