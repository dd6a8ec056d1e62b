"""Builds in a process of their own: ended, crashed, killed, and their leftovers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boxwright import backends, errors
from boxwright.backends.tensorrt import worker
from boxwright.backends.tensorrt.compile import Request, compile_plan
from boxwright.backends.tensorrt.monitor import STEPS
from boxwright.backends.tensorrt.settings import Settings
from boxwright.backends.tensorrt.worker import build_isolated
from boxwright.errors import BackendUnavailableError, BuildError, InputError
from boxwright.model import Model
from boxwright.progress import silent
from tests.backends.conformance import KILLED_BUILD
from tests.models import make_model

_REASON = backends.available()["tensorrt-rtx"]
builds = pytest.mark.skipif(_REASON is not None, reason=f"TensorRT-RTX cannot build: {_REASON}")
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")

REQUEST = Request("tensorrt-rtx", "fp32", Settings(compute_capabilities=((8, 6),)), None, "none")


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert tempfile.gettempdir() == str(folder)
    return folder


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the other process run this before it builds."""

    def put(code: str) -> None:
        monkeypatch.setattr(worker, "_CODE", f"{code}\n{worker._CODE}")

    return put


def run(model: Model | None = None, progress: Any = silent, request: Request = REQUEST) -> Any:
    return build_isolated(request, (model or make_model()).to_bytes(), progress)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # A zombie has ended; nobody has asked how.
    state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


def wait_until(happened: Callable[[], bool], seconds: float = 20) -> float:
    started = time.monotonic()
    while not happened():
        assert time.monotonic() - started < seconds
        time.sleep(0.02)
    return time.monotonic() - started


# What it gives


@builds
def test_it_builds_what_is_built_in_this_process(temporary: Path) -> None:
    here = compile_plan(REQUEST, make_model().to_bytes(), silent)
    there = run()
    assert there.evidence["layers"] == here.evidence["layers"]
    assert there.evidence["layer_precisions"] == here.evidence["layer_precisions"]
    assert there.evidence["settings"] == here.evidence["settings"]
    # Names that TensorRT makes up differ from run to run; nothing else does.
    assert abs(len(there.plan) - len(here.plan)) < len(here.plan) / 100
    assert list(temporary.iterdir()) == []


@builds
@pytest.mark.parametrize("isolate", [True, False])
def test_progress_grows_to_its_end(tmp_path: Path, isolate: bool) -> None:
    seen: list[tuple[str, int, int | None]] = []
    backends.build(
        make_model(),
        backend="tensorrt-rtx",
        output=tmp_path / "x.bw",
        options={"isolate": isolate},
        progress=lambda *now: seen.append(now),
    )
    done = [now for _, now, _ in seen]
    assert {total for *_, total in seen} == {STEPS}
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, STEPS)
    assert len(set(done)) > 5
    assert (seen[0][0], seen[-1][0]) == ("read the model", "describe the engine")


