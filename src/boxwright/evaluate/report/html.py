"""The report as one HTML file that fetches nothing and runs nothing.

It reads on a phone, in the light and in the dark, and on paper. Names of classes and files
come from strangers and are escaped wherever they stand (:mod:`.markup`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from boxwright._version import __version__
from boxwright.evaluate.report import accuracy, built, faithful, quantized, speed
from boxwright.evaluate.report.access import listing, mapping
from boxwright.evaluate.report.evidence import Evidence
from boxwright.evaluate.report.layout import anchor, note, page, section, tile, verdict
from boxwright.evaluate.report.markup import Html, el, facts
from boxwright.evaluate.report.numbers import number, percent
from boxwright.files import human_size, write_text


def write_report(evidence: Evidence, path: str | Path) -> int:
    """Write the report; its size in bytes.

    Raises:
        InputError: The file cannot be written.
    """
    text = render(evidence)
    write_text(path, text)
    return len(text.encode())


def render(evidence: Evidence) -> str:
    """The report as text."""
    sections = [
        built.render(evidence),
        quantized.render(evidence.card),
        faithful.render(evidence),
        accuracy.render(evidence),
        speed.render(evidence),
        _environment(evidence),
        _repeat(evidence),
    ]
    return page(
        f"{evidence.card.name}: evidence",
        _header(evidence),
        verdict(evidence),
        _tiles(evidence),
        sections,
        _footer(),
    )


_TITLES = (
    "What was built",
    "How faithful",
    "How accurate",
    "How fast",
    "The machine",
    "Repeat it",
)


def _header(evidence: Evidence) -> Html:
    build = mapping(evidence.receipt.get("build"))
    card = evidence.card
    parts = [
        str(build.get("backend") or ""),
        str(build.get("precision") or ""),
        f"{card.input_size[1]} × {card.input_size[0]} input",
        f"{len(card.class_names)} classes",
        str(evidence.receipt.get("created") or "").replace("T", " ").replace("+00:00", " UTC"),
    ]
    titles = [_TITLES[0], quantized.TITLE, *_TITLES[1:]] if quantized.render(card) else _TITLES
    links = [el("a", title, href=f"#{anchor(title)}") for title in titles]
    return el(
        "header",
        el("p", "Boxwright evidence report", class_="kicker"),
        el("h1", card.name),
        el("p", " · ".join(part for part in parts if part), class_="soft"),
        el("nav", links),
    )


def _tiles(evidence: Evidence) -> Html | None:
    tiles = list(_numbers(evidence))
    return el("div", tiles, class_="tiles") if tiles else None


def _numbers(evidence: Evidence) -> Iterator[Html]:
    if evidence.accuracy is not None:
        name, value = accuracy.headline(evidence.accuracy)
        if value is not None:
            yield tile(percent(value), "%", f"{name} on labelled images")
    first = speed.first_batch(evidence.speed)
    if first is not None:
        whole = mapping(first.get("end_to_end_ms"))
        if isinstance(whole.get("p50"), int | float):
            yield tile(number(whole["p50"]), "ms", "latency, file to boxes (p50)")
        best = speed.best_throughput(evidence.speed)
        if best is not None:
            yield tile(number(best), "img/s", "throughput, file to boxes")
    if evidence.parity:
        yield tile(
            faithful.headline(evidence.parity), "", "largest distance from the source (nrmse)"
        )
    if evidence.files:
        size, unit = human_size(evidence.files[0].size).split()
        yield tile(size, unit, f"size of {evidence.files[0].name}")


def _environment(evidence: Evidence) -> Html:
    machine = dict(mapping(evidence.receipt.get("environment")))
    measured = mapping((evidence.speed or {}).get("environment"))
    machine.update({k: v for k, v in measured.items() if k not in ("before", "after")})
    libraries = mapping(machine.get("libraries"))
    cores = machine.get("usable_cores")
    rows = [
        ("processor", machine.get("cpu")),
        ("cores", None if cores is None else f"{cores} usable of {machine.get('cores')}"),
        ("physical cores", machine.get("physical_cores")),
        ("CPU features", " ".join(map(str, listing(machine.get("cpu_features"))))),
        ("frequency governor", machine.get("governor")),
        ("memory", _memory(machine.get("memory_mib"))),
        ("system", f"{machine.get('system')} {machine.get('release')} {machine.get('machine')}"),
        ("Python", machine.get("python")),
        ("Boxwright", machine.get("boxwright")),
        *((name, version) for name, version in libraries.items()),
    ]
    return section(
        "The machine",
        "What the measurements depend on. Names of people, hosts and folders are not recorded.",
        facts(rows) if machine else note("The receipt does not describe the machine."),
    )


def _repeat(evidence: Evidence) -> Html:
    commands = evidence.commands or (
        f"boxwright verify {evidence.engine} --images YOUR_IMAGES/",
        f"boxwright bench {evidence.engine} --images YOUR_IMAGES/",
    )
    return section(
        "Repeat it",
        "The commands behind this report. The same files give the same model and the same "
        "detections; times depend on the machine.",
        el("pre", el("code", "\n".join(commands))),
        [note(remark) for remark in evidence.remarks],
    )


def _footer() -> Html:
    return el(
        "footer",
        f"Written by Boxwright {__version__}. This file is complete in itself: it loads nothing "
        "and runs nothing.",
    )


def _memory(mebibytes: object) -> str | None:
    if not isinstance(mebibytes, int):
        return None
    return human_size(mebibytes << 20)
