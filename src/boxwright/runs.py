"""Detecting in many image files: batches, damaged images, drawings, one result each.

What is written beside the drawings, and how a killed run goes on, is
:mod:`boxwright.outputs`.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from boxwright.errors import ImageError, InputError
from boxwright.files import atomic_write
from boxwright.images import load_image
from boxwright.parallel import map_images
from boxwright.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from boxwright.detections import Detections
    from boxwright.detector import Detector
    from boxwright.images import Pixels
    from boxwright.outputs import ResultWriter

_JPEG_QUALITY = 92
_DRAWABLE = frozenset({".jpg", ".jpeg", ".png"})


@dataclass(frozen=True)
class FileResult:
    """What became of one image file.

    Attributes:
        path: The image.
        size: ``(height, width)`` in pixels; ``None`` where it could not be read.
        detections: What was found; ``None`` where it could not be read.
        error: Why it could not be read, else ``None``.
    """

    path: Path
    size: tuple[int, int] | None = None
    detections: Detections | None = None
    error: str | None = None


@dataclass(frozen=True)
class RunSummary:
    """What became of a run.

    Attributes:
        images: Files the run was about.
        resumed: Files an earlier run had done.
        failed: Files that could not be read, of those done now.
        detections: Objects found, in those done now.
        seconds: From the first image read to the last result kept.
    """

    images: int
    resumed: int
    failed: int
    detections: int
    seconds: float

    @property
    def done(self) -> int:
        """Files done now, unreadable ones included."""
        return self.images - self.resumed

    @property
    def images_per_second(self) -> float:
        """Throughput from file to result, reading and drawing included."""
        return (self.done - self.failed) / self.seconds if self.seconds > 0 else 0.0

    @property
    def all_failed(self) -> bool:
        """Not one image could be read."""
        return self.images > 0 and self.resumed == 0 and self.failed == self.images


def detect_files(
    detector: Detector,
    paths: Sequence[Path],
    *,
    writer: ResultWriter | None = None,
    drawn: Path | None = None,
    on_result: Callable[[FileResult], None] | None = None,
    progress: ProgressCallback = silent,
) -> RunSummary:
    """Detect in image files, `detector.batch_size` at a time.

    An image that cannot be read is a result with an error, and the run goes on.

    Args:
        detector: The detector.
        paths: The files, in order.
        writer: Keeps the results; files it has already are skipped, and it is finished
            at the end.
        drawn: Folder for the images with their boxes drawn.
        on_result: Called with each result, in order.
        progress: Told about each batch.

    Raises:
        InputError: An output cannot be written.
    """
    pending = list(paths) if writer is None else writer.pending()
    names = drawn_names(paths) if drawn is not None else {}
    if drawn is not None:
        _refuse_drawing_over(drawn, names)
    failed = found = done = 0
    resumed = len(paths) - len(pending)
    started = time.perf_counter()
    progress("detecting", resumed, len(paths))
    for results in _batches(detector, pending):
        for result, pixels in results:
            if result.detections is not None:
                found += len(result.detections)
                # The drawing first: what the writer has is done entirely.
                if drawn is not None and pixels is not None:
                    save_drawn(drawn / names[result.path], pixels, result.detections)
            else:
                failed += 1
            if writer is not None:
                _keep(writer, result)
            if on_result is not None:
                on_result(result)
        done += len(results)
        progress("detecting", resumed + done, len(paths))
    seconds = time.perf_counter() - started
    if writer is not None:
        writer.finish()
    return RunSummary(len(paths), resumed, failed, found, seconds)


def _keep(writer: ResultWriter, result: FileResult) -> None:
    if result.detections is None or result.size is None:
        writer.add_failure(result.path, result.error or "unreadable")
    else:
        writer.add(result.path, result.size, result.detections)


def _batches(
    detector: Detector, paths: Sequence[Path]
) -> Iterator[list[tuple[FileResult, Pixels | None]]]:
    for start in range(0, len(paths), detector.batch_size):
        chunk = paths[start : start + detector.batch_size]
        loaded = map_images(lambda path: _load(path, detector.max_pixels), chunk)
        found = iter(detector.detect_batch([i for i in loaded if not isinstance(i, ImageError)]))
        results: list[tuple[FileResult, Pixels | None]] = []
        for path, item in zip(chunk, loaded, strict=True):
            if isinstance(item, ImageError):
                results.append((FileResult(path, error=str(item)), None))
            else:
                size = (item.shape[0], item.shape[1])
                results.append((FileResult(path, size, next(found)), item))
        yield results


def _load(path: Path, max_pixels: int) -> Pixels | ImageError:
    try:
        return load_image(path, max_pixels=max_pixels)
    except ImageError as error:
        return error


def drawn_names(paths: Sequence[Path]) -> dict[Path, Path]:
    """Where each drawing goes, below one folder, keeping subfolders and telling all apart.

    JPEG and PNG keep their name, other formats become ``NAME.png`` (``a.webp.png``).
    """
    absolute = {path: Path(os.path.abspath(path)) for path in paths}  # noqa: PTH100 - keeps links
    parents = {path.parent for path in absolute.values()}
    try:
        root = Path(os.path.commonpath(parents)) if parents else Path()
        names = {path: whole.relative_to(root) for path, whole in absolute.items()}
    except ValueError:  # several drives
        names = {path: Path(*whole.parts[1:]) for path, whole in absolute.items()}
    return {
        path: name if name.suffix.lower() in _DRAWABLE else name.with_name(f"{name.name}.png")
        for path, name in names.items()
    }


def _refuse_drawing_over(folder: Path, names: Mapping[Path, Path]) -> None:
    """A drawing must not take the place of an image."""
    images = {os.path.realpath(path) for path in names}
    for name in names.values():
        if os.path.realpath(folder / name) in images:
            raise InputError(
                f"the drawing {folder / name} would take the place of an image; "
                "give another folder with -o"
            )


def save_drawn(path: Path, pixels: Pixels, detections: Detections) -> None:
    """Write an image with its detections drawn, as JPEG or PNG by the name.

    Raises:
        InputError: It cannot be written.
    """
    from PIL import Image

    from boxwright.drawing import draw_detections

    form = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    content = io.BytesIO()
    Image.fromarray(draw_detections(pixels, detections)).save(
        content, form, **({"quality": _JPEG_QUALITY} if form == "JPEG" else {})
    )
    with atomic_write(path) as stream:
        stream.write(content.getvalue())
