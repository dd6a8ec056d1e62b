"""Finding TensorRT, and saying what is wrong where it is not to be used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from boxwright.backends.tensorrt.library import MODULES, load_library
from boxwright.errors import BackendUnavailableError
from tests.backends.tensorrt.modules import RTX, VERSIONS, make_library, make_trt


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    """What a test imports under TensorRT's names is gone after it, and the real ones are back."""
    kept = {name: sys.modules.pop(name) for name in MODULES.values() if name in sys.modules}
    load_library.cache_clear()
    yield
    for name in MODULES.values():
        sys.modules.pop(name, None)
    sys.modules.update(kept)
    load_library.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that Python looks into first; `tensorrt` and `tensorrt_rtx` may be put there."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def reason(backend: str = "tensorrt") -> str:
    with pytest.raises(BackendUnavailableError) as caught:
        load_library(backend)
    return str(caught.value)


@pytest.mark.parametrize(("backend", "module"), MODULES.items())
def test_one_that_is_absent_is_told_how_to_get(
    backend: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[-1:])
    assert reason(backend) == (
        f"{module} is not installed; `boxwright doctor --for {backend}` has the commands for "
        "this machine"
    )


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "raise ImportError('libnvinfer.so.8: cannot open shared object file')",
            "tensorrt is installed, but cannot be loaded: libnvinfer.so.8: cannot open",
        ),
        ("import a_module_there_is_not", "cannot be loaded: No module named 'a_module_there"),
        ("raise RuntimeError('no libraries')", "its import fails: RuntimeError: no libraries"),
        ("raise OSError(8, 'Exec format')", "its import fails: OSError: [Errno 8] Exec format"),
        ("class Odd(Exception): pass\nraise Odd('x')", "its import fails: Odd: x"),
        ("def", "its import fails: SyntaxError"),
        # A module of that name which is none of NVIDIA's.
        ("__version__ = '10'", "is imported as tensorrt, and it is not TensorRT"),
    ],
)
def test_one_that_is_broken_is_told_why(install: Path, code: str, words: str) -> None:
    (install / "tensorrt.py").write_text(code)
    assert words in reason()


def test_a_folder_of_that_name_is_not_tensorrt(install: Path) -> None:
    (install / "tensorrt").mkdir()
    assert f"{install}/tensorrt is imported as tensorrt, and it is not" in reason()


def test_one_that_is_too_old_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    old = make_trt("8.4.1.5")
    old.IExecutionContext = SimpleNamespace(execute_async_v2=None)
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    assert reason() == "tensorrt 8.4.1.5 is too old: Boxwright needs TensorRT 8.6 or newer"


def test_a_failure_is_not_remembered(install: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (install / "tensorrt.py").write_text("raise RuntimeError")
    reason()
    monkeypatch.setitem(sys.modules, "tensorrt", make_trt(VERSIONS[0]))
    assert load_library("tensorrt").version == "8.6.1"
    assert load_library("tensorrt") is load_library("tensorrt")


@pytest.mark.parametrize(
    ("version", "rtx", "strong", "monitor"),
    [
        (VERSIONS[0], False, False, False),
        (VERSIONS[1], False, False, True),
        (VERSIONS[2], False, True, True),
        (RTX, True, True, True),
    ],
)
def test_what_a_version_can_do_is_read_off_it(
    version: str, rtx: bool, strong: bool, monitor: bool
) -> None:
    library = make_library(version)
    assert library.is_rtx == rtx
    assert library.strongly_typed_only == strong
    assert library.has_progress_monitor == monitor
    assert library.has_flag("FP16") != strong
    assert library.has_flag("TF32")
    assert library.member("NoSuchEnumeration", "X") is None
    assert library.member("BuilderFlag", "NO_SUCH_FLAG") is None
    assert library.member("BuilderFlag", "TF32") == library.trt.BuilderFlag.TF32
