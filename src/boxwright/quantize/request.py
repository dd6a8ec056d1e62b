"""What is to be quantised, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from boxwright.errors import BackendUnavailableError, InputError
from boxwright.quantize.finetune.training import DEFAULT_STEPS

if TYPE_CHECKING:
    from boxwright.datasets import Dataset
    from boxwright.quantize.ranges import Method
    from boxwright.quantize.rules import Rules


@dataclass(frozen=True)
class Request:
    """What is to be done.

    Attributes:
        calibration: Image files; may be empty with `from_cache`.
        from_cache: A TensorRT calibration cache to take ranges from, instead of images.
        dataset: Labels to measure AP on.
        images: Images to measure agreement on where there are no labels; by default those
            calibrated on.
        method: How ranges are had; ``auto`` measures which is best.
        percentile: Of the method ``percentile``, and of ``auto`` when it tries that.
        max_drop: The budget in points; ``None`` states none.
        keep: Layers that stay in float.
        rules: What may be quantised; by default what fits `target`.
        heads: Where a budget is stated, put also the heads' convolutions in INT8 as far as it
            allows. `rules` that quantise them do so in any case.
        bias: Try correcting biases, and keep it where it helps: always, never, or (``None``)
            where the budget is missed without.
        target: The backend that it is for, if that is decided.
        latency: Measure speed on `target`, and hand INT8 out only where it is faster.
        insist: With `latency`, hand INT8 out wherever it keeps to the budget on `target`.
        device: For `target`.
        seed: Of everything random.
        tune: Fine-tune the best, and keep that where it helps.
        tune_steps: How many steps of that.
        probe: Let the quantised model keep one of the images calibrated on, which backends
            try their plans on (:mod:`boxwright.probe`).
        work: Folder for what a later run can go on with; ``None`` keeps nothing.
    """

    calibration: Sequence[Path] = ()
    from_cache: Path | None = None
    dataset: Dataset | None = None
    images: Sequence[Path] = ()
    method: Method | Literal["auto"] = "auto"
    percentile: float = 99.99
    max_drop: float | None = None
    keep: Sequence[str] = ()
    rules: Rules | None = None
    heads: bool = True
    bias: bool | None = None
    target: str | None = None
    latency: bool = False
    insist: bool = False
    device: str = "auto"
    seed: int = 0
    tune: bool = False
    tune_steps: int = DEFAULT_STEPS
    probe: bool = True
    work: Path | None = None

    def check(self) -> None:
        """Whether it fits together, before anything is done.

        Raises:
            InputError: It does not.
            BackendUnavailableError: The target cannot work here, and is to be measured.
        """
        if not self.calibration and self.from_cache is None:
            raise InputError("quantising needs images to calibrate on, or a calibration cache")
        if self.from_cache is not None and self.method not in ("auto", "minmax"):
            raise InputError(
                f"a calibration cache holds ranges, no histograms: method {self.method} "
                "needs images; leave --method out, or give --calibration instead"
            )
        if self.bias and not self.calibration:
            raise InputError("correcting biases needs images: give --calibration too")
        if self.tune and not self.calibration:
            raise InputError("fine-tuning learns from images: give --calibration too")
        if self.max_drop is not None and not self.measured_images:
            raise InputError(
                "a budget needs images to measure on: give --images, with --annotations or "
                "without, or --calibration"
            )
        if self.latency and self.target is None:
            raise InputError("latency is measured on a target: name one")
        if self.latency and not self.measured_images:
            raise InputError("latency is measured on images: give --images, or --calibration")
        if self.latency and self.target is not None:
            from boxwright import backends

            reason = backends.get(self.target).unavailable()
            if reason is not None:
                raise BackendUnavailableError(
                    f"latency cannot be measured on {self.target} here: {reason}"
                )

    @property
    def measured_images(self) -> Sequence[Path]:
        """What the loss is measured on."""
        if self.dataset is not None:
            return [image.path for image in self.dataset.images]
        return self.images or self.calibration
