"""From an opened checkpoint to a model: which network of it, its size, its names, its card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from boxwright._version import __version__
from boxwright.card import ModelCard, SourceFile, Transform
from boxwright.errors import ImportFailedError
from boxwright.files import printable, sha256_file
from boxwright.importers.families import FAMILIES
from boxwright.importers.names import asked_names, numbered_names
from boxwright.importers.pytorch.checkpoint import Checkpoint, looks_like_torch
from boxwright.importers.pytorch.modules import Module
from boxwright.importers.pytorch.network import Network, read_network, write_network
from boxwright.importers.pytorch.records import Record
from boxwright.importers.pytorch.ssd import recognise_ssd, write_ssd
from boxwright.importers.pytorch.statedict import (
    Safetensors,
    StateDict,
    looks_like_safetensors,
    state_dict_of,
)
from boxwright.importers.registry import (
    Confidence,
    ImportRequest,
    Recognition,
    Verification,
    check_options,
)
from boxwright.model import IMAGES, Model

# Networks with a level of stride 64 (P6) were trained at 1280 pixels, the others at 640.
_DEFAULT_SIZES = {64: 1280}
_DEFAULT_SIZE = 640
_WRAPPERS = ("DataParallel", "DistributedDataParallel")
_MAX_LICENCE = 200


@dataclass(frozen=True)
class Chosen:
    """The network of a checkpoint that is imported.

    Attributes:
        module: It.
        key: Where in the checkpoint it was: ``model``, ``ema``, or nothing.
        settings: What else the checkpoint holds.
    """

    module: Module
    key: str
    settings: dict[Any, Any]


class PytorchImporter:
    """Checkpoints of YOLOv5, v8 and v11, and state dicts of SSD."""

    name = "pytorch"
    description = "PyTorch checkpoints (YOLOv5, v8, v11) and state dicts of SSD"

    def recognise(self, request: ImportRequest) -> Recognition | None:
        """By the first bytes."""
        if looks_like_torch(request.weights):
            return Recognition(Confidence.CERTAIN, "it begins as torch.save's files do")
        if looks_like_safetensors(request.weights):
            return Recognition(Confidence.CERTAIN, "it begins as safetensors do")
        if request.weights.suffix in (".pt", ".pth", ".ts", ".torchscript"):
            return Recognition(Confidence.POSSIBLE, f"it is called {request.weights.suffix}")
        return None

    def load(self, request: ImportRequest) -> Model:
        """Import; see :func:`boxwright.importers.import_model`.

        Raises:
            ImportFailedError: With the file, and the module or the byte of the pickle.
        """
        check_options(request, {})
        if looks_like_safetensors(request.weights):
            source = Safetensors(request.weights)
            return _import_ssd(request, StateDict(source, request.weights))
        with Checkpoint(request.weights) as checkpoint:
            tensors = state_dict_of(checkpoint)
            if tensors is not None:
                return _import_ssd(request, tensors)
            return _import_yolo(request, checkpoint)

    def verify(self, request: ImportRequest, model: Model) -> Verification:
        """Compute the checkpoint's modules by PyTorch; see :mod:`.twin`.

        Raises:
            MissingExtraError: PyTorch is not installed.
            ImportFailedError: The file has no modules, only tensors.
        """
        from boxwright.importers.pytorch.twin import verify
        from boxwright.importers.running import run

        if not looks_like_safetensors(request.weights):
            with Checkpoint(request.weights) as checkpoint:
                if state_dict_of(checkpoint) is None:
                    module = choose_network(checkpoint).module
                    network = read_network(module, checkpoint.numbers)
                    return verify(
                        network,
                        model,
                        lambda images, names: run(model.proto, {IMAGES: images}, names),
                    )
        raise ImportFailedError(
            f"{request.weights} has tensors but no modules that PyTorch could compute; leave "
            "--verify out"
        )


IMPORTER = PytorchImporter()


def _import_yolo(request: ImportRequest, checkpoint: Checkpoint) -> Model:
    chosen = choose_network(checkpoint)
    network = read_network(chosen.module, checkpoint.numbers)
    size = request.size or _size(chosen, network)
    if any(side % max(network.strides) for side in size):
        raise ImportFailedError(
            f"{request.weights}: the input's sides must be multiples of {max(network.strides)}, "
            f"the network's largest stride, got {size[0]}x{size[1]} (height x width)"
        )
    names = _class_names(request, chosen.module, network.classes)
    conventions = FAMILIES[network.family]
    graph, decoded = write_network(network, size, request.progress)
    card = _card(
        request,
        family=_family(chosen.module, network),
        class_names=names,
        input_size=size,
        resize=request.resize or conventions.resize,
        pad_value=conventions.pad_value,
        score_threshold=conventions.score_threshold,
        nms=conventions.nms,
        heads=decoded.heads,
        licence=request.licence or _licence(chosen),
        transforms=(_transform(request, _effect(chosen, network)),),
    )
    return Model(graph.model, card)


def _import_ssd(request: ImportRequest, tensors: StateDict) -> Model:
    ssd = recognise_ssd(tensors)
    if ssd is None:
        raise ImportFailedError(
            f"{request.weights} holds tensors without the network they belong to, and their names "
            "are not those of an SSD known here; export the network to ONNX and import that, or "
            "give the module to boxwright.import_torch"
        )
    size = (ssd.size, ssd.size)
    if request.size not in (None, size):
        raise ImportFailedError(
            f"{request.weights}: {ssd.family} takes {ssd.size}x{ssd.size} pixels only"
        )
    graph, decoded, classes = write_ssd(ssd, tensors, request.progress)
    names, _ = asked_names(request.names, classes, "the checkpoint")
    card = _card(
        request,
        family=ssd.family,
        class_names=numbered_names(classes) if names is None else names,
        input_size=size,
        resize=request.resize or "stretch",
        nms=ssd.nms,
        heads=decoded.heads,
        licence=request.licence,
        transforms=(_transform(request, {"head": "ssd"}),),
    )
    return Model(graph.model, card)


def _transform(request: ImportRequest, effect: dict[str, Any]) -> Transform:
    return Transform(
        "import:pytorch",
        parameters={} if request.size is None else {"size": list(request.size)},
        versions={"boxwright": __version__},
        effect=effect,
    )


def _card(request: ImportRequest, **facts: Any) -> ModelCard:
    """A card with what is the same for all of them."""
    path = request.weights
    source = SourceFile(printable(path.name), sha256_file(path), path.stat().st_size)
    return ModelCard(
        name=printable(path.stem),
        interpolation=request.interpolation or "opencv",
        source_format="pytorch",
        source_files=(source,),
        **facts,
    )


def choose_network(checkpoint: Checkpoint) -> Chosen:
    """The network of a checkpoint: its moving average if it keeps one, as it is evaluated.

    Raises:
        ImportFailedError: There is none.
    """
    root, path = checkpoint.root, str(checkpoint.path)
    if isinstance(root, Record):
        return Chosen(_unwrapped(Module(root, "checkpoint", path)), "", {})
    if not isinstance(root, dict):
        raise ImportFailedError(f"{path}: expected a network or a dictionary with one in it")
    for key in ("ema", "model"):
        if isinstance(root.get(key), Record):
            return Chosen(_unwrapped(Module(root[key], key, path)), key, root)
    keys = ", ".join(repr(str(key)[:30]) for key in list(root)[:8])
    raise ImportFailedError(
        f"{path}: no network under 'ema' or 'model'; it has {keys or 'nothing'}"
    )


def _unwrapped(module: Module) -> Module:
    for _ in range(4):
        if module.kind in _WRAPPERS and not module.ours:
            module = module.child("module")
        elif module.kind in ("AutoShape", "autoShape"):
            module = module.child("model")
    return module


def _size(chosen: Chosen, network: Network) -> tuple[int, int]:
    """The side that it was trained at, if the checkpoint says it, or the usual one."""
    for key in ("train_args", "opt"):
        arguments = chosen.settings.get(key)
        if isinstance(arguments, Record):
            arguments = arguments.state
        side = arguments.get("imgsz") if isinstance(arguments, dict) else None
        if type(side) is int and 32 <= side <= 4096 and side % max(network.strides) == 0:
            return side, side
    side = _DEFAULT_SIZES.get(max(network.strides), _DEFAULT_SIZE)
    return side, side


def _class_names(request: ImportRequest, module: Module, classes: int) -> tuple[str, ...]:
    asked, _ = asked_names(request.names, classes, "the checkpoint")
    if asked is not None:
        return asked
    names = module.get("names")
    if isinstance(names, dict):
        names = [names.get(i) for i in range(classes)] if len(names) == classes else None
    if isinstance(names, (list, tuple)) and len(names) == classes:
        texts = [name for name in names if isinstance(name, str)]
        if len(texts) == classes:
            return tuple(texts)
    return numbered_names(classes)


def _family(module: Module, network: Network) -> str:
    """What the network's own description was called, such as ``yolov5n``, or its kind."""
    description = module.get("yaml")
    named = [module.get("yaml_file")]
    if isinstance(description, dict):
        named.append(description.get("yaml_file"))
    for name in named:
        if isinstance(name, str) and name.strip():
            stem = name.replace("\\", "/").rpartition("/")[2].removesuffix(".yaml")
            return printable(stem[:60]) or network.family
    return network.family


def _licence(chosen: Chosen) -> str | None:
    licence = chosen.settings.get("license")
    return licence[:_MAX_LICENCE] if isinstance(licence, str) and licence else None


def _effect(chosen: Chosen, network: Network) -> dict[str, Any]:
    """What the checkpoint says about itself, for the card."""
    effect: dict[str, Any] = {
        "head": network.family,
        "layers": len(network.layers) + 1,
        "strides": list(network.strides),
        "weights": chosen.key or "model",
    }
    for key in ("epoch", "date", "version"):
        value = chosen.settings.get(key)
        if isinstance(value, str) or (type(value) is int and abs(value) < 1 << 31):
            effect[key] = value[:100] if isinstance(value, str) else value
    return effect
