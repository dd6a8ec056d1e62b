"""``boxwright doctor``: what this machine can do, why not more, and what would help."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import click

from boxwright.cli.common import Settings, Verb, show

if TYPE_CHECKING:
    from boxwright.doctor.commands import Recipe
    from boxwright.doctor.facts import BackendCheck, Facts
    from boxwright.doctor.finding import Finding
    from boxwright.doctor.report import Report


@click.command(
    "doctor",
    cls=Verb,
    examples="""
    boxwright doctor
    boxwright doctor --for tensorrt
    boxwright doctor --for tensorrt --platform ec2-g5
    """,
)
@click.option("--for", "backend", metavar="BACKEND", help="Only what this backend needs.")
@click.option(
    "--platform",
    metavar="NAME",
    help="Print the commands for another kind of machine, such as ec2-g5, jetson-jp7 or wsl.",
)
@click.pass_obj
def command(settings: Settings, /, backend: str | None, platform: str | None) -> None:
    """Say what works on this machine, why not more, and the commands that help.

    Looks at the system, GPUs and driver, the installed runtimes and Boxwright's backends.
    It reads only: nothing is installed, written or fetched. With --for it says whether one
    backend works here and, if not, the shortest way to it; --platform gives that way for
    another machine than this one (for all backends without --for), as for a Dockerfile.

    Exit code 1 when something installed is broken or no backend works; with --for, when
    that backend does not work here. With --platform it is always 0.
    """
    if platform is not None:
        _other_machine(settings, backend, platform)
        return
    from boxwright.doctor.commands import BACKENDS
    from boxwright.doctor.report import examine, recipe_to_dict

    if backend is not None:
        _check("backend", backend, {*BACKENDS, *_registered()})
    report = examine()
    if backend is None:
        show(settings, report.to_dict(), lambda: _render(report, settings.verbosity))
        failed = not report.ok
    else:
        verdict = report.facts.backend(backend)
        recipe = report.recipe(backend)
        failed = verdict is None or not verdict.works
        content = {
            **report.to_dict(),
            "for": {
                "backend": backend,
                "works": not failed,
                "reason": _reason(backend, verdict),
                "findings": [finding.to_dict() for finding in report.about(backend)],
                "recipe": recipe_to_dict(recipe) if recipe else None,
            },
        }
        show(settings, content, lambda: _render_one(report, backend))
    if failed:
        raise click.exceptions.Exit(1)


def _registered() -> tuple[str, ...]:
    from boxwright.backends.registry import names

    return names()


def _check(kind: str, name: str, known: Any) -> None:
    from boxwright.backends.options import explain_unknown

    if name not in known:
        raise click.UsageError(explain_unknown(kind, name, known))


def _other_machine(settings: Settings, backend: str | None, platform: str) -> None:
    from boxwright.doctor.commands import BACKENDS, recipe
    from boxwright.doctor.platforms import PLATFORMS
    from boxwright.doctor.report import SCHEMA, recipe_to_dict

    _check("platform", platform, PLATFORMS)
    if backend is not None:
        _check("backend", backend, BACKENDS)
    wanted = (backend,) if backend else tuple(name for name in BACKENDS if name != "reference")
    recipes = [recipe(name, platform) for name in wanted]
    content = {
        "schema": SCHEMA,
        "platform": {"name": platform, "title": PLATFORMS[platform].title},
        "recipes": [recipe_to_dict(found) for found in recipes],
    }

    def render() -> None:
        from boxwright.cli.tables import heading

        for found in recipes:
            heading(f"{found.backend} on {PLATFORMS[platform].title}")
            _show_recipe(found)

    show(settings, content, render)


def _reason(backend: str, verdict: BackendCheck | None) -> str | None:
    if verdict is None:
        return f"this version of Boxwright has no backend {backend}"
    return verdict.reason


def _render(report: Report, verbosity: int) -> None:
    from boxwright.cli.tables import facts, heading, table

    facts(_machine_rows(report))
    heading("Backends")
    table(
        ("backend", "works", "precisions", "devices", "why not, and what else"),
        [
            (
                check.name,
                "yes" if check.works else "no",
                ", ".join(check.precisions or ()) or ("?" if check.works else "-"),
                ", ".join(check.devices) or "-",
                check.reason or check.note or "",
            )
            for check in report.facts.backends
        ],
    )
    heading("Runtimes")
    table(
        ("module", "version", "imports", "what it offers"),
        [
            (name, check.version or "?", check.state, _offers(check.details) or check.error or "")
            for name, check in report.facts.modules.items()
        ],
    )
    heading("Findings")
    for finding in report.findings:
        _show_finding(finding)
    if verbosity > 0:
        heading("Packages")
        facts(report.facts.packages.items())


def _offers(details: dict[str, Any]) -> str:
    devices = details.get("devices") or {}
    return ", ".join([*details.get("providers", ()), *(f"{k}: {v}" for k, v in devices.items())])


def _machine_rows(report: Report) -> list[tuple[str, object]]:
    from boxwright.files import human_size

    facts = report.facts
    nvidia, storage = facts.nvidia, facts.storage
    rows: list[tuple[str, object]] = [
        ("platform", f"{report.platform.title} ({report.platform.name})"),
        ("system", _system_words(facts)),
        ("python", _python_words(facts)),
        ("cpu", f"{facts.cpu.get('model') or '?'}, {facts.cpu.get('usable_cores')} cores"),
        ("features", " ".join(facts.cpu.get("features", ())) or None),
        ("memory", f"{facts.memory_mib / 1024:.1f} GiB" if facts.memory_mib else None),
    ]
    rows += [
        (
            "gpu",
            f"{gpu.name}, compute capability {gpu.compute_capability or '?'}"
            + (f", {gpu.memory_mib / 1024:.0f} GiB" if gpu.memory_mib else "")
            + (f", {gpu.power_limit_w:.0f} W" if gpu.power_limit_w else ""),
        )
        for gpu in nvidia.gpus
    ]
    if facts.jetson is not None:
        mode = facts.jetson.power_mode
        rows.append(
            (
                "jetson",
                f"{facts.jetson.model or '?'}, JetPack {facts.jetson.jetpack or '?'} "
                f"(L4T {facts.jetson.l4t})" + ("" if mode is None else f", power mode {mode}"),
            )
        )
    cuda = f", CUDA up to {nvidia.cuda}" if nvidia.cuda else ""
    rows += [
        ("driver", f"{nvidia.driver}{cuda}" if nvidia.driver else None),
        ("cuda toolkit", ", ".join(nvidia.toolkits) or nvidia.nvcc),
        ("tensorrt", _tensorrt_words(facts)),
        ("torch", _torch_words(facts)),
        ("extras", ", ".join(extras_here(facts)) or "none"),
        (
            "cache",
            f"{storage.cache} ({human_size(storage.cache_bytes)}"
            + (f", {human_size(storage.free_bytes)} free)" if storage.free_bytes else ")"),
        ),
    ]
    return rows


def extras_here(facts: Facts) -> list[str]:
    """Boxwright's extras that are installed as they should be."""
    extras = dict.fromkeys(item.extra for item in facts.requirements if item.extra)
    return [
        extra
        for extra in extras
        if all(item.fits for item in facts.requirements if item.extra == extra)
    ]


