"""TensorRT 8.6, 10, 11 and TensorRT-RTX 1.7 as far as the adapter looks: their enumerations.

Only members that tell the versions apart, or that the adapter uses, are here. Those of
TensorRT-RTX are held against the real module, where it is installed.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from boxwright.backends.tensorrt.library import Library

VERSIONS = ("8.6.1", "10.9.0.34", "11.1.0.106", "1.7.1.116")
"""One of each kind; the last is TensorRT-RTX's."""
RTX = VERSIONS[3]

_COMMON_FLAGS = (
    "DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS VERSION_COMPATIBLE"
)
_TYPED_FLAGS = "FP16 INT8 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS FP8"


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    UINT8 = 5


_NUMPY = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT8: np.int8,
    DataType.INT32: np.int32,
    DataType.UINT8: np.uint8,
}


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class LogInterface:
    Severity = Severity


class Interface:
    """Any class that TensorRT calls back."""


def _enum(name: str, members: str, first: int = 0) -> Any:
    # The functional form makes its members from text that mypy cannot read.
    make: Callable[..., Any] = enum.IntEnum
    return make(name, members, start=first)


def make_trt(version: str) -> SimpleNamespace:
    """The module of that version, without anything that builds or runs."""
    major = int(version.split(".")[0])
    rtx = major == 1
    strong = rtx or major >= 11
    flags = _COMMON_FLAGS
    if not strong:
        flags = f"{_TYPED_FLAGS} {flags}"
    if major != 8:
        flags += " STRIP_PLAN REFIT_IDENTICAL"
    creation = {8: "EXPLICIT_BATCH EXPLICIT_PRECISION", 10: "EXPLICIT_BATCH STRONGLY_TYPED"}
    sources = "EDGE_MASK_CONVOLUTIONS JIT_CONVOLUTIONS"
    if not strong:
        sources = f"CUBLAS CUBLAS_LT CUDNN {sources}"
    trt = SimpleNamespace(
        __version__=version,
        BuilderFlag=_enum("BuilderFlag", flags),
        NetworkDefinitionCreationFlag=_enum("Creation", creation.get(major, "STRONGLY_TYPED")),
        ProfilingVerbosity=_enum("ProfilingVerbosity", "LAYER_NAMES_ONLY NONE DETAILED"),
        MemoryPoolType=_enum("MemoryPoolType", "WORKSPACE DLA_MANAGED_SRAM"),
        TacticSource=_enum("TacticSource", sources),
        HardwareCompatibilityLevel=_enum(
            "Level", "NONE AMPERE_PLUS" + (" SAME_COMPUTE_CAPABILITY" if strong else "")
        ),
        DeviceType=_enum("DeviceType", "GPU DLA"),
        LayerType=_enum("LayerType", "CONVOLUTION ACTIVATION CONSTANT SHAPE"),
        PreviewFeature=_enum(
            "PreviewFeature",
            "FASTER_DYNAMIC_SHAPES_0805 PROFILE_SHARING_0806"
            if major == 8
            else "ALIASED_PLUGIN_IO_10_03",
        ),
        TensorIOMode=_enum("TensorIOMode", "NONE INPUT OUTPUT"),
        LayerInformationFormat=_enum("LayerInformationFormat", "ONELINE JSON"),
        DataType=DataType,
        float32=DataType.FLOAT,
        nptype=_NUMPY.__getitem__,
        ILogger=LogInterface,
        IOutputAllocator=Interface,
        IExecutionContext=SimpleNamespace(
            **dict.fromkeys(
                ("execute_async_v3", "set_input_shape", "set_tensor_address", "get_tensor_shape")
            )
        ),
    )
    if major != 8:
        trt.IProgressMonitor = type("IProgressMonitor", (), {})
    if rtx:
        make: Callable[..., Any] = enum.IntEnum
        trt.ComputeCapability = make(
            "ComputeCapability",
            {"NONE": 0, "CURRENT": 1, "SM75": 75, "SM80": 80, "SM86": 86, "SM89": 89, "SM120": 120},
        )
        trt.CudaGraphStrategy = _enum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE")
    return trt


def make_library(version: str) -> Library:
    """As :func:`~boxwright.backends.tensorrt.library.load_library` would give it."""
    backend = "tensorrt-rtx" if version.startswith("1.") else "tensorrt"
    return Library(make_trt(version), backend, version)


class FakeConfig:
    """An ``IBuilderConfig`` that remembers; `lacking` are attributes it does not have."""

    def __init__(self, lacking: tuple[str, ...] = ()) -> None:
        self.set: set[str] = set()
        self.cleared: set[str] = set()
        self.pools: dict[str, int] = {}
        self.profiles: list[dict[str, Any]] = []
        self.previews: dict[str, bool] = {}
        self.capabilities: dict[int, str] = {}
        self.sources: int | None = None
        for name in ("builder_optimization_level", "max_aux_streams", "avg_timing_iterations"):
            if name not in lacking:
                setattr(self, name, None)

    def set_flag(self, flag: Any) -> None:
        self.set.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self.cleared.add(flag.name)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.pools[pool.name] = size

    def add_optimization_profile(self, profile: Any) -> None:
        self.profiles.append(profile.shapes)

    def set_tactic_sources(self, bits: int) -> None:
        self.sources = bits

    def set_preview_feature(self, feature: Any, value: bool) -> None:
        self.previews[feature.name] = value

    def set_compute_capability(self, capability: Any, index: int) -> None:
        assert index < self.__dict__["num_compute_capabilities"]
        self.capabilities[index] = capability.name


class FakeProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, least: Any, usual: Any, most: Any) -> None:
        self.shapes[name] = (least, usual, most)


class FakeBuilder:
    def __init__(self, config: FakeConfig | None = None, cores: int = 0) -> None:
        self.config = config or FakeConfig()
        self.num_DLA_cores = cores

    def create_builder_config(self) -> FakeConfig:
        return self.config

    def create_optimization_profile(self) -> FakeProfile:
        return FakeProfile()


class FakeLayer:
    """A network's layer: its name, its type, the types of its outputs."""

    def __init__(self, trt: Any, name: str, kind: str, *types: DataType) -> None:
        self.name, self.type = name, trt.LayerType[kind]
        self._outputs = [SimpleNamespace(dtype=dtype) for dtype in types]
        self.num_outputs = len(types)
        self.pinned: dict[int, DataType] = {}
        self.precision: DataType | None = None

    def get_output(self, index: int) -> Any:
        return self._outputs[index]

    def set_output_type(self, index: int, dtype: DataType) -> None:
        self.pinned[index] = dtype


class FakeNetwork:
    def __init__(self, *layers: FakeLayer, batch: int = -1) -> None:
        self._layers = layers
        self.num_layers, self.num_inputs = len(layers), 1
        self._input = SimpleNamespace(name="images", shape=(batch, 32, 64, 3))

    def get_input(self, index: int) -> Any:
        return self._input

    def get_layer(self, index: int) -> FakeLayer:
        return self._layers[index]
