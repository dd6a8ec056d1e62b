from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from boxwright.errors import MissingExtraError
from boxwright.importers.mxnet import oracle, worker


@pytest.fixture(scope="session")
def mxnet_python() -> str:
    """An interpreter with MXNet (``$BOXWRIGHT_MXNET_PYTHON``)."""
    try:
        return oracle.find_python()
    except MissingExtraError as error:
        pytest.skip(str(error))


def generated(python: str, program: str, folder: Path) -> Path:
    """What a program beside this file writes with MXNet."""
    path = Path(__file__).with_name(program)
    subprocess.run([python, str(path), worker.__file__, str(folder)], check=True)
    return folder


@pytest.fixture(scope="session")
def symbols(mxnet_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cases of ``symbols.py``, and what MXNet computes for them."""
    return generated(mxnet_python, "symbols.py", tmp_path_factory.mktemp("symbols"))


@pytest.fixture(scope="session")
def detectors(mxnet_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detectors of ``detectors.py``, and what MXNet detects with them."""
    return generated(mxnet_python, "detectors.py", tmp_path_factory.mktemp("detectors"))
