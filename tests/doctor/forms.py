"""What a command must look like to be copied as it stands."""

from __future__ import annotations

import re
import shlex

PROGRAMS = {
    *("sudo", "python", "python3", "py", "docker", "wsl", "boxwright", "export", "ulimit", "."),
    *("unset", "nvidia-smi", r".venv\Scripts\activate"),
}


def assert_copyable(command: str) -> None:
    """No placeholder, no stray blank, a known program, and quotes where a shell needs them."""
    words = shlex.split(command, posix="\\" not in command)
    assert words[0] in PROGRAMS, command
    # Nothing to fill in: no <...>, {...}, ellipsis or capitals that stand for something.
    outside = re.sub(r'"[^"]*"', "", command)
    assert not re.search(r"[<>{}…]|\.\.\.|\b(YOUR|VERSION|NAME|XXX|TODO|None)\b", outside), command
    assert "  " not in command
    assert command == command.strip()
    # A shell would take an unquoted < or [ for something else.
    for requirement in re.findall(r"pip install (.*)", command):
        for word in shlex.split(requirement, posix=False):
            assert word.startswith(('"', "--")) or not set(word) & set("<>[]=*~"), command
