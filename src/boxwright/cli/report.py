"""``boxwright report``: an engine's receipt as a page to read."""

from __future__ import annotations

from pathlib import Path

import click

from boxwright.cli.common import Settings, Verb, show

_FILE = click.Path(path_type=Path)


@click.command("report", cls=Verb, examples="boxwright report tiny.bw -o tiny.html")
@click.argument("engine", type=_FILE)
@click.option(
    "-o", "--output", type=_FILE, help="Page to write.  [default: name of ENGINE + .html]"
)
@click.pass_obj
def command(settings: Settings, /, engine: Path, output: Path | None) -> None:
    """Write an engine's receipt as one HTML file.

    The page shows what the engine's receipt holds and names the command for what it does
    not. It loads nothing and runs nothing. `boxwright ship` writes a fuller one, with
    curves, charts and pictures.
    """
    from boxwright.evaluate.report.evidence import of_engine
    from boxwright.evaluate.report.html import write_report
    from boxwright.files import human_size, refuse_overwriting

    target = output or Path(f"{engine.stem}.html")
    refuse_overwriting(target, engine)
    evidence = of_engine(engine)
    size = write_report(evidence, target)
    checks = evidence.checks()
    content = {
        "output": str(target),
        "bytes": size,
        "ok": evidence.ok,
        "checks": [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in checks],
    }

    def render() -> None:
        from boxwright.cli.tables import facts

        words = {True: "ok", False: "FAILED", None: "not measured"}
        facts(
            [
                ("report", f"{target} ({human_size(size)})"),
                *((check.name, f"{words[check.ok]}: {check.detail}") for check in checks),
            ]
        )

    show(settings, content, render)
