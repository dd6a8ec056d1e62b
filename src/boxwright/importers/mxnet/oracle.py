"""An import beside MXNet itself: the same pixels, and the largest difference."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import ImportFailedError, MissingExtraError
from boxwright.importers.mxnet.symbol import Entry, Symbol
from boxwright.importers.registry import Check, ImportRequest, Verification

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from boxwright.model import Model

PYTHON = "BOXWRIGHT_MXNET_PYTHON"
"""Names an interpreter that has MXNet."""

TOLERANCE = 1e-4
"""Of each tensor's largest value, or of 1 where that is larger.

Both sides compute in float32, and a sum of a few thousand products in another order (and
with the batch normalisation folded) differs by some 1e-6 a layer; over fifty layers that
is 1e-5, and a wrong setting is 1e-2 or more."""

_SECONDS = 600.0
_IMAGES = 2


def find_python() -> str:
    """The interpreter to run MXNet with.

    Raises:
        MissingExtraError: None is known.
    """
    if python := os.environ.get(PYTHON):
        return python
    if importlib.util.find_spec("mxnet") is not None:
        return sys.executable
    raise MissingExtraError(
        f"MXNet is not installed here. It needs NumPy below 1.24, so give it an environment of "
        f"its own (pip install mxnet==1.9.1 numpy==1.23.5) and name its python in ${PYTHON}"
    )


def run_mxnet(
    symbol: Path, params: Path, inputs: Mapping[str, NDArray[Any]], tensors: Sequence[str] = ()
) -> tuple[str, list[NDArray[Any]]]:
    """MXNet's version, and what it computes.

    Args:
        symbol: The network.
        params: Its parameters.
        inputs: Arrays by name.
        tensors: Names as MXNet lists internals, such as ``conv0_output``; by default the
            network's outputs.

    Raises:
        MissingExtraError: There is no MXNet.
        ImportFailedError: MXNet fails.
    """
    python = find_python()
    worker = Path(__file__).with_name("worker.py")
    with tempfile.TemporaryDirectory() as temporary:
        given, made = Path(temporary, "inputs.npz"), Path(temporary, "outputs.npz")
        np.savez(given, allow_pickle=False, **dict(inputs))
        command = [python, str(worker), str(symbol), str(params), str(given), str(made), *tensors]
        try:
            done = subprocess.run(  # noqa: S603 - the user's own interpreter, our own program
                command, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MissingExtraError(f"MXNet cannot be run by {python}: {error}") from error
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ImportFailedError(f"MXNet cannot run {symbol}: {last[:300]}")
        with np.load(made, allow_pickle=False) as outputs:
            arrays = [outputs[f"arr_{i}"] for i in range(len(outputs.files))]
    return str(arrays[0]), arrays[1:]


def tensor_name(symbol: Symbol, entry: Entry, outputs: int = 1) -> str:
    """A tensor as MXNet calls it among a symbol's internals."""
    node = symbol.nodes[entry.node]
    if node.is_variable:
        return node.name
    return f"{node.name}_output{entry.output}" if outputs > 1 else f"{node.name}_output"


def verify(request: ImportRequest, model: Model) -> Verification:
    """Compare every raw output, on random pixels, with what MXNet computes.

    Raises:
        MissingExtraError: There is no MXNet.
    """
    from boxwright.importers.mxnet.importer import read_import

    find_python()
    made = read_import(request)
    made.model()
    pixels = np.random.default_rng(0).integers(0, 256, (_IMAGES, *made.size, 3), np.uint8)
    computed = [value.name for value in made.values if value.array is None]
    run = dict(zip(computed, run_tensors(model, computed, pixels), strict=True))
    # Anchors, for one, are constants of the graph.
    ours = [run[v.name] if v.array is None else v.array for v in made.values]
    outputs = {entry.node: 1 for entry in made.entries}
    for node in made.symbol.nodes:
        for entry in (*node.inputs, *made.symbol.heads):
            if entry.node in outputs:
                outputs[entry.node] = max(outputs[entry.node], entry.output + 1)
    version, theirs = run_mxnet(
        made.symbol.path,
        made.params_path,
        {made.data.name: planes(made.pixels, pixels)},
        [tensor_name(made.symbol, entry, outputs[entry.node]) for entry in made.entries],
    )
    checks = []
    for value, got, want in zip(made.values, ours, theirs, strict=True):
        reason = "float32 sums in another order; of the largest value"
        checks.append(Check(value.name, difference(got, want), TOLERANCE, reason))
    return Verification(f"MXNet {version}", tuple(checks))


def difference(got: NDArray[Any], want: NDArray[Any]) -> float:
    """The largest difference, as a part of the largest value, or of 1 where that is larger.

    Equal infinities are equal; NaN is infinitely far from everything.
    """
    if got.shape != want.shape:
        return np.inf
    finite = np.abs(want[np.isfinite(want)])
    with np.errstate(invalid="ignore"):
        apart = np.where(got == want, 0.0, np.abs(got.astype(np.float64) - want))
    largest = np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0.0)
    return float(largest / max(1.0, finite.max(initial=0.0)))


def planes(pixels: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What MXNet is to be given for the contract's images, worked out in NumPy."""
    values = (images.astype(np.float64) - pixels.mean) / pixels.std
    if pixels.bgr:
        values = values[..., ::-1]
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), np.float32)


def run_tensors(
    model: Model, names: Sequence[str], images: NDArray[np.uint8]
) -> list[NDArray[Any]]:
    """Tensors inside a model, run by ONNX Runtime as they are, nothing fused."""
    import onnx

    from boxwright.backends import load
    from boxwright.model import IMAGES, Model

    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    there = {value.name for value in proto.graph.output}
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in names
        if name not in there
    )
    inferred = onnx.shape_inference.infer_shapes(proto)
    with load(Model(inferred, model.card)) as runner:
        outputs = runner.infer({IMAGES: images})
    return [outputs[name] for name in names]
