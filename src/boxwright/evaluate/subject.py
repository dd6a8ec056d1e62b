"""The two sides of a parity check behind one face: give pixels, get tensors and boxes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeGuard, Union

import numpy as np

from boxwright.errors import InputError
from boxwright.evaluate.dump import read_dump
from boxwright.evaluate.heads import with_head_outputs
from boxwright.evaluate.reference import Candidates, Reference, SampledTensor
from boxwright.model import BOXES, IMAGES, SCORES, Model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from boxwright.backends.base import Runner
    from boxwright.card import ModelCard
    from boxwright.engine import Engine

# What can be compared. `Union` because two of the names exist for type checkers only.
Comparable: TypeAlias = Union[str, Path, Model, "Engine", "Runner", Reference, "Side"]


@dataclass(frozen=True)
class Answer:
    """What one side gives for one image, batch of 1.

    Attributes:
        tensors: By the side's own names.
        candidates: Score threshold to boxes before suppression, where the side gives
            boxes rather than `boxes` and `scores`.
        detections: The same after suppression.
    """

    tensors: Mapping[str, SampledTensor] = field(default_factory=dict)
    candidates: Mapping[float, Candidates] = field(default_factory=dict)
    detections: Mapping[float, Candidates] = field(default_factory=dict)

    def candidates_above(self, threshold: float) -> Candidates | None:
        """Boxes before suppression, or ``None`` where this side cannot tell."""
        if threshold in self.candidates:
            return self.candidates[threshold]
        boxes, scores = self.tensors.get(BOXES), self.tensors.get(SCORES)
        if boxes is None or scores is None or boxes.at is not None or scores.at is not None:
            return None
        return Candidates.above(boxes.values[0], scores.values[0], threshold)


class Side(Protocol):
    """One side of a comparison."""

    @property
    def name(self) -> str:
        """For reports."""
        ...

    @property
    def card(self) -> ModelCard | None:
        """The model's card where there is one."""
        ...

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the raw head tensors it gives, in the order of the heads."""
        ...

    @property
    def images(self) -> NDArray[np.uint8] | None:
        """The pixels it is tied to, or ``None`` where it takes any."""
        ...

    def answer(self, index: int, image: NDArray[np.uint8]) -> Answer:
        """What it gives for image number `index`, whose pixels are `image` ``(H, W, 3)``."""
        ...


class RunnerSide:
    """A loaded engine or model."""

    def __init__(self, runner: Runner, card: ModelCard | None, name: str) -> None:
        self.runner = runner
        self.card = card
        self.name = name
        given = {spec.name for spec in runner.outputs}
        if card is not None and card.heads:
            self.heads = tuple(head.tensor for head in card.heads if head.tensor in given)
        else:
            self.heads = tuple(
                spec.name for spec in runner.outputs if spec.name not in (BOXES, SCORES)
            )
        self.images: NDArray[np.uint8] | None = None

    def check_images(self, images: NDArray[np.uint8]) -> None:
        """Raise InputError where `images` do not fit the network."""
        shape = self.runner.inputs[0].shape
        fits = images.ndim == 4 and all(
            want is None or want == have
            for want, have in zip(shape[1:], images.shape[1:], strict=True)
        )
        if images.dtype != np.uint8 or not fits:
            raise InputError(
                f"{self.name} takes images of uint8 (N, {', '.join(map(str, shape[1:]))}), "
                f"got {images.dtype} {images.shape}"
            )

    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Every output for a batch of 1, also where the engine's batch is fixed."""
        fixed = self.runner.inputs[0].shape[0]
        if fixed is not None and fixed != len(batch):
            batch = np.repeat(batch, fixed, axis=0)
        outputs = self.runner.infer({self.runner.inputs[0].name: np.ascontiguousarray(batch)})
        return {name: value[:1] for name, value in outputs.items()}

    def answer(self, index: int, image: NDArray[np.uint8]) -> Answer:
        """Run the network on `image`."""
        if index == 0:
            self.check_images(image[None])
        outputs = self.run(image[None])
        return Answer({name: SampledTensor.full(value) for name, value in outputs.items()})


