"""Run as a script by a Python that has TensorFlow; see :mod:`.process`.

It imports nothing of Boxwright's, for that Python may not have it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any


def main(arguments: list[str]) -> int:
    """``config FILE``, ``export FILE FOLDER`` or ``run FILE GIVEN TAKEN NAME...``."""
    command, *rest = arguments
    if command == "config":
        config(*rest)
    elif command == "export":
        export(*rest)
    else:
        run(*rest)
    return 0


def config(path: str) -> None:
    """Print the configuration that a Keras HDF5 file holds."""
    import h5py

    with h5py.File(path, "r") as file:
        text = file.attrs.get("model_config")
    sys.stdout.write(text.decode() if isinstance(text, bytes) else str(text))


def export(path: str, folder: str) -> None:
    """Write a Keras file as a SavedModel."""
    import keras

    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    model.export(folder, verbose=False)


def run(path: str, given: str, taken: str, *names: str) -> None:
    """Run a network on images, one after the other, and write the values `names`.

    Prints last what ran it. `given` holds ``pixels``, bytes, and ``fed``, what they become.
    """
    import numpy as np

    with np.load(given, allow_pickle=False) as content:
        pixels, fed = content["pixels"], content["fed"]
    source = Path(path)
    if source.is_file() and source.open("rb").read(8)[4:] == b"TFL3":
        values, against = _run_lite(path, pixels, fed, names)
    elif source.suffix == ".pb" and source.name != "saved_model.pb":
        values, against = _run_frozen(path, fed, names)
    else:
        values, against = _run_saved(source, fed, names)
    joined: dict[str, Any] = {str(i): np.concatenate(parts) for i, parts in enumerate(values)}
    np.savez(taken, **joined)
    print(against)


def _run_lite(path: str, pixels: Any, fed: Any, names: tuple[str, ...]) -> tuple[Any, str]:
    import numpy as np

    try:
        from ai_edge_litert import interpreter as lite

        against = "LiteRT's interpreter"
    except ImportError:
        import tensorflow as tf

        lite, against = tf.lite, f"TensorFlow Lite's interpreter ({tf.__version__})"
    interpreter = lite.Interpreter(path, experimental_preserve_all_tensors=True, num_threads=2)
    interpreter.allocate_tensors()
    (detail,) = interpreter.get_input_details()
    by_name = {d["name"]: d for d in interpreter.get_tensor_details()}
    values: list[list[Any]] = [[] for _ in names]
    for one, other in zip(pixels, fed, strict=True):
        kind = np.dtype(detail["dtype"])
        image = (
            one if kind == np.uint8 else one.astype(np.int16) - 128 if kind == np.int8 else other
        )
        interpreter.set_tensor(detail["index"], image[None].astype(kind))
        interpreter.invoke()
        for parts, name in zip(values, names, strict=True):
            tensor = interpreter.get_tensor(by_name[name]["index"]).copy()
            if tensor.dtype != np.float32:
                scale, zero = by_name[name]["quantization"]
                tensor = (tensor.astype(np.float32) - zero) * np.float32(scale)
            parts.append(tensor)
    return values, against


def _run_frozen(path: str, fed: Any, names: tuple[str, ...]) -> tuple[Any, str]:
    import numpy as np
    import tensorflow as tf

    graph = tf.compat.v1.GraphDef()
    graph.ParseFromString(Path(path).read_bytes())
    nodes = {node.name: node for node in graph.node}
    image = next(node.name for node in graph.node if node.op == "Placeholder")
    feed = {}
    for node in graph.node:
        if node.op == "Dequantize":
            stored, *ends = (tf.make_ndarray(nodes[x].attr["value"].tensor) for x in node.input)
            if abs(float(ends[1]) - float(ends[0])) < 1e-37:
                # TensorFlow flushes so small a range to 0 and divides by it: all NaN.
                feed[f"{node.name}:0"] = np.full(stored.shape, ends[0], np.float32)
    values: list[list[Any]] = [[] for _ in names]
    wanted = [name if ":" in name else f"{name}:0" for name in names]
    with tf.Graph().as_default():
        tf.import_graph_def(graph, name="")
        with tf.compat.v1.Session() as session:
            for one in fed:
                found = session.run(wanted, {f"{image}:0": one[None], **feed})
                for parts, value in zip(values, found, strict=True):
                    parts.append(value)
    return values, f"TensorFlow {tf.__version__}"


def _run_saved(source: Path, fed: Any, names: tuple[str, ...]) -> tuple[Any, str]:
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        if source.is_file() and source.name != "saved_model.pb":
            export(str(source), folder)
            source = Path(folder)
        loaded = tf.saved_model.load(str(source if source.is_dir() else source.parent))
        function = loaded.signatures["serving_default"]
        ((name, fed_as),) = function.structured_input_signature[1].items()
        values: list[list[Any]] = [[] for _ in names]
        for one in fed:
            found = function(**{name: tf.cast(one[None], fed_as.dtype)})
            for parts, output in zip(values, names, strict=True):
                parts.append(found[output].numpy())
    return values, f"TensorFlow {tf.__version__}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