def _system_words(facts: Facts) -> str:
    system = facts.system
    name = " ".join(filter(None, (system.distribution, system.distribution_version)))
    extras = (
        f"glibc {system.glibc}" if system.glibc else None,
        f"in a container ({system.container})" if system.container else None,
        "in WSL" if system.wsl else None,
        f"EC2 {system.ec2}" if system.ec2 else None,
    )
    first = f"{name or system.name} ({system.name} {system.release}, {system.architecture})"
    return ", ".join([first, *filter(None, extras)])


def _python_words(facts: Facts) -> str:
    kind = "virtual environment" if facts.python.virtual else "no virtual environment"
    return f"{facts.python.version}, {facts.python.executable} ({kind})"


def _tensorrt_words(facts: Facts) -> str | None:
    found = facts.tensorrt
    if found.version is None:
        return None
    cuda = f", for CUDA {found.cuda}" if found.cuda else ""
    return f"{found.version}{cuda} ({', '.join((*found.packages, *found.system))})"


def _torch_words(facts: Facts) -> str | None:
    version = facts.packages.get("torch")
    return version and f"{version} ({f'CUDA {facts.torch_cuda}' if facts.torch_cuda else 'CPU'})"


def _render_one(report: Report, backend: str) -> None:
    from boxwright.cli.tables import facts, heading

    verdict = report.facts.backend(backend)
    works = verdict is not None and verdict.works
    facts(
        [
            ("backend", backend),
            ("platform", f"{report.platform.title} ({report.platform.name})"),
            ("works here", "yes" if works else "no"),
            ("why not", None if works else _reason(backend, verdict)),
            ("precisions", ", ".join(verdict.precisions or ()) or None if verdict else None),
            ("devices", ", ".join(verdict.devices) or None if verdict else None),
            ("but", verdict.note if verdict else None),
        ]
    )
    about = report.about(backend)
    if about:
        heading("Findings")
        for finding in about:
            _show_finding(finding)
    recipe = report.recipe(backend)
    if not works and recipe is not None:
        heading("What to do")
        _show_recipe(recipe)


def _show_finding(finding: Finding) -> None:
    _say(f"{finding.severity:<5} {finding.what}")
    for text in (finding.why, finding.advice):
        if text:
            _say(f"      {text}")
    for line in finding.commands:
        click.echo(f"  $ {line}")


def _say(text: str) -> None:
    """A sentence, folded and indented on a terminal; commands are never folded."""
    if sys.stdout.isatty():
        width = max(shutil.get_terminal_size().columns, 40)
        text = textwrap.fill(
            text, width, subsequent_indent=" " * 6, replace_whitespace=False,
            drop_whitespace=True, break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    click.echo(text)


def _show_recipe(recipe: Recipe) -> None:
    if recipe.impossible is not None:
        click.echo(f"Not possible: {recipe.impossible}.")
        if recipe.instead:
            click.echo(f"Use instead: {', '.join(recipe.instead)}.")
        return
    for step in recipe.steps:
        click.echo(f"# {step.why}")
        for line in step.commands:
            click.echo(line)
