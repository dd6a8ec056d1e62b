"""The table of commands: complete, well formed, and nothing left to fill in."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from boxwright.backends.registry import names
from boxwright.doctor.commands import BACKENDS, DRIVER_STEPS, IMPOSSIBLE, RECIPES, STEPS, recipe
from boxwright.doctor.compatibility import (
    TENSORRT_CHOICES,
    choose_tensorrt,
    driver_needed,
    release_of,
)
from boxwright.doctor.platforms import PLATFORMS
from tests.doctor.forms import assert_copyable

ROOT = Path(__file__).parents[2]
# The extra that the backend of the same name brings when it comes.
EXPECTED_EXTRAS = {"openvino"}


def every_command() -> Iterator[str]:
    for step in (*STEPS.values(), *DRIVER_STEPS.values()):
        yield from step.commands
    for backend in BACKENDS:
        for platform in PLATFORMS:
            for step in recipe(backend, platform).steps:
                yield from step.commands


COMMANDS = sorted(set(every_command()))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_can_be_copied_as_it_is(command: str) -> None:
    assert_copyable(command)


@pytest.mark.parametrize(
    "command",
    [
        "pip install x",  # which Python's?
        "python -m pip install tensorrt-cu13<12",  # a redirection
        "python -m pip install boxwright[rtx]",  # a pattern, to zsh
        "sudo apt-get install -y linux-headers-<version>",
        "sudo apt-get install -y nvidia-driver-{branch}",
        "docker run ... bash",
        "sudo  reboot",
        "python -m pip install None",
    ],
)
def test_the_form_is_checked(command: str) -> None:
    with pytest.raises(AssertionError):
        assert_copyable(command)


def test_every_backend_has_an_answer_on_every_platform() -> None:
    for backend in BACKENDS:
        for platform in PLATFORMS:
            possible = platform in RECIPES[backend]
            assert possible != ((backend, platform) in IMPOSSIBLE), (backend, platform)
            found = recipe(backend, platform)
            assert (found.impossible is None) is possible
            if possible:
                assert found.steps[-1].commands == (f"boxwright doctor --for {backend}",)
            else:
                assert set(found.instead) <= set(BACKENDS)
                assert found.instead, (backend, platform)


def test_every_step_is_used_and_every_name_is_a_step() -> None:
    used = {name for table in RECIPES.values() for steps in table.values() for name in steps}
    assert used - {"driver", "tensorrt"} == set(STEPS)


def test_our_backends_have_recipes() -> None:
    assert set(names()) <= set(BACKENDS)


def test_extras_exist() -> None:
    with (ROOT / "pyproject.toml").open("rb") as stream:
        extras = set(tomllib.load(stream)["project"]["optional-dependencies"])
    named = set(re.findall(r"boxwright\[([\w,]+)\]", "\n".join(COMMANDS)))
    assert named <= extras | EXPECTED_EXTRAS


@pytest.mark.parametrize(
    ("gpu", "driver", "python", "architecture", "pip"),
    [
        (None, None, (3, 12), "x86-64", "tensorrt-cu13<12"),
        ((8, 6), 580, (3, 14), "x86-64", "tensorrt-cu13<12"),
        ((8, 6), 570, (3, 12), "x86-64", "tensorrt-cu12<12"),
        ((8, 6), 530, (3, 12), "x86-64", "tensorrt-cu12<11"),
        # Volta: the last release that serves it.
        ((7, 0), 580, (3, 12), "x86-64", "tensorrt-cu12==10.4.0"),
        # Pascal: 8.6, for Python up to 3.11.
        ((6, 1), 580, (3, 11), "x86-64", "tensorrt==8.6.1"),
        ((6, 1), 580, (3, 12), "x86-64", None),
        ((7, 0), 580, (3, 12), "arm64", None),
        ((8, 6), 470, (3, 12), "x86-64", None),
        ((5, 2), 580, (3, 11), "x86-64", None),
    ],
)
def test_the_tensorrt_for_a_machine(
    gpu: tuple[int, ...] | None,
    driver: int | None,
    python: tuple[int, ...],
    architecture: str,
    pip: str | None,
) -> None:
    found = choose_tensorrt(gpu, driver, python, architecture)
    assert (found.pip if found else None) == pip


def test_the_choices_agree_with_the_table_of_drivers() -> None:
    for choice in TENSORRT_CHOICES:
        version = re.search(r"==([\d.]+)", choice.pip)
        newest = version[1] if version else {"<11": "10.16", "<12": "11.4"}[choice.pip[-3:]]
        assert choice.driver == driver_needed(choice.cuda, newest)
        row = release_of(newest)
        assert row is not None
        assert row.newest_python == choice.newest_python
        assert choice.oldest_gpu >= row.oldest_gpu
