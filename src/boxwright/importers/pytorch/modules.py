"""Modules of a checkpoint: records whose attributes are looked at, every one of them.

A block of which an attribute or a child is not known may compute something else than the
block of that name did when this was written, so it is refused instead of guessed at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from boxwright.errors import ImportFailedError
from boxwright.importers.pytorch.records import Record, Tensor

# What a network's builder notes on each of its layers; none of it changes what they compute.
_NOTES = {"training", "i", "f", "type", "np", "export", "name", "inplace"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


@dataclass(frozen=True)
class Module:
    """A module and where it stands.

    Attributes:
        record: What the checkpoint says.
        path: As torch names it, such as ``model.9.cv1``.
        file: The checkpoint, for messages.
    """

    record: Record
    path: str
    file: str

    @property
    def kind(self) -> str:
        """Its class, without the module that defines it."""
        return self.record.name.short

    @property
    def ours(self) -> bool:
        """Whether its class is a detector's and not torch's own."""
        return not self.record.name.text.startswith("torch.")

    def error(self, reason: str) -> ImportFailedError:
        """An error that names the file, the module and its class."""
        return ImportFailedError(f"{self.file}: {self.path} ({self.record.name.text}): {reason}")

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.record.state.get(name, default)

    def children(self) -> dict[str, Module]:
        """All children by name, those that are ``None`` left out.

        Raises:
            ImportFailedError: One is no module.
        """
        found = {}
        for name, child in self._table("_modules").items():
            if child is None:
                continue
            if not isinstance(child, Record) or not isinstance(name, str):
                raise self.error(f"its child {str(name)[:40]!r} is no module")
            found[name] = Module(child, f"{self.path}.{name}", self.file)
        return found

    def child(self, name: str) -> Module:
        """One child.

        Raises:
            ImportFailedError: It is not there.
        """
        child = self.children().get(name)
        if child is None:
            raise self.error(f"it has no {name}")
        return child

    def listed(self) -> list[Module]:
        """The children of a Sequential or ModuleList, in order."""
        if self.kind not in ("Sequential", "ModuleList"):
            raise self.error("expected a Sequential or a ModuleList")
        self.check()
        children = self.children()
        if list(children) != [str(i) for i in range(len(children))]:
            raise self.error("its children are not numbered")
        return list(children.values())

    def tensor(self, name: str) -> Tensor | None:
        """A parameter or buffer, or ``None`` where it has none of that name."""
        value = self._table("_parameters").get(name, self._table("_buffers").get(name))
        if value is not None and not isinstance(value, Tensor):
            raise self.error(f"its {name} is no tensor")
        return value

    def need(self, name: str, *dimensions: int) -> Tensor:
        """A parameter or buffer with one of the numbers of dimensions.

        Raises:
            ImportFailedError: It is not there, or of another number of dimensions.
        """
        value = self.tensor(name)
        if value is None:
            raise self.error(f"it has no {name}")
        if len(value.shape) not in dimensions:
            raise self.error(f"its {name} is of shape {list(value.shape)}")
        return value

    def whole(self, name: str, low: int, high: int) -> int:
        """An attribute that is a whole number within bounds."""
        value = self.get(name)
        if type(value) is not int or not low <= value <= high:
            raise self.error(f"its {name} must be {low} to {high}, got {_shown(value)}")
        return value

    def number(self, name: str, low: float, high: float) -> float:
        """An attribute that is a number within bounds."""
        value = self.get(name)
        if type(value) not in (int, float) or not low <= value <= high:
            raise self.error(f"its {name} must be {low} to {high}, got {_shown(value)}")
        return float(value)

    def pair(self, name: str, low: int, high: int, default: Any = None) -> tuple[int, int]:
        """An attribute that is one or two whole numbers, vertically and horizontally."""
        value = self.get(name, default)
        pair = value if isinstance(value, (tuple, list)) else (value, value)
        if len(pair) != 2 or any(type(x) is not int or not low <= x <= high for x in pair):
            raise self.error(f"its {name} must be {low} to {high}, got {_shown(value)}")
        return pair[0], pair[1]

    def flag(self, name: str) -> bool:
        """An attribute that is a truth value."""
        value = self.get(name)
        if not isinstance(value, bool):
            raise self.error(f"its {name} must be true or false, got {_shown(value)}")
        return value

    def check(
        self,
        attributes: str = "",
        children: str | None = None,
        tensors: str = "",
    ) -> None:
        """See that it has no attribute, child or tensor but those named.

        Args:
            attributes: Names, separated by spaces.
            children: Likewise; ``None`` where the caller looks at them itself.
            tensors: Likewise.

        Raises:
            ImportFailedError: It has, or something is hooked into it.
        """
        state = self.record.state
        if any(state.get(hooks) for hooks in _HOOKS) or "forward" in state:
            raise self.error("what it computes was changed by a hook")
        known = _NOTES | set(attributes.split())
        extra = [name for name in state if not name.startswith("_") and name not in known]
        held = {
            name
            for table in ("_parameters", "_buffers")
            for name, value in self._table(table).items()
            if value is not None
        }
        extra += sorted(map(str, held - set(tensors.split())))
        if children is not None:
            extra += sorted(set(self.children()) - set(children.split()))
        if extra:
            raise self.error(
                f"it has {str(extra[0])[:60]!r}, which is not known here; it may be of a newer "
                "version: export it to ONNX with the program it was trained with and import that"
            )

    def _table(self, name: str) -> Mapping[str, Any]:
        table = self.record.state.get(name, {})
        if not isinstance(table, dict):
            raise self.error(f"its {name} is no table")
        return table


def _shown(value: Any) -> str:
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)[:60]
    return f"a value of type {type(value).__name__}"
