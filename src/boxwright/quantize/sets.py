"""Sets that grow together: union by need, as Tarjan has it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class DisjointSets(Generic[Item]):
    """Items, each in one set; two sets may be joined."""

    def __init__(self) -> None:
        self._parents: dict[Item, Item] = {}

    def find(self, item: Item) -> Item:
        """The item that stands for the set that `item` is in; alone, it stands for itself."""
        root = item
        while (parent := self._parents.get(root, root)) != root:
            root = parent
        while (parent := self._parents.get(item, item)) != root:
            self._parents[item] = root
            item = parent
        return root

    def join(self, first: Item, second: Item) -> None:
        """Make one set of the sets of two items."""
        self._parents[self.find(second)] = self.find(first)
