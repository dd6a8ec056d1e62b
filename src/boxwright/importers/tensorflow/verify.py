"""An imported model beside its source, run by TensorFlow or its interpreter.

The source runs in a process of its own, in the Python that has TensorFlow (see
:mod:`.keras`); TensorFlow Lite files also by ``ai_edge_litert``. What the head's tensors
are called in the source and in the model is taken from the model's card.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from boxwright.errors import ImportFailedError
from boxwright.importers.registry import Check, ImportRequest, Verification, read_start
from boxwright.importers.tensorflow.keras import check_keras
from boxwright.importers.tensorflow.process import run_script
from boxwright.model import IMAGES, Model

_FLOAT = 1e-4


def verify(request: ImportRequest, model: Model, images: int = 2) -> Verification:
    """Compare the tensors that enter the head with the source's own.

    Raises:
        MissingExtraError: No Python with TensorFlow is known.
        ImportFailedError: The source does not run, or the model was not made of it.
    """
    transform = next((t for t in model.card.transforms if t.name == "import:tensorflow"), None)
    pairs = {} if transform is None else transform.parameters.get("tensors", {})
    if transform is None or not pairs:
        raise ImportFailedError(
            f"{request.weights}: the model was not imported from a TensorFlow file such as this"
        )
    start = read_start(request.weights, 8)
    if start.startswith((b"PK", b"\x89HDF")):
        check_keras(request.weights)
    height, width = model.card.input_size
    pixels = np.random.default_rng(0).integers(0, 256, (images, height, width, 3), np.uint8)
    form = transform.parameters["pixels"]
    fed = pixels[..., ::-1] if form["channels"] == "bgr" else pixels
    fed = fed * np.float32(form["scale"]) - np.array(form["mean"], np.float32)
    with tempfile.TemporaryDirectory(prefix="boxwright-") as folder:
        given, taken = Path(folder) / "given.npz", Path(folder) / "taken.npz"
        np.savez(given, pixels=pixels, fed=(fed / np.array(form["std"])).astype(np.float32))
        names = list(pairs.values())
        against = run_script(
            ["run", str(request.weights), str(given), str(taken), *names],
            request.weights,
            lite=start[4:8] == b"TFL3",
        )
        with np.load(taken, allow_pickle=False) as content:
            theirs = {ours: content[str(i)] for i, ours in enumerate(pairs)}
    ours = _run(model, list(pairs), pixels)
    quantised = bool(transform.effect.get("quantized_tensors"))
    checks = []
    for name, source in pairs.items():
        a, b = ours[name].reshape(-1), theirs[name].reshape(-1)
        if a.shape != b.shape:
            raise ImportFailedError(f"{request.weights}: {source!r} is not of the model's shape")
        checks.append(_check(source, a, b, quantised=quantised))
    return Verification(against.strip().splitlines()[-1], tuple(checks))


def _check(
    name: str,
    ours: np.typing.NDArray[np.float32],
    theirs: np.typing.NDArray[np.float32],
    *,
    quantised: bool,
) -> Check:
    gap = np.abs(ours.astype(np.float64) - theirs)
    if quantised:
        # Its own two sets of kernels differ by as much: a rounding at one layer is a step,
        # and steps add up over hundreds of layers.
        mean, spread = float(gap.mean()), float(theirs.std()) or 1.0
        reason = "mean, relative to the spread of the values: integers rounded at every layer"
        return Check(name, mean / spread, 0.1, reason)
    largest = float(np.abs(theirs).max()) or 1.0
    reason = "relative to the largest value: float32 sums in another order"
    return Check(name, float(gap.max()) / largest, _FLOAT, reason)


def _run(
    model: Model, names: list[str], pixels: np.typing.NDArray[np.uint8]
) -> dict[str, np.typing.NDArray[np.float32]]:
    import onnx

    from boxwright.importers.running import run

    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    return run(proto, {IMAGES: pixels}, names)
