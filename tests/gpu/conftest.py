"""Builds on a real GPU, kept as short as TensorRT allows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from boxwright.backends import tensorrt
from boxwright.backends.base import BuildSpec
from boxwright.backends.tensorrt.settings import Settings, read_settings


@pytest.fixture(scope="session")
def measured_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One timing cache for the session."""
    return tmp_path_factory.mktemp("timing")


@pytest.fixture(autouse=True)
def isolated_cache(
    tmp_path_factory: pytest.TempPathFactory,
    measured_kernels: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Path:
    """Rebuilt plans in a folder of the test's own; kernel times are shared by the tests."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BOXWRIGHT_CACHE", str(folder))
    if request.node.get_closest_marker("own_timing") is None:
        (folder / "timing").symlink_to(measured_kernels, target_is_directory=True)
    return folder


@pytest.fixture(autouse=True)
def quick_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT 8.6 takes a minute for the smallest network at its default level."""

    def read_quick(backend: str, spec: BuildSpec) -> Settings:
        found = read_settings(backend, spec)
        if found.optimization_level is None:
            found = dataclasses.replace(found, optimization_level=0)
        return found

    monkeypatch.setattr(tensorrt, "read_settings", read_quick)
