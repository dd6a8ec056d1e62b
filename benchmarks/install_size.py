"""What the base install takes on disk: Boxwright's dependencies and theirs, without extras.

python benchmarks/install_size.py
"""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from _environment import heading


def base_distributions(root: str = "boxwright") -> dict[str, Distribution]:
    """Everything `root` needs, itself left out; markers other than extras are taken as true."""
    found: dict[str, Distribution] = {}
    waiting = [root]
    while waiting:
        name = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            found[key] = distribution(name)
        except PackageNotFoundError:
            continue  # for another system or Python
        for requirement in found[key].requires or ():
            if "extra ==" not in requirement:
                waiting.append(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0])
    found.pop(root)
    return found


def size_of(package: Distribution) -> int:
    """Bytes of all files the package's record lists, compiled Python left out."""
    paths = (package.locate_file(file) for file in package.files or () if file.suffix != ".pyc")
    return sum(path.stat().st_size for path in map(_path, paths) if path.is_file())


def _path(path: object) -> Path:
    return Path(str(path))


def main() -> None:
    print(heading())
    sizes = {name: size_of(package) for name, package in base_distributions().items()}
    print("\n| package | MB |\n|---|---|")
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"| {name} | {size / 1e6:.0f} |")
    print(f"| all | {sum(sizes.values()) / 1e6:.0f} |")


if __name__ == "__main__":
    main()
