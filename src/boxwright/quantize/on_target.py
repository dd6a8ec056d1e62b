"""Candidates on the backend that they are for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boxwright.progress import ProgressCallback, silent
from boxwright.quantize.candidates import Place
from boxwright.quantize.latency import INT8, load_precision, precisions_of
from boxwright.quantize.probing import ProbeCheck

if TYPE_CHECKING:
    from boxwright.backends.base import Runner
    from boxwright.model import Model

# Their INT8 rounds more often than the graph's pairs say, so candidates are measured on them;
# TensorRT takes minutes to build one, and computes what the pairs say.
_QUICK = ("onnxruntime", "openvino")


def place_on(
    target: str | None, *, device: str, probe: bool, progress: ProgressCallback = silent
) -> Place | None:
    """The target, where it makes a model ready within seconds and has INT8 here.

    Args:
        target: A backend's name.
        device: ``auto``, ``cpu``, ``cuda:0``, ...
        probe: Whether models keep an image to be tried on: what passed on noise may not pass
            on that, so it is part of the key.
        progress: Told of what is built.
    """
    if target not in _QUICK or INT8 not in precisions_of(target):
        return None
    from boxwright import backends
    from boxwright.backends.base import BuildSpec

    check = ProbeCheck(target)

    def load(model: Model) -> Runner:
        runner = load_precision(model, target, INT8, device, progress)
        try:
            # What `build` would refuse shall not be chosen.
            check(model, runner)
        except BaseException:
            runner.close()
            raise
        return runner

    key = backends.get(target).fingerprint(BuildSpec(precision="int8", device=device))
    return Place(target, f"{key} probe={probe}", load)
