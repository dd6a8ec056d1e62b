"""``boxwright plans``: the plans of an engine, and putting them together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boxwright.cli.common import Settings, Verb, show

if TYPE_CHECKING:
    from boxwright.engine import Engine

_FILE = click.Path(path_type=Path)


@click.command(
    "plans",
    cls=Verb,
    examples="""
    boxwright plans tiny.bw
    boxwright plans server.bw --add jetson.bw -o everywhere.bw
    boxwright plans tiny.bw --drop 'onnxruntime_1.18*'
    """,
)
@click.argument("engine", type=_FILE)
@click.option(
    "--add", type=_FILE, multiple=True, help="Take the plans of this engine too; repeatable."
)
@click.option(
    "--drop",
    multiple=True,
    metavar="PLAN",
    help="Leave this plan out, or all that a pattern with * stands for; repeatable.",
)
@click.option(
    "-o", "--output", type=_FILE, help="Engine to write.  [default: ENGINE itself is changed]"
)
@click.pass_obj
def command(
    settings: Settings,
    /,
    engine: Path,
    add: tuple[Path, ...],
    drop: tuple[str, ...],
    output: Path | None,
) -> None:
    """List an engine's plans; add those of another engine, or drop some.

    An engine holds any number of plans: for other machines, backends, precisions. Only
    engines of the very same model go together. Each plan keeps its record of how it was
    built and what was measured with it. `boxwright build ENGINE` adds a plan for this
    machine.
    """
    from boxwright.combining import combine
    from boxwright.engine import Engine
    from boxwright.files import refuse_overwriting

    opened = Engine.open(engine)
    if output is not None and not (add or drop):
        raise click.UsageError("-o needs something to change: --add or --drop")
    if add or drop:
        target = output or engine
        refuse_overwriting(target, *add)
        others = [Engine.open(path) for path in add]
        opened = combine(opened, target, add=others, drop=drop)
    content = {
        "engine": str(opened.path),
        "bytes": opened.path.stat().st_size,
        "model_sha256": opened.model_sha256,
        "plans": plan_list(opened, settings.device),
    }
    show(settings, content, lambda: _render(content))


def plan_list(engine: Engine, device: str) -> list[dict[str, Any]]:
    """Each plan with its size, whether it fits this machine, and what the receipt says."""
    from boxwright.backends.plans import fit
    from boxwright.backends.selection import running_plan
    from boxwright.builds import build_of
    from boxwright.receipt import SECTIONS

    runs = running_plan(engine, device)
    content = []
    for plan in engine.plans:
        build = build_of(engine.receipt, plan)
        record = {} if build is None else build.record
        recorded = {} if build is None else build.facts.get("options")
        reason = fit(plan, device, recorded if isinstance(recorded, dict) else {})
        content.append(
            {
                "fingerprint": plan,
                "bytes": engine.plan_size(plan),
                "fits": reason is None,
                "reason": reason,
                "runs": plan == runs,
                "created": record.get("created"),
                "measured": [section for section in SECTIONS if section in record],
            }
        )
    return content


def _render(content: dict[str, Any]) -> None:
    from boxwright.cli.tables import facts
    from boxwright.files import human_size

    facts([("engine", f"{content['engine']} ({human_size(content['bytes'])})")])
    render_plans(content["plans"])


def render_plans(plans: list[dict[str, Any]]) -> None:
    """The plans as a table."""
    from boxwright.cli.tables import heading, table
    from boxwright.files import human_size

    heading("Plans")
    words = {True: "yes, and runs by default", False: "yes"}
    table(
        ("plan", "size", "measured", "fits this machine"),
        [
            (
                plan["fingerprint"],
                human_size(plan["bytes"]),
                ", ".join(plan["measured"]) or "-",
                words[plan["runs"]] if plan["fits"] else plan["reason"],
            )
            for plan in plans
        ],
        right=("size",),
    )
