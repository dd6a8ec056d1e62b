"""Where tests find material that is not part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(variable: str, default: str) -> Path:
    path = Path(os.environ.get(variable) or _SHARED / default)
    if not path.is_dir():
        pytest.skip(f"no folder {path}; set {variable} to where it is")
    return path


@pytest.fixture(scope="session")
def oracle_dir() -> Path:
    """Outputs of Darknet itself (``$BOXWRIGHT_ORACLE``)."""
    return _folder("BOXWRIGHT_ORACLE", "oracle")


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """Real models, photos and labels (``$BOXWRIGHT_FIXTURES``)."""
    return _folder("BOXWRIGHT_FIXTURES", "fixtures")
