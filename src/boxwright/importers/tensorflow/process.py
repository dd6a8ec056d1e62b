"""TensorFlow in a process of its own.

It is large, brings its own versions of numpy and protobuf, and often has an environment of
its own. So it is never imported here: a script runs in the Python that has it, which is
this one or the one that ``$BOXWRIGHT_TENSORFLOW_PYTHON`` names.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from boxwright.errors import ImportFailedError, MissingExtraError
from boxwright.importers.tensorflow import worker
from boxwright.importers.tensorflow.network import refusal, short

PYTHON = "BOXWRIGHT_TENSORFLOW_PYTHON"
_LIMIT_SECONDS = 900


def run_script(arguments: list[str], path: Path, *, lite: bool = False) -> str:
    """Run :mod:`.worker`; returns what it prints.

    Args:
        arguments: Its command.
        path: The file it is about, for messages.
        lite: The interpreter of TensorFlow Lite alone is enough.

    Raises:
        MissingExtraError: No Python with TensorFlow is known.
        ImportFailedError: TensorFlow refuses the file.
    """
    python = _python(lite)
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        done = subprocess.run(  # noqa: S603  # the user's own Python, and no shell
            [python, "-I", str(Path(worker.__file__)), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT_SECONDS,
            check=False,
        )
    except OSError as error:
        raise ImportFailedError(f"cannot run {python}: {error.strerror or error}") from error
    except subprocess.TimeoutExpired:
        raise refusal(path, f"TensorFlow did not load it within {_LIMIT_SECONDS} s") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = short(lines[-1]) if lines else f"exit code {done.returncode}"
        raise refusal(path, f"TensorFlow cannot load it: {reason}")
    return done.stdout


def _python(lite: bool) -> str:
    chosen = os.environ.get(PYTHON)
    if chosen:
        return chosen
    modules = ("tensorflow", "ai_edge_litert") if lite else ("tensorflow",)
    if not any(importlib.util.find_spec(module) for module in modules):
        raise MissingExtraError(
            "this needs TensorFlow, which is not installed; it comes with an extra: pip install "
            f"'boxwright[tensorflow]'. Or set {PYTHON} to a python that has it. (A Keras model "
            "exported as a SavedModel, model.export(FOLDER), is imported without TensorFlow)"
        )
    return sys.executable
