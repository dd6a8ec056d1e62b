from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from boxwright.errors import WeightsError
from boxwright.importers.mxnet.params import is_params_file, read_params
from tests.importers.mxnet.files import TYPES, array_bytes, params_bytes

ARRAYS = {
    "arg:a_weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "aux:b_var": np.ones(5, np.float32),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net-0000.params"


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_every_layout(path: Path, version: int) -> None:
    path.write_bytes(params_bytes(ARRAYS, version))
    assert is_params_file(path)
    found = read_params(path)
    assert list(found) == ["a_weight", "b_var"]
    assert np.array_equal(found["a_weight"], ARRAYS["arg:a_weight"])


@pytest.mark.parametrize("kind", TYPES)
def test_every_type(path: Path, kind: str) -> None:
    path.write_bytes(params_bytes({"x": np.array([0, 1], kind)}))
    array = read_params(path)["x"]
    assert array.tolist() == [0, 1]
    assert array.dtype == (np.float32 if "f" in kind else np.dtype(kind))


def test_what_mxnet_itself_writes(symbols: Path) -> None:
    found = read_params(symbols / "conv_folded-0000.params")
    assert found["conv_weight"].shape == (6, 4, 3, 3)
    assert set(found) == {
        "conv_weight", "conv_bias", "bn_gamma", "bn_beta", "bn_moving_mean", "bn_moving_var"
    }  # fmt: skip


def test_truncated_anywhere(path: Path) -> None:
    whole = params_bytes(ARRAYS)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"net-0000.params: at byte \d+: "):
            read_params(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(WeightsError, match="1 bytes follow the last name"):
        read_params(path)


def _one(array: bytes, name: bytes = b"x") -> bytes:
    names = struct.pack("<QQ", 1, len(name)) + name
    return struct.pack("<QQQ", 0x112, 0, 1) + array + names


SCALAR = array_bytes(np.ones(1, np.float32))
HUGE = struct.pack("<Ii", 0xF993FAC9, 0)
BOMBS = {
    # Sizes that no file holds are refused before anything is allocated.
    "an extent of 2^62": (HUGE + struct.pack("<Iqiii", 1, 1 << 62, 1, 0, 0), "are left"),
    "extents whose product wraps": (
        HUGE + struct.pack("<I4qiii", 4, *[1 << 16] * 4, 1, 0, 0),
        "are left",
    ),
    "a negative extent": (HUGE + struct.pack("<Iqiii", 1, -4, 1, 0, 0), "negative extent"),
    "a thousand axes": (HUGE + struct.pack("<I", 1000), "has 1000 axes"),
    "an unknown type": (HUGE + struct.pack("<Iqiii", 1, 1, 1, 0, 99) + b"1234", "unknown type 99"),
    "sparse": (struct.pack("<Ii", 0xF993FAC9, 1), "is sparse"),
    "a magic number of nothing": (struct.pack("<I", 0xDEADBEEF), "axes"),
    "NaN": (array_bytes(np.array([np.nan], np.float32)), "not finite"),
    "too large for float32": (array_bytes(np.array([1e300])), "not finite"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_bombs(path: Path, case: str) -> None:
    array, message = BOMBS[case]
    path.write_bytes(_one(array))
    with pytest.raises(WeightsError, match=message):
        read_params(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack("<QQQ", 0x112, 0, 1 << 60), "arrays follow, more than it has room for"),
        (struct.pack("<QQQQ", 0x112, 0, 0, 1 << 60), "names follow, more than it has room for"),
        (struct.pack("<QQQQ", 0x112, 0, 0, 1) + struct.pack("<Q", 1 << 40), "bytes long"),
        (_one(SCALAR, b"\xff\xfe"), "not UTF-8"),
        (struct.pack("<QQQ", 0x112, 0, 1) + SCALAR + struct.pack("<Q", 0), "1 arrays and 0 names"),
        (params_bytes({"arg:x": np.ones(1), "aux:x": np.ones(1)}), "two arrays are named 'x'"),
        (b"PK\x03\x04" + bytes(40), "begins with 0x4034b50"),
    ],
)
def test_damage(path: Path, data: bytes, message: str) -> None:
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        read_params(path)


def test_missing(path: Path) -> None:
    assert not is_params_file(path)
    with pytest.raises(WeightsError, match="cannot read"):
        read_params(path)
