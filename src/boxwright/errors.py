"""The exceptions Boxwright raises on purpose, all below :class:`BoxwrightError`.

::

    BoxwrightError
    ├── InputError                what the user gave is at fault
    │   ├── ImportFailedError     foreign weights or their description cannot be imported
    │   │   ├── CfgError          a Darknet cfg or Caffe prototxt is malformed
    │   │   │   └── UnsupportedError  readable, but it cannot be converted faithfully
    │   │   └── WeightsError      a weights file is damaged or belongs to another network
    │   ├── ModelError            an ONNX file is damaged or does not keep the contract
    │   ├── CardError             a model card is malformed
    │   ├── EngineError           an engine file is damaged, truncated or foreign
    │   │   └── NoPlanError       a sound engine file holds no plan for this machine
    │   ├── NotCurableError       a graph does not let a pass do its work
    │   └── ImageError            an image cannot be read
    ├── MissingExtraError         an optional package is not installed
    ├── BackendUnavailableError   a backend cannot work on this machine
    ├── BuildError                a backend refused to build the model
    └── BudgetMissedError         the work was done, but a stated budget was missed

The command line turns `BudgetMissedError` into exit code 3 and every other one
into exit code 1 with the message alone. A message says what was attempted,
what was expected, what was received and what to do about it.
"""

from __future__ import annotations

from pathlib import Path


class BoxwrightError(Exception):
    """Base of every error Boxwright raises on purpose."""


class InputError(BoxwrightError):
    """Something the user gave (a file, an image, an argument) is at fault."""


class ImportFailedError(InputError):
    """Foreign weights, or the file describing them, cannot be imported."""


class CfgError(ImportFailedError):
    """A Darknet cfg or Caffe prototxt is malformed, or its network cannot exist.

    The message is one line: ``file:line: [section] reason``; a prototxt's section is a layer.
    """

    def __init__(self, path: str | Path, line: int, section: str, reason: str) -> None:
        self.path = str(path)
        self.line = line
        self.section = section
        self.reason = reason
        where = f"[{section}] " if section else ""
        super().__init__(f"{self.path}:{line}: {where}{reason}")

    def __reduce__(self) -> tuple[type[CfgError], tuple[str, int, str, str]]:
        return type(self), (self.path, self.line, self.section, self.reason)


class UnsupportedError(CfgError):
    """A network that can be read but not converted without changing its results."""


class WeightsError(ImportFailedError):
    """A weights file is damaged, truncated, too long, or of another network."""


class ModelError(InputError):
    """An ONNX file is damaged, or does not keep Boxwright's input/output contract."""


class CardError(InputError):
    """A model card is missing, malformed, or of a newer version than this Boxwright."""


class EngineError(InputError):
    """An engine file is damaged, truncated, foreign or of a newer version."""


class NoPlanError(EngineError):
    """A sound engine file holds no plan that fits this machine and request."""


class NotCurableError(InputError):
    """A pass was asked to change a graph that does not let it do its work."""


class ImageError(InputError):
    """An image is missing, damaged, of an unknown format, or too large."""


class MissingExtraError(BoxwrightError):
    """An optional package is needed and is not installed; the message has the command."""


class BackendUnavailableError(BoxwrightError):
    """A backend cannot work on this machine; the message says why."""


class BuildError(BoxwrightError):
    """A backend refused to build the model."""


class BudgetMissedError(BoxwrightError):
    """The work was done, but a budget the user stated was missed."""
