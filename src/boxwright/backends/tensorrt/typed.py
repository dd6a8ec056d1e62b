"""The graph that TensorRT is given: the portable one, or its float16 form.

TensorRT 11 and TensorRT-RTX have no flags for precision: they take every type from the
graph. The engine file keeps the portable float32 graph all the same; the float16 form is
derived from it whenever a plan is built, here and on any other machine
(docs/explanation/decisions/0016-typed-precision.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from boxwright.errors import BoxwrightError, BuildError

if TYPE_CHECKING:
    from boxwright.backends.tensorrt.library import Library
    from boxwright.backends.tensorrt.settings import Settings
    from boxwright.model import Model


def is_derived(library: Library, precision: str) -> bool:
    """Whether plans of a precision come from a graph derived for it."""
    return library.strongly_typed_only and precision != "fp32"


def typed(
    library: Library, model: Model, precision: str, settings: Settings
) -> tuple[Model, dict[str, Any]]:
    """What to build a plan of a precision from, and what the receipt is to say of it.

    Of a quantised model (``int8``), what is not quantised is what becomes float16.

    Raises:
        BuildError: The model has no float16 form.
    """
    if not is_derived(library, precision):
        return model, {}
    from boxwright.graph.precision import to_half

    try:
        derived, report = to_half(model, keep=settings.keep_float32)
    except BoxwrightError as error:
        raise BuildError(f"no float16 form of {model.card.name} can be derived: {error}") from error
    return derived, {"typed": report.to_dict()}
