"""Work in stages that survives being killed: what is done stays done, and is checked.

A stage has a *key*, the hash of everything its outputs depend on: settings, and what
files hold. When it ends, its key and the hash of every output go into the state file. The
next run skips a stage whose key is the same and whose outputs are as they were written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.engine import Engine
from boxwright.errors import InputError
from boxwright.files import read_regular, sha256_file, write_text

if TYPE_CHECKING:
    from typing import IO

STATE = "ship.json"
LOCK = ".ship.lock"
STATE_SCHEMA = 1

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Stage:
    """One step of the work.

    Attributes:
        name: Short; unlike the others'.
        inputs: Everything its outputs depend on, as JSON values; called when the stages
            before it are done.
        outputs: What it writes, each with a function that hashes it as it is now, or
            raises `InputError` where it is gone or damaged.
        run: Does the work; it must write all outputs.
    """

    name: str
    inputs: Callable[[], Inputs]
    outputs: Mapping[str, Callable[[], str]]
    run: Callable[[], None]


@dataclass(frozen=True)
class StageRecord:
    """What became of a stage in this run.

    Attributes:
        name: Its name.
        seconds: What it took, now or when it was done.
        redone: Why it was done again, else empty.
        skipped: Whether it was done before.
    """

    name: str
    seconds: float
    redone: str
    skipped: bool


@dataclass
class State:
    """The state file of a folder. Use :meth:`open`.

    Attributes:
        path: The file.
        stages: What is done, by name.
        files: What ships into this folder write; ``None`` where an older state does not say.
    """

    path: Path
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: set[str] | None = field(default_factory=set)

    @classmethod
    def open(cls, folder: Path) -> State:
        """Read the state; an empty one where there is none, or where it is of no use.

        Raises:
            InputError: The file is not a state file.
        """
        path = folder / STATE
        if not path.exists():
            return cls(path)
        try:
            content = json.loads(read_regular(path))
            schema, stages = content["boxwright_ship"], content["stages"]
            sound = isinstance(stages, dict) and all(map(_is_record, stages.values()))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"{path} is not the state of a ship; name another folder, or delete it"
            ) from error
        # What another version of Boxwright made is made again.
        files = content.get("files")
        listed = isinstance(files, list) and all(isinstance(name, str) for name in files)
        return cls(
            path,
            stages if schema == STATE_SCHEMA and sound else {},
            set(files) if listed else None,
        )

    def why_not_done(self, stage: Stage, inputs: Inputs) -> str | None:
        """Why a stage has to run: ``None`` if it has not, empty if it never did."""
        record = self.stages.get(stage.name)
        if record is None:
            return ""
        if record["key"] != key_of(inputs):
            return _changed(record["inputs"], inputs)
        for name, digest in stage.outputs.items():
            try:
                if digest() != record["outputs"].get(name):
                    return f"{name} was changed"
            except InputError:
                return f"{name} is missing or damaged"
        return None

    def forget(self, names: Sequence[str]) -> None:
        """Drop stages, before they are done again; nothing is written where none is known."""
        known = [name for name in names if self.stages.pop(name, None) is not None]
        if known:
            self._write()

    def claim(self, stage: Stage) -> None:
        """Write down which files a stage is about to write, before it does.

        Raises:
            InputError: One is there already, and no run into this folder wrote it.
        """
        if self.files is None:
            return
        for name in stage.outputs:
            place = self.path.parent / name
            if name not in self.files and place.is_file():
                raise InputError(
                    f"{place} would be written, and is a file that no ship wrote: move it, or "
                    "name another folder with -o"
                )
        self.files.update(stage.outputs)
        self._write()

    def keep(self, stage: Stage, inputs: Inputs, seconds: float) -> None:
        """Write down that a stage is done, with the hash of each of its outputs."""
        self.stages[stage.name] = {
            "key": key_of(inputs),
            "inputs": json.loads(json.dumps(inputs)),
            "outputs": {name: digest() for name, digest in stage.outputs.items()},
            "seconds": round(seconds, 3),
        }
        self._write()

    def _write(self) -> None:
        content: dict[str, Any] = {"boxwright_ship": STATE_SCHEMA, "stages": self.stages}
        if self.files is not None:
            content["files"] = sorted(self.files)
        write_text(self.path, json.dumps(content, indent=2, ensure_ascii=True) + "\n")


def run_stages(
    folder: Path,
    stages: Sequence[Stage],
    *,
    restart: bool = False,
    on_start: Callable[[int, str], None] = lambda index, why: None,
) -> list[StageRecord]:
    """Do what is not done, in order.

    Args:
        folder: Where state and outputs are; this process must hold its lock.
        stages: In the order of their dependence.
        restart: Do everything again.
        on_start: Called before each stage that runs, with its index and why it is redone.

    Raises:
        InputError: The state file is another program's, or an output would replace a file
            that is not of a ship.
    """
    state = State.open(folder)
    if restart:
        state.forget([stage.name for stage in stages])
    records = []
    for index, stage in enumerate(stages):
        inputs = stage.inputs()
        why = state.why_not_done(stage, inputs)
        if why is None:
            seconds = state.stages[stage.name]["seconds"]
            records.append(StageRecord(stage.name, seconds, "", skipped=True))
            continue
        on_start(index, why)
        # While its outputs are being replaced, they are nobody's.
        state.forget([stage.name])
        state.claim(stage)
        started = time.perf_counter()
        stage.run()
        seconds = time.perf_counter() - started
        state.keep(stage, inputs, seconds)
        records.append(StageRecord(stage.name, seconds, why, skipped=False))
    return records


def expected_seconds(folder: Path, stages: Sequence[str]) -> dict[str, float]:
    """How long stages took the last time they ran here, where they did."""
    try:
        known = State.open(folder).stages
    except InputError:
        return {}
    return {name: float(known[name]["seconds"]) for name in stages if name in known}


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder for this process, and clear away what a killed one left half-written.

    Raises:
        InputError: Another process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / LOCK).open("a+b")
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    with stream:
        _lock(stream, folder)
        for left in folder.rglob(".boxwright-*.part"):
            left.unlink(missing_ok=True)
        yield


def key_of(inputs: Inputs) -> str:
    """The hash of everything that a stage depends on."""
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def engine_digest(path: Path) -> str:
    """The hash of an engine without its receipt, which later stages add to; all is read.

    Raises:
        InputError: The file is missing or damaged.
    """
    engine = Engine.open(path)
    engine.verify()
    return engine.content_sha256


def receipt_digest(path: Path) -> str:
    """The hash of an engine's receipt.

    Raises:
        InputError: The file is missing or damaged.
    """
    return key_of(Engine.open(path).receipt)


def sha256_of_files(paths: Sequence[Path]) -> str:
    """One hash over names and contents of files, in order; a missing file counts as empty.

    What an unreadable image is worth is for the stage that reads it to say.
    """
    total = hashlib.sha256()
    for path in paths:
        try:
            content = sha256_file(path)
        except InputError:
            content = "unreadable"
        total.update(json.dumps([path.name, content]).encode())
    return total.hexdigest()


def _lock(stream: IO[bytes], folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows; two runs into one folder are then the user's care
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(
            f"{folder} is in use by another run; wait for it to end, or name another folder"
        ) from error


def _is_record(record: object) -> bool:
    return (
        isinstance(record, dict)
        and isinstance(record.get("key"), str)
        and isinstance(record.get("inputs"), dict)
        and isinstance(record.get("outputs"), dict)
        and isinstance(record.get("seconds"), int | float)
    )


def _changed(before: Mapping[str, Any], now: Inputs) -> str:
    new = json.loads(json.dumps(now))
    names = [name for name in {**before, **new} if before.get(name) != new.get(name)]
    return f"{', '.join(names)} changed"
