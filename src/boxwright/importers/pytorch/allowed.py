"""What a checkpoint may name, and what is made of it.

Classes become records of their names, whatever they are: it is the importer that later
asks for the ones it can convert. They are listed one by one all the same, so that a
checkpoint with anything else in it is refused by name instead of half understood.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from boxwright.importers.pytorch.records import Name, Record, Tensor, make_tensor

if TYPE_CHECKING:
    from boxwright.importers.pytorch.pickles import PickleReader

_MAX_TEXT = 4096


def _under(module: str, names: str) -> set[str]:
    return {f"{module}.{name}" for name in names.split()}


_TORCH_MODULES = (
    _under("torch.nn.modules.container", "Sequential ModuleList ModuleDict")
    | _under("torch.nn.modules.conv", "Conv2d ConvTranspose2d")
    | _under("torch.nn.modules.batchnorm", "BatchNorm2d SyncBatchNorm")
    | _under(
        "torch.nn.modules.activation",
        "SiLU ReLU ReLU6 LeakyReLU Hardswish Hardsigmoid Mish Sigmoid GELU ELU Softmax Tanh PReLU "
        "MultiheadAttention",
    )
    | _under("torch.nn.modules.pooling", "MaxPool2d AvgPool2d AdaptiveAvgPool2d")
    | _under("torch.nn.modules.upsampling", "Upsample")
    | _under("torch.nn.modules.padding", "ZeroPad2d")
    | _under("torch.nn.modules.linear", "Linear Identity")
    | _under("torch.nn.modules.linear", "NonDynamicallyQuantizableLinear")
    | _under("torch.nn.modules.dropout", "Dropout Dropout2d")
    | _under("torch.nn.modules.normalization", "LayerNorm")
    | _under("torch.nn.modules.flatten", "Flatten")
    | _under("torch.nn.modules.loss", "BCEWithLogitsLoss")
    | {"torch.nn.parallel.data_parallel.DataParallel"}
    | {"torch.nn.parallel.distributed.DistributedDataParallel"}
)

_YOLOV5 = (
    _under(
        "models.common",
        "Conv DWConv Bottleneck BottleneckCSP C3 C3SPP C3Ghost C3TR C3x CrossConv SPP SPPF Focus "
        "Concat GhostConv GhostBottleneck TransformerBlock TransformerLayer Contract Expand "
        "Proto Classify AutoShape autoShape DetectMultiBackend DWConvTranspose2d NMS",
    )
    | _under(
        "models.yolo", "Model DetectionModel SegmentationModel ClassificationModel Detect Segment"
    )
    | _under("models.experimental", "MixConv2d CrossConv Ensemble Sum GhostConv GhostBottleneck C3")
)

_BLOCKS = (
    "C1 C2 C2f C2fAttn C2fCIB C2fPSA C2PSA C3 C3x C3TR C3Ghost C3k C3k2 CIB SCDown PSA PSABlock "
    "Attention AAttn ABlock A2C2f RepC3 RepVGGDW ELAN1 AConv ADown SPPELAN CBLinear CBFuse "
    "Bottleneck BottleneckCSP SPP SPPF DFL Proto GhostBottleneck HGBlock HGStem ResNetLayer "
    "ResNetBlock RepNCSPELAN4 ImagePoolingAttn ContrastiveHead BNContrastiveHead"
)
_CONVS = (
    "Conv Conv2 LightConv DWConv DWConvTranspose2d ConvTranspose Focus GhostConv RepConv "
    "ChannelAttention SpatialAttention CBAM Concat Index"
)
_HEADS = "Detect Segment Pose Classify OBB RTDETRDecoder WorldDetect v10Detect"
_TASKS = (
    "DetectionModel SegmentationModel PoseModel ClassificationModel OBBModel WorldModel "
    "RTDETRDetectionModel YOLOv10DetectionModel"
)

_LATER = (
    _under("ultralytics.nn.modules.block", _BLOCKS)
    | _under("ultralytics.nn.modules.conv", _CONVS)
    | _under("ultralytics.nn.modules.head", _HEADS)
    # Version 8.0 had all of them in one module.
    | _under("ultralytics.nn.modules", f"{_BLOCKS} {_CONVS} {_HEADS}")
    | _under("ultralytics.nn.tasks", _TASKS)
)

_DATA = {
    "argparse.Namespace",
    "types.SimpleNamespace",
    "ultralytics.utils.IterableSimpleNamespace",
    "ultralytics.yolo.utils.IterableSimpleNamespace",
    "datetime.datetime",
}

CLASSES: frozenset[str] = frozenset(_TORCH_MODULES | _YOLOV5 | _LATER | _DATA)
"""Classes whose objects become records."""

NAMES: frozenset[str] = frozenset(
    _under("torch", "float16 float32 float64 bfloat16 int64 int32 int16 int8 uint8 bool")
    | {"builtins.object", "numpy.ndarray"}
)
"""What may be named, and is neither called nor made an object of."""


def _ordered(reader: PickleReader, args: tuple[Any, ...]) -> dict[Any, Any]:
    if not args:
        return {}
    (pairs,) = _expect(args, 1)
    reader.spend(len(pairs) if isinstance(pairs, list) else 1)
    if not isinstance(pairs, list) or any(
        not isinstance(pair, (list, tuple)) or len(pair) != 2 for pair in pairs
    ):
        raise ValueError("expected a list of pairs")
    return {reader.key(key): value for key, value in pairs}


def _members(reader: PickleReader, args: tuple[Any, ...]) -> list[Any]:
    """A set, its members in the order they come."""
    members = _expect(args, 1)[0] if args else []
    if not isinstance(members, (list, tuple)):
        raise ValueError("expected a list")
    reader.spend(len(members))
    return list(members)


def _size(reader: PickleReader, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_members(reader, args))


def _tensor(reader: PickleReader, args: tuple[Any, ...]) -> Tensor:
    """``_rebuild_tensor`` and ``_rebuild_tensor_v2``; gradients and hooks do not matter here."""
    if not 4 <= len(args) <= 7:
        raise ValueError(f"expected 4 to 7 arguments, got {len(args)}")
    try:
        return make_tensor(*args[:4])
    except ValueError as error:
        raise ValueError(f"a tensor {error}") from None


def _parameter(reader: PickleReader, args: tuple[Any, ...]) -> Tensor:
    if not 1 <= len(args) <= 4 or not isinstance(args[0], Tensor):
        raise ValueError("expected a tensor")
    return args[0]


def _device(reader: PickleReader, args: tuple[Any, ...]) -> str:
    return ":".join(str(arg)[:16] for arg in args[:2] if isinstance(arg, (str, int)))


def _path(reader: PickleReader, args: tuple[Any, ...]) -> str:
    parts = [part for part in args if isinstance(part, str)]
    if len(parts) != len(args) or sum(map(len, parts)) > _MAX_TEXT:
        raise ValueError("expected the parts of a path")
    reader.spend(sum(map(len, parts)))
    return "/".join(parts)


def _encode(reader: PickleReader, args: tuple[Any, ...]) -> bytes:
    """How Python 3 writes bytes for Python 2: text whose characters are the bytes."""
    text, codec = _expect(args, 2)
    if not isinstance(text, str) or codec != "latin1" or len(text) > _MAX_TEXT:
        raise ValueError("expected a short text and 'latin1'")
    reader.spend(len(text))
    try:
        return text.encode("latin1")
    except UnicodeEncodeError:
        raise ValueError("the text holds characters that are no bytes") from None


def _numpy_type(reader: PickleReader, args: tuple[Any, ...]) -> Record:
    code = args[0] if args else None
    if code not in ("f8", "f4", "f2", "i8", "i4", "u1", "b1"):
        raise ValueError(f"numbers of type {str(code)[:20]!r} are not read")
    return Record(Name("numpy.dtype"), reader.operation, (code,))


def _numpy_scalar(reader: PickleReader, args: tuple[Any, ...]) -> float | int | bool:
    import numpy as np

    kind, data = _expect(args, 2)
    if not isinstance(kind, Record) or kind.name.text != "numpy.dtype" or type(data) is not bytes:
        raise ValueError("expected a type and bytes")
    dtype = np.dtype(f"<{kind.args[0]}")
    if len(data) != dtype.itemsize:
        raise ValueError(f"expected {dtype.itemsize} bytes, got {len(data)}")
    value: float | int | bool = np.frombuffer(data, dtype)[0].item()
    return value


def _numpy_array(reader: PickleReader, args: tuple[Any, ...]) -> Record:
    """An array, such as YOLOv5's best fitness; nothing here asks for its values."""
    if len(args) != 3 or args[0] != Name("numpy.ndarray"):
        raise ValueError("expected an array's type, shape and kind")
    return Record(Name("numpy.ndarray"), reader.operation)


