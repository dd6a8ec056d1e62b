"""Exports of TensorFlow's Object Detection API: where the network ends in them.

An export decodes boxes, makes scores and suppresses (``core/post_processing.py`` of the
API). Newer ones name what goes into the suppression, ``raw_detection_boxes`` and
``raw_detection_scores``; older ones do not, and the way back from their operations for
non-maximum suppression leads there. What comes after is left away and described instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxwright.card import Nms
from boxwright.importers.tensorflow.graphdef import node_of, plain_name, tensor_of
from boxwright.importers.tensorflow.network import MAX_NODES, Array, refusal
from boxwright.importers.tensorflow.preprocessor import Preprocessor

BOXES, SCORES = "detection_boxes", "detection_scores"
RAW_BOXES, RAW_SCORES = "raw_detection_boxes", "raw_detection_scores"
_NMS = tuple(f"NonMaxSuppression{version}" for version in ("", "V2", "V3", "V4", "V5"))
_COMBINED = "CombinedNonMaxSuppression"
# What leaves values as they are, and takes them as its first input.
_PASSES = (
    *("Identity", "StopGradient", "Squeeze", "ExpandDims", "Reshape", "Unpack"),
    *("StridedSlice", "Slice", "Enter", "Switch", "Merge", "Exit"),
)
# Names of one value; a chain that is longer was made to take time.
_MAX_CALLED = 100


@dataclass(frozen=True)
class ApiExport:
    """What an export says of its end.

    Attributes:
        boxes: The value with decoded boxes.
        scores: The value with scores.
        background: The first column of the scores is no class.
        nms: Suppression for the card.
        score_threshold: Scores that the suppression leaves away; ``None`` where not said.
        preprocessor: What its loop over images did; ``None`` where it has none.
    """

    boxes: str
    scores: str
    background: bool
    nms: Nms
    score_threshold: float | None
    preprocessor: Preprocessor | None


def find_export(
    graph: Any, outputs: dict[str, str], path: Path, preprocessor: Preprocessor | None
) -> ApiExport | None:
    """What is exported, and the graph without what comes behind the network, in place.

    Args:
        graph: ``GraphDef``, without calls.
        outputs: The values that the file gives out, by their names.
        path: The file, for messages.
        preprocessor: What was cut of it.

    Returns:
        ``None`` where it is no export of a detector by the API, or of one without candidates
        to suppress.

    Raises:
        ImportFailedError: It suppresses twice: a network of two stages.
    """
    if BOXES not in outputs or SCORES not in outputs:
        return None
    try:
        return _found(_End(graph, path), graph, outputs, preprocessor)
    except (IndexError, RecursionError):
        raise refusal(
            path, "damaged: operations of its suppression have not the inputs that they need"
        ) from None


def _found(
    end: _End, graph: Any, outputs: dict[str, str], preprocessor: Preprocessor | None
) -> ApiExport | None:
    if RAW_BOXES in outputs and RAW_SCORES in outputs:
        boxes, scores, cut = outputs[RAW_BOXES], outputs[RAW_SCORES], None
    else:
        walked = end.candidates()
        if walked is None:
            return None
        boxes, scores, cut = walked
    kept = end.needed([boxes, scores])
    if any(end.nodes[name].op in (*_NMS, _COMBINED) for name in kept):
        raise refusal(
            end.path,
            "an export of the Object Detection API that suppresses proposals inside of the "
            "network (Faster R-CNN and the like); networks of one stage (SSD, RetinaNet, "
            "EfficientDet) are supported",
        )
    background = end.drops_background(scores) if cut is None else cut
    nms, threshold = end.suppression()
    _keep(graph, kept)
    return ApiExport(
        plain_name(boxes), plain_name(scores), background, nms, threshold, preprocessor
    )


class _End:
    """The graph, looked at from its end."""

    def __init__(self, graph: Any, path: Path) -> None:
        self.path = path
        self.nodes = {node.name: node for node in graph.node}
        self.bodies = [list(graph.node), *(list(f.node_def) for f in graph.library.function)]

    def needed(self, wanted: Iterable[str]) -> set[str]:
        """Names of all nodes that values depend on, and of placeholders."""
        found = {name for name, node in self.nodes.items() if node.op == "Placeholder"}
        pending = [node_of(reference) for reference in wanted]
        while pending:
            name = pending.pop()
            if name not in self.nodes or name in found:
                continue
            found.add(name)
            pending.extend(node_of(x) for x in self.nodes[name].input if not x.startswith("^"))
        return found

    def candidates(self) -> tuple[str, str, bool] | None:
        """Boxes and scores that are suppressed, and whether a background was cut off."""
        for node in self.nodes.values():
            if node.op in (*_NMS, _COMBINED) and len(node.input) >= 2:
                boxes, _ = self._back(node.input[0])
                scores, cut = self._back(node.input[1])
                return boxes, scores, cut
        return None

    def drops_background(self, scores: str) -> bool:
        """Whether the suppression gets scores without their first column."""
        source = self._plain(scores)
        return any(
            node.op == "Slice" and self._skips_first(node) and self._plain(node.input[0]) == source
            for node in self.nodes.values()
        )

    def suppression(self) -> tuple[Nms, float | None]:
        """By its operations, one for each class or one for all."""
        for body in self.bodies:
            by_name = {node.name: node for node in body}
            found = [node for node in body if node.op in _NMS]
            combined = next((node for node in body if node.op == _COMBINED), None)
            if combined is not None:
                iou = self._number(by_name, combined, 4)
                return _nms(iou, False), self._number(by_name, combined, 5)
            if found:
                first = found[0]
                iou = self._number(by_name, first, 3)
                if iou is None and "iou_threshold" in first.attr:
                    iou = first.attr["iou_threshold"].f
                # All classes at once: the only one of them has scores that were a maximum.
                alone = len(found) == 1 and self._is_maximum(by_name, first.input[1])
                return _nms(iou, alone), self._number(by_name, first, 4)
        return Nms(), None

    def _back(self, reference: str) -> tuple[str, bool]:
        """The value that others merely lay out anew, and whether its first column was cut."""
        cut = False
        for _ in range(MAX_NODES):
            node = self.nodes.get(node_of(reference))
            if node is None or not node.input:
                break
            if node.op == "TensorArrayReadV3" and len(node.input) > 2:
                scatter = self.nodes.get(node_of(self._back(node.input[2])[0]))
                if scatter is None or scatter.op != "TensorArrayScatterV3":
                    break
                reference = scatter.input[2]
                continue
            if node.op not in _PASSES:
                break
            cut = cut or (node.op == "Slice" and self._skips_first(node))
            reference = node.input[0]
        return reference, cut

    def _plain(self, reference: str) -> str:
        """The value itself, where others are merely called like it."""
        for _ in range(_MAX_CALLED):
            node = self.nodes.get(node_of(reference))
            if node is None or node.op not in ("Identity", "StopGradient"):
                break
            reference = node.input[0]
        return plain_name(reference)

    def _skips_first(self, node: Any) -> bool:
        begin = self._constant(self.nodes, node.input[1])
        return begin is not None and begin.reshape(-1).tolist() == [0, 0, 1]

    def _is_maximum(self, nodes: dict[str, Any], reference: str) -> bool:
        for _ in range(20):
            node = nodes.get(node_of(reference))
            if node is None or not node.input:
                return False
            if node.op == "Max":
                return True
            reference = node.input[0]
        return False

    def _number(self, nodes: dict[str, Any], node: Any, index: int) -> float | None:
        constant = self._constant(nodes, node.input[index]) if len(node.input) > index else None
        return float(constant.reshape(-1)[0]) if constant is not None and constant.size else None

    def _constant(self, nodes: dict[str, Any], reference: str) -> Array | None:
        node = nodes.get(node_of(reference))
        for _ in range(_MAX_CALLED):
            if node is None or node.op not in ("Identity", "Enter") or not node.input:
                break
            node = nodes.get(node_of(node.input[0]))
        if node is None or node.op != "Const":
            return None
        return tensor_of(node.attr["value"].tensor, "a constant of its suppression", self.path)


def _nms(iou: float | None, agnostic: bool) -> Nms:
    # 1 and more is what the API writes for no suppression; nothing is then over it here too.
    known = min(iou, 1.0) if iou is not None and iou > 0 else 0.6
    return Nms(iou_threshold=round(known, 6), class_agnostic=agnostic, multi_label=not agnostic)


def _keep(graph: Any, names: set[str]) -> None:
    kept = [node for node in graph.node if node.name in names]
    copies = type(graph)()
    copies.node.extend(kept)
    graph.Clear()
    graph.node.extend(copies.node)
