"""Work on the images of a batch side by side.

Decoding and resizing release Python's global lock for most of their time, so threads are
enough, and cheap enough to use for a batch of two.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from boxwright.environment import usable_cores

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def map_images(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """``[function(item) for item in items]``, on as many threads as there are cores.

    Raises:
        Exception: What `function` raised for the first item, in order, that it failed on.
    """
    listed = list(items)
    if len(listed) < 2 or usable_cores() < 2:
        return [function(item) for item in listed]
    return list(_threads().map(function, listed))


def _threads() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="boxwright-images")
        return _pool


def _forget_threads() -> None:
    """A forked child has none of its parent's threads."""
    global _pool, _lock
    _lock = threading.Lock()
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
