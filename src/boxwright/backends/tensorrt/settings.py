"""TensorRT's builder options as one declarative table, and what became of each.

An option that this TensorRT lacks is *ignored* where the engine computes the same without
it (it is then slower, larger, or less portable), and *refused* where the user would get
something else than was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.backends.options import check_options
from boxwright.backends.tensorrt.values import (
    batches,
    choice,
    flag,
    number,
    paths,
    size_in_bytes,
    versions,
    words,
)

if TYPE_CHECKING:
    from boxwright.backends.base import BuildSpec

HARDWARE = ("none", "ampere-plus", "same-compute-capability")


@dataclass(frozen=True)
class Settings:
    """Everything that can be told to TensorRT; ``None`` leaves TensorRT's own default.

    Attributes:
        workspace: Most memory that one layer's kernel may use for itself, in bytes.
        optimization_level: 0 (fast build) to 5 (most kernels tried).
        profiles: Batches (smallest, usual, largest), one kernel selection for each.
        tf32: Let float32 convolutions round their inputs to TF32 (10 bits of mantissa) on
            Ampere and newer. Off by default: float32 is to mean float32.
        timing_cache: Keep measured kernel times on this machine for the next build.
        version_compatible: A plan that newer TensorRT runtimes run too, a little slower.
        hardware: A plan that other GPUs run too, slower: one of :data:`HARDWARE`.
        compute_capabilities: TensorRT-RTX only: what to compile for, such as ``(8, 9)``.
        dla_core: Run what can be on this deep-learning accelerator of a Jetson.
        gpu_fallback: Run on the GPU what the DLA cannot.
        plugins: Shared libraries with plugins, loaded before the model is read.
        refit: Allow weights to be replaced in the built engine.
        strip: Leave the weights out of the plan.
        sparse_weights: Try kernels for 2:4 sparse weights.
        tactic_sources: Where kernels may come from, by TensorRT's names in lower case.
        max_aux_streams: Most streams beside the main one.
        average_timing: How often each kernel is timed.
        keep_float32: Layers whose names begin so stay in float32 whatever the precision.
        isolate: Build in a process of its own, which may crash or be stopped cleanly.
        cuda_graphs: Replay repeated batches as CUDA graphs when the engine runs.
    """

    workspace: int | None = None
    optimization_level: int | None = None
    profiles: tuple[tuple[int, int, int], ...] = ((1, 1, 16),)
    tf32: bool = False
    timing_cache: bool = True
    version_compatible: bool = False
    hardware: str = "none"
    compute_capabilities: tuple[tuple[int, int], ...] = ()
    dla_core: int | None = None
    gpu_fallback: bool = True
    plugins: tuple[Path, ...] = ()
    refit: bool = False
    strip: bool = False
    sparse_weights: bool = False
    tactic_sources: tuple[str, ...] | None = None
    max_aux_streams: int | None = None
    average_timing: int | None = None
    keep_float32: tuple[str, ...] = ("decode/",)
    isolate: bool = True
    cuda_graphs: bool = True


_CHECKS = {
    "workspace": size_in_bytes(1, 2**44),
    "optimization_level": number(0, 5),
    "profiles": batches,
    "tf32": flag,
    "timing_cache": flag,
    "version_compatible": flag,
    "hardware": choice(HARDWARE),
    "compute_capabilities": versions,
    "dla_core": number(0, 15),
    "gpu_fallback": flag,
    "plugins": paths,
    "refit": flag,
    "strip": flag,
    "sparse_weights": flag,
    "tactic_sources": words,
    "max_aux_streams": number(0, 64),
    "average_timing": number(1, 1000),
    "keep_float32": words,
    "isolate": flag,
    "cuda_graphs": flag,
}


def read_settings(backend: str, spec: BuildSpec) -> Settings:
    """The settings in a build specification.

    Raises:
        InputError: An option is unknown or out of range.
    """
    check_options(backend, spec.options, _CHECKS)
    given: Mapping[str, Any] = {
        name: _CHECKS[name](name, value) for name, value in spec.options.items()
    }
    return Settings(**{"profiles": (spec.batch,), **given})


@dataclass
class Outcome:
    """What became of the settings of one build."""

    applied: dict[str, Any] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For a receipt; JSON values, what was empty left out."""
        parts = {"applied": self.applied, "ignored": self.ignored, "refused": self.refused}
        return {name: dict(part) for name, part in parts.items() if part}

    def explain_refused(self) -> str:
        """One sentence for each refused setting."""
        return "; ".join(f"{name}: {reason}" for name, reason in self.refused.items())
