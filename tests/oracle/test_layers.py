"""Every layer, activation and head the importer knows, against the numpy Darknet.

Recorded outputs of Darknet cover whole networks; here each layer stands alone in a small
network that is not square, with options that no recorded network uses.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from boxwright import backends
from boxwright.evaluate.heads import with_head_outputs
from boxwright.evaluate.tensors import nrmse
from boxwright.importers import import_model
from boxwright.model import BOXES, IMAGES, SCORES
from tests.oracle.conftest import make_seeded_weights
from tests.oracle.numpy_darknet import (
    HeadResult,
    NumpyDarknet,
    RandomWeights,
    parse_cfg,
)
from tests.oracle.numpy_layers import ACTIVATIONS

HEIGHT, WIDTH, CLASSES = 24, 32, 3


def section(name: str, **options: object) -> str:
    return "\n".join([f"[{name}]", *(f"{key}={value}" for key, value in options.items()), ""])


def conv(filters: int = 8, size: int = 3, **options: object) -> str:
    usual = {"batch_normalize": 1, "pad": 1, "activation": "leaky"}
    return section("convolutional", filters=filters, size=size, **(usual | options))


def yolo(**options: object) -> str:
    usual = {"mask": "1,2", "anchors": "4,5, 9,7, 13,20", "num": 3, "classes": CLASSES}
    return section("yolo", **(usual | options))


NET = section("net", width=WIDTH, height=HEIGHT, channels=3)
RAW = conv(2 * (5 + CLASSES), 1, batch_normalize=0, activation="linear")

LAYERS = {
    "a convolution without batch norm": conv(batch_normalize=0),
    "an even kernel": conv(size=2),
    "no padding": conv(pad=0),
    "padding of its own": conv(pad=0, padding=2),
    "a stride that leaves a rest": conv(stride=3),
    "strides that differ": conv(stride_x=2, stride_y=1),
    "groups": conv(groups=4),
    "depthwise": conv(groups=8),
    "dilation": conv(dilation=2),
    "dilation and stride": conv(dilation=3, stride=2),
    "a blur after a convolution": conv(stride=2, antialiasing=1),
    "the smaller blur": conv(stride=2, antialiasing=2),
    "shared weights": conv() + conv(share_index=-1),
    "maxpool": section("maxpool", size=2, stride=2),
    "maxpool that keeps the size": section("maxpool", size=2, stride=1),
    "maxpool as in SPP": section("maxpool", size=5, stride=1),
    "maxpool with a rest": section("maxpool", size=3, stride=2),
    "maxpool with its own padding": section("maxpool", size=2, stride=2, padding=0),
    "maxpool with strides that differ": section("maxpool", size=2, stride_x=2, stride_y=1),
    "maxpool over channels": section("maxpool", maxpool_depth=1, out_channels=4),
    "a blur after maxpool": section("maxpool", size=2, stride=2, antialiasing=1),
    "maxpool over channels with a rest": section("maxpool", maxpool_depth=1, out_channels=3),
    "local_avgpool": section("local_avgpool", size=3, stride=1),
    "local_avgpool with stride": section("local_avgpool", size=2, stride=2),
    "upsample": section("upsample", stride=2),
    "upsample by three, scaled": section("upsample", stride=3, scale=0.5),
    "upsample backwards": section("upsample", stride=-2),
    "reorg": section("reorg", stride=2),
    "reorg3d": section("reorg3d", stride=2),
    "route": conv(4) + section("route", layers="-1,-2"),
    "route of a group": section("route", layers="-1", groups=2, group_id=1),
    "route of groups of several": conv(4) + section("route", layers="-1,-2", groups=2, group_id=0),
    "shortcut": conv() + section("shortcut", **{"from": -2}, activation="leaky"),
    "shortcut to more channels": conv(12) + section("shortcut", **{"from": -2}),
    "shortcut to fewer channels": conv(4) + section("shortcut", **{"from": -2}),
    "shortcut of several": conv() * 2 + section("shortcut", **{"from": "-2,-3"}),
    "shortcut with a weight each": conv()
    + section("shortcut", **{"from": "-2"}, weights_type="per_feature"),
    "shortcut with a weight per channel": conv() * 2
    + section("shortcut", **{"from": "-2,-3"}, weights_type="per_channel"),
    "shortcut with relu weights": conv() * 2
    + section(
        "shortcut",
        **{"from": "-2,-3"},
        weights_type="per_channel",
        weights_normalization="relu",
    ),
    "shortcut with softmax weights": conv() * 2
    + section(
        "shortcut",
        **{"from": "-2,-3"},
        weights_type="per_feature",
        weights_normalization="softmax",
    ),
    "squeeze and excitation": section("avgpool")
    + conv(8, 1, activation="logistic")
    + section("scale_channels", **{"from": -3}),
    "spatial attention": conv(8, 1, activation="logistic") + section("sam", **{"from": -2}),
    "attention with an activation": conv(8, 1, activation="logistic")
    + section("sam", **{"from": -2}, activation="leaky"),
    "a scale for each place": conv(1, 1, activation="logistic")
    + section("scale_channels", **{"from": -2}, scale_wh=1),
    "batchnorm": section("batchnorm"),
    "dropout": section("dropout", probability=0.5),
    **{f"activation {name}": conv(activation=name) for name in ACTIVATIONS},
}

HEADS = {
    "yolo": RAW + yolo(),
    "yolo, scale_x_y": RAW + yolo(scale_x_y=1.2),
    "yolo, new_coords": conv(2 * (5 + CLASSES), 1, batch_normalize=0, activation="logistic")
    + yolo(new_coords=1, scale_x_y=2),
    "two heads": RAW
    + yolo()
    + section("route", layers=-3)
    + conv(stride=2)
    + conv(5 + CLASSES, 1, batch_normalize=0, activation="linear")
    + yolo(mask=0),
    "Gaussian yolo": conv(2 * (9 + CLASSES), 1, batch_normalize=0, activation="linear")
    + yolo(scale_x_y=1.1).replace("[yolo]", "[Gaussian_yolo]"),
    "region": RAW
    + section("region", anchors="1,1.5, 2,1", num=2, classes=CLASSES, coords=4, softmax=1),
    **{
        f"Gaussian yolo, {point}": conv(
            2 * (9 + CLASSES), 1, batch_normalize=0, activation="linear"
        )
        + yolo(yolo_point=point).replace("[yolo]", "[Gaussian_yolo]")
        for point in ("left_top", "right_bottom")
    },
    "region without softmax": RAW
    + section("region", anchors="1,1.5, 2,1", num=2, classes=CLASSES, coords=4),
    "region with a floor": RAW
    + section("region", anchors="1,1.5, 2,1", num=2, classes=CLASSES, softmax=1, classfix=-1),
    "detection": section("connected", output=4 * (CLASSES + 5 * 2), activation="linear")
    + section("detection", classes=CLASSES, coords=4, side=2, num=2, rescore=1, sqrt=1, softmax=0),
    "detection after local layers": section("local", filters=4, size=3, stride=2, pad=1)
    + section("local", filters=4, size=2, stride=1, pad=0, activation="leaky")
    + section("connected", output=20, activation="leaky", batch_normalize=1)
    + section("connected", output=9 * (CLASSES + 5), activation="linear")
    + section("detection", classes=CLASSES, coords=4, side=3, num=1, softmax=1),
}

NETWORKS = {
    **{name: NET + conv(stride=2) + layers + RAW + yolo() for name, layers in LAYERS.items()},
    **{f"head {name}": NET + conv(stride=2) + head for name, head in HEADS.items()},
    "crop": NET + section("crop", crop_height=16, crop_width=20) + conv() + RAW + yolo(),
    "crop as it is": NET
    + section("crop", crop_height=17, crop_width=19, noadjust=1)
    + conv()
    + RAW
    + yolo(),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_layer(name: str, tmp_path: Path) -> None:
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(NETWORKS[name])
    values = RandomWeights(seed=len(name))
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    network = NumpyDarknet(cfg, values, np.float64)
    expected = network.run(image)
    values.write(weights)
    check(cfg, weights, image, expected, 1e-5)


@pytest.mark.parametrize(
    ("name", "size", "seed"),
    [
        ("yolov3-tiny-prn", (224, 320), 7),
        pytest.param("yolov7-tiny", (320, 256), 3, marks=pytest.mark.slow),
        pytest.param("yolov4-tiny", (192, 416), 11, marks=pytest.mark.slow),
        pytest.param("yolov2", (224, 352), 2, marks=pytest.mark.slow),
        pytest.param("enet-coco", (256, 320), 5, marks=pytest.mark.slow),
        pytest.param("Gaussian_yolov3_BDD", (160, 256), 2, marks=pytest.mark.slow),
        pytest.param("csresnext50-panet-spp", (160, 224), 4, marks=pytest.mark.slow),
        pytest.param("yolov4", (160, 224), 9, marks=pytest.mark.slow),
    ],
)
def test_another_size_and_seed(
    name: str, size: tuple[int, int], seed: int, oracle_dir: Path, tmp_path: Path
) -> None:
    """Nothing may hang on the sizes and seeds for which Darknet's outputs were recorded."""
    cfg, weights = oracle_dir / "cfg" / f"{name}.cfg", tmp_path / "net.weights"
    make_seeded_weights(oracle_dir, cfg, weights, seed)
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    expected = NumpyDarknet(cfg, weights, size=size).run(image)
    check(cfg, weights, image, expected, 1e-3, size)
    weights.unlink()


