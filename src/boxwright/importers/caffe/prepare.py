"""How pixels were prepared: what files or the user say, or what a family is known for.

Caffe computes ``(pixel - mean) * scale`` on OpenCV's channel order, blue first, and keeps
this in the data layer that trained, which a deploy prototxt lacks. So the places to look
are, in this order: options; ``transform_param`` of the prototxt; that of the caffemodel,
which still has its data layers when training wrote it; and the conventions of networks that
everybody knows. Nothing is guessed beyond that: a wrong mean costs accuracy silently.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from boxwright.errors import ImportFailedError
from boxwright.graph.pixels import Channels, PixelFormat
from boxwright.importers.caffe.network import Network
from boxwright.importers.caffe.wire import CaffeModel
from boxwright.importers.options import numbers

_LOGGER = logging.getLogger("boxwright")

_CHANNELS: dict[str, Channels] = {"rgb": "rgb", "bgr": "bgr", "grey": "grey"}


@dataclass(frozen=True)
class Preparation:
    """How pixels are prepared, and who said so.

    Attributes:
        mean: One value, or one for each channel in the network's order.
        scale: Factor after the mean.
        channels: Order of the channels.
        origin: Where this is from, for the card.
    """

    mean: tuple[float, ...]
    scale: float
    channels: Channels
    origin: str

    def pixel_format(self) -> PixelFormat:
        """As the nodes under ``pre/`` want it."""
        return PixelFormat(self.channels, 1.0, self.mean, (1 / self.scale,))


# What the networks' own demonstration programs do, by the name in the prototxt.
_CONVENTIONS: tuple[tuple[re.Pattern[str], tuple[float, ...], float, Channels], ...] = (
    # chuanqi305/MobileNet-SSD: demo.py.
    (re.compile(r"^MobileNet-?SSD", re.IGNORECASE), (127.5,), 0.007843, "bgr"),
    # weiliu89/caffe, ssd branch: examples/ssd/ssd_detect.py.
    (re.compile(r"^VGG_.*SSD_", re.IGNORECASE), (104.0, 117.0, 123.0), 1.0, "bgr"),
    # Made of Darknet weights by darknet2caffe (the spelling is its own): as in Darknet.
    (re.compile(r"^Dark(ent|net)2Caffe", re.IGNORECASE), (0.0,), 1 / 255, "rgb"),
)


def preparation(network: Network, model: CaffeModel, options: Mapping[str, Any]) -> Preparation:
    """Find out how pixels were prepared.

    Raises:
        ImportFailedError: Nobody says so, or what is said cannot be.
    """
    found = _stated(network, model, options)
    given = {key: options[key] for key in ("mean", "scale", "channels") if key in options}
    if found is None and not {"mean", "scale"} & set(given):
        raise ImportFailedError(
            f"{network.name or 'the network'}: neither the prototxt nor the caffemodel says how "
            "pixels were prepared; say it as in training, for example --option mean=127.5 "
            "--option scale=0.007843 --option channels=bgr (mean=0 and scale=1 for none)"
        )
    grey = network.image.shape[1] == 1
    channels: Channels = "grey" if grey else "bgr"
    base = found or Preparation((0.0,), 1.0, channels, "options")
    mean, scale, channels = base.mean, base.scale, base.channels
    if "mean" in given:
        mean = numbers("mean", given["mean"])
    if "scale" in given:
        scale = _one(given["scale"])
    if "channels" in given:
        word = str(given["channels"]).lower()
        if word not in _CHANNELS or (word == "grey") != grey:
            raise ImportFailedError(
                f"option channels must be {'grey' if grey else 'rgb or bgr'}, got {word[:40]!r}"
            )
        channels = _CHANNELS[word]
    count = 1 if grey else 3
    if len(mean) not in (1, count):
        raise ImportFailedError(f"mean must be 1 or {count} numbers, got {len(mean)}")
    if not (math.isfinite(scale) and scale > 0 and all(map(math.isfinite, mean))):
        raise ImportFailedError(f"mean must be finite and scale above 0, got {mean} and {scale}")
    origin = " and ".join(filter(None, (found.origin if found else "", "options" if given else "")))
    return Preparation(mean, scale, channels, origin)


def _stated(network: Network, model: CaffeModel, options: Mapping[str, Any]) -> Preparation | None:
    """What the files say, or the network's name does."""
    order: Channels = "grey" if network.image.shape[1] == 1 else "bgr"
    messages = [*filter(None, (network.image.transform,)), *network.transforms]
    for message in messages:
        mean = tuple(message.numbers("mean_value"))
        _check_mean_file(message.text("mean_file"), options)
        return Preparation(mean or (0.0,), message.number("scale", 1.0), order, "the prototxt")
    for stored in model.transforms:
        _check_mean_file(stored.mean_file, options)
        return Preparation(stored.mean or (0.0,), stored.scale, order, "the caffemodel")
    for pattern, mean, scale, channels in _CONVENTIONS:
        if pattern.match(network.name) and order != "grey":
            _LOGGER.warning(
                "no file says how pixels were prepared; taking what %s is known for: "
                "mean %s, scale %.6g, %s",
                *(network.name[:60], ",".join(f"{m:g}" for m in mean), scale, channels),
            )
            return Preparation(mean, scale, channels, f"the convention of {network.name[:60]}")
    return None


def _check_mean_file(name: str, options: Mapping[str, Any]) -> None:
    if name and "mean" not in options:
        raise ImportFailedError(
            f"pixels had the mean image {name[:80]!r} subtracted, which is not read; give its "
            "mean, one number or one for each channel: --option mean=104,117,123"
        )


def _one(value: Any) -> float:
    found = numbers("scale", value)
    if len(found) != 1:
        raise ImportFailedError(f"option scale must be one number, got {len(found)}")
    return found[0]
