"""Writing detections of many images, so that a killed run can go on where it stopped.

While a run goes on, every image's result is one line of a *journal*. When it ends, the
files asked for (JSON lines, COCO results, YOLO text) are made from the journal, each
written atomically, and the journal is removed. A run that was killed leaves its journal;
the next run with the same settings skips what is in it, and ends with the same files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.closing import Closing
from boxwright.errors import InputError
from boxwright.files import atomic_write
from boxwright.formats import CocoIds, coco_results, yolo_names, yolo_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from boxwright.detections import Detections

Record = dict[str, Any]

_JOURNAL_SCHEMA = 1
_HEADER_START = b'{"boxwright_journal":'


def image_record(path: str | Path, size: tuple[int, int], detections: Detections) -> Record:
    """One image's result, as a line of the JSON lines file holds it.

    Args:
        path: The image, as it was named.
        size: ``(height, width)`` in pixels.
        detections: In pixels of the image.

    Returns:
        ``path``, ``width``, ``height`` and ``detections``; a list as
        `Detections.to_records` gives it, with numbers as short as float32 allows.
    """
    items = detections.to_records()
    for item, xyxy, score in zip(items, detections.xyxy, detections.score, strict=True):
        item["score"] = _short(score)
        item["xyxy"] = [_short(value) for value in xyxy]
    if detections.landmarks is not None:
        for item, points in zip(items, detections.landmarks, strict=True):
            item["landmarks"] = [[_short(x), _short(y)] for x, y in points]
    for name, column in detections.attributes.items():
        if column.dtype == np.float32 and column.ndim == 1:
            for item, value in zip(items, column, strict=True):
                item[name] = _short(value)
    return {"path": str(path), "width": size[1], "height": size[0], "detections": items}


def failure_record(path: str | Path, message: str) -> Record:
    """The line of an image that could not be read; it has ``error`` and no detections."""
    return {"path": str(path), "error": message}


def _short(value: Any) -> float:
    """The shortest decimal that reads back as the same float32."""
    return float(str(value))


# In the journal only: see _stamp.
_STAMP = "stamp"


class Journal(Closing):
    """Results on disk, one line an image, the settings in the first line.

    Lines are appended and flushed. A last line that was cut short is dropped on reading,
    and its image counts as not done.

    Args:
        path: The journal file; made when it does not exist.
        settings: What the results depend on (model hash, thresholds, ...); JSON values.
        restart: Throw an old journal away instead of going on with it.

    Raises:
        InputError: An old journal has other settings, is damaged, or is in use.
    """

    def __init__(
        self, path: str | Path, settings: Mapping[str, Any], *, restart: bool = False
    ) -> None:
        self.path = Path(path)
        self._offsets: dict[str, int] = {}
        self._settings = json.loads(_dump(dict(settings)))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = _open_alone(self.path)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}") from error
        try:
            if restart:
                self._stream.truncate(0)
            self._read()
        except BaseException:
            self._stream.close()
            raise

    @property
    def done(self) -> frozenset[str]:
        """The images that have a result, as they were named."""
        return frozenset(self._offsets)

    def __contains__(self, path: str | Path) -> bool:
        return str(path) in self._offsets

    def append(self, record: Record) -> None:
        """Keep one image's result; it survives the end of this process."""
        self._stream.seek(0, os.SEEK_END)
        self._offsets[record["path"]] = self._stream.tell()
        self._write_line(record)

    def get(self, path: str | Path) -> Record:
        """The result of an image that is done."""
        self._stream.seek(self._offsets[str(path)])
        record: Record = json.loads(self._stream.readline())
        return record

    def close(self) -> None:
        """Close the file and leave it for a later run."""
        self._stream.close()

    def remove(self) -> None:
        """Delete the journal: its results are elsewhere now."""
        if os.name == "posix":
            # While it is still locked: once closed, it could be another run's already.
            self.path.unlink(missing_ok=True)
            self.close()
        else:
            self.close()
            self.path.unlink(missing_ok=True)

    def _write_line(self, content: Record) -> None:
        self._stream.write(_dump(content) + b"\n")
        self._stream.flush()

    def _read(self) -> None:
        self._stream.seek(0)
        first = self._stream.readline()
        if not first.endswith(b"\n") and _HEADER_START.startswith(first[: len(_HEADER_START)]):
            # New, or killed while its first line was written.
            self._stream.seek(0)
            self._stream.truncate()
            self._write_line({"boxwright_journal": _JOURNAL_SCHEMA, "settings": self._settings})
            return
        self._check_header(first)
        while True:
            offset = self._stream.tell()
            line = self._stream.readline()
            if not line:
                return
            record = _parse(line)
            if record is None or not line.endswith(b"\n"):
                self._drop_from(offset)
                return
            self._offsets[record["path"]] = offset

    def _check_header(self, line: bytes) -> None:
        try:
            header = json.loads(line)
            schema, settings = header["boxwright_journal"], header["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path} is not a journal of a Boxwright run; move it away or delete it"
            ) from error
        if schema != _JOURNAL_SCHEMA:
            raise InputError(
                f"{self.path} was written by another version of Boxwright; start the run anew"
            )
        if settings != self._settings:
            raise InputError(
                f"{self.path} holds an unfinished run with other settings "
                f"({_differences(settings, self._settings)}); repeat the run with those, or "
                "start it anew (detect and eval: --no-resume)"
            )

    def _drop_from(self, offset: int) -> None:
        if self._stream.read(1):
            raise InputError(
                f"{self.path} is damaged at byte {offset}; start the run anew to replace it"
            )
        self._stream.seek(offset)
        self._stream.truncate()


