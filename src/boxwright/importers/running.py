"""Running a graph on made-up images, as every importer does that must know what comes out.

Exporters declare free extents, or none, or wrong ones. A run says what shapes the tensors
really have, and their values say more: whether boxes are decoded already, normalised, or
scores are chances that add up to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import ImportFailedError
from boxwright.graph.session import plain_session

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]


def run(
    proto: onnx.ModelProto, feed: Mapping[str, Array], outputs: Sequence[str] = ()
) -> dict[str, Array]:
    """Run a graph by ONNX Runtime, without optimisation; `outputs` may name inner tensors.

    Raises:
        ImportFailedError: It does not run; the message has the runtime's reason.
    """
    import onnx as library

    if extra := [name for name in outputs if name not in {v.name for v in proto.graph.output}]:
        wider = library.ModelProto()
        wider.CopyFrom(proto)
        for name in extra:
            wider.graph.output.add(name=name)
        proto = wider
    try:
        session = plain_session(proto)
        names = list(outputs) or [node.name for node in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feed)), strict=True))
    except Exception as error:  # its exceptions share no base but Exception
        reason = " ".join(str(error).split())[:300]
        raise ImportFailedError(f"ONNX Runtime cannot run the graph: {reason}") from error


def picture(size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """A made-up image with large and small structures: uint8 ``(H, W, 3)``."""
    random = np.random.default_rng(seed)
    image = np.zeros((*size, 3), np.float64)
    for step in (4, 16, 64):
        coarse = random.uniform(0, 85, (size[0] // step + 1, size[1] // step + 1, 3))
        image += coarse.repeat(step, 0).repeat(step, 1)[: size[0], : size[1]]
    return image.astype(np.uint8)
