"""Import of other people's ONNX files: recognised, cured, and put under the contract."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright._version import __version__
from boxwright.card import CARD_KEY, ModelCard, SourceFile, Transform
from boxwright.errors import CardError, ImportFailedError, InputError, ModelError
from boxwright.files import printable, sha256_file
from boxwright.importers.names import asked_names, fit_names, numbered_names
from boxwright.importers.registry import (
    Confidence,
    ImportRequest,
    Recognition,
    Verification,
    check_options,
    read_start,
)
from boxwright.metadata import read_metadata
from boxwright.model import IMAGES, Model

if TYPE_CHECKING:
    import onnx

    from boxwright.graph.pixels import PixelFormat
    from boxwright.importers.onnx.convert import Foreign
    from boxwright.importers.onnx.metadata import Metadata
    from boxwright.importers.onnx.recognise import Plan

_LOGGER = logging.getLogger("boxwright")


class OnnxImporter:
    """Detectors that other programs exported; see ``docs/how-to/import-onnx.md``."""

    name = "onnx"
    description = "ONNX exports of YOLOv5 to v11, YOLOX, NanoDet, PicoDet, SSD, DETR and RT-DETR"

    def recognise(self, request: ImportRequest) -> Recognition | None:
        """By the fields that an ONNX model begins with."""
        if request.weights.name == "saved_model.pb":
            return None  # TensorFlow's begins with the same two fields
        if _looks_like_onnx(read_start(request.weights)):
            return Recognition(Confidence.CERTAIN, "it begins as an ONNX model does")
        if request.weights.suffix.lower() == ".onnx" and request.weights.is_file():
            return Recognition(Confidence.POSSIBLE, "it is called .onnx")
        return None

    def load(self, request: ImportRequest) -> Model:
        """Import; see :func:`boxwright.importers.import_model`.

        Raises:
            ImportFailedError: The file is damaged, its head is not known, or something that
                it does not say is not said by the request either.
        """
        from boxwright.importers import options
        from boxwright.importers.onnx import source

        check_options(request, options.KNOWN, takes_head=True)
        if request.cfg is not None or request.data is not None:
            raise ImportFailedError("--cfg and --data belong to Darknet; an ONNX file has neither")
        request.progress("read", 0, None)
        proto, files = source.read_source(request.weights)
        if _keeps_contract(proto):
            return _own(request, proto, files)
        return _import(request, proto, files)

    def verify(self, request: ImportRequest, model: Model) -> Verification:
        """Run the file as it is by ONNX Runtime, and its decoding by ONNX's own evaluator."""
        from boxwright.importers.onnx.verify import verify

        return verify(request.weights, model)


IMPORTER = OnnxImporter()


def _looks_like_onnx(start: bytes) -> bool:
    """ModelProto in ``onnx.proto``: ir_version comes first, then text, opsets or the graph.

    A writer may order fields otherwise; no known one does. Version 3 is the first that was
    published; TensorFlow's SavedModel begins alike, with a 1.
    """
    if len(start) < 4 or start[0] != 0x08 or not 3 <= start[1] <= 40:
        return False
    # producer_name, producer_version, domain, model_version, doc_string, graph, opset_import.
    return start[2] in (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42)


def _keeps_contract(proto: onnx.ModelProto) -> bool:
    from onnx import TensorProto

    from boxwright.model import BOXES, SCORES

    inputs = {value.name: value for value in proto.graph.input}
    outputs = {value.name for value in proto.graph.output}
    return (
        IMAGES in inputs
        and inputs[IMAGES].type.tensor_type.elem_type == TensorProto.UINT8
        and {BOXES, SCORES} <= outputs
        and len(inputs[IMAGES].type.tensor_type.shape.dim) == 4
        and inputs[IMAGES].type.tensor_type.shape.dim[3].dim_value == 3
    )


