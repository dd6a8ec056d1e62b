"""What TensorRT logs, sorted: errors for messages, progress for a bar, layers for a receipt."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from boxwright.files import printable

if TYPE_CHECKING:
    from boxwright.backends.tensorrt.library import Library

_MAX_KEPT = 200
_MAX_LINE = 2000

# TensorRT without a progress monitor says how many layers are left after fusing, and names
# each before it tries its kernels.
_FUSED = re.compile(r"After [a-z -]+: (\d+) layers")
_TIMED = re.compile(r"^=+ Computing costs for")
# With detailed profiling the finished engine is described in the log as well.
_ENGINE_INFORMATION = ("Layers:", "Engine Layer Information:")


class Journal:
    """Keeps what matters of a log.

    Args:
        on_layer: Called as ``on_layer(done, total)`` while kernels are chosen; `total` may
            still grow.

    Attributes:
        errors: Newest last.
        warnings: Each once, in order.
        layers: TensorRT's description of the engine's layers, where the log has it.
    """

    def __init__(self, on_layer: Callable[[int, int], None] | None = None) -> None:
        self.errors: list[str] = []
        self.warnings: dict[str, int] = {}
        self.layers: str | None = None
        self._on_layer = on_layer
        self._total = 0
        self._done = 0

    def add(self, severity: str, message: str) -> None:
        """One line of the log, with the name of its severity."""
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(plain(message))
            # The newest are the reason of what failed now.
            del self.errors[:-_MAX_KEPT]
        elif severity == "WARNING":
            text = plain(message)
            if text in self.warnings or len(self.warnings) < _MAX_KEPT:
                self.warnings[text] = self.warnings.get(text, 0) + 1
        elif message.startswith(_ENGINE_INFORMATION):
            self.layers = message
        elif self._on_layer is not None:
            self._follow(message)

    def _follow(self, message: str) -> None:
        if (match := _FUSED.search(message)) is not None:
            self._total = int(match.group(1))
        elif _TIMED.match(message):
            self._done += 1
            if self._on_layer is not None:
                self._on_layer(min(self._done, self._total), self._total)


def make_logger(library: Library, journal: Journal) -> Any:
    """A logger that TensorRT takes and that writes into `journal`.

    TensorRT keeps a pointer to it: keep the object as long as anything made with it.
    """
    interface: Any = library.trt.ILogger

    class JournalLogger(interface):  # type: ignore[misc]  # the module is known at run time
        def __init__(self) -> None:
            interface.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            # Nothing may be raised here: TensorRT calls this from code that cannot throw.
            with contextlib.suppress(Exception):
                journal.add(severity.name, message)

    return JournalLogger()


def plain(message: str) -> str:
    """One printable line, without TensorRT's own source files and error numbers."""
    text = re.sub(r"\[[\w.]+::\w+::\d+\]\s*", "", message)
    text = re.sub(r"^\d+: ", "", text)
    text = re.sub(r"\s*\(In \w+ at [^\s()]+\)", "", text)
    # With more in the same brackets, which is the reason.
    text = re.sub(r"\bIn \w+ at [^\s()]+:\d+ ?", "", text)
    # A node's name comes from a file and could steer a terminal.
    text = re.sub(r"[\x00-\x1f\x7f-\x9f]", "", " ".join(text.split()))
    return printable(text)[:_MAX_LINE]
