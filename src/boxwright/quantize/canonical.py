"""A quantised model as its graph says: rounded at every Q/DQ pair, computed in float between.

It is what the pairs mean, whatever kernels a runtime has for them, so a search is about the
model and not about one machine. A runtime's INT8 kernels round a little otherwise: what an
engine really loses is measured on the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from boxwright._version import __version__
from boxwright.extras import import_onnxruntime

if TYPE_CHECKING:
    from boxwright.backends.base import Runner
    from boxwright.model import Model

# ONNX Runtime's word for leaving Q/DQ pairs alone (onnxruntime_session_options_config_keys.h).
_LEAVE_PAIRS = "session.disable_quant_qdq"


def canonical_key() -> dict[str, str]:
    """What a measurement with :func:`canonical_runner` depends on beside the model."""
    return {"boxwright": __version__, "onnxruntime": str(import_onnxruntime().__version__)}


def canonical_runner(model: Model) -> Runner:
    """Run a model on the processor with its Q/DQ pairs left as they are.

    Everything else is optimised as usual, so it is about as fast as the float model.

    Raises:
        BuildError: ONNX Runtime refuses the model.
    """
    from boxwright.backends.onnxruntime.lowering import lower_mish
    from boxwright.backends.onnxruntime.session import (
        OnnxRuntimeRunner,
        open_session,
        session_options,
    )

    settings = session_options({}, optimise=True)
    settings.add_session_config_entry(_LEAVE_PAIRS, "1")
    proto, _ = lower_mish(model.proto)
    return OnnxRuntimeRunner(open_session(proto.SerializeToString(), settings, "cpu"))
