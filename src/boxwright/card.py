"""The model card: what a model file must say about itself to be used correctly.

A card travels inside the ONNX file (metadata key ``boxwright.card``) and inside an
engine (``card.json``). It is plain JSON with a schema number; :meth:`ModelCard.from_json`
checks every field, so that the rest of Boxwright can trust a card it was given.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from boxwright.errors import CardError

CARD_KEY = "boxwright.card"
CARD_SCHEMA = 1

Task = Literal["detect", "classify"]
Resize = Literal["letterbox", "stretch"]
Interpolation = Literal["darknet", "opencv"]
NmsKind = Literal["iou", "diou", "none"]
AttributeKind = Literal["class", "number"]
CropShape = Literal["square", "box", "aligned"]

# A card is read from files nobody vouches for; these bound what one may hold.
_MAX_JSON_BYTES = 16 << 20
_MAX_SIDE = 16384
_MAX_CLASSES = 65536
_MAX_ATTRIBUTES = 64
_MAX_CROP = 16
_MAX_LANDMARKS = 256


@dataclass(frozen=True)
class Nms:
    """How overlapping candidates are suppressed.

    Attributes:
        kind: ``iou``; ``diou`` (IoU - (d²/c²)^beta, Zheng et al. 2020, with Darknet's
            exponent); or ``none`` for models that need no suppression.
        iou_threshold: A candidate is dropped when its overlap with a better one exceeds this.
        beta: Exponent of the distance term of ``diou``.
        class_agnostic: Compare candidates across classes, not only within one.
        multi_label: A candidate may yield one detection per class above the score
            threshold (Darknet), instead of only its best class.
    """

    kind: NmsKind = "iou"
    iou_threshold: float = 0.45
    beta: float = 0.6
    class_agnostic: bool = False
    multi_label: bool = True


@dataclass(frozen=True)
class Head:
    """One detection head, for reports and for anything that must find its way back to it.

    Attributes:
        kind: ``yolo``, ``region``, ``gaussian_yolo``, ``detection``, or another family's name.
        grid: Cells ``(rows, columns)``.
        anchors: ``(width, height)`` of each anchor in input pixels.
        rows: How many rows of `boxes` and `scores` the head contributes.
        tensor: Name of the raw head tensor in the graph, before decoding.
    """

    kind: str
    grid: tuple[int, int]
    anchors: tuple[tuple[float, float], ...]
    rows: int
    tensor: str


@dataclass(frozen=True)
class SourceFile:
    """A file the model was made from."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Transform:
    """One step applied to the model after its import.

    Attributes:
        name: What was done, such as ``import:darknet`` or ``quantize``.
        parameters: Its settings, JSON values only.
        versions: Versions of the tools that did it.
        effect: What was measured before and after, JSON values only.
    """

    name: str
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    effect: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Attribute:
    """One thing that a model of the task ``classify`` says of an image.

    Attributes:
        name: Of the attribute and of the graph's output, such as ``sex``.
        kind: ``class``: the output is float32 ``[N, len(names)]``, a final score for each
            name; ``number``: float32 ``[N]``.
        names: The classes of ``class``; empty for ``number``.
        unit: Of ``number``, for people.
    """

    name: str
    kind: AttributeKind
    names: tuple[str, ...] = ()
    unit: str | None = None


@dataclass(frozen=True)
class TemplatePoint:
    """Where an attribute model expects a landmark.

    Attributes:
        name: Of the landmark, as the detector's card names it.
        x: In pixels of the attribute model's input, 0 at its left edge.
        y: Likewise, 0 at its upper edge.
    """

    name: str
    x: float
    y: float


@dataclass(frozen=True)
class Crop:
    """What an attribute model is to see of a detection.

    Attributes:
        shape: ``square``: a square about the box's centre, its side `scale` times the box's
            longer side; ``box``: the box, each side `scale` times as long; ``aligned``:
            turned, scaled and moved so that the landmarks come to lie on `template`.
        scale: How much is taken; 1 is the box itself, or the template as it is.
        template: For ``aligned``, two landmarks or more; no other shape looks at it.
    """

    shape: CropShape = "box"
    scale: float = 1.0
    template: tuple[TemplatePoint, ...] = ()


