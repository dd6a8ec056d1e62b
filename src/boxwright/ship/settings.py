"""What a ship is to do, checked before anything is done."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from boxwright.errors import BackendUnavailableError, InputError
from boxwright.extras import require

TARGETS = ("auto", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx")
# benchmarks/results/ has what this order rests on.
_PREFERRED = ("tensorrt", "openvino", "onnxruntime")
PRECISIONS = ("auto", "fp32", "fp16", "int8")

# Beside trained weights, files of these suffixes describe the network.
_DESCRIPTIONS = {".cfg": "cfg", ".names": "names", ".data": "data"}


@dataclass(frozen=True)
class Budgets:
    """What the engine must keep to; ``None`` is not stated.

    Attributes:
        max_drop: Most points of AP (0 to 100) that may be lost from source to engine.
        min_fps: Least images per second, file to boxes, at the best batch size.
        max_latency: Most milliseconds from file to boxes, 90th percentile, at the smallest
            batch size.
    """

    max_drop: float | None = None
    min_fps: float | None = None
    max_latency: float | None = None

    def to_dict(self) -> dict[str, float]:
        """Those that were stated."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class ShipSettings:
    """Everything a ship depends on.

    Attributes:
        weights: The trained file, and files that describe it, in any order.
        images: Folder, file or pattern each.
        output: Folder for everything.
        annotations: Labels of the images: COCO json, YOLO or VOC.
        target: A backend; ``auto`` takes the best there is.
        precision: ``auto`` takes the fastest that keeps to the budget; INT8 takes part where
            there are images to calibrate on.
        calibration: Folder, file or pattern each, of images to calibrate INT8 on.
        budgets: What must be kept to.
        import_options: As `boxwright.import_model` takes them.
        against: Peers to measure speed beside.
        batches: Batch sizes to measure speed at.
        bench_seconds: Least measuring time per contender and batch size.
        verify_images: Most images for parity.
        opencv: Ask OpenCV's own reading of Darknet files for a second opinion.
        device: Where to run.
        seed: Of everything random.
    """

    weights: tuple[Path, ...]
    images: tuple[str, ...]
    output: Path
    annotations: Path | None = None
    target: str = "auto"
    precision: str = "auto"
    calibration: tuple[str, ...] = ()
    budgets: Budgets = field(default_factory=Budgets)
    import_options: Mapping[str, Any] = field(default_factory=dict)
    against: tuple[str, ...] = ()
    batches: tuple[int, ...] = (1, 4)
    bench_seconds: float = 2.0
    verify_images: int = 8
    opencv: bool = False
    device: str = "auto"
    seed: int = 0

    @functools.cached_property
    def backend(self) -> str:
        """The backend that `target` means: of those that work here, the fastest as a rule."""
        if self.target != "auto":
            return self.target
        from boxwright import backends

        return next(
            (name for name in _PREFERRED if backends.get(name).unavailable() is None),
            "onnxruntime",
        )

    @functools.cached_property
    def precisions(self) -> tuple[str, ...]:
        """Those that the backend builds here."""
        from boxwright import backends
        from boxwright.backends.capabilities import capabilities

        return tuple(capabilities(backends.get(self.backend))["precisions"] or ["fp32"])

    @property
    def fixed_precision(self) -> str | None:
        """The precision, where nothing has to be measured to know it."""
        if self.precision not in ("auto", "int8"):
            return self.precision
        if self.calibration and "int8" in self.precisions:
            return None
        others = [name for name in self.precisions if name not in ("fp32", "int8")]
        return None if self.precision == "int8" or others else "fp32"

    @property
    def remarks(self) -> list[str]:
        """What was asked for and has no effect, in sentences."""
        if not self.calibration:
            return []
        if self.precision not in ("auto", "int8"):
            why = f"precision {self.precision} was asked for"
        elif "int8" not in self.precisions:
            only = ", ".join(self.precisions)
            why = f"target {self.backend} builds no INT8 here, only {only}"
        else:
            return []
        return [f"--calibration had no effect: {why}"]

    def check(self) -> None:
        """Refuse what cannot be done, before any work.

        Raises:
            InputError: With what is wrong and what to do.
            BackendUnavailableError: The target cannot work on this machine.
            MissingExtraError: Labels were given, and what computes AP is not installed.
        """
        from boxwright import backends

        if self.backend not in backends.names():
            raise InputError(
                f"target {self.target} is not available in this version of Boxwright; "
                f"available are auto, {', '.join(n for n in backends.names() if n != 'reference')}"
            )
        reason = backends.get(self.backend).unavailable()
        if reason is not None:  # now, not after the import
            raise BackendUnavailableError(f"target {self.target} cannot work here: {reason}")
        if self.precision != "auto" and self.precision not in self.precisions:
            raise InputError(
                f"target {self.backend} does not build precision {self.precision} here; "
                f"available are auto, {', '.join(self.precisions)}"
            )
        if self.precision == "int8" and not self.calibration:
            raise InputError(
                "INT8 needs images to calibrate on, others than those it is proven on: give "
                "--calibration"
            )
        if self.budgets.max_drop is not None and self.annotations is None:
            raise InputError(
                "a drop of AP can only be measured on labelled images: give --annotations, "
                "or leave --max-drop out"
            )
        if self.annotations is not None and len(self.images) != 1:
            raise InputError("with --annotations, give one --images: the folder of the images")
        if self.annotations is not None:
            require("faster_coco_eval", extra="eval")  # now, not after the build
        self.trained()

    def trained(self) -> Path:
        """The file of the trained weights.

        Raises:
            InputError: There is none, or there are several.
        """
        found = [path for path in self.weights if path.suffix.lower() not in _DESCRIPTIONS]
        if len(found) != 1:
            named = ", ".join(map(str, found or self.weights)) or "none"
            raise InputError(f"expected one file of trained weights, got {named}")
        if not found[0].is_file():
            raise InputError(f"no such file: {found[0]}")
        return found[0]

    def options(self) -> dict[str, Any]:
        """`import_options`, with the describing files among `weights`.

        Raises:
            InputError: Two files describe the same.
        """
        options = dict(_stated(self.import_options))
        for path in self.weights:
            name = _DESCRIPTIONS.get(path.suffix.lower())
            if name is None:
                continue
            if name in options:
                raise InputError(f"two files for {name}: {options[name]} and {path}")
            options[name] = path
        return options

    def command(self) -> str:
        """The command line that does this."""
        words = ["boxwright", "ship", *map(str, self.weights)]
        for images in self.images:
            words += ["--images", images]
        if self.annotations is not None:
            words += ["--annotations", str(self.annotations)]
        for name, value in _stated(self.import_options):
            words += _words(name, value)
        for flag, word in (("target", self.target), ("precision", self.precision)):
            if word != "auto":
                words += [f"--{flag}", word]
        for images in self.calibration:
            words += ["--calibration", images]
        for name, limit in self.budgets.to_dict().items():
            words += [f"--{name.replace('_', '-')}", _shortest(limit)]
        for peer in self.against:
            words += ["--against", peer]
        words += ["--second-opinion"] if self.opencv else []
        words += ["--device", self.device] if self.device != "auto" else []
        words += ["--seed", str(self.seed)] if self.seed else []
        return shlex.join([*words, "-o", str(self.output)])


def _stated(options: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Import options that say something."""
    return [(name, value) for name, value in options.items() if value not in (None, {})]


def _words(name: str, value: Any) -> list[str]:
    """An import option as it stands on the command line."""
    if name == "options":
        settings = [f"{key}={_setting(setting)}" for key, setting in value.items()]
        return [word for setting in settings for word in ("--option", setting)]
    shown = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return [f"--{name}", shown]


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _shortest(number: float) -> str:
    """The shortest decimal that reads back as the same number."""
    text = f"{number:g}"
    return text if float(text) == number else repr(float(number))
