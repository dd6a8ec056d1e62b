"""Files that a file mentions: followed within its own folder tree, and not out of it.

Darknet's ``.data`` and ``.cfg`` name other files, relative to where Darknet is started. Such
a file may come from anywhere, and what it mentions ends up on a card: followed wherever it
points, it could put any text of this machine there. So a mention is followed

- seen from the file's own folder, from the two above (``data/coco.names`` in a file that
  lies in ``cfg/``), and from the working folder where the file is somewhere below it;
- by its bare name beside the file, wherever it points (files keep paths of the machine
  that they were written on);

and only to what really lies in one of these folders, links followed, under no hidden name.
The root of the file system and home folders, which hold everything, are never among them
but where the file itself is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from boxwright.files import is_file

_ABOVE = 2


class Mention(NamedTuple):
    """Where a mentioned file is.

    Attributes:
        found: It, where it may be read.
        outside: It, where it is there but may not be followed.
    """

    found: Path | None
    outside: Path | None = None


def find_mentioned(owner: str | Path, entry: str) -> Mention:
    """The file that `owner` means by `entry`.

    Args:
        owner: The file with the mention.
        entry: The path as it stands there.
    """
    if "\0" in entry:
        return Mention(None)
    # Not of the file itself: it may be a link, and its neighbours are those of the link.
    folder = Path(owner).parent.resolve()
    tree = [folder, *(above for above in _above(folder) if not _holds_homes(above))]
    outside = None
    for path in (*(base / entry for base in tree), folder / Path(entry).name):
        if not is_file(path):
            continue
        if _within(path.resolve(), tree):
            return Mention(path)
        outside = outside or path
    return Mention(None, outside)


def stays_within(folder: Path, entry: str) -> bool:
    """Whether a path seen from a folder leads below it, as it is written (links may lead out)."""
    parts = Path(entry).parts
    if Path(entry).is_absolute():
        return ".." not in parts and Path(entry).is_relative_to(folder.absolute())
    depth = 0
    for part in parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return False
    return True


def _above(folder: Path) -> list[Path]:
    working = Path.cwd()
    return [*folder.parents[:_ABOVE], *([working] if folder.is_relative_to(working) else [])]


def _within(path: Path, tree: list[Path]) -> bool:
    return any(
        path.is_relative_to(base)
        and not any(part.startswith(".") for part in path.relative_to(base).parts)
        for base in tree
    )


def _holds_homes(folder: Path) -> bool:
    try:
        home = Path.home().resolve()
    except (OSError, RuntimeError):  # no home
        home = Path(folder.anchor)
    return home.is_relative_to(folder)
