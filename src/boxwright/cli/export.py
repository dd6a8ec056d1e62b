"""``boxwright export``: an engine in somebody else's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from boxwright.cli.common import Settings, Verb, show
from boxwright.cli.progress import progress

_FILE = click.Path(path_type=Path)


@click.command(
    "export",
    cls=Verb,
    examples="""
    boxwright export tiny.bw --to onnx
    boxwright export tiny.bw --to plan -o tiny.engine
    boxwright export tiny.onnx --to openvino -o ir/tiny.xml
    """,
)
@click.argument("source", type=_FILE)
@click.option(
    "--to",
    required=True,
    type=click.Choice(["plan", "onnx", "openvino"]),
    help="plan: the runtime's own file; onnx: the portable model; openvino: .xml and .bin.",
)
@click.option(
    "-o",
    "--output",
    type=_FILE,
    help="File to write.  [default: name of SOURCE + the format's suffix, if there is none yet]",
)
@click.option(
    "--plan", help="Fingerprint of the plan to give out.  [default: the one that runs here]"
)
@click.pass_obj
def command(
    settings: Settings, /, source: Path, to: str, output: Path | None, plan: str | None
) -> None:
    """Give an engine out in another program's format.

    SOURCE is an engine, or a model. A plan comes with a .json file beside it: the card,
    the fingerprint, inputs and outputs. OpenVINO's files are kept only if OpenVINO runs
    them to the results of the model.
    """
    from boxwright.export import export

    target = output or _default_output(source, to)
    with progress(settings) as report:
        done = export(
            source,
            to,
            target,
            plan=plan,
            device=settings.device,
            seed=settings.seed,
            progress=report,
        )
    content: dict[str, Any] = {
        "to": done.to,
        "files": [{"path": str(path), "bytes": path.stat().st_size} for path in done.files],
        **done.facts,
    }
    show(settings, content, lambda: _render(content))


def _default_output(source: Path, to: str) -> Path:
    """In the working folder; what is there already may be anybody's."""
    from boxwright.errors import InputError
    from boxwright.export.registry import get

    target = get(to)
    path = Path(source.stem + target.suffix)
    for written in target.paths(path):
        if written.exists():
            raise InputError(f"{written} is there already; to replace it, name it: -o {path}")
    return path


def _render(content: dict[str, Any]) -> None:
    from boxwright.cli.tables import facts
    from boxwright.files import human_size

    rows: list[tuple[str, object]] = [
        ("written", f"{file['path']} ({human_size(file['bytes'])})") for file in content["files"]
    ]
    rows += [("plan", content.get("plan")), ("sha256", content.get("sha256"))]
    if "nrmse" in content:
        worst = ", ".join(f"{name} {value:.1e}" for name, value in content["nrmse"].items())
        rows.append(("compared", f"on {content['images']} random images: nrmse {worst}"))
    facts(rows)