@builds
@pytest.mark.parametrize("name", ["with spaces", "süß-模型-🚗", "-c 'quoted\" $HOME;"])
def test_folders_may_have_any_name(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = temporary / name
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    engine = backends.build(make_model(), backend="tensorrt-rtx", output=tmp_path / name / "x.bw")
    assert engine.receipt["tensorrt"]["plan_bytes"] > 0
    assert list(folder.iterdir()) == []


# How it fails


@pytest.mark.parametrize("kind", [InputError, BuildError, BackendUnavailableError])
def test_errors_keep_their_class_and_words(
    child: Callable[[str], None], temporary: Path, kind: type[Exception]
) -> None:
    words = "süß 'quoted' \\ \x07 words"
    child(
        "from boxwright.backends.tensorrt import worker\n"
        f"from boxwright.errors import {kind.__name__}\n"
        f"def compile_plan(*arguments): raise {kind.__name__}({words!r})\n"
        "worker.compile_plan = compile_plan"
    )
    with pytest.raises(errors.BoxwrightError) as caught:
        run()
    assert type(caught.value) is kind
    assert str(caught.value) == words
    assert list(temporary.iterdir()) == []


def test_a_library_that_is_missing_there_is_told() -> None:
    request = Request("tensorrt", "fp32", Settings(), None, "none")
    if backends.available()["tensorrt"] is None:
        pytest.skip("TensorRT is installed")
    with pytest.raises(BackendUnavailableError, match="tensorrt"):
        run(request=request)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        pytest.param("import os; os.abort()", "ended by SIGABRT", marks=posix),
        pytest.param(
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            r"ended by SIGKILL \(is there too little memory\?\)",
            marks=posix,
        ),
        pytest.param(
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "ended by SIGSEGV",
            marks=posix,
        ),
        ("import sys; sys.exit(3)", "exit status 3$"),
        (
            "import sys; print('first\\nlast words', file=sys.stderr); sys.exit(3)",
            "exit status 3; it said: first last words$",
        ),
        ("1 / 0", "exit status 1; it said: .*ZeroDivisionError: division by zero"),
        ("raise MemoryError", "exit status 1; it said: .*MemoryError"),
        ("import sys; sys.stderr.buffer.write(b'\\xff\\xfe' * 9); sys.exit(1)", "exit status 1"),
        ("import sys; sys.stderr.write('x' * 10**6); sys.exit(1)", "exit status 1"),
        ("import os; os._exit(0)", "exit status 0$"),
        (
            "from boxwright.backends.tensorrt import worker\n"
            "def compile_plan(*arguments): raise RuntimeError('in the middle')\n"
            "worker.compile_plan = compile_plan",
            "exit status 1; it said: .*RuntimeError: in the middle$",
        ),
    ],
)
def test_a_crash_is_told_with_its_last_words(
    child: Callable[[str], None], temporary: Path, code: str, words: str
) -> None:
    child(code)
    with pytest.raises(BuildError, match=f"TensorRT ended without a plan: .*{words}") as caught:
        run()
    assert len(str(caught.value)) < 3000
    assert list(temporary.iterdir()) == []


@builds
@pytest.mark.parametrize(
    "garbage",
    [
        *("words", "[1, 2", "[1]", "7", "null", "{}", '["a", "b", "c"]', '["a", 1, [2]]'),
        *('["a", 1e999, 2]', "\\xff\\xfe", "[[[]], 1, 2]", "[" * 10_000),
    ],
    ids=lambda text: text[:12],
)
def test_prints_of_libraries_are_not_progress(child: Callable[[str], None], garbage: str) -> None:
    seen: list[Any] = []
    child(f"import os; os.write(1, b'{garbage}\\n')")
    assert run(progress=lambda *now: seen.append(now)).plan
    assert all(total == STEPS for *_, total in seen)


@builds
def test_a_progress_without_an_end_is_passed_on(child: Callable[[str], None]) -> None:
    seen: list[Any] = []
    child("""import os; os.write(1, b'["unpack", 1, null]\\n')""")
    run(progress=lambda *now: seen.append(now))
    assert seen[0] == ("unpack", 1, None)


def test_a_temporary_folder_that_is_gone_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(BuildError, match=r"cannot build in .*gone: No such file"):
        run()


def test_a_temporary_folder_that_is_a_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(BuildError, match=r"cannot build in .*file: Not a directory"):
        run()


@posix
def test_a_temporary_folder_that_is_read_only_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    tmp_path.chmod(0o500)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(BuildError, match=r"cannot build in .*: Permission denied"):
        run()


def test_no_temporary_folder_at_all_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_usable() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in [...]")

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "gettempdir", none_usable)
    with pytest.raises(BuildError, match="cannot build: No usable temporary directory"):
        run()


# How it is ended


