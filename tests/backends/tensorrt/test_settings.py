"""The table of options: every value that is no value of it is refused with what would be."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.backends.base import BuildSpec
from boxwright.backends.tensorrt import settings as table
from boxwright.backends.tensorrt.compile import Request
from boxwright.backends.tensorrt.settings import HARDWARE, Settings, read_settings
from boxwright.errors import InputError


def read(**options: Any) -> Settings:
    return read_settings("tensorrt", BuildSpec(options=options))


def test_every_setting_is_an_option_and_is_described() -> None:
    names = {field.name for field in dataclasses.fields(Settings)}
    assert set(table._CHECKS) == names
    described = Settings.__doc__ or ""
    for name in names:
        assert f"        {name}: " in described, name


def test_without_options_everything_is_tensorrts_own() -> None:
    assert read_settings("tensorrt", BuildSpec()) == Settings()
    # but for the batch, which the specification gives
    assert read_settings("tensorrt", BuildSpec(batch=(2, 4, 8))).profiles == ((2, 4, 8),)
    both = BuildSpec(batch=(2, 4, 8), options={"profiles": "1:1:1"})
    assert read_settings("tensorrt", both).profiles == ((1, 1, 1),)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("workspace", "512MiB", 2**29),
        ("workspace", "4g", 2**32),
        ("workspace", " 1.5 GB ", 3 * 2**29),
        ("workspace", "100", 100),
        ("workspace", 12345, 12345),
        ("optimization_level", 0, 0),
        ("optimization_level", 5, 5),
        ("profiles", "1:1:1,8:8:8", ((1, 1, 1), (8, 8, 8))),
        ("profiles", [[1, 2, 4]], ((1, 2, 4),)),
        ("profiles", ["1:2:4"], ((1, 2, 4),)),
        ("profiles", ((1, 2, 4), "8:8:8"), ((1, 2, 4), (8, 8, 8))),
        ("tf32", True, True),
        ("hardware", "ampere-plus", "ampere-plus"),
        ("compute_capabilities", "8.9,8.6,8.9", ((8, 6), (8, 9))),
        ("compute_capabilities", ["12.0"], ((12, 0),)),
        # The command line makes numbers of what looks like one.
        ("compute_capabilities", 8.9, ((8, 9),)),
        ("compute_capabilities", 12.0, ((12, 0),)),
        ("compute_capabilities", [8.6, "8.9"], ((8, 6), (8, 9))),
        ("compute_capabilities", "", ()),
        ("dla_core", 15, 15),
        ("tactic_sources", "cublas, cudnn", ("cublas", "cudnn")),
        ("tactic_sources", "", ()),
        ("keep_float32", ["decode/", "neck/"], ("decode/", "neck/")),
        ("max_aux_streams", 0, 0),
        ("average_timing", 1000, 1000),
    ],
)
def test_values_may_be_text(name: str, given: Any, expected: Any) -> None:
    assert getattr(read(**{name: given}), name) == expected


_BATCHES = r"1 to 16 batches such as 1:1:1,8:8:8"
_BATCH = r"smallest:usual:largest, each 1 to 65536"
_SIZE = r"a size such as 512MiB or 4GiB"
_VERSIONS = r"compute capabilities such as 8\.6,8\.9"
_WORDS = "words with commas between them"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *(("workspace", value, _SIZE) for value in ("many", "1x", "-1", "", 0, -1, 1.5, True)),
        *(("workspace", value, _SIZE) for value in (2**44 + 1, "17t", None, [1])),
        ("workspace", "9" * 400, _SIZE),
        *(("optimization_level", value, "0 to 5") for value in (-1, 6, 2.0, "3", True, None)),
        *(("profiles", value, _BATCHES) for value in (None, 3, ["1:1:1"] * 17)),
        ("profiles", [], _BATCHES),
        *(("profiles", value, _BATCH) for value in ("1", "1:2", "1:2:3:4", "0:1:1", "2:1:4")),
        *(("profiles", value, _BATCH) for value in ("1:5:4", "1:1:65537", "a:b:c", "", ",")),
        # Halves of images and truths are no batches.
        *(("profiles", value, _BATCH) for value in ([[1.5, 2, 4]], [[True, 2, 4]], [None], [5])),
        *(("hardware", value, "none, ampere-plus") for value in ("ampere", "", None, 3)),
        *(("compute_capabilities", value, _VERSIONS) for value in ("8", "8.65", "x", "-8.6")),
        *(("compute_capabilities", value, _VERSIONS) for value in (86, None, [8.6, 8], "8.6;8.9")),
        *(("dla_core", value, "0 to 15") for value in (-1, 16, "0")),
        *(("plugins", value, _WORDS) for value in (3, None, [Path("x")])),
        ("plugins", "/no/such/file.so", "there is no file '/no/such/file.so'"),
        ("plugins", "/", "there is no file '/'"),
        ("plugins", "x" * 5000, "there is no file"),
        ("plugins", "a\0b", "there is no file"),
        *(("tactic_sources", value, _WORDS) for value in (3, {"a": 1}, [1])),
        *(("keep_float32", value, _WORDS) for value in (3, None, [None])),
        *(("max_aux_streams", value, "0 to 64") for value in (-1, 65)),
        *(("average_timing", value, "1 to 1000") for value in (0, 1001)),
        *(
            (name, value, "true or false")
            for name in (
                *("tf32", "timing_cache", "version_compatible", "gpu_fallback", "refit", "strip"),
                *("sparse_weights", "isolate", "cuda_graphs"),
            )
            for value in (1, 0, "true", None)
        ),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(**{name: value})
    assert name in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_an_unknown_option_is_refused_with_the_one_probably_meant() -> None:
    with pytest.raises(InputError, match=r"unknown option .* 'optimisation_level'.*mean 'optimiz"):
        read(optimisation_level=3)


def test_plugins_are_files_wherever_they_are_named_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a b.so").touch()
    (tmp_path / "ü.so").touch()
    monkeypatch.chdir(tmp_path)
    assert read(plugins="a b.so,ü.so").plugins == (
        (tmp_path / "a b.so").resolve(),
        (tmp_path / "ü.so").resolve(),
    )


# Every field with values of its type; a new field fails here until it has some.
_OPTIONAL = {"workspace", "optimization_level", "dla_core", "max_aux_streams", "average_timing"}
_WORD = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    **{name: st.none() | st.integers(0, 2**40) for name in _OPTIONAL},
    "profiles": st.lists(st.tuples(*[st.integers(1, 99)] * 3), min_size=1).map(tuple),
    "hardware": st.sampled_from(HARDWARE),
    "compute_capabilities": st.lists(st.tuples(st.integers(5, 12), st.integers(0, 9))).map(tuple),
    "plugins": st.lists(_WORD.map(lambda word: Path("/") / word.replace("\0", ""))).map(tuple),
    "tactic_sources": st.none() | st.lists(_WORD).map(tuple),
    "keep_float32": st.lists(_WORD).map(tuple),
    **{
        name: st.booleans()
        for name in (
            *("tf32", "timing_cache", "version_compatible", "gpu_fallback", "refit", "strip"),
            *("sparse_weights", "isolate", "cuda_graphs"),
        )
    },
}


@given(
    settings=st.fixed_dictionaries(_VALUES).map(lambda values: Settings(**values)),
    precision=st.sampled_from(["fp32", "fp16", "int8"]),
    gpu=st.none() | st.integers(0, 7),
    gpu_name=_WORD,
)
def test_a_request_reaches_the_other_process_as_it_was(
    settings: Settings, precision: str, gpu: int | None, gpu_name: str
) -> None:
    assert set(_VALUES) == {field.name for field in dataclasses.fields(Settings)}
    request = Request("tensorrt", precision, settings, gpu, gpu_name)
    text = request.to_json()
    json.loads(text)
    again = Request.from_json(text)
    assert again == request
    # Equality alone does not tell a list from a tuple inside a frozen dataclass's field.
    assert hash(again) == hash(request)