class ResultWriter(Closing):
    """Collects the results of a list of images and writes the files asked for.

    ::

        with ResultWriter(paths, settings, jsonl="out.jsonl") as writer:
            for path in writer.pending():
                writer.add(path, size, detections)
            writer.finish()

    The journal lies beside the first output as ``.NAME.journal``.

    Args:
        paths: The images of the run, in the order of the final files.
        settings: What the results depend on; a run is only continued with the same.
        class_names: The detector's classes, which COCO results need.
        jsonl: Write JSON lines here: one image a line, failures included.
        coco: Write COCO results here: a list of `image_id`, `category_id`, `bbox`
            (`xywh`) and `score`.
        annotations: The COCO annotations whose image and category ids to use.
        yolo: Write YOLO text files into this folder: one an image, lines of
            ``class cx cy width height score``, fractions of the image.
        restart: Forget an unfinished run.

    Raises:
        InputError: Nothing is to be written, an old run does not fit, or the ids of
            `annotations` do not cover the images.
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        settings: Mapping[str, Any],
        *,
        class_names: tuple[str, ...] = (),
        jsonl: str | Path | None = None,
        coco: str | Path | None = None,
        annotations: str | Path | None = None,
        yolo: str | Path | None = None,
        restart: bool = False,
    ) -> None:
        self._paths = list(dict.fromkeys(str(path) for path in paths))
        if not all(map(os.path.isabs, self._paths)):
            # Elsewhere, the same relative path is another image.
            settings = {**settings, "working_folder": str(Path.cwd())}
        self._jsonl, self._coco, self._yolo = jsonl, coco, yolo
        outputs = [Path(output) for output in (jsonl, coco, yolo) if output is not None]
        if not outputs:
            raise InputError("no output was asked for; give jsonl, coco or yolo")
        # Whatever cannot work is found out now, not after hours of detecting.
        self._ids = None if coco is None else CocoIds(self._paths, class_names, annotations)
        self._yolo_names = {} if yolo is None else yolo_names(self._paths)
        first = outputs[0].absolute()
        journal = first.parent / f".{first.name}.journal"
        self._journal = Journal(journal, settings, restart=restart)

    @property
    def resumed(self) -> int:
        """How many of the images are done already."""
        return sum(map(self._is_done, self._paths))

    def pending(self) -> list[Path]:
        """The images still to be done, in order; one that was replaced since is among them."""
        return [Path(path) for path in self._paths if not self._is_done(path)]

    def _is_done(self, path: str) -> bool:
        return path in self._journal and self._journal.get(path).get(_STAMP) == _stamp(path)

    def add(self, path: str | Path, size: tuple[int, int], detections: Detections) -> None:
        """Keep the result of one image; `size` is ``(height, width)``."""
        self._journal.append({**image_record(path, size, detections), _STAMP: _stamp(path)})

    def add_failure(self, path: str | Path, message: str) -> None:
        """Keep that an image could not be read; it is not tried again."""
        self._journal.append({**failure_record(path, message), _STAMP: _stamp(path)})

    def finish(self) -> None:
        """Write the final files and remove the journal.

        Raises:
            InputError: Images are still pending, or a file cannot be written.
        """
        pending = self.pending()
        if pending:
            raise InputError(f"{len(pending)} images have no result yet, first {pending[0]}")
        if self._jsonl is not None:
            write_jsonl(self._jsonl, self._records())
        if self._coco is not None and self._ids is not None:
            _write_json(self._coco, coco_results(self._records(), self._ids))
        if self._yolo is not None:
            for record in self._records():
                if "error" not in record:
                    name = self._yolo_names[record["path"]]
                    with atomic_write(Path(self._yolo) / name) as stream:
                        stream.write(yolo_text(record).encode())
        self._journal.remove()

    def close(self) -> None:
        """Close the journal; unless :meth:`finish` was called, a later run goes on with it."""
        self._journal.close()

    def _records(self) -> Iterator[Record]:
        for path in self._paths:
            record = self._journal.get(path)
            record.pop(_STAMP, None)
            yield record


def _stamp(path: str | Path) -> list[int] | None:
    """Size and time of change of an image, by which a replaced one is known."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a text is as good as a Path
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def write_jsonl(path: str | Path, records: Iterable[Record]) -> None:
    """Write records as JSON lines, atomically.

    Raises:
        InputError: The file cannot be written.
    """
    with atomic_write(path) as stream:
        for record in records:
            stream.write(_dump(record) + b"\n")


def _write_json(path: str | Path, items: Iterable[Record]) -> None:
    """A JSON list, one item a line, without holding the list in memory."""
    with atomic_write(path) as stream:
        separator = b"[\n"
        for item in items:
            stream.write(separator + _dump(item))
            separator = b",\n"
        stream.write(b"[]\n" if separator == b"[\n" else b"\n]\n")


def _dump(content: Record) -> bytes:
    try:
        return json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8 travels as escapes
        return json.dumps(content, ensure_ascii=True, allow_nan=False).encode()


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("path"), str):
        return None
    return record


def _differences(old: Any, new: Mapping[str, Any]) -> str:
    if not isinstance(old, dict):
        return "unreadable"
    keys = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    shown = [f"{key}: {_brief(old.get(key))} then, {_brief(new.get(key))} now" for key in keys]
    return "; ".join(shown[:3]) + ("; ..." if len(shown) > 3 else "")


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _open_alone(path: Path) -> IO[bytes]:
    """Open for reading and appending, refusing a file another process writes to."""
    path.touch()
    stream = path.open("r+b")
    try:
        import fcntl
    except ImportError:  # Windows; two runs into one file are then the user's care
        return stream
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        stream.close()
        raise InputError(f"{path} is in use by another run; wait for it to end") from error
    return stream
