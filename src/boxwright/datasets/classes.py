"""Which class of a dataset a model's class is, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from boxwright.detections import Detections

# Names of one class in Pascal VOC (and Darknet's coco.names), COCO, and everyday use.
_SYNONYMS = (
    ("airplane", "aeroplane"),
    ("motorcycle", "motorbike"),
    ("couch", "sofa"),
    ("tv", "tvmonitor", "television"),
    ("donut", "doughnut"),
    ("cellphone", "mobilephone"),
    ("hairdrier", "hairdryer"),
)
_GROUP = {name: group[0] for group in _SYNONYMS for name in group}


def normal_name(name: str) -> str:
    """A name without case, blanks, underscores and hyphens."""
    return "".join(c for c in name.casefold() if c not in " _-\t")


@dataclass(frozen=True)
class ClassMap:
    """From a model's classes to a dataset's.

    Attributes:
        to_dataset: int64 ``(classes of the model,)``: number in the dataset, or -1.
        class_names: The dataset's.
        synonyms: Pairs of names (model's, dataset's) taken for one class though they differ
            by more than case and blanks.
        only_model: Classes only the model has: its detections of them are left out.
        only_dataset: Classes only the dataset has: all their objects count as missed.
        by_number: The dataset had no names, so numbers were matched.
    """

    to_dataset: NDArray[np.int64]
    class_names: tuple[str, ...]
    synonyms: tuple[tuple[str, str], ...] = ()
    only_model: tuple[str, ...] = ()
    only_dataset: tuple[str, ...] = ()
    by_number: bool = False

    def apply(self, detections: Detections) -> Detections:
        """The detections with the dataset's classes; those of no class there are left out."""
        numbers = self.to_dataset[detections.class_id]
        kept = numbers >= 0
        return replace(detections[kept], class_id=numbers[kept], class_names=self.class_names)

    def lines(self) -> list[str]:
        """What a reader should know about the matching."""
        lines = []
        if self.by_number:
            lines.append("the dataset names no classes; they were matched by number")
        if self.synonyms:
            pairs = ", ".join(f"{a} = {b}" for a, b in self.synonyms)
            lines.append(f"taken for the same class: {pairs}")
        if self.only_dataset:
            lines.append(
                f"{len(self.only_dataset)} classes of the dataset are unknown to the model, their "
                f"objects count as missed: {_few(self.only_dataset)}"
            )
        if self.only_model:
            lines.append(
                f"{len(self.only_model)} classes of the model are not in the dataset, their "
                f"detections are left out: {_few(self.only_model)}"
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "matched": int((self.to_dataset >= 0).sum()),
            "by_number": self.by_number,
            "synonyms": [list(pair) for pair in self.synonyms],
            "only_model": list(self.only_model),
            "only_dataset": list(self.only_dataset),
        }


def map_classes(model: Sequence[str], dataset: Sequence[str]) -> ClassMap:
    """Match class names: case, blanks, underscores and hyphens do not count.

    Names that are left over are matched by a list of synonyms (*aeroplane*, *airplane*).
    A dataset whose names are just its numbers is matched by number.

    Raises:
        InputError: Not one class is in both.
    """
    names = tuple(dataset)
    to_dataset = np.full(len(model), -1, np.int64)
    numbered = names == tuple(map(str, range(len(names))))
    if numbered and tuple(model)[: len(names)] != names:
        count = min(len(model), len(names))
        to_dataset[:count] = np.arange(count)
        return ClassMap(to_dataset, names, (), tuple(model[count:]), names[count:], by_number=True)
    _match(to_dataset, [normal_name(n) for n in model], [normal_name(n) for n in names])
    exact = to_dataset.copy()
    groups = [[_GROUP.get(normal_name(n), normal_name(n)) for n in side] for side in (model, names)]
    _match(to_dataset, groups[0], groups[1])
    if not (to_dataset >= 0).any():
        raise InputError(
            f"the model and the dataset have no class in common; the model's are {_few(model)}; "
            f"the dataset's are {_few(names)}; give the dataset the names that are meant"
        )
    taken = set(to_dataset.tolist())
    return ClassMap(
        to_dataset,
        names,
        tuple(
            (model[i], names[to_dataset[i]]) for i in np.flatnonzero(to_dataset != exact).tolist()
        ),
        tuple(name for i, name in enumerate(model) if to_dataset[i] < 0),
        tuple(name for i, name in enumerate(names) if i not in taken),
    )


def _match(to_dataset: NDArray[np.int64], model: list[str], names: list[str]) -> None:
    """Give each class of the model that has none the first free class of the same key."""
    taken = set(to_dataset.tolist())
    free: dict[str, int] = {}
    for number, name in enumerate(names):
        if number not in taken:
            free.setdefault(name, number)
    for number, name in enumerate(model):
        if to_dataset[number] < 0 and name in free:
            to_dataset[number] = free.pop(name)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
