"""ONNX Runtime as the plain judge of a graph: on the processor, nothing optimised."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from boxwright.errors import ModelError
from boxwright.external_data import keeps_values_elsewhere
from boxwright.extras import import_onnxruntime

if TYPE_CHECKING:
    import onnx

# Only what ends the process is logged: everything else comes back as an exception.
_FATAL = 4
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


def plain_session(proto: onnx.ModelProto) -> Any:
    """A session that computes what the graph says, node by node.

    Raises:
        Exception: ONNX Runtime refuses the graph; its exceptions share no other base.
    """
    if keeps_values_elsewhere(proto):
        raise ModelError("the graph keeps values in another file")
    runtime = import_onnxruntime()
    settings = runtime.SessionOptions()
    settings.log_severity_level = _FATAL
    settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # A crafted graph may name files as its weights: look for them where there are none.
    settings.add_session_config_entry(_WEIGHTS_FOLDER, os.devnull)
    return runtime.InferenceSession(
        proto.SerializeToString(),
        settings,
        providers=["CPUExecutionProvider"],
        enable_fallback=0,
    )
