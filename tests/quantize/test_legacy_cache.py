"""TensorRT's calibration caches: read, written, and refused where they are not that."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boxwright.errors import InputError
from boxwright.quantize import legacy_cache
from boxwright.quantize.legacy_cache import LegacyCache, read_legacy_cache, write_legacy_cache

# As TensorRT 8.6 writes them, names with spaces and colons among them.
TEXT = """TRT-8601-EntropyCalibration2
images: 3c010a14
(Unnamed Layer* 3) [Shuffle]_output: 3d8f5c29
model/conv:0: 3f800000
a: b: 00000001
zero: 00000000
"""
NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1, max_size=40
)
SCALES = st.floats(0, width=32, allow_nan=False, allow_infinity=False)


def make(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_cache_is_read(tmp_path: Path) -> None:
    cache = read_legacy_cache(make(tmp_path / "calibration.cache", TEXT))
    assert (cache.algorithm, cache.version) == ("EntropyCalibration2", 8601)
    assert cache.tensorrt_version == (8, 6, 1)
    # numpy's view of the same bits.
    bits = {"images": 0x3C010A14, "(Unnamed Layer* 3) [Shuffle]_output": 0x3D8F5C29,
            "model/conv:0": 0x3F800000, "a: b": 1, "zero": 0}  # fmt: skip
    assert list(cache.scales) == list(bits)
    for name, value in bits.items():
        assert cache.scales[name] == float(np.uint32(value).view(np.float32))
    assert cache.amax("model/conv:0") == 127
    assert cache.missing(["images", "other"]) == ["other"]
    with pytest.raises(InputError, match="no tensor 'other'; it has 5 others"):
        cache.amax("other")


def test_what_was_read_is_written_back(tmp_path: Path) -> None:
    source = make(tmp_path / "a.cache", TEXT)
    write_legacy_cache(tmp_path / "b.cache", read_legacy_cache(source))
    assert (tmp_path / "b.cache").read_bytes() == source.read_bytes()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, SCALES, max_size=8), st.integers(0, 999_999))
def test_whatever_is_written_is_read(
    tmp_path: Path, scales: dict[str, float], version: int
) -> None:
    cache = LegacyCache("MinMaxCalibration", version, scales)
    write_legacy_cache(tmp_path / "a.cache", cache)
    read = read_legacy_cache(tmp_path / "a.cache")
    assert read == cache
    assert list(read.scales) == list(scales)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80) | st.text(max_size=80).map(lambda t: f"TRT-1-A\n{t}".encode()))
def test_anything_else_is_refused_or_sound(tmp_path: Path, data: bytes) -> None:
    path = make(tmp_path / "a.cache", data)
    try:
        cache = read_legacy_cache(path)
    except InputError as error:
        message = str(error)
    else:
        message = "sound"
        assert all(name and math.isfinite(s) and s >= 0 for name, s in cache.scales.items())
    assert message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must start with a line such as TRT-8601"),
        ("\n" + TEXT, ":1: a TensorRT calibration cache must start"),
        ("TRT-8601\na: 3f800000\n", "must start"),
        ("TRT-٣-MinMaxCalibration\n", "must start"),  # other digits
        ("TRT-8601-A\na: 3f80000\n", ":2: 'a': a scale must be 8 hexadecimal digits"),
        ("TRT-8601-A\na: 3f8000000\n", "8 hexadecimal digits"),
        ("TRT-8601-A\na: 0x3f8000\n", "8 hexadecimal digits"),
        ("TRT-8601-A\na: 3f80 000\n", "8 hexadecimal digits"),
        ("TRT-8601-A\na:3f800000\n", ":2: a line must be `tensor: 8 hex"),
        ("TRT-8601-A\n: 3f800000\n", "a line must be"),
        ("TRT-8601-A\n\na: 3f800000\n", ":2: a line must be"),
        ("TRT-8601-A\na: 7fc00000\n", "finite and not negative, got 7fc00000 .nan"),
        ("TRT-8601-A\na: 7f800000\n", "finite"),
        ("TRT-8601-A\na: bf800000\n", "not negative"),
        ("TRT-8601-A\na: 80000000\n", "not negative"),  # a negative zero
        (
            "TRT-8601-A\na: 3f800000\nb: 3f800000\na: 3f800000\n",
            ":4: the tensor 'a' is there twice",
        ),
        ("TRT-8601-A\n" + "n" * 4097 + ": 3f800000\n", "4096 bytes"),
        (b"TRT-8601-A\n\xff: 3f800000\n", "it is not text"),
        ("TRT-8601-A\n\x1b[31m: 3f8\n", r"\\x1b"),  # shown without effect on a terminal
    ],
)
def test_a_hostile_cache_is_refused(tmp_path: Path, text: str | bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_legacy_cache(make(tmp_path / "a.cache", text))


def test_one_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "a.cache", TEXT)
    monkeypatch.setattr(legacy_cache, "MAX_BYTES", len(TEXT.encode()) - 1)
    with pytest.raises(InputError, match="too large"):
        read_legacy_cache(path)


def test_a_missing_one_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_legacy_cache(tmp_path / "none")
    with pytest.raises(InputError, match="cannot read"):
        read_legacy_cache(tmp_path)


def test_line_ends_of_windows(tmp_path: Path) -> None:
    plain = read_legacy_cache(make(tmp_path / "a.cache", TEXT))
    assert read_legacy_cache(make(tmp_path / "b.cache", TEXT.replace("\n", "\r\n"))) == plain


@pytest.mark.parametrize(
    ("cache", "reason"),
    [
        (LegacyCache("A", 8601, {"a\nb": 1.0}), "line ends"),
        (LegacyCache("A", 8601, {"": 1.0}), "a line must be"),
        (LegacyCache("A", 8601, {"\udcff": 1.0}), "not text"),
        (LegacyCache("A", 8601, {"a": math.nan}), "finite"),
        (LegacyCache("A", 8601, {"a": -1.0}), "not negative"),
        (LegacyCache("A", 8601, {"a": 1e39}), "too large"),
        (LegacyCache("A", 8601, {"a": 1e-50}), "too small"),
        (LegacyCache("A\nB", 8601, {}), "first line"),
        (LegacyCache("A", -1, {}), "first line"),
    ],
)
def test_what_has_no_place_is_not_written(tmp_path: Path, cache: LegacyCache, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        write_legacy_cache(tmp_path / "a.cache", cache)
    assert not list(tmp_path.iterdir())


def test_ranges_become_scales() -> None:
    cache = LegacyCache.from_amax({"a": 127.0, "b": 1.0, "c": 0.0})
    assert cache.header == "TRT-8601-MinMaxCalibration"
    assert cache.scales["a"] == 1
    assert cache.scales["b"] == struct.unpack(">f", struct.pack(">f", 1 / 127))[0]
    assert cache.amax("b") == pytest.approx(1, rel=1e-7)
    assert cache.amax("c") == 0
    with pytest.raises(InputError, match="not negative"):
        LegacyCache.from_amax({"a": -1.0})


def test_names_are_mapped() -> None:
    cache = LegacyCache("A", 100300, {"x": 1.0, "y": 2.0})
    assert cache.tensorrt_version == (10, 3, 0)
    assert cache.renamed({"x": "conv/x", "z": "w"}).scales == {"conv/x": 1.0, "y": 2.0}
    with pytest.raises(InputError, match="two tensors"):
        cache.renamed({"x": "y"})
