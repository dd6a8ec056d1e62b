from __future__ import annotations

import inspect
import pickle

import pytest

from boxwright import errors
from boxwright.errors import BoxwrightError, CfgError, UnsupportedError

ALL = [
    item
    for _, item in inspect.getmembers(errors, inspect.isclass)
    if issubclass(item, BoxwrightError)
]


def test_the_docstring_draws_the_tree() -> None:
    def draw(kind: type[BoxwrightError], depth: int) -> list[tuple[int, str]]:
        below = [entry for child in kind.__subclasses__() for entry in draw(child, depth + 1)]
        return [(depth, kind.__name__), *below]

    drawn = []
    for line in (errors.__doc__ or "").splitlines():
        name = line.strip(" │├└─").split(" ")[0]
        if name.endswith("Error") and line.startswith("    "):
            indent = len(line) - len(line.lstrip(" │├└─"))
            drawn.append((indent // 4 - 1, name))
    assert sorted(drawn) == sorted(draw(BoxwrightError, 0))


@pytest.mark.parametrize("kind", ALL)
def test_every_error_says_what_it_is_for(kind: type[BoxwrightError]) -> None:
    assert kind.__doc__
    assert kind.__module__ == "boxwright.errors"


def test_cfg_error_is_one_line() -> None:
    error = CfgError("tiny.cfg", 12, "yolo", "mask 9 is not below num 6")
    assert str(error) == "tiny.cfg:12: [yolo] mask 9 is not below num 6"
    assert str(CfgError("tiny.cfg", 0, "", "it is empty")) == "tiny.cfg:0: it is empty"


@pytest.mark.parametrize("kind", [CfgError, UnsupportedError])
def test_cfg_errors_travel_between_processes(kind: type[CfgError]) -> None:
    error = pickle.loads(pickle.dumps(kind("tiny.cfg", 12, "yolo", "no")))
    assert type(error) is kind
    assert (error.path, error.line, error.section, error.reason) == ("tiny.cfg", 12, "yolo", "no")
    assert str(error) == "tiny.cfg:12: [yolo] no"
