"""Settings on every TensorRT: what is applied, what ignored, what refused."""

from __future__ import annotations

from typing import Any

import pytest

from boxwright.backends.tensorrt.configure import configure, network_flags, share_profiles
from boxwright.backends.tensorrt.settings import Outcome, Settings
from tests.backends.tensorrt import modules
from tests.backends.tensorrt.modules import (
    RTX,
    VERSIONS,
    DataType,
    FakeBuilder,
    FakeConfig,
    FakeLayer,
    FakeNetwork,
    make_library,
    make_trt,
)

TRT8, TRT10, TRT11, _ = VERSIONS


def run(
    version: str,
    precision: str = "fp32",
    *,
    builder: FakeBuilder | None = None,
    network: FakeNetwork | None = None,
    **settings: Any,
) -> tuple[FakeConfig, Outcome]:
    """Configure a build of the given settings."""
    config, outcome = configure(
        make_library(version),
        builder or FakeBuilder(),
        network or FakeNetwork(),
        Settings(**settings),
        precision,
    )
    assert isinstance(config, FakeConfig)
    return config, outcome


def test_the_fake_rtx_is_like_the_real_one() -> None:
    real = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    fake = make_trt(RTX)
    for name, value in vars(fake).items():
        if name in ("__version__", "float32", "nptype", "DataType", "LayerType"):
            continue
        assert hasattr(real, name), name
        if hasattr(value, "__members__"):
            assert set(value.__members__) <= set(getattr(real, name).__members__), name
    for lacking in ("FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"):
        assert lacking not in real.BuilderFlag.__members__
    assert "EXPLICIT_BATCH" not in real.NetworkDefinitionCreationFlag.__members__
    for name in ("builder_optimization_level", "max_aux_streams", "avg_timing_iterations"):
        assert hasattr(real.IBuilderConfig, name)


@pytest.mark.parametrize(
    ("version", "flags"),
    # The bit of EXPLICIT_BATCH; without that flag there is nothing else, and STRONGLY_TYPED
    # is never asked for: with it TensorRT 10 would take no precision flags.
    [(TRT8, 1), (TRT10, 1), (TRT11, 0), (RTX, 0)],
)
def test_networks_have_an_explicit_batch(version: str, flags: int) -> None:
    assert network_flags(make_library(version)) == flags


@pytest.mark.parametrize("version", VERSIONS)
def test_defaults_are_applied_everywhere(version: str) -> None:
    config, outcome = run(version)
    assert outcome.to_dict() == {"applied": {"profiles": [[1, 1, 16]], "tf32": False}}
    # TensorRT sets TF32 by itself.
    assert config.cleared == {"TF32"}
    assert config.set == set()
    (profile,) = config.profiles
    assert profile == {"images": ((1, 32, 64, 3), (1, 32, 64, 3), (16, 32, 64, 3))}
    assert config.__dict__["profiling_verbosity"].name == "DETAILED"
    # What is not asked for stays as TensorRT has it.
    assert config.__dict__["builder_optimization_level"] is None
    assert config.pools == {}
    assert config.sources is None


@pytest.mark.parametrize("version", VERSIONS)
def test_tf32_is_set_when_asked_for(version: str) -> None:
    config, outcome = run(version, tf32=True)
    assert (config.set, config.cleared) == ({"TF32"}, set())
    assert outcome.applied["tf32"] is True


@pytest.mark.parametrize("version", VERSIONS)
def test_every_profile_is_one_of_tensorrts(version: str) -> None:
    config, outcome = run(version, profiles=((1, 1, 1), (2, 4, 8)))
    assert [profile["images"][1][0] for profile in config.profiles] == [1, 4]
    assert config.profiles[1]["images"] == ((2, 32, 64, 3), (4, 32, 64, 3), (8, 32, 64, 3))
    assert outcome.applied["profiles"] == [[1, 1, 1], [2, 4, 8]]


def test_a_fixed_batch_needs_no_profile() -> None:
    config, outcome = run(TRT8, network=FakeNetwork(batch=4))
    assert config.profiles == []
    assert outcome.ignored == {"profiles": "the model's batch is fixed at 4"}


