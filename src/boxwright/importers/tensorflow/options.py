"""Options of this format: how pixels are fed, and what becomes of quantisation."""

from __future__ import annotations

import difflib

import numpy as np

from boxwright.errors import ImportFailedError, ModelError
from boxwright.graph.pixels import PixelFormat
from boxwright.importers.options import numbers
from boxwright.importers.registry import ImportRequest
from boxwright.importers.tensorflow.network import Network, refusal, short

KNOWN = {
    "input": "name of the value that the image is, past a preprocessor inside of the file",
    "channels": "rgb or bgr: the order that the network was fed",
    "scale": "factor of a pixel's 0 to 255, such as 1/255",
    "mean": "taken off after that: one number, or one for each channel: 104,177,123",
    "std": "divided by after that, likewise",
    "quantization": "keep (the file's scales as Q/DQ nodes) or drop (float32 throughout)",
}


_ENDS = ("boxes", "scores", "objectness")


def choose_values(request: ImportRequest, network: Network) -> dict[str, list[str]]:
    """Begin and end a network at the values that options name, in place.

    Returns:
        For each of the options ``boxes``, ``scores`` and ``objectness`` that is there, the
        values it names; they are the network's outputs now, in this order.

    Raises:
        ImportFailedError: The network has no such value.
    """
    producers = network.producers()
    outputs = dict(zip(network.output_names, network.outputs, strict=False))

    def known(name: str) -> str:
        value = outputs.get(name, name.removesuffix(":0"))
        if value not in producers and value not in network.values:
            near = difflib.get_close_matches(value, [*outputs, *producers], n=3)
            hint = f"; did you mean {', '.join(map(short, near))}?" if near else ""
            raise refusal(network.path, f"it has no value {short(name)!r}{hint}")
        return value

    if "input" in request.options:
        name = known(str(request.options["input"]))
        network.inputs = [name]
        network.nodes = [node for node in network.nodes if name not in node.outputs]
    chosen = {}
    for key in _ENDS:
        given = request.options.get(key, ())
        words = given if isinstance(given, (list, tuple)) else str(given).split(",")
        if names := [known(str(word).strip()) for word in words]:
            chosen[key] = names
    if chosen:
        network.outputs = [name for names in chosen.values() for name in names]
        network.output_names = []
    return chosen


def keeps_quantization(request: ImportRequest) -> bool:
    """Whether the file's scales stay.

    Raises:
        ImportFailedError: The option has another word.
    """
    word = str(request.options.get("quantization", "keep"))
    if word not in ("keep", "drop"):
        raise ImportFailedError(f"option quantization must be keep or drop, got {word[:40]!r}")
    return word == "keep"


def pixel_format(request: ImportRequest, network: Network) -> PixelFormat:
    """How pixels become what the network was fed, as planes.

    A quantised input says it by its scale, metadata by mean and deviation, and the user by
    options; nothing else would be more than a guess.

    Raises:
        ImportFailedError: None of them does, or they do not fit three channels.
    """
    options = request.options
    channels = str(options.get("channels", "rgb"))
    value = network.values.get(network.inputs[0])
    given = {
        name: numbers(name, options[name]) for name in ("scale", "mean", "std") if name in options
    }
    scale = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    if value is not None and value.quantization is not None and value.dtype.itemsize == 1:
        if given:
            raise refusal(network.path, "its quantised input says itself how pixels are scaled")
        step = float(value.quantization.scales[0])
        zero = int(value.quantization.zeros[0]) + (128 if value.dtype == np.int8 else 0)
        mean, std = (float(zero),), (1 / step,)
    elif given:
        scale = given.get("scale", (1.0,))[0]
        mean, std = given.get("mean", mean), given.get("std", std)
    elif value is not None and value.dtype == np.uint8:
        pass  # Bytes are fed as they are; the network scales them itself.
    elif network.pixels is not None:
        mean, std = network.pixels
    else:
        raise refusal(
            network.path,
            "it does not say how pixels were scaled; say it with --option mean=, std=, scale= "
            "and channels=, such as --option scale=1/255 (scale=1: as they are, 0 to 255)",
        )
    try:
        return PixelFormat(channels=channels, scale=scale, mean=mean, std=std)  # type: ignore[arg-type]
    except ModelError as error:
        raise ImportFailedError(f"options of pixels: {error}") from error
