"""``boxwright quantize``: a model in INT8, within a budget of accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boxwright.cli.common import Number, Settings, Verb, note, show
from boxwright.cli.progress import progress
from boxwright.errors import InputError

if TYPE_CHECKING:
    from boxwright.model import Model
    from boxwright.quantize.budget import BudgetResult
    from boxwright.quantize.job import Outcome, Request
    from boxwright.quantize.rules import Rules
    from boxwright.quantize.speed import Look

_FILE = click.Path(path_type=Path)
_EXIT_BUDGET = 3
_MOST_GROUPS = 10


@click.command(
    "quantize",
    cls=Verb,
    examples="""
    boxwright quantize t.onnx --calibration photos/ -o q.onnx
    boxwright quantize t.onnx --calibration a/ --annotations b.json --max-drop 0.5 -o q.onnx
    boxwright quantize t.onnx --calibration photos/ --target tensorrt --latency -o q.onnx
    boxwright quantize t.onnx --calibration frames/ --finetune -o q.onnx
    boxwright quantize t.onnx --from-cache calibration.cache -o q.onnx
    boxwright quantize t.onnx --list
    """,
)
@click.argument("model", type=_FILE)
@click.option(
    "--calibration",
    multiple=True,
    help="Folder, image or pattern to calibrate on, some hundred images like those to come; "
    "repeatable.",
)
@click.option(
    "--images",
    multiple=True,
    help="Other images, to measure the loss on; repeatable.  [default: those calibrated on]",
)
@click.option(
    "--annotations",
    type=_FILE,
    help="Labels of --images: COCO json, YOLO or VOC.  [default: agreement with the float "
    "model's detections is measured instead of AP]",
)
@click.option(
    "--max-drop",
    type=Number(0, 100),
    help="Budget: points of AP (with labels) or of agreement that may be lost. As few layers "
    "as it takes stay in float; exit code 3 when nothing meets it.",
)
@click.option(
    "--method",
    type=click.Choice(["auto", "minmax", "entropy", "percentile", "mse"]),
    default="auto",
    show_default=True,
    help="How ranges are had; auto measures which loses least.",
)
@click.option(
    "--percentile",
    type=Number(50, 100),
    default=99.99,
    show_default=True,
    help="Of the method percentile.",
)
@click.option("--keep", multiple=True, metavar="LAYER", help="Keep it in float; repeatable.")
@click.option(
    "--heads/--no-heads",
    default=None,
    help="Put the heads' convolutions in INT8 as all others, or never.  [default: with --max-drop "
    "as far as it allows, else never]",
)
@click.option(
    "--target",
    type=click.Choice(["tensorrt", "tensorrt-rtx", "onnxruntime", "openvino"]),
    help="Runtime it is for.  [default: rules of TensorRT, which suit all]",
)
@click.option(
    "--min-channels",
    type=click.IntRange(1),
    help="Keep layers of fewer channels in float.  [default: 16 for TensorRT, else 1]",
)
@click.option(
    "--bias-correction/--no-bias-correction",
    "bias",
    default=None,
    help="Try correcting biases, or do not.  [default: where the budget is missed without]",
)
@click.option(
    "--finetune/--no-finetune",
    "tune",
    default=False,
    help="Let the INT8 model learn to give the float model's raw heads again, on the images "
    "calibrated on, without labels; takes minutes, and PyTorch (extra: train).",
)
@click.option(
    "--finetune-steps",
    "tune_steps",
    type=click.IntRange(1, 100_000),
    help="How many steps of that, of 4 images each.  [default: 200]",
)
@click.option(
    "--latency/--no-latency",
    default=False,
    help="Measure every precision on --target here, and hand INT8 out only if it is faster.",
)
@click.option(
    "--probe/--no-probe",
    default=True,
    help="Keep one of the images calibrated on inside the model, on which every backend tries "
    "what it built; without, plans are tried on noise, which shows less.  [default: probe]",
)
@click.option(
    "--from-cache", type=_FILE, help="Take ranges from a TensorRT calibration cache instead."
)
@click.option("--write-cache", type=_FILE, help="Write the ranges as a TensorRT cache, too.")
@click.option("--list", "list_", is_flag=True, help="Only list the layers; nothing is written.")
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for what a stopped run goes on with.  [default: OUTPUT.work beside it]",
)
@click.option("-o", "--output", type=_FILE, help="The ONNX file to write.")
@click.pass_obj
def command(settings: Settings, /, model: Path, list_: bool, **options: Any) -> None:
    """Quantise a model to INT8, within a budget.

    MODEL is an ONNX file that `boxwright import` wrote, in float. The result is an ONNX
    file with Q/DQ pairs that every backend reads; build it with `--precision int8`. With
    --max-drop, what INT8 loses is measured, and the layers it hurts most stay in float. A
    run that was stopped goes on where it was when the same command is given again.

    Exit code 3 when nothing meets the budget; then what is written is the float model.
    """
    from boxwright.model import Model

    opened = Model.load(model)
    if list_:
        _list(settings, opened, options)
        return
    if options["output"] is None:
        raise click.UsageError("give the file to write with -o, or --list")
    _run(settings, model, opened, options)


def _run(settings: Settings, path: Path, model: Model, options: dict[str, Any]) -> None:
    from boxwright.files import refuse_overwriting
    from boxwright.quantize.job import quantize_model

    output: Path = options["output"]
    # Now, not after hours of work.
    inputs = (path, options["from_cache"], options["annotations"])
    refuse_overwriting(output, *inputs)
    if options["write_cache"] is not None:
        refuse_overwriting(options["write_cache"], *inputs)
    _check_places(output, options["write_cache"])
    with progress(settings) as report:
        outcome = quantize_model(model, _request(settings, options), report)
    if options["write_cache"] is not None:
        outcome = _write_cache(outcome, options)
    outcome.model.save(output)
    content = {"output": str(output), "bytes": output.stat().st_size, **outcome.to_dict()}
    show(settings, content, lambda: _render(outcome, content))
    if not outcome.met:
        if not settings.json and outcome.budget is not None:
            missed = outcome.budget.reason if outcome.choice is None else outcome.choice.reason
            note(settings, f"{missed}: exit code 3")
        raise click.exceptions.Exit(_EXIT_BUDGET)


def _check_places(output: Path, cache: Path | None) -> None:
    for path in filter(None, (output, cache)):
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder")
    if cache is not None and cache.resolve() == output.resolve():
        raise click.UsageError(f"--write-cache and -o are both {output}: give two files")


def _request(settings: Settings, options: dict[str, Any]) -> Request:
    from boxwright import datasets
    from boxwright.images import find_images
    from boxwright.quantize.finetune.training import DEFAULT_STEPS
    from boxwright.quantize.job import Request

    if options["tune_steps"] is not None and not options["tune"]:
        raise click.UsageError("--finetune-steps needs --finetune")
    if options["write_cache"] is not None and options["tune"]:
        raise click.UsageError(
            "a calibration cache holds scales, and fine-tuning also changes weights: leave "
            "--write-cache or --finetune out"
        )
    images, labels = options["images"], options["annotations"]
    if labels is not None and len(images) > 1:
        raise click.UsageError("with --annotations, give one --images: the folder of the images")
    if options["latency"] and options["target"] is None:
        raise click.UsageError("--latency needs --target")
    dataset = None
    if labels is not None:
        dataset = datasets.open(labels, images=images[0] if images else None)
    output: Path = options["output"]
    return Request(
        calibration=find_images(options["calibration"]) if options["calibration"] else (),
        from_cache=options["from_cache"],
        dataset=dataset,
        images=find_images(images) if images and dataset is None else (),
        method=options["method"],
        percentile=options["percentile"],
        max_drop=options["max_drop"],
        keep=options["keep"],
        rules=_rules(options),
        heads=options["heads"] is not False,
        bias=options["bias"],
        target=options["target"],
        latency=options["latency"],
        device=settings.device,
        seed=settings.seed,
        tune=options["tune"],
        tune_steps=options["tune_steps"] or DEFAULT_STEPS,
        probe=options["probe"],
        work=options["work"] or output.with_name(f"{output.name}.work"),
    )


def _rules(options: Mapping[str, Any]) -> Rules:
    import dataclasses

    from boxwright.quantize.rules import Rules

    rules = Rules() if options["target"] is None else Rules.of_target(options["target"])
    if options["heads"]:
        rules = dataclasses.replace(rules, heads=True)
    if options["min_channels"] is None:
        return rules
    return dataclasses.replace(rules, min_channels=options["min_channels"])


def _write_cache(outcome: Outcome, options: Mapping[str, Any]) -> Outcome:
    """Write the ranges of the INT8 model; where there is none, the outcome says so."""
    import dataclasses

    from boxwright.quantize.legacy_cache import read_legacy_cache, write_legacy_cache
    from boxwright.quantize.legacy_ranges import cache_of

    path = options["write_cache"]
    if outcome.quantized is None:
        remark = f"{path} was not written: no INT8 model was found whose ranges it could hold"
        return dataclasses.replace(outcome, notes=(*outcome.notes, remark))
    if options["from_cache"] is not None:  # with its calibrator's name, which ranges do not tell
        write_legacy_cache(path, read_legacy_cache(options["from_cache"]))
        return outcome
    made = outcome.quantized.model.card.transforms[-1].parameters
    cache = cache_of(outcome.calibration, made["method"], made.get("percentile", 99.99))
    write_legacy_cache(path, cache)
    return outcome


def _list(settings: Settings, model: Model, options: Mapping[str, Any]) -> None:
    from boxwright.quantize.placement import place
    from boxwright.quantize.quantizer import prepare

    placement = place(prepare(model).proto, _rules(options), options["keep"])
    rows = [
        {
            "name": layer.name,
            "operator": layer.operator,
            "weights": list(layer.shape),
            "group": layer.group,
            "precision": "int8" if layer.reason is None else "float",
            **({} if layer.reason is None else {"reason": layer.reason}),
        }
        for layer in placement.layers
    ]
    show(settings, {"layers": rows}, lambda: _layers(rows))


def _layers(rows: Sequence[Mapping[str, Any]]) -> None:
    from boxwright.cli.tables import table

    table(
        ("layer", "operator", "weights", "precision", "why in float"),
        [
            (
                row["name"],
                row["operator"],
                "x".join(map(str, row["weights"])),
                row["precision"],
                row.get("reason", ""),
            )
            for row in rows
        ],
    )


def _render(outcome: Outcome, content: Mapping[str, Any]) -> None:
    from boxwright.cli.tables import facts, table
    from boxwright.files import human_size

    if outcome.quantized is not None:
        _summarise(outcome)
    if outcome.look is not None:
        _render_look(outcome.look)
    if outcome.budget is not None:
        _render_budget(outcome.budget)
    # Where nothing was searched, the look has it all.
    if outcome.choice is not None and (outcome.look is None or outcome.budget is not None):
        click.echo()
        table(
            ("precision", "network, ms", "points lost", ""),
            [
                (
                    row["precision"],
                    _number(row["median_ms"], ".2f"),
                    _number(row["drop"], "+.2f"),
                    row.get("failed", "over the budget" if row["within_budget"] is False else ""),
                )
                for row in outcome.choice.tried
            ],
            right=("network, ms", "points lost"),
        )
        click.echo(outcome.choice.reason)
    click.echo()
    facts(
        [
            ("written", f"{content['output']} ({human_size(content['bytes'])})"),
            ("build it with", f"--precision {outcome.precision}"),
        ]
    )
    for remark in outcome.notes:
        click.echo(f"note: {remark}")


def _summarise(outcome: Outcome) -> None:
    from boxwright.cli.tables import facts

    assert outcome.quantized is not None  # noqa: S101 - asked before
    placement = outcome.quantized.placement
    reasons = Counter(layer.reason for layer in placement.layers if layer.reason is not None)
    groups = len({tensor.group for tensor in placement.tensors})
    images = outcome.calibration.images
    made = outcome.quantized.model.card.transforms[-1].parameters
    facts(
        [
            ("in INT8", f"{len(placement.quantized)} of {len(placement.layers)} layers"),
            *(("in float", f"{count}: {reason}") for reason, count in reasons.most_common()),
            ("scales", f"{groups} for {len(placement.tensors)} tensors"),
            ("ranges", made["method"]),
            ("biases", "corrected" if "bias_correction" in made else None),
            ("fine-tuned", _tuning(made.get("fine_tuning"))),
            ("calibrated on", f"{images} images" if images else "a calibration cache"),
        ]
    )


def _render_look(found: Look) -> None:
    from boxwright.cli.tables import table

    shown = found.to_dict()
    click.echo(f"\n{found.reason}\n")
    table(
        ("form", "in float", "network, ms", "times as fast", ""),
        [
            (str(shown["against"]), "all", _number(shown["against_ms"], ".2f"), "1", ""),
            *(
                (
                    row["form"],
                    row["layers_in_float"],
                    _number(row["median_ms"], ".2f"),
                    _interval(row["times_as_fast"]),
                    row.get("failed", ""),
                )
                for row in shown["forms"]
            ),
        ],
        right=("in float", "network, ms", "times as fast"),
    )


def _interval(found: Mapping[str, float] | None) -> str:
    if found is None:
        return ""
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _tuning(told: Mapping[str, Any] | None) -> str | None:
    if told is None:
        return None
    if not told["best_step"]:
        return "no: it came no nearer to the float model"
    before, after = told["error"]["before"], told["error"]["after"]
    return f"{told['steps']} steps: error on images held back {before:.3f} to {after:.3f}"


def _render_budget(found: BudgetResult) -> None:
    from boxwright.cli.tables import table

    click.echo(f"\n{found.objective}: {found.float_value:.2f} in float")
    click.echo(f"{found.reason}\n")
    table(
        ("step", "ranges", "biases", "in float", "points", "lost", "budget", "s"),
        [
            (
                item.step,
                item.variant.ranges,
                "corrected" if item.variant.bias else "",
                len(item.variant.keep),
                f"{item.value:.2f}" if item.failed is None else "does not run",
                f"{item.drop:+.2f}" if item.failed is None else "",
                {True: "met", False: "missed", None: ""}[item.ok],
                f"{item.seconds:.1f}" if item.seconds else "before",
            )
            for item in found.candidates
        ],
        right=("in float", "points", "lost", "s"),
    )
    # As a rule they all fail for one reason.
    for reason in dict.fromkeys(item.failed for item in found.candidates if item.failed):
        click.echo(f"does not run: {reason}")
    if found.sensitivity:
        worst = sorted(found.sensitivity, key=lambda group: group.sqnr)[:_MOST_GROUPS]
        click.echo(f"\nthe {len(worst)} most sensitive of {len(found.sensitivity)} groups:\n")
        table(
            ("layers", "error of the heads, dB SQNR"),
            [(group.name, f"{group.sqnr:.1f}") for group in worst],
            right=("error of the heads, dB SQNR",),
        )


def _number(value: float | None, form: str) -> str:
    return "not measured" if value is None else format(value, form)
