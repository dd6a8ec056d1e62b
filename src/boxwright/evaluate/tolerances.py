"""How much difference is accepted, and why that much."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerances:
    """Largest differences accepted by a parity check; defaults are for trained float32 nets.

    Two float32 implementations of one network differ because sums are taken in another
    order and batch norm is folded or not. On trained networks that is 1e-7 to 1e-5 of
    a raw head; a wrong layer shows at 1e-2 and above. The defaults lie between.

    Attributes:
        head_nrmse: Raw heads, ``||a - b|| / ||b||``.
        output_nrmse: The graph's outputs, `boxes` and `scores`. Wider than the heads:
            decoding takes ``exp`` of some values, and rows of no score count here too.
        box: Corner error of a candidate relative to the image side: 1e-3 is 0.4 pixels
            at 416, below what anybody sees or AP at IoU 0.95 notices.
        score: Difference of a candidate's score: 1e-4 moves no printed digit.
        candidate_threshold: Candidates are compared above this score: low enough that
            every box that any AP computation looks at is among them.
        detection_thresholds: Detections (after suppression) are compared above these.
        unmatched_share: Share of boxes that only one side may have. 0 for trained
            networks, where a box without a partner is a finding.
        match_box: Boxes are partners up to this corner error, so that an error over the
            tolerance is reported as an error and not as two strangers.
        match_score: The same for scores.
    """

    head_nrmse: float = 1e-4
    output_nrmse: float = 1e-3
    box: float = 1e-3
    score: float = 1e-4
    candidate_threshold: float = 0.005
    detection_thresholds: tuple[float, ...] = (0.25,)
    unmatched_share: float = 0.0
    match_box: float = 0.01
    match_score: float = 0.05

    @classmethod
    def random_weights(cls) -> Tolerances:
        """For networks with random weights.

        Nothing in such a network damps rounding: Darknet's own fused and unfused results
        differ by 4e-4 (nrmse) on deep ones, hence 1e-3 for the heads. Scores follow:
        1.4e-3 was the largest difference seen on networks whose heads are within
        4e-5. Thousands of boxes lie near every threshold, so one box in a hundred may
        fall on the other side of it or of the suppression rule.
        """
        return cls(head_nrmse=1e-3, output_nrmse=1e-2, box=1e-3, score=2e-3, unmatched_share=0.01)

    @classmethod
    def of_precision(cls, precision: str) -> Tolerances:
        """For an engine of a trained network that computes in `precision`.

        Half precision and TF32 keep 11 bits: yolov4-tiny on TensorRT 8.6 is 5e-3 (nrmse of
        scores) away from float32, single scores 9e-3 and corners 4e-3 of the side, and loses
        0.01 points of AP. The tolerances are two to four times that, which no wrong layer
        keeps to. bfloat16 keeps 8 bits and gets five times as much.

        INT8 rounds every activation to 1/255 of its range, and single scores move far: of
        yolov4-tiny, yolov5n and RetinaFace on ONNX Runtime and OpenVINO, scores altogether
        by an nrmse of 0.04 to 0.28, corners by 0.11 of the side, and the one that moves most
        of 282 by 0.47 and 0.60 in engines that lose 0.4 points of AP. So what is judged is
        the whole, and how many candidates have no partner; of a single one only that it is
        there. A backend that rounds in other places than the portable graph is
        as far from that as both are from the float model. Candidates count from a score of
        0.05 on, for below it a step is a large part of the score. Networks that bear INT8
        badly, such as those of depthwise convolutions, do not keep to this (nrmse 0.3 to 1),
        nor does a wrong layer (yolov4-tiny as OpenVINO reads signed concatenations: 0.55).
        Whether that much matters, AP says: give labels.

        Args:
            precision: ``fp32``, ``tf32``, ``fp16``, ``bf16`` or ``int8``.
        """
        if precision == "fp32":
            return cls()
        if precision == "int8":
            return cls(
                head_nrmse=0.3,
                output_nrmse=0.3,
                box=0.25,
                score=0.75,
                candidate_threshold=0.05,
                unmatched_share=0.05,
                match_box=0.3,
                match_score=0.8,
            )
        coarse = 1 if precision in ("tf32", "fp16") else 5
        return cls(
            head_nrmse=0.02 * coarse,
            output_nrmse=0.02 * coarse,
            box=0.01 * coarse,
            score=0.02 * coarse,
            unmatched_share=0.01 * coarse,
            match_box=0.05 * coarse,
            match_score=0.1 * coarse,
        )

    @classmethod
    def opencv(cls) -> Tolerances:
        """For OpenCV's Darknet importer as the reference.

        It adds 1e-6 to the variances where Darknet adds 1e-5, so the smaller a
        channel's variance, the larger its own error: up to 8e-2 on a raw head of
        trained networks. Agreement within this says that the layers are the same,
        not that the numbers are.
        """
        return cls(
            head_nrmse=0.1,
            output_nrmse=0.1,
            box=0.05,
            score=0.05,
            unmatched_share=0.1,
            match_box=0.1,
            match_score=0.2,
        )
