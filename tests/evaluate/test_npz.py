"""Reading ``.npz`` files nobody vouches for."""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from boxwright.errors import InputError
from boxwright.evaluate.npz import MAX_MEMBERS, read_npz, write_npz


def npy(
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], allow_pickle: bool = False
) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    arrays = {
        "a/b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "text": np.array(["x", "yz"]),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "scalar": np.array(3.5),
        "empty": np.zeros((0, 4), np.uint8),
    }
    write_npz(tmp_path / "a.npz", arrays)
    read = read_npz(tmp_path / "a.npz")
    assert set(read) == set(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
    with np.load(tmp_path / "a.npz") as by_numpy:
        np.testing.assert_array_equal(by_numpy["fortran"], arrays["fortran"])


def test_equal_arrays_give_equal_bytes(tmp_path: Path) -> None:
    arrays = {"a": np.arange(1000)}
    write_npz(tmp_path / "a.npz", arrays)
    write_npz(tmp_path / "b.npz", arrays)
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {member.date_time[0] for member in archive.infolist()} == {1980}
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_numpys_own_files_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.ones(3))
    np.testing.assert_array_equal(read_npz(tmp_path / "a.npz")["x"], np.ones(3))


def lying_header(shape: str, payload: bytes = b"\0" * 8) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + payload


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        # Claims a petabyte: refused before it is allocated.
        ({"a.npy": lying_header("(1000000, 1000000, 1000)")}, "stated"),
        ({"a.npy": lying_header("(-1,)")}, "only arrays"),
        ({"a.npy": lying_header("(2,)")}, "stated"),
        ({"a.npy": lying_header("(1,)")[:-3]}, "stated"),
        ({"a.npy": b"\x93NUMPY\x09\x00"}, "format"),
        ({"a.npy": b""}, "format"),
        # A header that numpy's own reader tries to repair as Python 2 wrote it.
        ({"a.npy": lying_header("(1L,)")}, "only arrays"),
        ({"a.npy": lying_header("(1,").replace(b"}", b" ")}, "only arrays"),
        ({"a.npy": b"\x93NUMPY\x01\x00\x76"}, "npz"),
        ({"a.npy": npy(np.array([{}], object), allow_pickle=True)}, "only arrays"),
        ({"a.npy": npy(np.zeros(2, [("x", "f4")]))}, "only arrays"),
        ({"a.txt": b"hello"}, "member"),
        ({"a.npy": b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535}, "header"),
    ],
)
def test_a_hostile_member_is_refused(
    tmp_path: Path, members: dict[str, bytes], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        read_npz(make_zip(tmp_path / "a.npz", members))


def test_no_pickle_is_ever_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (Path(str(tmp_path / "ran")),))  # type: ignore[return-value]

    payload = npy(np.array([0], object), allow_pickle=True)
    payload = payload[: payload.index(b"\n") + 1] + pickle.dumps(np.array([Trap()], object))
    with pytest.raises(InputError):
        read_npz(make_zip(tmp_path / "a.npz", {"a.npy": payload}))
    assert not (tmp_path / "ran").exists()


def test_a_bomb_is_refused_by_its_stated_size(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.npz", {"a.npy": lying_header("(131072,)", bytes(1 << 20))})
    assert len(read_npz(path)["a"]) == 131072
    with pytest.raises(InputError, match="at most"):
        read_npz(path, max_bytes=1 << 20)


def test_too_many_members(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="arrays"):
        read_npz(make_zip(tmp_path / "a.npz", {f"{i}.npy": b"" for i in range(MAX_MEMBERS + 1)}))


def test_a_missing_file_and_a_foreign_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_npz(tmp_path / "none.npz")
    (tmp_path / "a.npz").write_bytes(b"not a zip")
    with pytest.raises(InputError, match="npz"):
        read_npz(tmp_path / "a.npz")


def test_any_damage_is_an_input_error(tmp_path: Path) -> None:
    """Cut anywhere and flipped anywhere: a clear refusal, or intact arrays."""
    path = tmp_path / "a.npz"
    write_npz(path, {"a": np.arange(300, dtype=np.float32), "b": np.ones((3, 4))})
    whole = path.read_bytes()
    generator = random.Random(0)
    refused = 0
    for attempt in range(400):
        damaged = bytearray(whole)
        if attempt % 2:
            del damaged[generator.randrange(len(whole)) :]
        else:
            for _ in range(3):
                damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            read_npz(path)
        except InputError:
            refused += 1
    assert refused > 300