@pytest.mark.parametrize("version", [TRT8, TRT10])
@pytest.mark.parametrize(("precision", "flags"), [("fp16", {"FP16"}), ("int8", {"FP16", "INT8"})])
def test_precision_is_a_flag_where_there_are_flags(
    version: str, precision: str, flags: set[str]
) -> None:
    config, outcome = run(version, precision)
    # Nothing is pinned in an empty network, so nothing has to be obeyed.
    assert config.set == flags
    assert outcome.applied["keep_float32"] == {"prefixes": ["decode/"], "layers": 0}


@pytest.mark.parametrize("version", [TRT8, TRT10])
def test_float_layers_of_the_named_parts_are_pinned(version: str) -> None:
    trt = make_trt(version)
    layers = {
        "float": FakeLayer(trt, "decode/exp", "ACTIVATION", DataType.FLOAT),
        "two": FakeLayer(trt, "decode/split", "ACTIVATION", DataType.FLOAT, DataType.FLOAT),
        "shape": FakeLayer(trt, "decode/shape", "SHAPE", DataType.INT32),
        "mixed": FakeLayer(trt, "decode/topk", "ACTIVATION", DataType.FLOAT, DataType.INT32),
        "weights": FakeLayer(trt, "decode/grid", "CONSTANT", DataType.FLOAT),
        "elsewhere": FakeLayer(trt, "001_conv/decode/", "CONVOLUTION", DataType.FLOAT),
    }
    network = FakeNetwork(*layers.values())
    # Layer types are compared with those of the module in use.
    library = make_library(version)
    library.trt.LayerType = trt.LayerType
    config, outcome = configure(library, FakeBuilder(), network, Settings(), "fp16")
    assert config.set == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}
    assert outcome.applied["keep_float32"] == {"prefixes": ["decode/"], "layers": 2}
    assert layers["float"].pinned == {0: DataType.FLOAT}
    assert layers["two"].pinned == {0: DataType.FLOAT, 1: DataType.FLOAT}
    for name in ("shape", "mixed", "weights", "elsewhere"):
        assert layers[name].precision is None, name
        assert layers[name].pinned == {}, name


def test_no_layer_is_pinned_in_float32_nor_without_a_name() -> None:
    for precision, prefixes in (("fp32", ("decode/",)), ("fp16", ())):
        layer = FakeLayer(make_trt(TRT8), "decode/exp", "ACTIVATION", DataType.FLOAT)
        config, _ = run(TRT8, precision, network=FakeNetwork(layer), keep_float32=prefixes)
        assert layer.precision is None
        assert "OBEY_PRECISION_CONSTRAINTS" not in config.set


@pytest.mark.parametrize("version", VERSIONS)
def test_resources_are_set(version: str) -> None:
    config, outcome = run(
        version, workspace=2**28, optimization_level=2, max_aux_streams=0, average_timing=4
    )
    assert config.pools == {"WORKSPACE": 2**28}
    values = vars(config)
    assert values["builder_optimization_level"] == 2
    assert values["max_aux_streams"] == 0
    assert values["avg_timing_iterations"] == 4
    assert not outcome.ignored
    wanted = {"workspace": 2**28, "optimization_level": 2, "max_aux_streams": 0}
    assert wanted.items() <= outcome.applied.items()


def test_a_resource_that_is_missing_is_ignored_and_not_invented() -> None:
    config = FakeConfig(lacking=("max_aux_streams", "builder_optimization_level"))
    _, outcome = run(TRT8, builder=FakeBuilder(config), max_aux_streams=1, optimization_level=1)
    assert set(outcome.ignored) == {"max_aux_streams", "optimization_level"}
    assert not hasattr(config, "max_aux_streams")


def test_tactic_sources_are_bits_by_name() -> None:
    config, outcome = run(TRT8, tactic_sources=("cublas", "cudnn", "cublas"))
    assert config.sources == 0b101
    assert not outcome.refused
    config, _ = run(TRT8, tactic_sources=())
    assert config.sources == 0


@pytest.mark.parametrize("version", [TRT11, RTX])
def test_sources_that_left_are_refused_with_those_there_are(version: str) -> None:
    config, outcome = run(version, tactic_sources=("cublas", "jit_convolutions"))
    assert outcome.refused == {
        "tactic_sources": "there is no cublas (there are: edge_mask_convolutions, jit_convolutions)"
    }
    assert config.sources is None