def _numpy_buffer(reader: PickleReader, args: tuple[Any, ...]) -> Record:
    """The same by the fifth protocol: bytes, type, shape and order."""
    if len(args) != 4 or type(args[0]) is not bytes:
        raise ValueError("expected bytes, a type, a shape and an order")
    return Record(Name("numpy.ndarray"), reader.operation)


def _reconstruct(reader: PickleReader, args: tuple[Any, ...]) -> Record:
    """How pickle protocols 0 and 1 make an object."""
    name, base, state = _expect(args, 3)
    if not isinstance(name, Name) or name.text not in CLASSES or base != Name("builtins.object"):
        raise ValueError("expected a known class without a base")
    if state is not None:
        raise ValueError("expected no state")
    return Record(name, reader.operation)


def _expect(args: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    if len(args) != count:
        raise ValueError(f"expected {count} arguments, got {len(args)}")
    return args


FUNCTIONS: dict[str, Callable[[PickleReader, tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _ordered,
    "builtins.set": _members,
    "builtins.frozenset": _members,
    "torch.Size": _size,
    "torch.device": _device,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "pathlib.PosixPath": _path,
    "pathlib.WindowsPath": _path,
    "pathlib.PurePosixPath": _path,
    "pathlib.PureWindowsPath": _path,
    "pathlib._local.PosixPath": _path,
    "pathlib._local.WindowsPath": _path,
    "_codecs.encode": _encode,
    "numpy.dtype": _numpy_type,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy._core.multiarray._reconstruct": _numpy_array,
    "numpy.core.numeric._frombuffer": _numpy_buffer,
    "numpy._core.numeric._frombuffer": _numpy_buffer,
    "copyreg._reconstructor": _reconstruct,
}
"""Functions and classes whose calls are replaced by a function here, and by which."""
