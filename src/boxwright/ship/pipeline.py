"""Weights in, a proven engine and its report out, in stages that survive being killed.

::

    import, precision, build, verify, eval source, eval engine, compare, bench, report

Evaluating and comparing need labels and are left out without them; so is choosing the
precision where there is nothing to choose from. What a stage depends
on is its key (:mod:`boxwright.ship.stages`); a run does what is not done.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from boxwright._version import __version__
from boxwright.environment import describe_environment
from boxwright.files import read_regular, sha256_file
from boxwright.progress import ProgressCallback, silent
from boxwright.quantize.canonical import canonical_key
from boxwright.ship import sealing
from boxwright.ship.companions import companions
from boxwright.ship.overall import Overall
from boxwright.ship.settings import ShipSettings
from boxwright.ship.stages import (
    Stage,
    alone,
    engine_digest,
    expected_seconds,
    key_of,
    receipt_digest,
    run_stages,
    sha256_of_files,
)
from boxwright.ship.summary import ShipResult
from boxwright.ship.work import Work

# Facts of a machine that change without being another machine.
_PASSING = ("governor", "release")


def ship(
    settings: ShipSettings,
    *,
    restart: bool = False,
    progress: ProgressCallback = silent,
    on_stage: Callable[[str, str], None] = lambda name, why: None,
) -> ShipResult:
    """Import, build, verify, evaluate, measure and report.

    Args:
        settings: What to do.
        restart: Forget what was done before in the same folder.
        progress: Told how far each stage is, and, as ``overall``, the whole, in per cent.
        on_stage: Called as each stage that is not done starts, with the reason where it
            had been done before.

    Returns:
        What came out. A missed budget or a failed check is part of it, not an error.

    Raises:
        InputError: Something given is wrong, or another run holds the folder.
    """
    settings.check()
    with alone(settings.output):
        overall = Overall(progress)
        work = Work(settings, overall)
        stages = make_stages(work)
        names = [stage.name for stage in stages]
        overall.plan(names, expected_seconds(settings.output, names))

        def start(index: int, why: str) -> None:
            overall.start(names[index])
            on_stage(names[index], why)

        records = run_stages(settings.output, stages, restart=restart, on_start=start)
        overall.finish()
        return sealing.result(work, tuple(records))


def make_stages(work: Work) -> list[Stage]:
    """All stages that these settings ask for, in order."""
    model = {work.model.name: lambda: sha256_file(work.model)}
    engine = {work.engine.name: lambda: engine_digest(work.engine)}
    stages = [
        Stage("import", lambda: _import_inputs(work), model, work.run_import),
        *_precision_stage(work),
        Stage("build", lambda: _build_inputs(work), engine, work.run_build),
        Stage(
            "verify",
            lambda: _verify_inputs(work),
            {**_file(work, "evidence/verify.json"), **_folder(work, "evidence/faithful")},
            work.run_verify,
        ),
    ]
    if work.dataset is not None:
        stages += _labelled_stages(work)
    stages += [
        Stage(
            "bench",
            lambda: _bench_inputs(work),
            {**_file(work, "evidence/bench.json"), **_file(work, "evidence/charts.json")},
            work.run_bench,
        ),
        Stage(
            "report",
            lambda: _report_inputs(work),
            {
                **_file(work, "report.html"),
                **_file(work, "summary.json"),
                "the engine's receipt": lambda: receipt_digest(work.engine),
            },
            lambda: sealing.seal(work),
        ),
    ]
    return stages


def _precision_stage(work: Work) -> list[Stage]:
    """Choosing the precision, where something has to be measured for that."""
    if work.settings.fixed_precision is not None:
        return []
    outputs = {
        work.built_model.name: lambda: sha256_file(work.built_model),
        **_file(work, "evidence/precision.json"),
    }
    return [Stage("precision", lambda: _precision_inputs(work), outputs, work.run_precision)]


def _precision_inputs(work: Work) -> dict[str, Any]:
    from boxwright.images import find_images

    settings = work.settings
    calibration = find_images(settings.calibration) if settings.calibration else []
    return {
        **_machine_inputs(work, "fp32"),
        # What candidates and the float model are measured by, whatever the target.
        "judged by": canonical_key(),
        "precision": settings.precision,
        "calibration": sha256_of_files(calibration),
        "images": sha256_of_files(work.images),
        "labels": None if work.dataset is None else work.dataset.sha256,
        "budget": settings.budgets.max_drop,
        "seed": settings.seed,
    }


def _labelled_stages(work: Work) -> list[Stage]:
    def stage(side: str) -> Stage:
        def inputs() -> dict[str, Any]:
            return _eval_inputs(work, side)

        outputs = {
            **_file(work, f"eval/{side}/evaluation.json"),
            **_file(work, f"eval/{side}/detections.jsonl"),
        }
        return Stage(f"eval {side}", inputs, outputs, lambda: work.run_eval(side, key_of(inputs())))

    compare = Stage(
        "compare",
        lambda: {
            "version": __version__,
            **{s: sha256_file(work.folder / f"eval/{s}/evaluation.json") for s in _SIDES},
            "dataset": work.labelled().sha256,
            "seed": work.settings.seed,
        },
        {**_file(work, "evidence/accuracy.json"), **_folder(work, "evidence/accurate")},
        work.run_compare,
    )
    return [*map(stage, _SIDES), compare]


_SIDES = ("source", "engine")


def _import_inputs(work: Work) -> dict[str, Any]:
    options = work.settings.options()
    trained = work.settings.trained()
    described = ("cfg", "names", "data")
    files: dict[str, Any] = {name: options.pop(name) for name in described if name in options}
    beside = companions(trained, files)
    return {
        "version": __version__,
        "weights": [trained.name, sha256_file(trained)],
        **{name: [Path(path).name, sha256_file(path)] for name, path in files.items()},
        "files beside the weights": sha256_of_files(beside),
        "import options": {name: _plain(value) for name, value in options.items()},
    }


def _plain(value: Any) -> Any:
    """An import option as JSON has it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return list(value) if isinstance(value, tuple) else str(value)