@pytest.mark.parametrize(
    ("version", "hardware", "result"),
    [
        (TRT8, "ampere-plus", "AMPERE_PLUS"),
        (TRT10, "ampere-plus", "AMPERE_PLUS"),
        (TRT11, "ampere-plus", "AMPERE_PLUS"),
        (TRT11, "same-compute-capability", "SAME_COMPUTE_CAPABILITY"),
        (TRT8, "same-compute-capability", None),
        (TRT10, "same-compute-capability", None),
        (RTX, "ampere-plus", None),
        (RTX, "same-compute-capability", None),
    ],
)
def test_hardware_compatibility(version: str, hardware: str, result: str | None) -> None:
    config, outcome = run(version, hardware=hardware)
    level = vars(config).get("hardware_compatibility_level")
    if result is None:
        assert level is None
        assert "hardware" in outcome.refused
        words = "compute_capabilities instead" if version == RTX else f"no level {hardware}"
        assert words in outcome.explain_refused()
    else:
        assert level is not None
        assert level.name == result
        assert outcome.applied["hardware"] == hardware


@pytest.mark.parametrize("version", VERSIONS)
def test_version_compatibility(version: str) -> None:
    config, outcome = run(version, version_compatible=True)
    assert ("VERSION_COMPATIBLE" in config.set) == (version != RTX)
    assert ("version_compatible" in outcome.refused) == (version == RTX)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_dla_must_be_there(version: str) -> None:
    for cores, wanted, words in ((0, 0, "it has none"), (2, 2, "it has 2")):
        config, outcome = run(version, builder=FakeBuilder(cores=cores), dla_core=wanted)
        assert words in outcome.refused["dla_core"]
        assert "default_device_type" not in vars(config)
    config, outcome = run(version, builder=FakeBuilder(cores=2), dla_core=1)
    assert vars(config)["default_device_type"].name == "DLA"
    assert vars(config)["DLA_core"] == 1
    assert config.set == {"GPU_FALLBACK"}
    config, outcome = run(version, builder=FakeBuilder(cores=2), dla_core=0, gpu_fallback=False)
    assert config.set == set()
    assert outcome.applied["gpu_fallback"] is False


@pytest.mark.parametrize("version", VERSIONS)
def test_flags_about_weights(version: str) -> None:
    config, outcome = run(version, refit=True, sparse_weights=True, strip=True)
    has_strip = version != TRT8
    assert config.set == {"REFIT", "SPARSE_WEIGHTS"} | ({"STRIP_PLAN"} if has_strip else set())
    assert ("strip" in outcome.applied) == has_strip
    assert ("strip" in outcome.ignored) == (not has_strip)


def test_rtx_compiles_for_the_capabilities_it_is_told() -> None:
    config, outcome = run(RTX, compute_capabilities=((8, 6), (12, 0)))
    assert config.capabilities == {0: "SM86", 1: "SM120"}
    assert vars(config)["num_compute_capabilities"] == 2
    assert outcome.applied["compute_capabilities"] == ["8.6", "12.0"]
    config, outcome = run(RTX)
    assert config.capabilities == {}
    assert "compute_capabilities" not in outcome.applied


def test_capabilities_that_rtx_lacks_are_refused() -> None:
    config, outcome = run(RTX, compute_capabilities=((8, 6), (9, 0)))
    assert outcome.refused["compute_capabilities"] == (
        "no SM90 (there are: SM120, SM75, SM80, SM86, SM89)"
    )
    assert config.capabilities == {}


@pytest.mark.parametrize("version", [TRT8, TRT10, TRT11])
def test_tensorrt_takes_no_capabilities(version: str) -> None:
    _, outcome = run(version, compute_capabilities=((8, 6),))
    assert "builds for the GPU it runs on" in outcome.refused["compute_capabilities"]


@pytest.mark.parametrize("version", VERSIONS)
def test_contexts_share_profiles_where_that_has_to_be_asked_for(version: str) -> None:
    config = FakeConfig()
    share_profiles(make_library(version), config)
    assert config.previews == ({"PROFILE_SHARING_0806": True} if version == TRT8 else {})


def test_an_outcome_leaves_out_what_is_empty() -> None:
    outcome = Outcome(refused={"a": "because", "b": "of this"})
    assert outcome.to_dict() == {"refused": {"a": "because", "b": "of this"}}
    assert outcome.explain_refused() == "a: because; b: of this"
    assert modules.make_library(RTX).backend == "tensorrt-rtx"
