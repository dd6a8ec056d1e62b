"""Candidates of a search: which ranges, which layers, and the model that follows."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.errors import InputError
from boxwright.files import sha256_file
from boxwright.images import load_image
from boxwright.parallel import map_images
from boxwright.preprocess import Preprocessor
from boxwright.progress import ProgressCallback, silent
from boxwright.quantize.bias import MOST_IMAGES, bias_corrections, corrected
from boxwright.quantize.calibration import Calibration
from boxwright.quantize.layers import KEPT
from boxwright.quantize.placement import place
from boxwright.quantize.probing import choose_probe
from boxwright.quantize.quantizer import Quantized, prepare, quantize
from boxwright.quantize.revision import revision
from boxwright.quantize.rules import Rules

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from boxwright.model import Model
    from boxwright.preprocess import Pixels
    from boxwright.quantize.finetune.tune import Tuner
    from boxwright.quantize.ranges import Method


BUDGET = "the budget needs it"
"""Why a layer stays in float that a search kept there."""


@dataclass(frozen=True)
class Variant:
    """One way to quantise a model.

    Attributes:
        method: How a range follows from what was seen.
        percentile: Of the method ``percentile``.
        keep: Layers that stay in float, beside those that the rules keep.
        bias: Whether biases are corrected.
        tuned: Whether it is fine-tuned on top of all this.
    """

    method: Method = "minmax"
    percentile: float = 99.99
    keep: frozenset[str] = frozenset()
    bias: bool = False
    tuned: bool = False

    @property
    def ranges(self) -> str:
        """The method, with its percentile."""
        return f"percentile {self.percentile:g}" if self.method == "percentile" else self.method

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "method": self.method,
            **({"percentile": self.percentile} if self.method == "percentile" else {}),
            "keep": sorted(self.keep),
            "bias_correction": self.bias,
            **({"fine_tuning": True} if self.tuned else {}),
        }


@dataclass(frozen=True, eq=False)
class _Remembering(Calibration):
    """A calibration that works out each range once."""

    known: dict[tuple[str, str, float], float] = field(default_factory=dict)

    def amax(self, tensor: str, method: Method = "minmax", *, percentile: float = 99.99) -> float:
        key = (tensor, method, percentile)
        if key not in self.known:
            self.known[key] = super().amax(tensor, method, percentile=percentile)
        return self.known[key]


class Workshop:
    """Makes variants of one model.

    Args:
        model: In float.
        calibration: What its tensors held on images.
        images: The images that biases are corrected on; the first 64 are taken.
        rules: What may be quantised.
        keep: Layers that stay in float in every variant.
        probe: Let every variant keep one of `images` to be tried on.
        heads: Let a variant quantise also what `rules` keep because it gives a head's output,
            unless the variant says otherwise.
        tuner: Fine-tunes those variants that ask for it.

    Attributes:
        layers: Names of the layers that may be quantised, in the order of the graph.
        heads: Those of them that give a head's output and that `rules` alone would keep.
        depthwise: Those of the others that are depthwise convolutions.

    Raises:
        InputError: The model is quantised already, or `keep` names no layer.
    """

    def __init__(
        self,
        model: Model,
        calibration: Calibration,
        *,
        images: Sequence[str | Path] = (),
        rules: Rules | None = None,
        keep: Collection[str] = (),
        probe: bool = True,
        heads: bool = False,
        tuner: Tuner | None = None,
    ) -> None:
        self.model = model
        usual = rules or Rules()
        self.rules = replace(usual, heads=True) if heads else usual
        self.keep = frozenset(keep)
        self.calibration = calibration
        self._ranges = _Remembering(
            calibration.statistics,
            calibration.images,
            calibration.model_sha256,
            calibration.images_sha256,
            calibration.everything,
        )
        self._images = [Path(image) for image in images][:MOST_IMAGES]
        self._keeps_probe = probe
        self._tuner = tuner
        self._tuned: dict[Variant, Quantized] = {}
        self._corrections: dict[tuple[str, float], dict[str, NDArray[np.float32]]] = {}
        proto = prepare(model).proto
        found = place(proto, self.rules, self.keep).quantized
        body = {layer.name for layer in place(proto, usual, self.keep).quantized}
        self.layers = tuple(layer.name for layer in found)
        self.heads = tuple(name for name in self.layers if name not in body)
        self.depthwise = tuple(
            layer.name for layer in found if layer.depthwise and layer.name in body
        )

    @property
    def can_correct(self) -> bool:
        """Whether there are images to correct biases on."""
        return bool(self._images)

    @property
    def can_tune(self) -> bool:
        """Whether there is something that fine-tunes."""
        return self._tuner is not None

    def key(self, variant: Variant) -> dict[str, Any]:
        """Everything that a variant's weights and scales depend on; JSON values.

        Raises:
            InputError: An image that biases are corrected on cannot be read.
        """
        rules = {name: getattr(self.rules, name) for name in self.rules.__dataclass_fields__}
        return {
            "revision": revision(),
            "model": self.calibration.model_sha256,
            "calibration": self.calibration.images_sha256,
            "rules": rules,
            "always_kept": sorted(self.keep),
            **variant.to_dict(),
            **({"bias_images": self._images_sha256} if variant.bias else {}),
            **({"tuner": self._tuner.key} if variant.tuned and self._tuner is not None else {}),
        }

    def make(
        self,
        variant: Variant,
        progress: ProgressCallback = silent,
        why: Mapping[str, str] | None = None,
    ) -> Quantized:
        """The model of a variant.

        Args:
            variant: Which one.
            progress: Told of the images on which biases are corrected.
            why: Why its layers stay in float, for the table of layers.

        Raises:
            InputError: The calibration lacks a tensor, or an image cannot be read.
        """
        reasons = {**dict.fromkeys(variant.keep, BUDGET), **(why or {})}
        kept = {name: reasons[name] for name in variant.keep}
        found = self._quantize(variant, {**kept, **dict.fromkeys(self.keep, KEPT)})
        if variant.bias:
            found = self._correct(variant, found, progress)
        return self._tune(variant, found, progress) if variant.tuned else found

    def _correct(self, variant: Variant, found: Quantized, progress: ProgressCallback) -> Quantized:
        key = (variant.method, variant.percentile)
        if key not in self._corrections:
            whole = self._quantize(variant, self.keep)
            pixels = prepared(self.model, self._images)
            self._corrections[key] = bias_corrections(self.model, whole, pixels, progress=progress)
        return corrected(found, self._corrections[key], len(self._images))

    def _tune(self, variant: Variant, untuned: Quantized, progress: ProgressCallback) -> Quantized:
        """Once for each variant: it takes minutes."""
        if self._tuner is None:
            raise InputError("a variant is to be fine-tuned, and there is nothing that does it")
        if variant not in self._tuned:
            self._tuned[variant] = self._tuner.tune(untuned, progress)
        # Why layers stay in float may be told otherwise than when it was made.
        return _told_as(self._tuned[variant], untuned)

    @cached_property
    def _images_sha256(self) -> str:
        """Of their contents: with a calibration cache, they are not those calibrated on."""
        hashes = "".join(sha256_file(path) for path in self._images)
        return hashlib.sha256(hashes.encode()).hexdigest()

    @cached_property
    def _probe(self) -> Pixels | None:
        """A real image for the model to keep, where it may."""
        return choose_probe(self.model, self._images) if self._keeps_probe else None

    def _quantize(self, variant: Variant, keep: Collection[str]) -> Quantized:
        return quantize(
            self.model,
            self._ranges,
            method=variant.method,
            percentile=variant.percentile,
            rules=self.rules,
            keep=keep,
            probe=self._probe,
        )


def _told_as(tuned: Quantized, untuned: Quantized) -> Quantized:
    """The tuned model with the other's reasons why layers stay in float, on its card too."""
    *before, last = tuned.model.card.transforms
    told = untuned.model.card.transforms[-1].effect["kept_in_float"]
    step = replace(last, effect={**last.effect, "kept_in_float": told})
    card = replace(tuned.model.card, transforms=(*before, step))
    return replace(tuned, model=tuned.model.with_card(card), placement=untuned.placement)


def prepared(model: Model, paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Images at the model's input size: uint8 ``(N, H, W, 3)``.

    Raises:
        ImageError: One cannot be read.
    """
    preprocessor = Preprocessor(model.card)
    return np.stack(map_images(lambda path: preprocessor.prepare(load_image(path))[0], paths))
