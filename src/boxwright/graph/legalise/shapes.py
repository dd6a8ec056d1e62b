"""The pass that fixes free extents of the inputs."""

from __future__ import annotations

from boxwright.graph.legalise.editing import Editor, legaliser


@legaliser("fix-shapes")
def fix_shapes(edit: Editor, size: tuple[int, int] | None = None, batch: int | None = None) -> None:
    """Give free heights and widths, and the batch, a number.

    The layout is told by the channels: `[N, H, W, C]` where the last extent is 1, 3 or 4 and
    the second is none of these, else `[N, C, H, W]`.

    Args:
        edit: The model.
        size: (height, width); ``None`` leaves them free.
        batch: First extent of every input; ``None`` leaves it free.
    """
    for value in edit.view.inputs:
        extents = value.type.tensor_type.shape.dim
        fixed = {}
        if batch is not None and extents:
            fixed[0] = batch
        if size is not None and len(extents) == 4:
            counts = (1, 3, 4)
            last = extents[3].dim_value in counts and extents[1].dim_value not in counts
            at = 1 if last else 2
            fixed |= {at: size[0], at + 1: size[1]}
        for axis, number in fixed.items():
            if extents[axis].dim_value <= 0:
                extents[axis].Clear()
                extents[axis].dim_value = number
                edit.note(None, f"input {value.name!r}: extent {axis} is {number}")
    if edit.changes:
        # What was declared of the rest came from the free extents; runtimes infer it anew.
        del edit.graph.value_info[:]
        for value in edit.graph.output:
            for extent in value.type.tensor_type.shape.dim:
                extent.Clear()
