"""What each stage of a ship does. Every output is whole or absent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.engine import Engine
from boxwright.errors import BoxwrightError, MissingExtraError
from boxwright.evaluate import drop
from boxwright.evaluate.report import pictures
from boxwright.evaluate.sampling import readable_sample
from boxwright.files import read_regular, write_text
from boxwright.model import Model
from boxwright.progress import ProgressCallback

if TYPE_CHECKING:
    from boxwright.datasets import Dataset
    from boxwright.images import Pixels
    from boxwright.ship.settings import ShipSettings

_BENCH_IMAGES = 32


@dataclass
class Work:
    """The stages of one ship, and the files between them."""

    settings: ShipSettings
    progress: ProgressCallback

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return self.settings.output

    @cached_property
    def name(self) -> str:
        """Of the model: that of the weights."""
        return self.settings.trained().stem

    @property
    def model(self) -> Path:
        """The imported model."""
        return self.folder / f"{self.name}.onnx"

    @property
    def built_model(self) -> Path:
        """The model that the engine is built from: quantised, or the imported one."""
        if self.settings.fixed_precision is not None:
            return self.model
        return self.folder / f"{self.name}.chosen.onnx"

    @property
    def precision(self) -> str:
        """What is built; known when it was chosen."""
        fixed = self.settings.fixed_precision
        if fixed is not None:
            return fixed
        return str(json.loads(read_regular(self.evidence("precision")))["precision"])

    @property
    def engine(self) -> Path:
        """The built engine."""
        return self.folder / f"{self.name}.bw"

    @property
    def report(self) -> Path:
        """The report."""
        return self.folder / "report.html"

    def evidence(self, stage: str) -> Path:
        """Where a stage writes what it found."""
        return self.folder / "evidence" / f"{stage}.json"

    @cached_property
    def dataset(self) -> Dataset | None:
        """The labelled images, where labels were given."""
        from boxwright import datasets

        if self.settings.annotations is None:
            return None
        return datasets.open(self.settings.annotations, images=self.settings.images[0])

    @cached_property
    def images(self) -> list[Path]:
        """All images, labelled or not."""
        from boxwright.images import find_images

        if self.dataset is not None:
            return [image.path for image in self.dataset.images]
        return find_images(self.settings.images, without=[self.folder / "evidence"])

    def run_import(self) -> None:
        """Weights to a model."""
        from boxwright.importers import import_model

        model = import_model(
            self.settings.trained(), progress=self.progress, **self.settings.options()
        )
        model.save(self.model)

    def run_precision(self) -> None:
        """Quantise where there are images to calibrate on, and choose the precision."""
        from boxwright.ship.precision import choose

        model, content = choose(
            self.settings,
            Model.load(self.model),
            self.dataset,
            self.images,
            self.folder / "quantize",
            self.progress,
        )
        model.save(self.built_model)
        _write(self.evidence("precision"), content)

    def run_build(self) -> None:
        """The model to an engine."""
        from boxwright import backends

        backends.build(
            Model.load(self.built_model),
            output=self.engine,
            backend=self.settings.backend,
            precision=self.precision,  # type: ignore[arg-type]  # checked before
            device=self.settings.device,
            progress=self.progress,
        )

    def run_verify(self) -> None:
        """Parity with the source, agreement with itself, and pictures of both."""
        from boxwright.evaluate.proof import prove

        sample, damaged = readable_sample(
            self.images, self.settings.verify_images, self.settings.seed
        )
        # Against what was trained, also in INT8: a runtime rounds in other places than the
        # quantised graph, and is often closer to the source than to that.
        model = Model.load(self.model)
        engine = Engine.open(self.engine)
        pixels = _prepare(model, sample)
        proof = prove(
            engine,
            model,
            pixels,
            reference_backend="reference",
            device=self.settings.device,
            seed=self.settings.seed,
            progress=self.progress,
        )
        reports = [proof.parity]
        remarks = [f"{damaged} images could not be read and took no part"] if damaged else []
        if self.settings.opencv:
            reports += self._ask_opencv(model, pixels, remarks)
        pictures.save(self._side_by_side(sample), self.folder / "evidence" / "faithful")
        _write(
            self.evidence("verify"),
            {
                "parity": [report.to_dict() for report in reports],
                "consistency": [check.to_dict() for check in proof.consistency],
                "notes": remarks,
            },
        )

    def _ask_opencv(self, model: Model, pixels: Pixels, remarks: list[str]) -> list[Any]:
        from boxwright.evaluate import opencv_oracle
        from boxwright.evaluate.parity import Tolerances, compare

        reason = opencv_oracle.unavailable()
        cfg = self.settings.options().get("cfg") or self.settings.trained().with_suffix(".cfg")
        if reason is None:
            try:
                oracle = opencv_oracle.OpenCvDarknet(cfg, self.settings.trained())
                return [compare(model, oracle, pixels, Tolerances.opencv(), progress=self.progress)]
            except BoxwrightError as error:
                reason = str(error)
        remarks.append(f"not compared with OpenCV's importer: {reason}")
        return []

    def _side_by_side(self, sample: Sequence[tuple[Path, Pixels]]) -> list[pictures.Picture]:
        from boxwright.detector import Detector
        from boxwright.evaluate.worst import side_by_side

        found = []
        images = [pixels for _, pixels in sample]
        for source in (self.model, self.engine):
            with Detector(source, device=self.settings.device) as detector:
                found.append(detector.detect_batch(images))
        return side_by_side(sample, found[0], found[1])

    def run_eval(self, side: str, key: str) -> None:
        """Accuracy of the source or the engine; a run that was stopped goes on."""
        opened = Engine.open(self.engine) if side == "engine" else Model.load(self.model)
        drop.measure(
            opened,
            self.labelled(),
            self.folder / "eval" / side,
            key,
            device=self.settings.device,
            progress=self.progress,
        )

    def run_compare(self) -> None:
        """How much accuracy the engine lost, and the images where it is worst."""
        content, worst = drop.compare_sides(
            self.folder / "eval",
            self.labelled(),
            Engine.open(self.engine).card,
            seed=self.settings.seed,
            progress=self.progress,
        )
        pictures.save(pictures.within_budget(worst), self.folder / "evidence" / "accurate")
        _write(self.evidence("accuracy"), content)

    def labelled(self) -> Dataset:
        """The dataset of stages that run only where there is one."""
        assert self.dataset is not None  # noqa: S101 - else there are no such stages
        return self.dataset

    def run_bench(self) -> None:
        """Speed, beside the peers that were named, and its charts."""
        from boxwright.evaluate import charts
        from boxwright.evaluate.benchmark import Plan, benchmark
        from boxwright.evaluate.speed import speed_for_receipt

        sample, _ = readable_sample(self.images, _BENCH_IMAGES, self.settings.seed)
        plan = Plan(
            batches=self.settings.batches,
            seconds=self.settings.bench_seconds,
            seed=self.settings.seed,
        )
        result = benchmark(
            self.engine,
            self.settings.against,
            images=[path for path, _ in sample],
            plan=plan,
            device=self.settings.device,
            cfg=self.settings.options().get("cfg"),
            progress=self.progress,
        )
        drawn: dict[str, str] = {}
        remarks = []
        try:
            drawn = charts.charts_of(result)
        except MissingExtraError as error:
            remarks.append(f"no charts: {error}")
        _write(self.evidence("charts"), {"svg": drawn, "notes": remarks})
        _write(
            self.evidence("bench"), {**result.to_dict(), "for_receipt": speed_for_receipt(result)}
        )


def _prepare(model: Model, sample: Sequence[tuple[Path, Pixels]]) -> Pixels:
    from boxwright.preprocess import Preprocessor

    return Preprocessor(model.card).prepare_batch([pixels for _, pixels in sample])[0]


def _write(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
