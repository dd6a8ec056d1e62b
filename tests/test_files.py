"""Files appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from boxwright import files
from boxwright.errors import InputError

# Writes half a file, says so, and waits to be killed.
KILLED_WRITER = """
import sys, time
from boxwright.files import atomic_write
with atomic_write(sys.argv[1]) as stream:
    stream.write(b"half")
    stream.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["unnamed", "named"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with and without the system's support for files that have no name yet."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system has no O_TMPFILE")
    return str(request.param)


@pytest.mark.usefixtures("both_ways")
def test_a_written_file_has_the_content_and_the_rights_of_the_umask(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "ünï code.bin"
    with files.atomic_write(target) as stream:
        stream.write(b"content")
        stream.seek(0)
        stream.write(b"C")
    assert target.read_bytes() == b"Content"
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(28, "full")])
def test_an_error_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    expected = InputError if isinstance(error, OSError) else type(error)

    def write() -> None:
        with files.atomic_write(target) as stream:
            stream.write(b"new")
            raise error

    with pytest.raises(expected):
        write()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.usefixtures("both_ways")
def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "file"
    for text in ("first", "second"):
        files.write_text(target, text)
        assert target.read_text() == text
    assert list(tmp_path.iterdir()) == [target]


def test_a_name_as_long_as_the_system_allows_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 255)
    files.write_text(target, "text")
    assert target.read_text() == "text"


@pytest.mark.parametrize(
    "path",
    ["", "file/below", "x" * 300],  # a folder; below a file; too long a name
)
def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write"), files.atomic_write(tmp_path / path):
        pytest.fail("the block must not run")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="a .part file may stay behind")
def test_a_killed_writer_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED_WRITER, str(target)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        writer.send_signal(signal.SIGKILL)
        writer.wait(10)
    assert list(tmp_path.iterdir()) == []


def test_the_hash_of_a_file_of_several_pieces(tmp_path: Path) -> None:
    data = os.urandom((1 << 20) + 17)
    (tmp_path / "file").write_bytes(data)
    assert files.sha256_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()
    with pytest.raises(InputError, match="cannot read"):
        files.sha256_file(tmp_path / "missing")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (24_257_290, "23.1 MiB"),
        (5 << 40, "5120.0 GiB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert files.human_size(size) == text