def _own(request: ImportRequest, proto: onnx.ModelProto, files: list[Path]) -> Model:
    """A model that keeps the contract already; what the user says goes over its card."""
    if request.head is not None or request.options:
        raise ImportFailedError(
            f"{request.weights} keeps Boxwright's contract already, so --head and --option "
            "mean nothing for it"
        )
    text = read_metadata(proto, CARD_KEY)
    try:
        card = _own_card(request, proto) if text is None else ModelCard.from_json(text)
        given: dict[str, Any] = {
            "resize": request.resize,
            "interpolation": request.interpolation,
            "licence": request.licence,
        }
        if text is not None and request.names is not None:
            names, _ = asked_names(request.names, len(card.class_names), "its card")
            given["class_names"] = names
        card = dataclasses.replace(card, **{k: v for k, v in given.items() if v is not None})
        if request.size not in (None, card.input_size):
            raise ImportFailedError(
                f"{request.weights} was made for {card.input_size[0]}x{card.input_size[1]} "
                "(height x width); another size needs its source"
            )
        card = card.with_transform(_transform(request, {"contract": "kept already"}, {}))
        card = dataclasses.replace(
            card, source_files=(*card.source_files, *map(_source_file, files))
        )
        model = Model(proto, card)
        model.check(str(request.weights))
    except (CardError, ModelError) as error:
        raise ImportFailedError(f"{request.weights}: {error}") from error
    return model


def _own_card(request: ImportRequest, proto: onnx.ModelProto) -> ModelCard:
    from boxwright.model import SCORES

    images = next(value for value in proto.graph.input if value.name == IMAGES)
    scores = next(value for value in proto.graph.output if value.name == SCORES)
    dims = [extent.dim_value for extent in images.type.tensor_type.shape.dim]
    columns = [extent.dim_value for extent in scores.type.tensor_type.shape.dim]
    if len(columns) != 3 or not columns[2] or not dims[1] or not dims[2]:
        raise ImportFailedError(
            f"{request.weights} has no card, and its shapes do not say its size and classes"
        )
    names, _ = asked_names(request.names, columns[2], "its output")
    return ModelCard(
        name=printable(request.weights.stem),
        class_names=names or numbered_names(columns[2]),
        input_size=(dims[1], dims[2]),
        source_format="onnx",
    )


def _import(request: ImportRequest, proto: onnx.ModelProto, files: list[Path]) -> Model:
    from boxwright.importers.onnx import convert, metadata, probe, recognise, source, surgery

    origin = str(request.weights)
    facts = metadata.read_metadata(proto, origin)
    if facts.task not in (None, "detect"):
        raise ImportFailedError(
            f"{origin} is made for the task {facts.task!r}; only detectors are imported"
        )
    options = dict(request.options)
    probe.image_input(proto, origin)
    plugin = surgery.cut_nms_plugin(proto)
    proto, cures = source.cured(proto, origin)
    foreign = convert.settle(proto, request.size, facts.size, _inner(options), origin)
    options = _source_names(options, foreign)
    seen = recognise.Seen(foreign.tensors, foreign.size, facts, options)
    if plugin is None:
        plan = recognise.recognise_head(seen, request.head, origin)
    else:
        plan = recognise.plan_of_plugin(seen, plugin, request.head, origin)
    form = _pixels(request, plan, foreign, facts)
    names, names_file = _names(request, plan, facts)
    plan = dataclasses.replace(plan, head=dataclasses.replace(plan.head, classes=len(names)))
    request.progress("import", 1, 2)
    made, heads = convert.convert(foreign, plan, form, origin)
    card = ModelCard(
        name=printable(request.weights.stem),
        family=plan.family.name,
        class_names=names,
        input_size=foreign.size,
        resize=request.resize or plan.family.resize,
        interpolation=request.interpolation or "opencv",
        pad_value=_pad_value(options, plan),
        score_threshold=plan.family.score_threshold,
        nms=plan.family.nms,
        heads=heads,
        source_format="onnx",
        source_files=tuple(map(_source_file, [*files, *([names_file] if names_file else [])])),
        licence=request.licence or facts.licence,
        transforms=(_record(request, plan, form, foreign, cures),),
    )
    model = Model(made, card)
    try:
        model.check(origin)
    except ModelError as error:
        raise ImportFailedError(str(error)) from error
    request.progress("import", 2, 2)
    return model


