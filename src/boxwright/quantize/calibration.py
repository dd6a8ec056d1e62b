"""What a model's activations range over on images, in one pass over them.

The images go through the model's own preprocessing, the same code that detection runs;
the activations become statistics at once, a batch at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.errors import InputError
from boxwright.extras import import_onnxruntime
from boxwright.files import human_size, sha256_file
from boxwright.images import load_image
from boxwright.locks import FileLock
from boxwright.parallel import map_images
from boxwright.preprocess import Pixels, Preprocessor
from boxwright.progress import ProgressCallback, silent
from boxwright.quantize import store
from boxwright.quantize.activations import Activations, Reader, in_groups
from boxwright.quantize.histogram import Accumulator, TensorStatistics
from boxwright.quantize.ranges import Method, amax_of

if TYPE_CHECKING:
    from boxwright.model import Model

_log = logging.getLogger("boxwright")

DEFAULT_BATCH = 8
DEFAULT_BUDGET = 512 << 20
"""Bytes of activations that are held at a time."""

FEWEST_IMAGES = 100
"""Fewer images are noted: extremes are rare, and NVIDIA recommends about 500."""

_SAVE_SECONDS = 5.0
# Of many tensors, writing takes a while; it shall not take more than a part of the time.
_SAVE_SHARE = 20
_PATIENCE_SECONDS = 24 * 3600.0


@dataclass(frozen=True, eq=False)
class Calibration:
    """Statistics of named float tensors of one model over images.

    Attributes:
        statistics: By tensor, in the graph's order.
        images: How many images were seen.
        model_sha256: Of the model's file, as :meth:`Model.save` writes it.
        images_sha256: Of the images' contents, in order.
        everything: Whether all activations were asked for, and not some by name.
    """

    statistics: Mapping[str, TensorStatistics]
    images: int
    model_sha256: str
    images_sha256: str
    everything: bool = False

    def amax(self, tensor: str, method: Method = "minmax", *, percentile: float = 99.99) -> float:
        """The upper end of a tensor's symmetric range.

        Args:
            tensor: Its name.
            method: ``minmax`` (the largest absolute value), ``entropy``, ``percentile`` or
                ``mse``; :mod:`boxwright.quantize.ranges` has the formulas.
            percentile: Of the method ``percentile``.

        Returns:
            A value above 0 unless the tensor was zero on every image.

        Raises:
            InputError: The tensor was not calibrated, or an argument is none of these.
        """
        return amax_of(self._of(tensor), method, percentile=percentile)

    def range(self, tensor: str) -> tuple[float, float]:
        """A tensor's smallest and largest value.

        Raises:
            InputError: The tensor was not calibrated.
        """
        found = self._of(tensor)
        return found.minimum, found.maximum

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes it worth less than it could be, for people."""
        found = []
        if self.images < FEWEST_IMAGES:
            found.append(
                f"calibrated on {self.images} image{'s' if self.images > 1 else ''}; "
                f"at least {FEWEST_IMAGES} are advised, about 500 are better"
            )
        zero = [name for name, item in self.statistics.items() if not item.amax]
        if zero:
            more = f" and {len(zero) - 1} more" if len(zero) > 1 else ""
            found.append(f"zero on every image, so without a range: {zero[0]!r}{more}")
        return tuple(found)

    def save(self, path: str | Path) -> None:
        """Write it as an ``.npz``; the same calibration always gives the same bytes.

        Raises:
            InputError: It cannot be written.
        """
        store.write(Path(path), self._stored())

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: The file is missing, foreign, damaged, of another version, or an
                unfinished calibration's.
        """
        stored = store.read(Path(path))
        if stored.progress is not None:
            raise InputError(
                f"{path} is a calibration that was interrupted; run it again with this file "
                "as its cache, and it will go on"
            )
        return cls._from(stored)

    def _stored(self) -> store.Stored:
        return store.Stored(
            *(self.model_sha256, self.images_sha256, self.images, self.everything),
            statistics=self.statistics,
        )

    @classmethod
    def _from(cls, stored: store.Stored) -> Calibration:
        return cls(
            *(stored.statistics, stored.images, stored.model_sha256, stored.images_sha256),
            everything=stored.everything,
        )

    def _of(self, tensor: str) -> TensorStatistics:
        if tensor not in self.statistics:
            raise InputError(
                f"the tensor {tensor!r} was not calibrated; {len(self.statistics)} others were: "
                "calibrate again with it among `tensors`"
            )
        return self.statistics[tensor]


def calibrate(
    model: Model,
    images: Sequence[str | Path],
    tensors: Collection[str] | None = None,
    *,
    cache: Path | None = None,
    batch: int = DEFAULT_BATCH,
    budget: int = DEFAULT_BUDGET,
    progress: ProgressCallback = silent,
) -> Calibration:
    """Run a model on images and gather statistics of its activations.

    The same model and images give the same calibration, to the bit. Where activations take
    more than the budget, fewer images are run at a time, and then fewer tensors: the images
    are gone through once for each group of tensors.

    Args:
        model: The model, in float.
        images: Image files.
        tensors: Names of float tensors; ``None`` for all that depend on the image.
        cache: A file that keeps the result, and on the way there how far it got: a killed
            run goes on, a finished one is read. One of other images or another model is
            replaced, and the log says so. Processes that share it wait for each other.
        batch: Images at a time, at most; a graph of a fixed number takes that.
        budget: Bytes of activations at a time.
        progress: Told of the images done.

    Raises:
        InputError: There are no images, one cannot be read, a tensor is not there or has a
            value that is not finite, or `cache` is a file of something else.
        ModelError: ONNX Runtime cannot run the model.
    """
    paths = [Path(image) for image in images]
    if not paths:
        raise InputError("calibration needs images, got none; name a folder with some hundred")
    if batch < 1 or budget < 1:
        raise InputError(f"batch and budget must be at least 1, got {batch} and {budget}")
    started = Calibration(
        {}, len(paths), _hash_model(model), _hash_images(paths, progress), tensors is None
    )
    work = _Work(model, paths, tensors, started, cache, batch, budget, progress)
    if cache is None:
        return work.run(None)
    with _alone(cache, progress):
        kept = _usable(cache, started)
        if kept is not None and kept.progress is None:
            finished = _restricted(Calibration._from(kept), tensors)
            if finished is not None:
                progress("calibrating", len(paths), len(paths))
                return finished
        result = work.run(kept)
        result.save(cache)
    return result


class _Work:
    """One calibration: its groups of tensors, and how far each is."""

    def __init__(
        self,
        model: Model,
        paths: Sequence[Path],
        tensors: Collection[str] | None,
        started: Calibration,
        cache: Path | None,
        batch: int,
        budget: int,
        progress: ProgressCallback,
    ) -> None:
        self._model, self._paths, self._tensors = model, paths, tensors
        self._started, self._cache = started, cache
        self._batch, self._budget, self._progress = batch, budget, progress
        self._preprocessor = Preprocessor(model.card)
        self._gathered: dict[str, Accumulator] = {}
        self._saved_at, self._save_seconds = time.monotonic(), 0.0

    def run(self, kept: store.Stored | None) -> Calibration:
        """All of it, or what `kept` had not done."""
        activations = Activations(self._model, self._tensors)
        names = activations.names
        sizes = activations.sizes(self._prepared(self._paths[:1]))
        size = activations.fixed_batch or _images_at_a_time(sizes, self._batch, self._budget)
        rows = 1 if activations.fixed_batch else size
        groups = in_groups([rows * item for item in sizes], self._budget)
        self._gathered = {name: Accumulator() for name in names}
        first, done = self._resume(kept, len(groups))
        total = len(self._paths)
        for number in range(first, len(groups)):
            reader = activations.open([names[at] for at in groups[number]])
            for start in range(done if number == first else 0, total, size):
                end = min(start + size, total)
                self._take_in(reader, self._paths[start:end])
                self._progress("calibrating", (number * total + end) // len(groups), total)
                self._keep(number, end)
        statistics = {name: self._gathered[name].result() for name in names}
        return replace(self._started, statistics=statistics)

    def _take_in(self, reader: Reader, paths: Sequence[Path]) -> None:
        values = list(reader.values(self._prepared(paths)))
        finite = map_images(lambda pair: self._gathered[pair[0]].add(pair[1]), values)
        for (name, value), sound in zip(values, finite, strict=True):
            if not sound:
                raise InputError(_not_finite(name, value, paths))

    def _prepared(self, paths: Sequence[Path]) -> Pixels:
        def prepare(path: Path) -> Pixels:
            return self._preprocessor.prepare(load_image(path))[0]

        return np.stack(map_images(prepare, paths))

    def _resume(self, kept: store.Stored | None, groups: int) -> tuple[int, int]:
        """The group and the images of it that an earlier run had done."""
        if kept is None or kept.progress is None:
            return 0, 0
        group, images = kept.progress.group, kept.progress.images
        alike = list(kept.statistics) == list(self._gathered) and group < groups
        if not alike or kept.progress != self._at(group, images):
            _log.warning(
                "%s was interrupted with other tensors or settings; calibration starts again",
                self._cache,
            )
            return 0, 0
        self._gathered = {name: Accumulator(item) for name, item in kept.statistics.items()}
        return group, images

    def _keep(self, group: int, images: int) -> None:
        """Write down how far it is, every few seconds."""
        since = time.monotonic() - self._saved_at
        if self._cache is None or since < max(_SAVE_SECONDS, _SAVE_SHARE * self._save_seconds):
            return
        before = time.monotonic()
        statistics = {name: item.result() for name, item in self._gathered.items()}
        unfinished = replace(self._started, statistics=statistics)._stored()
        store.write(self._cache, replace(unfinished, progress=self._at(group, images)))
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - before

    def _at(self, group: int, images: int) -> store.Progress:
        version = str(import_onnxruntime().__version__)
        return store.Progress(group, images, self._batch, self._budget, version)


def _images_at_a_time(sizes: Sequence[int], batch: int, budget: int) -> int:
    """Running fewer at a time costs little, going through all images again costs much."""
    return max(1, min(batch, budget // max(sum(sizes), 1)))


def _not_finite(name: str, value: Any, paths: Sequence[Path]) -> str:
    """Which image it was, as far as the tensor tells."""
    at = 0
    if value.shape[:1] == (len(paths),):
        at = int(np.argmin(np.isfinite(value.reshape(len(paths), -1)).all(axis=1)))
        where = f"on {paths[at]}"
    else:
        where = f"on {paths[0]}" if len(paths) == 1 else f"on {paths[0]} to {paths[-1]}"
    numbers = np.asarray(value)
    odd = numbers[~np.isfinite(numbers)].reshape(-1)[0]
    return (
        f"the tensor {name!r} holds {odd} {where}, and no range of eight bits covers that; "
        "is the model sound in float? `boxwright inspect` and `detect` on that image may tell"
    )


def _hash_model(model: Model) -> str:
    digest = hashlib.sha256()
    for piece in model.pieces():
        digest.update(piece)
    return digest.hexdigest()


def _hash_images(paths: Sequence[Path], progress: ProgressCallback) -> str:
    digest = hashlib.sha256()
    for done, path in enumerate(paths, start=1):
        digest.update(bytes.fromhex(sha256_file(path)))
        progress("hash the images", done, len(paths))
    return digest.hexdigest()


@contextlib.contextmanager
def _alone(cache: Path, progress: ProgressCallback) -> Iterator[None]:
    """Hold a cache for this process, where its folder knows locks."""

    def waiting(seconds: float) -> None:
        progress("wait for another process that calibrates", int(seconds), None)

    lock = FileLock(cache.with_name(f"{cache.name}.lock"))
    try:
        lock.acquire(timeout=_PATIENCE_SECONDS, waiting=waiting)
    except TimeoutError as error:
        raise InputError(
            f"another process has been calibrating into {cache} for a day; end it, or name "
            "another file"
        ) from error
    except OSError as error:
        # Better now than when hours of work are to be kept.
        if not (cache.parent.is_dir() and os.access(cache.parent, os.W_OK)):
            raise InputError(f"cannot write {cache}: {error.strerror or error}") from error
        _log.info("no lock beside %s: %s", cache, error)
    try:
        yield
    finally:
        lock.release()


def _usable(cache: Path, started: Calibration) -> store.Stored | None:
    """What a cache holds of this model and these images; else ``None``, and the log says why.

    Raises:
        InputError: The file is not of ours, so it will not be replaced.
    """
    if not cache.exists():
        return None
    if not store.is_ours(cache):
        raise InputError(
            f"{cache} is to keep a calibration ({human_size(cache.stat().st_size)} of something "
            "else are there): name another file, or delete it"
        )
    try:
        stored = store.read(cache)
    except InputError as error:
        _log.warning("calibration starts again: %s", error)
        return None
    for what in ("model", "images"):
        if getattr(stored, f"{what}_sha256") != getattr(started, f"{what}_sha256"):
            kind = "another model" if what == "model" else "other images"
            _log.warning("%s is of %s; calibration starts again", cache, kind)
            return None
    return stored


def _restricted(finished: Calibration, tensors: Collection[str] | None) -> Calibration | None:
    """A finished calibration with the tensors that are asked for, where it has them all."""
    if tensors is None:
        return finished if finished.everything else None
    if not set(tensors) <= set(finished.statistics):
        return None
    wanted = set(tensors)
    statistics = {name: item for name, item in finished.statistics.items() if name in wanted}
    return replace(finished, statistics=statistics, everything=False)
