"""What every thing that is to be closed does the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class Closing:
    """A context manager whose end is :meth:`close`, however the block ends."""

    def close(self) -> None:
        """Free what it holds; nothing by default. Harmless when called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