@builds
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, ZeroDivisionError, OSError])
@pytest.mark.parametrize("isolate", [True, False])
def test_what_the_callback_raises_ends_the_build(
    temporary: Path, tmp_path: Path, kind: type[BaseException], isolate: bool
) -> None:
    calls: list[float] = []

    def interrupt(stage: str, done: int, total: int | None) -> None:
        calls.append(time.monotonic())
        if len(calls) == 4:
            raise kind("enough")

    with pytest.raises(kind, match="enough"):
        backends.build(
            make_model(),
            backend="tensorrt-rtx",
            output=tmp_path / "x.bw",
            progress=interrupt,
            options={"isolate": isolate},
        )
    assert time.monotonic() - calls[-1] < 5
    assert len(calls) == 4
    assert list(temporary.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


@posix
def test_an_interrupted_child_is_gone(child: Callable[[str], None], temporary: Path) -> None:
    child(
        "import json, os, time\n"
        "os.write(1, (json.dumps(['x', os.getpid(), 1]) + '\\n').encode()); time.sleep(600)"
    )
    processes: list[int] = []

    def interrupt(stage: str, done: int, total: int | None) -> None:
        processes.append(done)
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(progress=interrupt)
    assert time.monotonic() - started < 30
    (process,) = processes
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert list(temporary.iterdir()) == []


# Builds a network large enough to be caught at it, and tells the other process's number.
# A shell's background jobs ignore SIGINT, and so would what they start.
PARENT = """
import json, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from boxwright.backends.tensorrt import worker
from boxwright.backends.tensorrt.compile import Request
from tests.backends.conformance import KILLED_BUILD
from tests.models import make_model
worker._CODE = sys.argv[1] + worker._CODE
def progress(stage, done, total):
    print(json.dumps([stage, done]), flush=True)
worker.build_isolated(
    Request.from_json(sys.argv[2]), make_model(height=256, width=256).to_bytes(), progress
)
"""


def start_parent(code: str, **arguments: Any) -> subprocess.Popen[str]:
    """A process that builds; its own child runs `code` first."""
    root = Path(__file__).parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, code, REQUEST.to_json()],
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **arguments,
    )


@posix
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
@pytest.mark.parametrize(
    "during",
    ["before", pytest.param("within", marks=builds)],
)
def test_a_killed_parent_leaves_nothing(temporary: Path, during: str) -> None:
    # Either it is still about to begin, or in the middle of TensorRT's own code.
    code = "import json, os, sys, threading, time\n"
    code += "os.write(1, (json.dumps(['pid', os.getpid(), 1]) + '\\n').encode())\n"
    if during == "before":
        code += (
            "from boxwright.backends.tensorrt import worker\n"
            "worker.compile_plan = lambda *arguments: time.sleep(600)\n"
        )
    parent = start_parent(code)
    try:
        assert parent.stdout is not None
        stage, process = json.loads(parent.stdout.readline())
        assert stage == "pid"
        if during == "within":
            for line in parent.stdout:
                if json.loads(line)[1] > 0:
                    break
        assert alive(process)
        assert len(list(temporary.iterdir())) == 1
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        for pipe in (parent.stdout, parent.stderr):
            if pipe is not None:
                pipe.close()
    wait_until(lambda: not alive(process))
    # Its own last act is to remove the folder.
    assert list(temporary.iterdir()) == []


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_ends_both_processes(temporary: Path, number: signal.Signals) -> None:
    """Ctrl-C in a terminal, or the end of a service."""
    code = (
        "import json, os, time\n"
        "os.write(1, (json.dumps(['pid', os.getpid(), 1]) + '\\n').encode())\n"
        "from boxwright.backends.tensorrt import worker\n"
        "def compile_plan(request, model, progress):\n"
        "    progress('ready', 0, 1)\n"
        "    time.sleep(600)\n"
        "worker.compile_plan = compile_plan\n"
    )
    parent = start_parent(code, start_new_session=True)
    try:
        assert parent.stdout is not None
        _, process = json.loads(parent.stdout.readline())
        assert "ready" in parent.stdout.readline()
        os.killpg(parent.pid, number)
        assert parent.wait(30) == -number
    finally:
        parent.kill()
        parent.wait()
        for pipe in (parent.stdout, parent.stderr):
            if pipe is not None:
                pipe.close()
    wait_until(lambda: not alive(process))
    assert list(temporary.iterdir()) == []


@builds
@posix
@pytest.mark.parametrize("fatal", [0, 1, 5])
def test_a_killed_build_leaves_nothing(temporary: Path, tmp_path: Path, fatal: int) -> None:
    make_model().save(tmp_path / "model.onnx")
    folder = tmp_path / "out"
    folder.mkdir()
    done = subprocess.run(
        [
            *(sys.executable, "-c", KILLED_BUILD, str(tmp_path / "model.onnx"), "tensorrt-rtx"),
            *(str(folder / "x.bw"), str(fatal)),
        ],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "src")},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    wait_until(lambda: list(temporary.iterdir()) == [])
    assert list(folder.iterdir()) == []


def test_the_other_process_finds_what_this_one_imports(
    child: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the path was changed at run time, and nothing from the working folder."""
    (tmp_path / "only_here.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "working"
    folder.mkdir()
    (folder / "json.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(folder)
    child("import only_here, json, sys; sys.exit(5)")
    with pytest.raises(BuildError, match="exit status 5"):
        run()