@dataclass(frozen=True)
class ModelCard:
    """Everything outside the graph that a detector's results depend on.

    Attributes:
        name: Short name, usually the stem of the source file.
        task: ``detect`` or ``classify``.
        family: Kind of network, such as ``yolov4-tiny``; for people, never for logic.
        class_names: One name per column of `scores`.
        input_size: ``(height, width)`` in pixels.
        resize: How a source image is brought to `input_size`.
        interpolation: ``darknet`` (align-corners bilinear) or ``opencv`` (half-pixel bilinear).
        pad_value: Pixel value (0 to 255) of letterbox borders.
        score_threshold: Default score threshold; a detection's score must exceed it.
        nms: Default suppression.
        heads: The detection heads in the order of their rows.
        source_format: The importer that made the model.
        source_files: The files it was made from.
        licence: Licence of the weights, where known.
        transforms: What was done to the model since, oldest first.
        attributes: What a model of the task ``classify`` says; its outputs by name.
        crop: What such a model is to see of a detection; ``None`` is the box as it is.
        landmarks: Names of the points that a detector gives of each box, in the order of its
            output `landmarks`; empty where it gives none.
    """

    name: str
    class_names: tuple[str, ...]
    input_size: tuple[int, int]
    task: Task = "detect"
    family: str = "unknown"
    resize: Resize = "letterbox"
    interpolation: Interpolation = "opencv"
    pad_value: int = 114
    score_threshold: float = 0.25
    nms: Nms = Nms()
    heads: tuple[Head, ...] = ()
    source_format: str = "unknown"
    source_files: tuple[SourceFile, ...] = ()
    licence: str | None = None
    transforms: tuple[Transform, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    crop: Crop | None = None
    landmarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _validate(self)

    def with_transform(self, transform: Transform) -> ModelCard:
        """This card with one more transform at the end."""
        return dataclasses.replace(self, transforms=(*self.transforms, transform))

    def to_json(self, indent: int | None = None) -> str:
        """The card as JSON, keys in a fixed order."""
        content = {"schema": CARD_SCHEMA, **dataclasses.asdict(self)}
        return json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelCard:
        """Read and check a card.

        Raises:
            CardError: It is not JSON, of a newer schema, or a field is missing or wrong.
        """
        if len(text) > _MAX_JSON_BYTES:
            raise CardError(f"a model card may hold {_MAX_JSON_BYTES} bytes, got {len(text)}")
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CardError(f"the model card is not valid JSON: {error}") from error
        if not isinstance(content, dict):
            raise CardError(f"the model card must be a JSON object, got {type(content).__name__}")
        schema = content.pop("schema", None)
        if schema != CARD_SCHEMA:
            raise CardError(
                f"this Boxwright reads model cards of schema {CARD_SCHEMA}, got {schema!r}; "
                "a newer Boxwright may read it"
            )
        return _read_card(cls, content)


_Record = TypeVar("_Record")


_LISTS = ("class_names", "heads", "source_files", "transforms", "attributes", "landmarks")


def _read_card(cls: type[ModelCard], content: dict[str, Any]) -> ModelCard:
    try:
        for name in _LISTS:
            # A text or an object would otherwise pass for a list of its letters or keys.
            if not isinstance(content.get(name, []), list):
                raise TypeError(f"{name!r} must be a list")
        content["class_names"] = tuple(content["class_names"])
        content["input_size"] = tuple(content["input_size"])
        if "nms" in content:
            content["nms"] = _read_record(Nms, content["nms"])
        content["heads"] = tuple(_read_head(item) for item in content.get("heads", ()))
        content["source_files"] = tuple(
            _read_record(SourceFile, item) for item in content.get("source_files", ())
        )
        content["transforms"] = tuple(
            _read_record(Transform, item) for item in content.get("transforms", ())
        )
        content["attributes"] = tuple(
            _read_attribute(item) for item in content.get("attributes", ())
        )
        if content.get("crop") is not None:
            content["crop"] = _read_crop(content["crop"])
        content["landmarks"] = tuple(content.get("landmarks", ()))
        return _read_record(cls, content)
    except KeyError as error:
        raise CardError(f"the model card lacks {error.args[0]!r}") from error
    except (TypeError, ValueError) as error:
        raise CardError(f"the model card is malformed: {error}") from error


def _read_head(content: Any) -> Head:
    head = dict(content)
    head["grid"] = tuple(head["grid"])
    head["anchors"] = tuple(tuple(pair) for pair in head["anchors"])
    return _read_record(Head, head)


def _read_attribute(content: Any) -> Attribute:
    attribute = dict(content)
    names = attribute.get("names", [])
    if not isinstance(names, list):
        raise TypeError("'names' of an attribute must be a list")
    attribute["names"] = tuple(names)
    return _read_record(Attribute, attribute)


def _read_crop(content: Any) -> Crop:
    crop = dict(content)
    template = crop.get("template", [])
    if not isinstance(template, list):
        raise TypeError("'template' of a crop must be a list")
    crop["template"] = tuple(_read_record(TemplatePoint, item) for item in template)
    return _read_record(Crop, crop)


def _read_record(cls: type[_Record], content: Any) -> _Record:
    """Fields that this version does not know are dropped: a schema only ever grows."""
    if not isinstance(content, dict):
        raise TypeError(f"expected an object for {cls.__name__}, got {type(content).__name__}")
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return cls(**{key: value for key, value in content.items() if key in known})


def _validate(card: ModelCard) -> None:
    _check(isinstance(card.name, str) and bool(card.name), "name must be text", card.name)
    _check(isinstance(card.family, str), "family must be text", card.family)
    _check(card.task in get_args(Task), f"task must be one of {get_args(Task)}", card.task)
    _check(
        card.resize in get_args(Resize), f"resize must be one of {get_args(Resize)}", card.resize
    )
    _check(
        card.interpolation in get_args(Interpolation),
        f"interpolation must be one of {get_args(Interpolation)}",
        card.interpolation,
    )
    names = card.class_names
    _check(
        isinstance(names, tuple)
        and 0 < len(names) <= _MAX_CLASSES
        and all(isinstance(name, str) for name in names),
        f"class_names must be 1 to {_MAX_CLASSES} texts",
        f"{len(names)} values" if isinstance(names, tuple) else names,
    )
    _check(
        _is_pair_of_ints(card.input_size) and all(0 < x <= _MAX_SIDE for x in card.input_size),
        f"input_size must be (height, width) of 1 to {_MAX_SIDE}",
        card.input_size,
    )
    _check(
        type(card.pad_value) is int and 0 <= card.pad_value <= 255,
        "pad_value must be 0 to 255",
        card.pad_value,
    )
    _check(
        _is_number(card.score_threshold) and 0 <= card.score_threshold <= 1,
        "score_threshold must be 0 to 1",
        card.score_threshold,
    )
    _check(
        card.licence is None or isinstance(card.licence, str), "licence must be text", card.licence
    )
    _check(isinstance(card.source_format, str), "source_format must be text", card.source_format)
    _validate_nms(card.nms)
    _validate_records(card)
    _validate_attributes(card)
    _validate_crop(card.crop)
    _validate_landmarks(card)


def _validate_nms(nms: Nms) -> None:
    _check(nms.kind in get_args(NmsKind), f"nms.kind must be one of {get_args(NmsKind)}", nms.kind)
    _check(
        _is_number(nms.iou_threshold) and 0 <= nms.iou_threshold <= 1,
        "nms.iou_threshold must be 0 to 1",
        nms.iou_threshold,
    )
    _check(_is_number(nms.beta) and nms.beta > 0, "nms.beta must be above 0", nms.beta)
    _check(isinstance(nms.class_agnostic, bool), "nms.class_agnostic: bool", nms.class_agnostic)
    _check(isinstance(nms.multi_label, bool), "nms.multi_label must be bool", nms.multi_label)


def _validate_records(card: ModelCard) -> None:
    for head in card.heads:
        _check(
            isinstance(head.kind, str)
            and isinstance(head.tensor, str)
            and _is_pair_of_ints(head.grid)
            and type(head.rows) is int
            and all(
                isinstance(pair, tuple) and len(pair) == 2 and all(_is_number(x) for x in pair)
                for pair in head.anchors
            ),
            "a head must have kind, grid, anchors, rows and tensor",
            head,
        )
    for file in card.source_files:
        _check(
            isinstance(file.name, str)
            and isinstance(file.sha256, str)
            and len(file.sha256) == 64
            and type(file.size) is int,
            "a source file must have name, sha256 and size",
            file,
        )
    for transform in card.transforms:
        _check(
            isinstance(transform.name, str)
            and isinstance(transform.parameters, dict)
            and isinstance(transform.versions, dict)
            and isinstance(transform.effect, dict),
            "a transform must have name, parameters, versions and effect",
            transform,
        )


# Columns of a detection, which an attribute cannot be called.
_COLUMNS = frozenset({"class_id", "class_name", "score", "xyxy", "track_id", "landmarks"})


def _validate_attributes(card: ModelCard) -> None:
    names = [attribute.name for attribute in card.attributes]
    _check(
        all(isinstance(n, str) and n.isidentifier() and n not in _COLUMNS for n in names)
        and len(set(names)) == len(names) <= _MAX_ATTRIBUTES,
        f"attributes must have up to {_MAX_ATTRIBUTES} different names like Python's",
        names,
    )
    for attribute in card.attributes:
        classes = attribute.kind == "class"
        _check(
            attribute.kind in get_args(AttributeKind)
            and (attribute.unit is None or isinstance(attribute.unit, str))
            and all(isinstance(name, str) for name in attribute.names)
            and 0 < len(attribute.names) <= _MAX_CLASSES
            if classes
            else attribute.kind == "number" and not attribute.names,
            "an attribute must be of the kind 'class', with names, or 'number', without",
            attribute,
        )


def _validate_crop(crop: Crop | None) -> None:
    if crop is None:
        return
    _check(
        crop.shape in get_args(CropShape)
        and _is_number(crop.scale)
        and 0 < crop.scale <= _MAX_CROP,
        f"crop must be one of {get_args(CropShape)}, its scale above 0 and up to {_MAX_CROP}",
        crop,
    )
    points = crop.template
    _check(
        len(points) <= _MAX_LANDMARKS
        and all(isinstance(p.name, str) and _is_number(p.x) and _is_number(p.y) for p in points)
        and all(max(abs(p.x), abs(p.y)) <= _MAX_SIDE for p in points)
        and len({p.name for p in points}) == len(points),
        f"crop.template must be up to {_MAX_LANDMARKS} points of different names",
        points,
    )
    _check(
        crop.shape != "aligned" or len({(p.x, p.y) for p in points}) > 1,
        "a crop that is 'aligned' must have a template of two places or more",
        points,
    )


def _validate_landmarks(card: ModelCard) -> None:
    names = card.landmarks
    _check(
        isinstance(names, tuple)
        and len(names) <= _MAX_LANDMARKS
        and all(isinstance(name, str) and name for name in names)
        and len(set(names)) == len(names),
        f"landmarks must be up to {_MAX_LANDMARKS} different names",
        names,
    )
    _check(
        card.task == "detect" or not names,
        f"a model to {card.task} must have no landmarks",
        names,
    )


def _check(holds: bool, expected: str, received: object) -> None:
    if not holds:
        shown = repr(received)
        raise CardError(f"model card: {expected}, got {shown[:80]}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_pair_of_ints(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(type(x) is int for x in value)
