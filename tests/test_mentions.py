"""Which files a file may mention, and which it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxwright.mentions import Mention, find_mentioned, stays_within


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Someone's home, with a secret, and a downloaded archive as Darknet lays it out."""
    home = tmp_path / "home"
    root = home / "downloads" / "darknet"
    for name in ("cfg/coco.data", "data/coco.names", "cfg/beside.names", "cfg/.hidden/a.names"):
        _write(root / name)
    for name in ("passwords.txt", ".ssh/id", "downloads/other.names"):
        _write(home / name)
    _write(tmp_path / "etc" / "passwd")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return root


def _write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("cat\n")


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ("data/coco.names", "data/coco.names"),  # of Darknet's root
        ("beside.names", "cfg/beside.names"),
        ("../data/coco.names", "data/coco.names"),
        # Of the machine it was written on; its bare name lies here.
        ("/home/someone/darknet/cfg/beside.names", "cfg/beside.names"),
        ("x64/data/beside.names", "cfg/beside.names"),
        ("other.names", "../other.names"),  # two folders above
    ],
)
def test_what_is_found(root: Path, entry: str, found: str) -> None:
    mention = find_mentioned(root / "cfg" / "coco.data", entry)
    assert mention.outside is None
    assert mention.found is not None
    assert mention.found.resolve() == (root / found).resolve()


def test_an_absolute_path_in_the_same_folders(root: Path) -> None:
    names = root / "data" / "coco.names"
    assert find_mentioned(root / "cfg" / "coco.data", str(names)) == Mention(names)


@pytest.mark.parametrize(
    "entry",
    [
        "../../../../etc/passwd",
        "../../../passwords.txt",
        "../../../.ssh/id",
        ".hidden/a.names",
        "{tmp}/etc/passwd",
        "{tmp}/home/passwords.txt",
        "link.names",  # to the above
        "../linked/passwd",  # a folder that is a link
    ],
)
def test_what_is_not_followed(root: Path, tmp_path: Path, entry: str) -> None:
    (root / "cfg" / "link.names").symlink_to(tmp_path / "etc" / "passwd")
    (root / "linked").symlink_to(tmp_path / "etc")
    mention = find_mentioned(root / "cfg" / "coco.data", entry.format(tmp=tmp_path))
    assert mention.found is None
    assert mention.outside is not None


@pytest.mark.parametrize(
    "entry", ["nowhere.names", "a\0b", "a" * 5000, "passwords.txt", "cfg", ".", "etc/passwd"]
)
def test_what_is_not_there(root: Path, entry: str) -> None:
    # Two folders above is the home, at most; the working folder holds it, and does not count.
    assert find_mentioned(root / "cfg" / "coco.data", entry) == Mention(None)


def test_a_home_is_searched_only_by_files_in_it(root: Path) -> None:
    home = root.parents[1]
    _write(home / "a.data")
    assert find_mentioned(home / "a.data", "passwords.txt").found is not None
    assert find_mentioned(home / "a.data", ".ssh/id").found is None
    _write(home / "folder" / "a.data")
    assert find_mentioned(home / "folder" / "a.data", "passwords.txt") == Mention(None)


def test_the_working_folder_counts_where_the_file_is_below(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = root / "a" / "b" / "c" / "d" / "x.data"
    _write(deep)
    assert find_mentioned(deep, "data/coco.names") == Mention(None)
    monkeypatch.chdir(root)
    assert find_mentioned(deep, "data/coco.names").found == root / "data" / "coco.names"
    assert find_mentioned("a/b/c/d/x.data", "data/coco.names").found is not None
    monkeypatch.chdir(root / "data")
    assert find_mentioned(deep, "coco.names") == Mention(None)


def test_a_file_that_is_a_link_has_the_neighbours_of_the_link(root: Path) -> None:
    # As in the cache of Hugging Face's hub: blobs by their hash, and links with names.
    _write(root / "blobs" / "1f")
    _write(root / "blobs" / "2e")
    snapshot = root / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "x.data").symlink_to(root / "blobs" / "1f")
    (snapshot / "x.names").symlink_to(root / "blobs" / "2e")
    assert find_mentioned(snapshot / "x.data", "x.names").found == snapshot / "x.names"


@pytest.mark.parametrize(
    ("entry", "stays"),
    [
        ("a.jpg", True),
        ("b/../a.jpg", True),
        ("b/../../a.jpg", False),
        ("../images/a.jpg", False),
        ("/etc/a.jpg", False),
        ("{folder}/a.jpg", True),
        ("{folder}/../a.jpg", False),
    ],
)
def test_what_stays_within_a_folder(tmp_path: Path, entry: str, stays: bool) -> None:
    assert stays_within(tmp_path, entry.format(folder=tmp_path)) is stays
