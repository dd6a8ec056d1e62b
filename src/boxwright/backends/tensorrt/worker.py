"""Building in a process of its own.

A build runs for minutes in native code that can neither be interrupted (before TensorRT 10)
nor trusted not to crash. In its own process it is stopped by ending the process, a crash
becomes an error message, and its memory is gone when it is done.

The parent writes the model and the request into a temporary folder; the child reports
progress as JSON lines on its standard output, leaves the plan in the folder, and closes its
output. It then waits to be dismissed by a byte on its standard input. Where that closes
without one the parent is dead, and the child ends and removes the folder in its place.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from boxwright import errors
from boxwright.backends.tensorrt.compile import Built, Request, compile_plan
from boxwright.errors import BoxwrightError, BuildError

if TYPE_CHECKING:
    from boxwright.progress import ProgressCallback

_MODEL, _REQUEST, _PLAN, _ANSWER = "model.onnx", "request.json", "plan", "answer.json"
_CODE = "from boxwright.backends.tensorrt.worker import main; main()"
_TAIL = 2000
_DISMISSED = b"."


def build_isolated(request: Request, model: bytes, progress: ProgressCallback) -> Built:
    """As :func:`~boxwright.backends.tensorrt.compile.compile_plan`, in a new process.

    Raises:
        BuildError: Also where the process crashes.
    """
    with _explained():
        temporary = tempfile.TemporaryDirectory(prefix="boxwright-", ignore_cleanup_errors=True)
    with temporary as name:
        folder = Path(name)
        with _explained():
            (folder / _MODEL).write_bytes(model)
            (folder / _REQUEST).write_text(request.to_json(), encoding="utf-8")
        code, said = _run(folder, progress)
        with _explained():
            return _collect(folder, code, said)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Trouble with the temporary folder as a build error; the callback's errors are its own."""
    try:
        yield
    except OSError as error:
        where = f" in {tempfile.tempdir}" if tempfile.tempdir else ""
        raise BuildError(f"cannot build{where}: {error.strerror or error}") from error


def _run(folder: Path, progress: ProgressCallback) -> tuple[int, str]:
    """Run the child to its end; its exit status and the end of what it printed."""
    with _explained():
        stderr = open(folder / "stderr", "w+b")  # noqa: SIM115 - closed below
    with stderr:
        child = _start(folder, stderr)
        try:
            assert child.stdout is not None  # noqa: S101 - it is a pipe
            for line in child.stdout:
                _relay(line, progress)
            with contextlib.suppress(OSError):  # it may have ended by itself
                child.communicate(_DISMISSED)
            code = child.wait()
        finally:
            # Also on Ctrl-C, and where the progress callback raises.
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
        stderr.seek(0, os.SEEK_END)
        stderr.seek(max(0, stderr.tell() - _TAIL))
        return code, stderr.read().decode(errors="replace").strip()


def _start(folder: Path, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with _explained():
        return subprocess.Popen(  # noqa: S603 - our own code in our own interpreter
            [sys.executable, "-P", "-c", _CODE, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
        )


def _relay(line: bytes, progress: ProgressCallback) -> None:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return  # a library's own print
    match content:
        case [str(stage), int(done), int() | None as total]:
            progress(stage, done, total)


def _collect(folder: Path, code: int, said: str) -> Built:
    try:
        answer: dict[str, Any] = json.loads((folder / _ANSWER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BuildError(f"TensorRT ended without a plan: {_fate(code, said)}") from None
    if "error" in answer:
        kind = getattr(errors, answer["kind"], BuildError)
        raise kind(answer["error"])
    return Built((folder / _PLAN).read_bytes(), answer["evidence"])


def _fate(code: int, said: str) -> str:
    """How a process ended, and its last words."""
    if code < 0:
        try:
            how = f"it was ended by {signal.Signals(-code).name}"
        except ValueError:
            how = f"it was ended by signal {-code}"
        if code == -9:
            how += " (is there too little memory?)"
    else:
        how = f"exit status {code}"
    last = " ".join(said.splitlines()[-3:])
    return f"{how}; it said: {last}" if last else how


def main() -> None:
    """The child's side."""
    folder = Path(sys.argv[1])
    # Progress has the real standard output for itself; prints of libraries go to stderr.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # What ends a whole group of processes ends the parent, and the child with it and after it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    watcher = threading.Thread(target=_watch_parent, args=(folder,), daemon=True)
    watcher.start()

    def report(stage: str, done: int, total: int | None) -> None:
        channel.write(json.dumps([stage, done, total]) + "\n")
        channel.flush()

    code = 0
    try:
        _build(folder, report)
    except BaseException:
        # The parent's death shows here too: nobody reads the progress, or the folder is gone.
        traceback.print_exc()
        sys.stderr.flush()
        code = 1
    with contextlib.suppress(OSError):
        channel.close()
    watcher.join()
    # TensorRT's and CUDA's own teardown may crash after all is done.
    os._exit(code)


def _build(folder: Path, report: ProgressCallback) -> None:
    """From the request in the folder to the answer in it."""
    try:
        request = Request.from_json((folder / _REQUEST).read_text(encoding="utf-8"))
        built = compile_plan(request, (folder / _MODEL).read_bytes(), report)
        (folder / _PLAN).write_bytes(built.plan)
        answer: dict[str, Any] = {"evidence": built.evidence}
    except BoxwrightError as error:
        answer = {"kind": type(error).__name__, "error": str(error)}
    unfinished = folder / "unfinished"
    unfinished.write_text(json.dumps(answer), encoding="utf-8")
    unfinished.replace(folder / _ANSWER)


def _watch_parent(folder: Path) -> None:
    """Wait to be dismissed; where the parent dies instead, clean up in its place."""
    # Not by sys.stdin: Python ends badly while a thread waits in it.
    if os.read(0, 1) == _DISMISSED:
        return
    for _ in range(100):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
        # The build is just writing into it.
        time.sleep(0.1)
    os._exit(1)
