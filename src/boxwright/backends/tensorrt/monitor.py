"""Progress of a build, as one fraction, whatever TensorRT tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boxwright.backends.tensorrt.library import Library
    from boxwright.progress import ProgressCallback

STEPS = 1000
"""A build is reported in thousandths."""


class Watch:
    """A progress callback, and a wish to stop, for native code that calls back.

    What the callback raises cannot pass through TensorRT, which would end the process, or the
    build for no reason that it can tell. It is kept instead, and the build is to stop.

    Args:
        progress: Called with thousandths that never go back.
        stopped: Whether the build is to stop.

    Attributes:
        failure: What the callback raised; it is not called again then.
    """

    def __init__(self, progress: ProgressCallback, stopped: Callable[[], bool]) -> None:
        self._progress, self._stopped = progress, stopped
        self._furthest = 0
        self.failure: BaseException | None = None

    def tell(self, stage: str, done: int) -> None:
        """So many thousandths are done."""
        self._furthest = max(self._furthest, min(done, STEPS))
        if self.failure is None:
            try:
                self._progress(stage, self._furthest, STEPS)
            except BaseException as error:
                self.failure = error

    def count(self, done: int, total: int) -> None:
        """So many of the layers have their kernels."""
        self.tell("choose kernels", done * STEPS // total if total else 0)

    def stopped(self) -> bool:
        """Whether the build is to stop."""
        return self.failure is not None or self._stopped()


class Phases:
    """Nested phases, each with a number of steps, as ``IProgressMonitor`` reports them.

    A phase's part of the whole is one step of the phase it is in.
    """

    def __init__(self, report: Callable[[str, int], None]) -> None:
        self._report = report
        self._steps: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._parent: dict[str, str | None] = {}
        self._furthest = 0

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        self._steps[phase], self._done[phase], self._parent[phase] = max(steps, 1), 0, parent
        self._tell(phase)

    def step(self, phase: str, step: int) -> None:
        """Step number `step`, counted from 0, is done."""
        if phase in self._steps:
            self._done[phase] = min(step + 1, self._steps[phase])
            self._tell(phase)

    def finish(self, phase: str) -> None:
        """The phase has ended, by its last step or before."""
        for table in (self._steps, self._done, self._parent):
            table.pop(phase, None)

    def _tell(self, phase: str) -> None:
        fraction, name = 0.0, phase
        seen = set()
        while name in self._steps and name not in seen:
            seen.add(name)
            fraction = min((self._done[name] + fraction) / self._steps[name], 1.0)
            name = self._parent[name] or ""
        # Phases run side by side; what is reported never goes back.
        self._furthest = max(self._furthest, int(fraction * STEPS))
        self._report(phase, self._furthest)


def make_monitor(library: Library, phases: Phases, stopped: Callable[[], bool]) -> Any:
    """TensorRT's progress monitor; a build stops at its next step once `stopped` is true."""
    interface: Any = library.trt.IProgressMonitor

    class Monitor(interface):  # type: ignore[misc]  # the module is known at run time
        def __init__(self) -> None:
            interface.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            phases.start(phase, parent, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            phases.step(phase, step)
            return not stopped()

        def phase_finish(self, phase: str) -> None:
            phases.finish(phase)

    return Monitor()
