"""Networks with a recorded answer of Darknet, one at a time: some weights take 250 MB."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from boxwright import backends
from boxwright.evaluate.dump import read_dump
from boxwright.evaluate.heads import with_head_outputs
from boxwright.evaluate.reference import Reference
from boxwright.evaluate.subject import read_images
from boxwright.evaluate.tolerances import Tolerances
from boxwright.importers import import_model
from boxwright.model import IMAGES, Model
from tests.oracle.numpy_darknet import NumpyDarknet

TRAINED = {
    "yolov4-tiny": "yolov4-tiny",
    "yolo-fastest-1.1": "yolo-fastest",
    "yolo-fastest-1.1-xl": "yolo-fastest",
    "MobileNetV2-YOLOv3-Nano-voc": "mobilenetv2-yolov3-nano-voc",
}
"""Names of trained networks, and their folders."""

SEEDED = (
    "yolov3-tiny-prn",
    "yolov3-tiny",
    "yolov2-tiny",
    "yolov4-tiny",
    "yolov7-tiny",
    "enet-coco",
)
"""Networks whose weights come from a seed: seconds each."""

SEEDED_SLOW = (
    "yolov2",
    "Gaussian_yolov3_BDD",
    "csresnext50-panet-spp",
    "yolov3-spp",
    "yolov4",
    "yolov4-csp-s-mish",
    "yolov4-csp-x-swish",
)
"""Networks of a quarter of a gigabyte, or of a million candidates."""


@dataclass
class Case:
    """A network, its weights, and what Darknet computed with them."""

    name: str
    trained: bool
    cfg: Path
    weights: Path
    reference: Reference
    images: NDArray[np.uint8]

    @property
    def tolerances(self) -> Tolerances:
        return Tolerances() if self.trained else Tolerances.random_weights()

    @cached_property
    def model(self) -> Model:
        classes = int(self.cfg.read_text().split("classes=")[1].split()[0])
        return import_model(
            self.weights, cfg=self.cfg, names=[f"class {i}" for i in range(classes)]
        )

    @cached_property
    def outputs(self) -> dict[str, NDArray[Any]]:
        """Ours, raw heads included."""
        with backends.load(with_head_outputs(self.model)) as runner:
            return runner.infer({IMAGES: self.images})

    @cached_property
    def numpy_network(self) -> NumpyDarknet:
        return NumpyDarknet(self.cfg, self.weights)


def make_seeded_weights(oracle_dir: Path, cfg: Path, output: Path, seed: int = 1) -> None:
    """Weights for `cfg` from a seed, by the script that made those of the references."""
    script = oracle_dir / "seeded_weights.py"
    command = [sys.executable, str(script), str(cfg), str(output), "--seed", str(seed)]
    subprocess.run(command, check=True, capture_output=True, text=True)


@pytest.fixture(
    scope="session",
    params=[
        *(pytest.param(f"real_{name}", id=name) for name in TRAINED),
        *(pytest.param(name, id=f"{name}-seeded") for name in SEEDED),
        *(pytest.param(name, id=f"{name}-seeded", marks=pytest.mark.slow) for name in SEEDED_SLOW),
    ],
)
def case(
    request: pytest.FixtureRequest,
    oracle_dir: Path,
    fixtures_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Case]:
    """Each network once; its weights are removed before the next one's are made."""
    stem: str = request.param
    trained = stem.startswith("real_")
    name = stem.removeprefix("real_")
    if trained:
        cfg = fixtures_dir / "darknet" / TRAINED[name] / f"{name}.cfg"
        weights = cfg.with_suffix(".weights")
    else:
        cfg = oracle_dir / "cfg" / f"{name}.cfg"
        weights = tmp_path_factory.mktemp("seeded") / f"{name}.weights"
        make_seeded_weights(oracle_dir, cfg, weights)
    reference = read_dump(oracle_dir / f"{stem}.npz")
    height, width = reference.input_size
    images = read_images([oracle_dir / f"dog_{width}x{height}.png"])
    yield Case(name, trained, cfg, weights, reference, images)
    if not trained:
        weights.unlink()
