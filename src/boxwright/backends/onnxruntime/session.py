"""ONNX Runtime's sessions, made quiet, private and able to say what went wrong."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.backends.base import TensorSpec
from boxwright.backends.options import check_options
from boxwright.backends.runner import CheckedRunner
from boxwright.environment import cpu_features
from boxwright.errors import (
    BackendUnavailableError,
    BuildError,
    EngineError,
    InputError,
    ModelError,
)
from boxwright.external_data import serialised_keeps_values_elsewhere
from boxwright.extras import import_onnxruntime

if TYPE_CHECKING:
    from collections.abc import Mapping

    from boxwright.backends.base import Tensors

# Only what ends the process: everything else comes back as an exception, once.
_FATAL = 4
_OPTIONS = ("intra_op_num_threads",)
_MAX_THREADS = 1024
# Without VNNI, its kernels for UINT8 times INT8 add two products in 16 bits that saturate
# (onnxruntime_session_options_config_keys.h). This turns weights into UINT8 when the graph is
# optimised; a graph without INT8 is left as it is.
_EXACT_INT8 = "session.x64quantprecision"
_VNNI = {"avx512vnni", "avxvnni"}
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


def providers_for(device: str) -> list[Any]:
    """ONNX Runtime's execution providers for a device name.

    Raises:
        InputError: No device is called that.
        BackendUnavailableError: The installed ONNX Runtime cannot use it.
    """
    if device in ("auto", "cpu"):
        return ["CPUExecutionProvider"]
    match = re.fullmatch(r"cuda(?::(\d{1,3}))?", device)
    if match is None:
        raise InputError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {device!r}")
    if "CUDAExecutionProvider" not in import_onnxruntime().get_available_providers():
        raise BackendUnavailableError(
            "the installed ONNX Runtime has no CUDA execution provider; "
            "for one: pip uninstall onnxruntime && pip install onnxruntime-gpu"
        )
    number = match.group(1) or "0"
    return [("CUDAExecutionProvider", {"device_id": number}), "CPUExecutionProvider"]


def session_options(options: Mapping[str, Any], optimise: bool) -> Any:
    """Session settings.

    Raises:
        InputError: An option is unknown or out of range.
    """
    check_options("onnxruntime", options, _OPTIONS)
    threads = options.get("intra_op_num_threads", 0)
    if type(threads) is not int or not 0 <= threads <= _MAX_THREADS:
        raise InputError(
            f"intra_op_num_threads must be 0 (one per core) to {_MAX_THREADS}, got {threads!r}"
        )
    runtime = import_onnxruntime()
    settings = runtime.SessionOptions()
    settings.log_severity_level = _FATAL
    settings.intra_op_num_threads = threads
    # A crafted plan may name other files as its weights: look for them where there are none.
    settings.add_session_config_entry(_WEIGHTS_FOLDER, os.devnull)
    if _VNNI.isdisjoint(cpu_features()):
        settings.add_session_config_entry(_EXACT_INT8, "1")
    levels = runtime.GraphOptimizationLevel
    settings.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    )
    return settings


# Joins a Pad by 0 to the MaxPool behind it, whose own padding is minus infinity: where all
# values at an edge are negative, 0 should win and does not (seen in 1.31).
_WRONG_OPTIMIZERS = ["Pad_Fusion"]


def open_session(data: bytes, settings: Any, device: str) -> Any:
    """A session of a serialised model.

    Raises:
        BuildError: ONNX Runtime refuses it; the message has the node and operator where
            ONNX Runtime says which.
        BackendUnavailableError: The device exists by name only.
    """
    providers = providers_for(device)
    runtime = import_onnxruntime()
    try:
        if serialised_keeps_values_elsewhere(data):
            raise ModelError("it keeps values in another file")
        # Without `enable_fallback=0` a failure is printed and tried a second time.
        session = runtime.InferenceSession(
            data,
            settings,
            providers=providers,
            enable_fallback=0,
            disabled_optimizers=_WRONG_OPTIMIZERS,
        )
    except Exception as error:  # its exceptions share no base but Exception
        raise BuildError(f"ONNX Runtime refuses the model: {plain_message(error)}") from error
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    # Where a provider's libraries are missing it falls back to the CPU without an error.
    if session.get_providers()[0] != wanted:
        raise BackendUnavailableError(
            f"ONNX Runtime cannot use {wanted} on this machine (is its CUDA version installed?)"
        )
    return session


def optimise(data: bytes, options: Mapping[str, Any], device: str) -> bytes:
    """The model as ONNX Runtime optimises it for this device; raises as :func:`open_session`."""
    settings = session_options(options, optimise=True)
    try:
        with tempfile.TemporaryDirectory(prefix="boxwright-") as folder:
            path = Path(folder) / "plan.onnx"
            settings.optimized_model_filepath = str(path)
            open_session(data, settings, device)
            return path.read_bytes()
    except OSError as error:
        raise BuildError(
            f"cannot use a temporary file in {tempfile.gettempdir()}: {error.strerror or error}"
        ) from error


def plain_message(error: Exception) -> str:
    """ONNX Runtime's message in one line, without its own error codes and source lines."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
    text = re.sub(r"/\S+\.(?:cc|h):\d+\s+", "", text)
    return " ".join(text.split())[:600]


class OnnxRuntimeRunner(CheckedRunner):
    """A session behind the common runner.

    Raises:
        BuildError: The model has an input or output that is no plain tensor.
    """

    def __init__(self, session: Any) -> None:
        try:
            inputs = tuple(_spec(node) for node in session.get_inputs())
            outputs = tuple(_spec(node) for node in session.get_outputs())
        except UnicodeDecodeError as error:
            raise BuildError("a tensor or dimension has a name that is not UTF-8") from error
        super().__init__(inputs, outputs)
        self._session = session
        self._names = [spec.name for spec in self.outputs]

    def _run(self, feed: Tensors) -> Tensors:
        try:
            values = self._session.run(self._names, feed)
        except Exception as error:  # its exceptions share no base but Exception
            raise EngineError(f"ONNX Runtime failed: {plain_message(error)}") from error
        return dict(zip(self._names, values, strict=True))

    def _free(self) -> None:
        self._session = None


def _spec(node: Any) -> TensorSpec:
    dtype = _DTYPES.get(node.type)
    if dtype is None:
        raise BuildError(f"{node.name!r} is a {node.type}; inputs and outputs must be tensors")
    shape = tuple(extent if isinstance(extent, int) else None for extent in node.shape)
    return TensorSpec(node.name, np.dtype(dtype), shape)
