"""Engine files whose content is not what Boxwright would write, sealed as if it were."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from boxwright import storedzip

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def read_members(path: Path) -> dict[str, bytes]:
    """The content of every member, by name."""
    with path.open("rb") as stream:
        members = storedzip.read_index(stream, path.stat().st_size)
        return {
            name: b"".join(storedzip.read_chunks(stream, member))
            for name, member in members.items()
        }


def write_members(path: Path, members: Mapping[str, bytes]) -> Path:
    """A well-formed file of exactly these members, manifest included or not."""
    with path.open("wb") as stream:
        writer = storedzip.Writer(stream)
        for name, content in members.items():
            writer.add(name, [content])
        writer.finish()
    return path


def make_manifest(members: Mapping[str, bytes], /, **changes: Any) -> bytes:
    """A manifest that is true of `members`, but for `changes`."""
    manifest = {
        "format": "boxwright-engine",
        "schema": 1,
        "members": {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in members.items()
            if name != "manifest.json"
        },
        **changes,
    }
    return json.dumps(manifest).encode()


def reseal(path: Path, members: Mapping[str, bytes]) -> Path:
    """As :func:`write_members`, with a manifest that vouches for the members."""
    content = {name: data for name, data in members.items() if name != "manifest.json"}
    return write_members(path, {**content, "manifest.json": make_manifest(content)})
