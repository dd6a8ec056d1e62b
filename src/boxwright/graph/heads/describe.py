"""What a head's tensors mean, as records that go through JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from boxwright.errors import ModelError

Layout = Literal["rows", "columns", "maps", "pixels", "anchor_maps"]
"""How one tensor holds a row of values for each candidate.

``rows`` is ``(N, A, values)``, ``columns`` is ``(N, values, A)``, ``maps`` is
``(N, anchors * values, H, W)``, ``pixels`` is ``(N, H, W, anchors * values)`` and
``anchor_maps`` is ``(N, anchors, H, W, values)``. Candidates of ``maps`` and
``anchor_maps`` come anchor by anchor, those of ``pixels`` cell by cell.
"""

Activation = Literal["none", "sigmoid", "softmax"]
Column = Literal["boxes", "objectness", "classes"]
BoxFormat = Literal["xyxy", "cxcywh", "xywh", "yxyx"]

_MAX_CLASSES = 65_536
_MAX_LEVELS = 64
_MAX_BINS = 256


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """What every head but :class:`Selected` says about its scores.

    Attributes:
        classes: Number of classes, without a background.
        layout: How its tensors hold their values.
        columns: Which values a tensor that holds all of them has, in order. Without
            ``objectness``, the score is the class's own.
        activation: What turns class values into scores; a sigmoid is applied to the
            objectness too. ``none`` where the network ends in scores.
        background: A class value that stands before (``first``) or after (``last``) the
            others and takes part in the softmax, but is no class.
        geometric: The score is the root of objectness times class (FCOS's centerness)
            instead of their product.
    """

    classes: int
    layout: Layout = "rows"
    columns: tuple[Column, ...] = ("boxes", "classes")
    activation: Activation = "none"
    background: Literal["none", "first", "last"] = "none"
    geometric: bool = False

    def __post_init__(self) -> None:
        _check_whole("classes", self.classes, 1, _MAX_CLASSES)
        _check_word("layout", self.layout, get_args(Layout))
        _check_word("activation", self.activation, get_args(Activation))
        _check_word("background", self.background, ("none", "first", "last"))
        known = set(get_args(Column))
        columns = self.columns
        if len(set(columns)) != len(columns) or not {"boxes", "classes"} <= set(columns) <= known:
            raise ModelError(
                f"head: columns must be boxes, classes and perhaps objectness, got {columns!r}"
            )

    @property
    def class_columns(self) -> int:
        """Values a candidate has for its classes, the background included."""
        return self.classes + (self.background != "none")


@dataclass(frozen=True, kw_only=True)
class Rows(_Scored):
    """Boxes that the network has decoded itself.

    Attributes:
        box: What the four numbers are; ``xywh`` has the upper left corner, ``cxcywh`` the
            centre.
        normalised: They are fractions of the input's width and height instead of pixels.
    """

    kind: ClassVar[str] = "rows"
    box: BoxFormat = "cxcywh"
    normalised: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_word("box", self.box, get_args(BoxFormat))


@dataclass(frozen=True, kw_only=True)
class Anchors(_Scored):
    """Anchors on a grid (Redmon & Farhadi 2018, and its later forms).

    With ``t`` the raw values, ``c`` the cell, ``s`` the stride and ``a`` the anchor, the
    centre is ``(sigmoid(t) * scale - (scale - 1) / 2 + c) * s``, and the size either
    ``exp(t) * a`` (YOLOv3) or ``(2 * sigmoid(t))² * a`` (YOLOv5 and 7).

    Attributes:
        anchors: For each level its anchors, ``(width, height)`` in input pixels.
        strides: Input pixels per cell, for each level.
        size: Which formula the size has.
        scale: How far a centre may leave its cell; 2 from YOLOv5 on, 1 before.
    """

    kind: ClassVar[str] = "anchors"
    layout: Layout = "maps"
    columns: tuple[Column, ...] = ("boxes", "objectness", "classes")
    activation: Activation = "sigmoid"
    anchors: tuple[tuple[tuple[float, float], ...], ...] = ()
    strides: tuple[int, ...] = (8, 16, 32)
    size: Literal["exp", "square"] = "square"
    scale: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_strides(self.strides)
        _check_word("size", self.size, ("exp", "square"))
        _check_numbers("scale", (self.scale,))
        if len(self.anchors) != len(self.strides) or not all(self.anchors):
            raise ModelError(
                f"head: every one of {len(self.strides)} levels needs its anchors, "
                f"got those of {len(self.anchors)}"
            )
        if len({len(level) for level in self.anchors}) != 1 or not all(
            len(pair) == 2 for level in self.anchors for pair in level
        ):
            raise ModelError("head: anchors must be as many (width, height) pairs on each level")
        _check_numbers("anchors", [x for level in self.anchors for pair in level for x in pair])


@dataclass(frozen=True, kw_only=True)
class Grid(_Scored):
    """One candidate per cell: centre ``(t + c) * s``, size ``exp(t) * s`` (Ge et al. 2021).

    Attributes:
        strides: Input pixels per cell, for each level.
    """

    kind: ClassVar[str] = "grid"
    columns: tuple[Column, ...] = ("boxes", "objectness", "classes")
    strides: tuple[int, ...] = (8, 16, 32)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_strides(self.strides)


@dataclass(frozen=True, kw_only=True)
class Distances(_Scored):
    """Distances of left, top, right and bottom from a point in each cell.

    Tian et al. 2019 regress them; Li et al. 2020 (generalised focal loss) give each as a
    distribution over bins, whose expectation under a softmax it is.

    Attributes:
        strides: Input pixels per cell, for each level.
        bins: Bins of each distance; 1 where the distance is the number itself.
        offset: Where in its cell the point lies, in cells; 0.5 is the middle.
        in_strides: Distances are counted in strides instead of pixels.
        exponential: The exponential of the number is the distance (early FCOS).
    """

    kind: ClassVar[str] = "distances"
    layout: Layout = "maps"
    activation: Activation = "sigmoid"
    strides: tuple[int, ...] = (8, 16, 32)
    bins: int = 16
    offset: float = 0.5
    in_strides: bool = True
    exponential: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_strides(self.strides)
        _check_whole("bins", self.bins, 1, _MAX_BINS)
        _check_numbers("offset", (self.offset,), lowest=0.0)


@dataclass(frozen=True, kw_only=True)
class Priors(_Scored):
    """Offsets from prior boxes (Liu et al. 2016).

    With ``p`` the prior and ``v`` the variances, the centre is ``p + t * v * p_size`` and
    the size ``exp(t * v) * p_size``. The priors themselves are given to
    :func:`~boxwright.graph.heads.decode`, for they may be thousands.

    Attributes:
        variances: Of x, y, width and height.
        order: Order of the four numbers: ``xywh``, or TensorFlow's ``yxhw``.
        limit: A bound on ``t * v`` of the size before its exponential, or ``None``
            (torchvision has log(1000 / 16)).
    """

    kind: ClassVar[str] = "priors"
    activation: Activation = "softmax"
    background: Literal["none", "first", "last"] = "first"
    variances: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    order: Literal["xywh", "yxhw"] = "xywh"
    limit: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_word("order", self.order, ("xywh", "yxhw"))
        _check_numbers("variances", self.variances)
        if len(self.variances) != 4:
            raise ModelError(f"head: variances must be 4 numbers, got {len(self.variances)}")
        if self.limit is not None:
            _check_numbers("limit", (self.limit,))


@dataclass(frozen=True, kw_only=True)
class Selected:
    """Detections: suppressed inside the network, each with one score and one class.

    What the other classes scored is gone. The contract's `scores` have the one score in
    its class's column and 0 in the others, and the card asks for no suppression.

    Attributes:
        classes: Number of classes.
        columns: What the columns of one tensor are: ``boxes`` (four of them), ``score`` and
            ``class``, in any order.
        box: What the four numbers are.
        normalised: They are fractions of the input's width and height instead of pixels.
        first_class: The number that the first class has: 1 where 0 is a background.
    """

    kind: ClassVar[str] = "selected"
    classes: int
    columns: tuple[Literal["boxes", "score", "class"], ...] = ("boxes", "score", "class")
    box: BoxFormat = "xyxy"
    normalised: bool = False
    first_class: int = 0

    def __post_init__(self) -> None:
        _check_whole("classes", self.classes, 1, _MAX_CLASSES)
        _check_whole("first_class", self.first_class, 0, 1)
        _check_word("box", self.box, get_args(BoxFormat))
        if sorted(self.columns) != ["boxes", "class", "score"]:
            raise ModelError(f"head: columns must be boxes, score and class, got {self.columns!r}")


Head = Rows | Anchors | Grid | Distances | Priors | Selected

_KINDS: dict[str, type[Head]] = {
    kind.kind: kind for kind in (Rows, Anchors, Grid, Distances, Priors, Selected)
}


def head_to_json(head: Head) -> dict[str, Any]:
    """JSON values that :func:`head_from_json` reads; fields of the record and its ``kind``."""
    return {"kind": head.kind, **dataclasses.asdict(head)}


def head_from_json(content: Mapping[str, Any]) -> Head:
    """A head of what :func:`head_to_json` gave.

    Raises:
        ModelError: A field is missing, unknown or out of its range.
    """
    fields = {key: _tuples(value) for key, value in content.items() if key != "kind"}
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ModelError(f"head: kind must be one of {', '.join(_KINDS)}, got {str(kind)[:40]!r}")
    try:
        return _KINDS[kind](**fields)
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"head: the description of {kind!r} is malformed: {error}") from error


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def _check_word(name: str, value: object, words: tuple[str, ...]) -> None:
    if value not in words:
        raise ModelError(f"head: {name} must be one of {', '.join(words)}, got {value!r}")


def _check_whole(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ModelError(f"head: {name} must be {low} to {high}, got {value!r}")


def _check_numbers(name: str, values: Any, lowest: float | None = None) -> None:
    for value in values:
        sound = type(value) in (int, float) and math.isfinite(value)
        if not sound or (value <= 0 if lowest is None else value < lowest):
            raise ModelError(f"head: {name} must be positive numbers, got {value!r}")


def _check_strides(strides: tuple[int, ...]) -> None:
    if not 1 <= len(strides) <= _MAX_LEVELS:
        raise ModelError(f"head: strides must be 1 to {_MAX_LEVELS} numbers, got {len(strides)}")
    for stride in strides:
        _check_whole("stride", stride, 1, 16_384)