def _build_inputs(work: Work) -> dict[str, Any]:
    return {**_machine_inputs(work, work.precision), "model": sha256_file(work.built_model)}


def _machine_inputs(work: Work, precision: Any) -> dict[str, Any]:
    """What a build or a measurement of speed depends on."""
    from boxwright import backends
    from boxwright.backends.options import make_spec

    settings = work.settings
    spec = make_spec(precision, (1, 1, 16), settings.device, {})
    return {
        "version": __version__,
        "model": sha256_file(work.model),
        "target": settings.backend,
        "precision": precision,
        "device": settings.device,
        "machine and runtime": backends.get(settings.backend).fingerprint(spec),
    }


def _verify_inputs(work: Work) -> dict[str, Any]:
    return {
        "version": __version__,
        "model": sha256_file(work.model),
        "engine": engine_digest(work.engine),
        "images": sha256_of_files(work.images),
        "number of images": work.settings.verify_images,
        "second opinion": work.settings.opencv,
        "seed": work.settings.seed,
        "device": work.settings.device,
    }


def _eval_inputs(work: Work, side: str) -> dict[str, Any]:
    subject = sha256_file(work.model) if side == "source" else engine_digest(work.engine)
    return {
        "version": __version__,
        side: subject,
        "labels": work.labelled().sha256,
        "images": sha256_of_files(work.images),
        "device": work.settings.device,
    }


def _bench_inputs(work: Work) -> dict[str, Any]:
    machine = {k: v for k, v in describe_environment().items() if k not in _PASSING}
    peers = [[p, sha256_file(p) if Path(p).is_file() else None] for p in work.settings.against]
    return {
        "version": __version__,
        "engine": engine_digest(work.engine),
        "images": sha256_of_files(work.images),
        "batch sizes": list(work.settings.batches),
        "measuring time": work.settings.bench_seconds,
        "peers": peers,
        "seed": work.settings.seed,
        "device": work.settings.device,
        "machine": machine,
        # Without it there are no charts; brought later, they are drawn then.
        "drawing library": _version("matplotlib"),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _report_inputs(work: Work) -> dict[str, Any]:
    evidence = [work.evidence(name) for name in sealing.EVIDENCE]
    if work.settings.fixed_precision is not None:
        evidence = [path for path in evidence if path.stem != "precision"]
    pictures = sorted((work.folder / "evidence").glob("*/*"))
    labelled = work.dataset is not None
    return {
        "version": __version__,
        "engine": engine_digest(work.engine),
        "evidence": sha256_of_files([e for e in evidence if labelled or e.stem != "accuracy"]),
        "pictures": sha256_of_files(pictures),
        "budgets": work.settings.budgets.to_dict(),
        "command": work.settings.command(),
    }


def _file(work: Work, name: str) -> Mapping[str, Callable[[], str]]:
    return {name: lambda: sha256_file(work.folder / name)}


def _folder(work: Work, name: str) -> Mapping[str, Callable[[], str]]:
    """The pictures of a stage, by their index, which is written last."""

    def digest() -> str:
        index = work.folder / name / "pictures.json"
        listed = [side[1] for item in json.loads(read_regular(index)) for side in item["sides"]]
        return sha256_of_files([index, *(index.with_name(file) for file in listed)])

    def guarded() -> str:
        try:
            return digest()
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise sealing.unreadable(work.folder / name, error) from error

    return {name: guarded}