def check(
    cfg: Path,
    weights: Path,
    image: NDArray[np.uint8],
    expected: list[HeadResult],
    tolerance: float,
    size: tuple[int, int] | None = None,
) -> None:
    """Import, run, and compare raw heads, boxes and scores."""
    head = next(part for part in parse_cfg(cfg.read_text()) if "classes" in part)
    names = [f"class {i}" for i in range(int(head["classes"]))]
    model = import_model(weights, cfg=cfg, names=names, size=size)
    with backends.load(with_head_outputs(model)) as runner:
        outputs = runner.infer({IMAGES: image[None]})
    assert len(model.card.heads) == len(expected)
    for ours, theirs in zip(model.card.heads, expected, strict=True):
        raw = outputs[ours.tensor][0]
        assert raw.size == theirs.raw.size
        assert nrmse(raw, theirs.raw) < tolerance
    boxes = np.concatenate([result.boxes for result in expected])
    scores = np.concatenate([result.scores for result in expected])
    side = np.maximum(max(image.shape), np.abs(boxes[:, 2:] - boxes[:, :2]).max(axis=1))
    error = np.abs(outputs[BOXES][0] - boxes).max(axis=1) / side
    assert error.max() < tolerance
    np.testing.assert_allclose(outputs[SCORES][0], scores, rtol=0, atol=tolerance)
