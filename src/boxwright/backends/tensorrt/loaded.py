"""A TensorRT engine in memory: its tensors, its profiles, its contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.backends.base import TensorSpec
from boxwright.backends.tensorrt.log import Journal, make_logger
from boxwright.backends.tensorrt.plugins import load_plugins
from boxwright.backends.tensorrt.runtime import RtxContexts
from boxwright.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

    from boxwright.backends.tensorrt.library import Library


@dataclass(frozen=True)
class Profile:
    """Batches that one optimization profile takes.

    Attributes:
        index: Its number in the engine.
        least: Smallest batch.
        usual: The batch its kernels were chosen for.
        most: Largest batch.
    """

    index: int
    least: int
    usual: int
    most: int


@dataclass(frozen=True)
class Piece:
    """A part of a batch that is run at once.

    Attributes:
        start: Its first row.
        count: How many rows.
        padded: How many rows are run: more where the profile's smallest batch is larger.
        profile: The profile it runs with.
    """

    start: int
    count: int
    padded: int
    profile: Profile


class LoadedEngine:
    """A deserialised plan, shared by all its execution contexts.

    Args:
        library: TensorRT.
        plan: The plan. TensorRT runs native code out of it: it is trusted like a program.
        host_code: Let the plan bring its own runtime (version-compatible plans do).
        weights: A serialised ONNX model, for a plan that was stripped of its weights.
        plugins: Shared libraries with the plugins it needs.
        gpu_name: For TensorRT-RTX's cache of compiled kernels.
        graphs: Let TensorRT-RTX record CUDA graphs.

    Raises:
        EngineError: TensorRT refuses the plan.
        BuildError: A library of plugins cannot be loaded.
    """

    def __init__(
        self,
        library: Library,
        plan: bytes,
        *,
        host_code: bool = False,
        weights: bytes | None = None,
        plugins: tuple[Path, ...] = (),
        gpu_name: str = "",
        graphs: bool = True,
    ) -> None:
        self.library = library
        self.journal = Journal()
        # TensorRT keeps pointers to the logger and the runtime.
        self._logger = make_logger(library, self.journal)
        trt = library.trt
        load_plugins(library, self._logger, plugins)
        try:
            self._runtime = trt.Runtime(self._logger)
        except Exception as error:  # pybind's TypeError where TensorRT gives none
            why = "; ".join(self.journal.errors[-2:]) or str(error)
            raise EngineError(
                f"{library.backend} {library.version} does not start: {why}"
            ) from error
        if host_code and hasattr(self._runtime, "engine_host_code_allowed"):
            self._runtime.engine_host_code_allowed = True
        # An empty buffer is not refused but crashes some versions.
        engine = self._runtime.deserialize_cuda_engine(plan) if plan else None
        if engine is None:
            why = "; ".join(self.journal.errors[-2:]) or "it does not say why"
            raise EngineError(f"{library.backend} {library.version} refuses the plan: {why}")
        self.engine = engine
        self._rtx = RtxContexts(library, engine, plan, gpu_name, graphs) if library.is_rtx else None
        if weights is not None:
            self._refit(weights)
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        modes = {name: engine.get_tensor_mode(name) for name in names}
        inputs = [name for name in names if modes[name] == trt.TensorIOMode.INPUT]
        self.inputs = tuple(self._spec(name) for name in inputs)
        self.outputs = tuple(self._spec(name) for name in names if name not in inputs)
        self.profiles = self._profiles(inputs)

    def create_context(self) -> Any:
        """A new execution context, with memory of its own.

        Raises:
            EngineError: TensorRT cannot make one.
        """
        make = self.engine.create_execution_context if self._rtx is None else self._rtx.create
        context = make()
        if context is None:
            why = "; ".join(self.journal.errors[-2:]) or "there may be too little GPU memory"
            raise EngineError(f"{self.library.backend} cannot make an execution context: {why}")
        return context

    def keep_kernels(self) -> None:
        """Keep kernels that were compiled while running, where TensorRT does that."""
        if self._rtx is not None:
            self._rtx.keep()

    def _spec(self, name: str) -> TensorSpec:
        shape = tuple(self.engine.get_tensor_shape(name))
        dtype = np.dtype(self.library.trt.nptype(self.engine.get_tensor_dtype(name)))
        return TensorSpec(name, dtype, tuple(None if extent < 0 else extent for extent in shape))

    def _profiles(self, inputs: list[str]) -> tuple[Profile, ...]:
        if not inputs or not self.inputs[0].shape or self.inputs[0].shape[0] is not None:
            fixed = self.inputs[0].shape[0] if inputs and self.inputs[0].shape else 1
            return (Profile(0, fixed or 1, fixed or 1, fixed or 1),)
        found = []
        for index in range(self.engine.num_optimization_profiles):
            shapes = self.engine.get_tensor_profile_shape(inputs[0], index)
            least, usual, most = (int(shape[0]) for shape in shapes)
            found.append(Profile(index, least, usual, most))
        return tuple(found)

    def _refit(self, weights: bytes) -> None:
        """Put back the weights a plan was stripped of."""
        trt = self.library.trt
        if not hasattr(trt, "OnnxParserRefitter"):
            raise EngineError("the plan holds no weights, and this TensorRT cannot put them back")
        refitter = trt.Refitter(self.engine, self._logger)
        parser = trt.OnnxParserRefitter(refitter, self._logger)
        if not parser.refit_from_bytes(weights) or not refitter.refit_cuda_engine():
            why = "; ".join(self.journal.errors[-2:]) or "it does not say why"
            raise EngineError(f"TensorRT cannot put the weights into the plan: {why}")


def split_batch(count: int, profiles: tuple[Profile, ...]) -> list[Piece]:
    """How a batch of `count` rows is run: in few pieces, each by its best profile.

    A batch larger than every profile's largest is cut; one smaller than every smallest is
    padded. Of the profiles that take a piece, the one chosen for the nearest batch serves.
    """
    pieces, start = [], 0
    most = max(profile.most for profile in profiles)
    while start < count:
        rest = min(count - start, most)
        fitting = [p for p in profiles if p.least <= rest <= p.most]
        if fitting:
            profile = min(fitting, key=lambda p: (abs(p.usual - rest), p.most))
            padded = rest
        else:
            profile = min((p for p in profiles if p.most >= rest), key=lambda p: p.least)
            padded = profile.least
        pieces.append(Piece(start, rest, padded, profile))
        start += rest
    return pieces