def _inner(options: dict[str, Any]) -> tuple[str, ...]:
    from boxwright.importers.options import words

    return tuple(
        name for key in ("boxes", "scores", "objectness") for name in words(options.get(key, ""))
    )


def _source_names(options: dict[str, Any], foreign: Foreign) -> dict[str, Any]:
    """Options that name tensors, by the names these bear now."""
    from boxwright.importers.options import words

    for key in ("boxes", "scores", "objectness"):
        if key in options:
            options[key] = [
                f"source/{n}" if f"source/{n}" in foreign.tensors else n
                for n in words(options[key])
            ]
    return options


def _pixels(request: ImportRequest, plan: Plan, foreign: Foreign, facts: Metadata) -> PixelFormat:
    from boxwright.graph.pixels import PixelFormat
    from boxwright.importers.options import with_pixel_options

    image = foreign.image
    told = {"channels", "scale", "mean", "std"} & set(request.options)
    if not plan.family.source and not told and not facts.names and image.element != "uint8":
        raise ImportFailedError(
            f"{request.weights}: nothing says what it is fed; give it with --option, such as "
            "--option scale=1/255 --option channels=rgb (and mean, std), or say the family "
            "with --head"
        )
    plain = image.element == "uint8"
    form = PixelFormat(scale=1.0) if plain else plan.family.pixels
    if image.channels == 1:
        form = PixelFormat("grey", form.scale)
    form = dataclasses.replace(form, layout=image.layout, element=image.element)
    if not facts.names and not told:
        _LOGGER.warning(
            "the file does not say what it is fed; taken from %s (%s): %s, scale %g, mean %s, "
            "std %s, %s (--option channels, scale, mean, std; --resize)",
            *(plan.family.title, plan.family.source, form.channels, form.scale),
            *(list(form.mean), list(form.std), request.resize or plan.family.resize),
        )
    return with_pixel_options(form, request.options)


def _names(
    request: ImportRequest, plan: Plan, facts: Metadata
) -> tuple[tuple[str, ...], Path | None]:
    if plan.head.kind == "selected":
        # As many as are given: the head shows only those that it found.
        if isinstance(request.names, tuple):
            return request.names, None
        if request.names is not None:
            from boxwright.importers.names import read_names

            return read_names(request.names), request.names
        if facts.names:
            return facts.names, None
        raise ImportFailedError(
            f"{request.weights} gives class numbers and does not say how many classes there "
            "are; give their names with --names"
        )
    count = plan.head.classes
    names, file = asked_names(request.names, count, "the head")
    if names is None and facts.names:
        names = fit_names(facts.names, count, "its metadata", "the head")
    return names or numbered_names(count), file


def _pad_value(options: dict[str, Any], plan: Plan) -> int:
    value = options.get("pad_value", plan.family.pad_value)
    if type(value) is not int or not 0 <= value <= 255:
        raise ImportFailedError(f"option pad_value must be 0 to 255, got {value!r}")
    return value


def _source_file(path: Path) -> SourceFile:
    try:
        return SourceFile(printable(path.name), sha256_file(path), path.stat().st_size)
    except (OSError, InputError) as error:
        raise ImportFailedError(f"cannot read {path}: {error}") from error


def _transform(
    request: ImportRequest, parameters: dict[str, Any], effect: dict[str, Any]
) -> Transform:
    import onnx

    versions = {"boxwright": __version__, "onnx": onnx.__version__}
    return Transform("import:onnx", parameters, versions, effect)


def _record(
    request: ImportRequest, plan: Plan, form: PixelFormat, foreign: Foreign, cures: dict[str, Any]
) -> Transform:
    from boxwright.graph.heads import head_to_json

    parameters = {
        "head": head_to_json(plan.head),
        "told": plan.reason,
        "pixels": dataclasses.asdict(form),
        "options": {str(k): v for k, v in request.options.items()},
    }
    return _transform(request, parameters, {**cures, **foreign.notes})
