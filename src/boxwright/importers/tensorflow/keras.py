"""Keras files: checked here, written out as a SavedModel by TensorFlow in a process of its own.

A ``.keras`` or ``.h5`` file names Python classes, which loading it imports and calls, and may
hold marshalled code (``Lambda`` layers). So its configuration is read first, as JSON, and
whatever is not one of Keras's own layers is refused; only then does the Python that has
TensorFlow (:mod:`.process`) load it, in Keras's safe mode.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from boxwright.importers.registry import read_start
from boxwright.importers.tensorflow.network import Network, refusal, short
from boxwright.importers.tensorflow.process import run_script
from boxwright.importers.tensorflow.savedmodel import read_saved_model

_MAX_CONFIG = 64 << 20
_MAX_UNPACKED = 4 << 30
_MAX_MEMBERS = 10_000


def read_keras(path: Path) -> Network:
    """Read a Keras file.

    Raises:
        ImportFailedError: It is damaged, holds code, or Keras cannot load it.
        MissingExtraError: TensorFlow is not installed.
    """
    check_keras(path)
    with tempfile.TemporaryDirectory(prefix="boxwright-") as folder:
        target = Path(folder) / "saved_model"
        run_script(["export", str(path), str(target)], path)
        network = read_saved_model(target)
    network.path = str(path)
    return network


def check_keras(path: Path) -> None:
    """Refuse a file that loading would run code of; raises as :func:`read_keras`."""
    if read_start(path, 2) == b"PK":
        check_config(_config_of_archive(path), path)
        return
    # Only h5py reads HDF5; the script prints the configuration and loads nothing.
    text = run_script(["config", str(path)], path)
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        raise refusal(path, "it has no model_config of Keras that is JSON") from None
    check_config(config, path)


def check_config(config: Any, path: Path) -> None:
    """Refuse a configuration that names anything but Keras's own layers.

    Raises:
        ImportFailedError: It does; the message names it.
    """
    if not isinstance(config, dict) or "class_name" not in config:
        raise refusal(path, "it has no configuration of a Keras model (weights alone are not one)")
    for record in _records(config, path):
        name = record["class_name"]
        module = record.get("module", "keras")
        registered = record.get("registered_name") or name
        if name in ("Lambda", "__lambda__", "function", "TorchModuleWrapper", "TFSMLayer"):
            raise refusal(
                path,
                f"it holds a {name} layer: code, which importing would run; replace it by "
                "Keras's own layers and save the model again",
            )
        own = module in ("keras", "builtins", "tensorflow.keras") or str(module).startswith(
            ("keras.", "keras_hub.", "tensorflow.keras.")
        )
        custom = not isinstance(registered, str) or ">" in registered
        if not isinstance(name, str) or module is None or not own or custom:
            raise refusal(
                path,
                f"it holds {short(str(registered))!r} of module {short(str(module))!r}, a class "
                "that is not Keras's own; export the model as a SavedModel instead",
            )


def _records(config: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Everything in a configuration that names a class."""
    pending, seen = [config], 0
    while pending:
        item = pending.pop()
        seen += 1
        if seen > 5_000_000:
            raise refusal(path, "its configuration is larger than any network's")
        if isinstance(item, dict):
            if "class_name" in item:
                yield item
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _config_of_archive(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > _MAX_MEMBERS or sum(m.file_size for m in members) > _MAX_UNPACKED:
                raise refusal(path, "unpacked, it would be larger than any network: a zip bomb?")
            with archive.open("config.json") as stream:
                text = stream.read(_MAX_CONFIG + 1)
    except KeyError:
        raise refusal(path, "it is no Keras file: config.json is missing") from None
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
        raise refusal(path, f"damaged: the archive cannot be read ({error})") from None
    if len(text) > _MAX_CONFIG:
        raise refusal(path, "its configuration is larger than any network's")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise refusal(path, "damaged: its config.json is not JSON") from None
