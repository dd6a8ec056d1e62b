"""Write docs/reference/install.md from the tables that `boxwright doctor` uses.

python tools/make_install_reference.py           write it
python tools/make_install_reference.py --check   exit 1 when it is stale
"""

from __future__ import annotations

import sys
from pathlib import Path

from _page import write_or_check

from boxwright.doctor.commands import BACKENDS, DRIVER_STEPS, Recipe, Step, recipe
from boxwright.doctor.compatibility import (
    DRIVER_FOR_CUDA,
    JETPACKS,
    TENSORRT_CHOICES,
    TENSORRT_RELEASES,
    TENSORRT_RTX_GPUS,
    dotted,
)
from boxwright.doctor.platforms import PLATFORMS, Platform

TARGET = Path(__file__).parents[1] / "docs" / "reference" / "install.md"

HEADER = """# Commands by platform and backend

<!-- Written by tools/make_install_reference.py from src/boxwright/doctor; change the tables
     there, then `make docs`. -->

What `boxwright doctor --platform NAME` prints, for every platform. On the machine itself
`boxwright doctor --for BACKEND` leaves out what is there already and takes the TensorRT that
fits its GPU, driver and Python; here a platform's usual GPU, the newest driver and Python
3.12 are assumed, and on EC2 Ubuntu.
"""

DISTRIBUTIONS = {
    "ubuntu": "Ubuntu",
    "amzn": "Amazon Linux 2023",
    "rhel": "Red Hat Enterprise Linux 9, Rocky, AlmaLinux, Oracle",
    "other": "other distributions",
}


def page() -> str:
    """The whole page."""
    parts = [HEADER, *map(_platform, PLATFORMS.values()), _drivers(), _compatibility()]
    return "\n".join(parts)


def _platform(platform: Platform) -> str:
    lines = [f"## {platform.title}: `{platform.name}`", ""]
    for backend in BACKENDS:
        if backend != "reference":
            lines += _recipe(recipe(backend, platform.name))
    return "\n".join(lines)


def _recipe(found: Recipe) -> list[str]:
    if found.impossible is not None:
        instead = f" Use {' or '.join(found.instead)}." if found.instead else ""
        return [f"**{found.backend}**: not possible. {found.impossible}.{instead}", ""]
    # The last step is to ask the doctor again.
    return [f"**{found.backend}**", "", *_block(found.steps[:-1])]


def _block(steps: tuple[Step, ...]) -> list[str]:
    lines = ["```sh"]
    for step in steps:
        lines += [f"# {step.why}", *step.commands]
    return [*lines, "```", ""]


def _drivers() -> str:
    lines = ["## NVIDIA's driver by distribution", ""]
    for name, step in DRIVER_STEPS.items():
        lines += [f"**{DISTRIBUTIONS[name]}**", "", *_block((step,))]
    return "\n".join(lines)


def _compatibility() -> str:
    lines = ["## Which TensorRT needs what", "", "| CUDA | driver |", "|---|---|"]
    lines += [f"| {cuda} | {driver} or newer |" for cuda, driver in DRIVER_FOR_CUDA.items()]
    lines += ["", "| TensorRT from | compute capability | Python up to |", "|---|---|---|"]
    for row in TENSORRT_RELEASES:
        upper = dotted(row.newest_gpu) if row.newest_gpu else "newest"
        gpus = f"{dotted(row.oldest_gpu)} to {upper}"
        lines.append(f"| {dotted(row.since)} | {gpus} | {dotted(row.newest_python)} |")
    served = ", ".join(dotted(gpu) for gpu in sorted(TENSORRT_RTX_GPUS))
    lines += ["", f"TensorRT-RTX runs on compute capability {served}.", ""]
    lines += ["Of these the doctor takes the first that fits:", ""]
    lines += ["| for pip | driver | compute capability | Python up to |", "|---|---|---|---|"]
    for choice in TENSORRT_CHOICES:
        upper = dotted(choice.newest_gpu) if choice.newest_gpu else "newest"
        lines.append(
            f"| `{choice.pip}` | {choice.driver} | {dotted(choice.oldest_gpu)} to {upper} "
            f"| {dotted(choice.newest_python)} |"
        )
    lines += ["", "| JetPack | Jetson Linux | TensorRT | CUDA | system's Python |"]
    lines.append("|---|---|---|---|---|")
    for jetpack in JETPACKS:
        lines.append(
            f"| {jetpack.name} | {dotted(jetpack.l4t)} | {jetpack.tensorrt or 'not known'} "
            f"| {jetpack.cuda or 'not known'} | {dotted(jetpack.python)} |"
        )
    lines += ["", "The source of every row stands beside it in `doctor/compatibility.py`.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(write_or_check(TARGET, page, __doc__))