class DumpSide:
    """What was computed before and kept."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.name = reference.name
        self.card: ModelCard | None = None
        self.heads = reference.heads
        self.images = reference.images

    def answer(self, index: int, image: NDArray[np.uint8]) -> Answer:
        """What was kept for image number `index`.

        Raises:
            InputError: The pixels are not those the dump was made from, or there are
                more images than it answers for.
        """
        reference = self.reference
        if image.shape[:2] != reference.input_size:
            raise InputError(
                f"{self.name} was made at {reference.input_size} (height, width), "
                f"got an image of {image.shape[:2]}"
            )
        if index >= reference.count:
            raise InputError(f"{self.name} answers for {reference.count} images, got more")
        if reference.images is not None and not np.array_equal(reference.images[index], image):
            raise InputError(f"{self.name} was made from other pixels than image {index}")
        return Answer(
            {name: tensor.of_image(index) for name, tensor in reference.tensors.items()},
            {threshold: rows[index] for threshold, rows in reference.candidates.items()},
            {threshold: rows[index] for threshold, rows in reference.detections.items()},
        )


@contextlib.contextmanager
def open_side(
    source: Comparable,
    backend: str | None = None,
    card: ModelCard | None = None,
    want_heads: bool = True,
) -> Iterator[Any]:
    """Make `source` ready to answer; what is opened here is closed at the end.

    Args:
        source: A path (``.npz`` dump, ``.bw`` engine, ``.onnx`` model), or what it holds.
        backend: Backend to run on; default: the engine's own, ONNX Runtime for a model.
        card: The card of a bare runner, which has none.
        want_heads: Have a model return its raw heads. An engine is run as it was built
            and returns them only if it was built so.

    Raises:
        InputError: The path is of no known kind, or its file cannot be read.
    """
    if isinstance(source, str | Path):
        source = _load(Path(source))
    if isinstance(source, Reference):
        yield DumpSide(source)
    elif isinstance(source, Model):
        model = with_head_outputs(source) if want_heads else source
        name = f"{source.card.name} on {backend or 'onnxruntime'}"
        with _load_runner(model, backend) as runner:
            yield RunnerSide(runner, source.card, name)
    elif _is_engine(source):
        with _load_runner(source, backend) as runner:
            yield RunnerSide(runner, source.card, f"engine {source.card.name}")
    elif _is_runner(source):
        yield RunnerSide(source, card, type(source).__name__)
    else:
        yield source


def _is_runner(source: object) -> TypeGuard[Runner]:
    return hasattr(source, "infer")


def _is_engine(source: object) -> TypeGuard[Engine]:
    from boxwright.engine import Engine

    return isinstance(source, Engine)


def _load_runner(source: Model | Engine, backend: str | None) -> Runner:
    from boxwright import backends

    return backends.load(source, backend=backend)


def _load(path: Path) -> Model | Engine | Reference:
    if path.suffix.lower() == ".npz":
        return read_dump(path)
    from boxwright.engine import Engine, is_engine_file

    if is_engine_file(path) or path.suffix.lower() == ".bw":
        return Engine.open(path)
    return Model.load(path)


def read_images(paths: list[str | Path]) -> NDArray[np.uint8]:
    """Lossless pictures that are already at network size, as uint8 ``(N, H, W, 3)`` RGB.

    Nothing is resized: parity to 1e-4 needs the very pixels the reference saw.

    Raises:
        ImageError: A picture cannot be read.
        InputError: They differ in size.
    """
    from boxwright.images import load_image

    pictures = [load_image(path) for path in paths]
    sizes = {picture.shape for picture in pictures}
    if len(sizes) != 1:
        raise InputError(f"images must be of one size, got {sorted(sizes)}")
    return np.stack(pictures)


__all__ = [
    "IMAGES",
    "Answer",
    "Comparable",
    "DumpSide",
    "RunnerSide",
    "Side",
    "open_side",
    "read_images",
]
