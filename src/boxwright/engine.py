"""The engine file (``.bw``): a portable model, its receipt, and plans built from it.

A `.bw` is a zip whose members are stored as they are (:mod:`boxwright.storedzip`):

====================  =================================================================
``card.json``         the :class:`~boxwright.card.ModelCard`
``receipt.json``      what was built, from what, where, and what was measured
``model.onnx``        the portable graph; any machine can rebuild a plan from it
``plans/<print>``     a backend's own file for machines of that fingerprint
``manifest.json``     format, schema number, and each member's size and SHA-256
====================  =================================================================

Opening reads the index, the manifest, the card and the receipt, however large the file;
the rest is read when asked for, and never handed out before its hash was verified.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from boxwright import storedzip
from boxwright._version import __version__
from boxwright.builds import unvouched
from boxwright.card import ModelCard
from boxwright.errors import CardError, EngineError, ModelError, NoPlanError
from boxwright.files import atomic_write, human_size, open_regular
from boxwright.model import MAX_MODEL_BYTES, Model
from boxwright.storedzip import CHUNK, Member, NotZipError, StoredZipError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

ENGINE_FORMAT = "boxwright-engine"
ENGINE_SCHEMA = 1

_MANIFEST, _CARD, _RECEIPT, _MODEL = "manifest.json", "card.json", "receipt.json", "model.onnx"
_FIXED = (_CARD, _RECEIPT, _MODEL, _MANIFEST)
_PLANS = "plans/"
_FINGERPRINT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_ADVICE = "copy it again from where it was made, or build it again from its model"

# Read into memory before anything vouches for them.
_MAX_JSON_BYTES = 16 << 20


@dataclass(frozen=True)
class _Entry:
    """A member as the index and the manifest agree on it."""

    member: Member
    sha256: str


@dataclass(frozen=True)
class Engine:
    """A built detector in one file. Make one with :meth:`open` or :meth:`write`.

    Attributes:
        path: The file.
        card: What the graph alone does not say.
        receipt: Where it came from and what was measured; JSON values only.
        plans: Fingerprints of the plans it holds.
    """

    path: Path
    card: ModelCard
    receipt: dict[str, Any]
    plans: tuple[str, ...]
    _entries: Mapping[str, _Entry] = field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> Engine:
        """Read an engine file's description; cheap whatever its size.

        Raises:
            EngineError: The file is missing, damaged, truncated, of a newer schema, or was
                not written by Boxwright.
        """
        where = Path(path)
        with _reading(where) as (stream, size):
            members = storedzip.read_index(stream, size)
            _check_names(where, members)
            manifest = _read_json(where, stream, members[_MANIFEST])
            entries = _check_manifest(where, manifest, members)
            card_text = _read(where, stream, entries[_CARD], _MAX_JSON_BYTES)
            receipt_text = _read(where, stream, entries[_RECEIPT], _MAX_JSON_BYTES)
            receipt = _parse_json(where, _RECEIPT, receipt_text)
        try:
            card = ModelCard.from_json(card_text)
        except CardError as error:
            raise EngineError(f"{where}: {error}") from error
        plans = tuple(name.removeprefix(_PLANS) for name in entries if name.startswith(_PLANS))
        return cls(where, card, receipt, plans, entries)

    @classmethod
    def write(
        cls,
        path: str | Path,
        model: Model,
        receipt: Mapping[str, Any],
        plans: Mapping[str, bytes | Path],
    ) -> Engine:
        """Write an engine file; a killed process leaves nothing half-written.

        The same content always gives the same bytes.

        Args:
            path: The file to write or replace.
            model: The portable graph and its card.
            receipt: JSON values only, finite numbers only.
            plans: Content, or file with the content, of each plan by fingerprint.

        Raises:
            InputError: The file cannot be written, or the model exceeds ONNX's 2 GiB.
            EngineError: A fingerprint or the receipt cannot be stored, or the file would
                exceed 4 GiB.
        """
        contents: dict[str, Iterable[bytes]] = {
            _CARD: (model.card.to_json(indent=2).encode(),),
            _RECEIPT: (_receipt_bytes(path, receipt),),
            _MODEL: model.pieces(),
        }
        for fingerprint in sorted(plans):
            contents[_plan_name(path, fingerprint)] = _pieces(plans[fingerprint])
        return cls._write(path, contents)

    @classmethod
    def _write(cls, path: str | Path, contents: Mapping[str, Iterable[bytes]]) -> Engine:
        listing: dict[str, dict[str, Any]] = {}
        try:
            with atomic_write(path) as stream:
                writer = storedzip.Writer(stream)
                for name, chunks in contents.items():
                    member, sha256 = writer.add(name, chunks)
                    listing[name] = {"size": member.size, "sha256": sha256}
                manifest = {
                    "format": ENGINE_FORMAT,
                    "schema": ENGINE_SCHEMA,
                    "boxwright": __version__,
                    "members": listing,
                }
                writer.add(_MANIFEST, (json.dumps(manifest, indent=2).encode(),))
                writer.finish()
        except StoredZipError as error:
            raise EngineError(
                f"{path} {error}; leave plans out (boxwright plans --drop) or keep two files"
            ) from error
        return cls.open(path)

    def with_plan(self, fingerprint: str, data: bytes | Path, output: str | Path) -> Engine:
        """This engine with one plan more (or another for that fingerprint), as a new file.

        Raises:
            InputError: `output` cannot be written; it may be this engine's own path.
            EngineError: This engine's file is damaged.
        """
        receipt = unvouched(self.receipt, fingerprint)
        return self.with_plans(output, {fingerprint: data}, receipt=receipt)

    def with_receipt(self, receipt: Mapping[str, Any], output: str | Path) -> Engine:
        """This engine under another receipt, as a new file; raises as :meth:`with_plan`."""
        return self.with_plans(output, {}, receipt=receipt)

    def with_plans(
        self,
        output: str | Path,
        plans: Mapping[str, bytes | Path | Iterable[bytes]],
        *,
        without: Collection[str] = (),
        receipt: Mapping[str, Any] | None = None,
    ) -> Engine:
        """This engine with other plans, as a new file.

        Args:
            output: The file to write or replace; it may be this engine's own path.
            plans: What to add or replace by fingerprint: content, its pieces, or a file.
            without: Fingerprints of plans to leave out.
            receipt: The new receipt; this one's by default. :mod:`boxwright.builds` makes
                one that goes with the plans.

        Raises:
            InputError: `output` cannot be written.
            EngineError: This engine's file is damaged, or `output` would exceed 4 GiB.
        """
        contents = {name: self._chunks(name) for name in self._entries}
        for fingerprint in without:
            contents.pop(_PLANS + fingerprint, None)
        for fingerprint, content in plans.items():
            contents[_plan_name(output, fingerprint)] = _pieces(content)
        if receipt is not None:
            contents[_RECEIPT] = iter((_receipt_bytes(output, receipt),))
        order = (_CARD, _RECEIPT, _MODEL, *sorted(n for n in contents if n.startswith(_PLANS)))
        return self._write(output, {name: contents[name] for name in order})

    @property
    def model_sha256(self) -> str:
        """The SHA-256 that the manifest states for the portable graph."""
        return self._entries[_MODEL].sha256

    @property
    def content_sha256(self) -> str:
        """One SHA-256 over all that the manifest states, the receipt excepted.

        It is the same before and after evidence was added to the receipt.
        """
        listing = {name: e.sha256 for name, e in self._entries.items() if name != _RECEIPT}
        return hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()

    def model(self) -> Model:
        """The portable graph, its hash verified.

        Raises:
            EngineError: It is damaged, or does not go with the engine's card.
        """
        data = self._content(_MODEL, MAX_MODEL_BYTES)
        try:
            model = Model.from_bytes(data, origin=f"{self.path}: {_MODEL}")
        except (CardError, ModelError) as error:
            raise EngineError(str(error)) from error
        if model.card != self.card:
            raise EngineError(f"{self.path}: {_MODEL} and {_CARD} disagree about the model")
        return model

    def plan_size(self, fingerprint: str) -> int:
        """Bytes of a plan; raises as :meth:`plan_bytes` where there is none."""
        return self._plan(fingerprint).member.size

    def plan_bytes(self, fingerprint: str) -> bytes:
        """A plan's content, its hash verified.

        Raises:
            NoPlanError: The file holds no plan of that fingerprint.
            EngineError: The plan is damaged.
        """
        return self._content(self._plan(fingerprint).member.name, storedzip.MAX_BYTES)

    def plan_sha256(self, fingerprint: str) -> str:
        """The SHA-256 that the manifest states for a plan; raises as :meth:`plan_size`."""
        return self._plan(fingerprint).sha256

    def plan_pieces(self, fingerprint: str) -> Iterator[bytes]:
        """A plan's content in pieces, its hash verified after the last.

        Raises:
            NoPlanError: The file holds no plan of that fingerprint.
            EngineError: The plan is damaged.
        """
        return self._chunks(self._plan(fingerprint).member.name)

    def model_pieces(self) -> Iterator[bytes]:
        """The portable graph's file in pieces, its hash verified after the last.

        Raises:
            EngineError: It is damaged.
        """
        return self._chunks(_MODEL)

    def save_plan(self, fingerprint: str, output: str | Path) -> None:
        """Copy a plan into a file of its own, whole or not at all.

        Raises:
            NoPlanError: The file holds no plan of that fingerprint.
            EngineError: The plan is damaged.
            InputError: `output` cannot be written.
        """
        pieces = self.plan_pieces(fingerprint)
        with atomic_write(output) as stream:
            stream.writelines(pieces)

    def verify(self, progress: Callable[[str, int, int | None], None] | None = None) -> None:
        """Hash every member again and parse the model.

        Raises:
            EngineError: A member is damaged.
        """
        total = sum(entry.member.size for entry in self._entries.values())
        done = 0
        for name in self._entries:
            for chunk in self._chunks(name):
                done += len(chunk)
                if progress is not None:
                    progress("verify", done, total)
        self.model()

    def verify_model(self) -> None:
        """Hash the portable graph again, without keeping it in memory.

        Raises:
            EngineError: It is damaged.
        """
        for _ in self._chunks(_MODEL):
            pass

    def _plan(self, fingerprint: str) -> _Entry:
        entry = self._entries.get(_PLANS + fingerprint)
        if entry is None:
            raise NoPlanError(
                f"{self.path} holds no plan {fingerprint!r}; it holds: "
                + (", ".join(self.plans) or "none")
            )
        return entry

    def _content(self, name: str, limit: int) -> bytes:
        with _reading(self.path) as (stream, _):
            return _read(self.path, stream, self._entries[name], limit)

    def _chunks(self, name: str) -> Iterator[bytes]:
        with _reading(self.path) as (stream, _):
            yield from _verified(self.path, stream, self._entries[name])


def is_engine_file(path: str | Path) -> bool:
    """Whether a file starts as engine files do; says nothing about the rest of it."""
    try:
        with open_regular(path) as stream:
            return stream.read(4) == b"PK\x03\x04"
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """Open a regular file; whatever is wrong with it becomes an EngineError."""
    if "\0" in str(path):
        raise EngineError(f"cannot read {str(path)!r}: the name holds a null character")
    try:
        with open_regular(path) as stream:
            yield stream, os.fstat(stream.fileno()).st_size
    except NotZipError as error:
        raise EngineError(f"{path} {error}, so not an engine that Boxwright built") from error
    except StoredZipError as error:
        raise EngineError(f"{path} {error}; {_ADVICE}") from error
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror or error}") from error


def _verified(path: Path, stream: IO[bytes], entry: _Entry) -> Iterator[bytes]:
    digest = hashlib.sha256()
    for chunk in storedzip.read_chunks(stream, entry.member):
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != entry.sha256:
        raise EngineError(
            f"{path} is damaged: the content of {entry.member.name!r} does not match its "
            f"SHA-256; {_ADVICE}"
        )


def _read(path: Path, stream: IO[bytes], entry: _Entry, limit: int) -> bytes:
    if entry.member.size > limit:
        raise EngineError(
            f"{path}: {entry.member.name!r} may hold at most {human_size(limit)}, "
            f"got {human_size(entry.member.size)}"
        )
    return b"".join(_verified(path, stream, entry))


def _check_names(path: Path, members: Mapping[str, Member]) -> None:
    for name in members:
        if name in _FIXED:
            continue
        if not name.startswith(_PLANS) or not _FINGERPRINT.fullmatch(name[len(_PLANS) :]):
            raise EngineError(
                f"{path} holds {name!r}, which engine files do not; it is another kind of "
                "zip file, or a newer Boxwright may read it"
            )
    for name in _FIXED:
        if name not in members:
            raise EngineError(f"{path} is not an engine file: it lacks {name!r}")


def _check_manifest(
    path: Path, manifest: Mapping[str, Any], members: Mapping[str, Member]
) -> dict[str, _Entry]:
    if manifest.get("format") != ENGINE_FORMAT:
        raise EngineError(f"{path} is not an engine file: its manifest says another format")
    if manifest.get("schema") != ENGINE_SCHEMA:
        raise EngineError(
            f"{path}: this Boxwright reads engine files of schema {ENGINE_SCHEMA}, got "
            f"{str(manifest.get('schema'))[:40]!r}; a newer Boxwright may read it"
        )
    listing = manifest.get("members")
    if not isinstance(listing, dict) or {*listing, _MANIFEST} != set(members):
        raise EngineError(f"{path} is damaged: its manifest does not list its members")
    entries = {}
    for name, member in members.items():
        if name == _MANIFEST:
            continue
        record = listing[name]
        sha256 = record.get("sha256") if isinstance(record, dict) else None
        if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
            raise EngineError(f"{path} is damaged: its manifest has no SHA-256 for {name!r}")
        if type(record.get("size")) is not int or record["size"] != member.size:
            raise EngineError(f"{path} is damaged: manifest and index differ on {name!r}")
        entries[name] = _Entry(member, sha256)
    return entries


def _read_json(path: Path, stream: IO[bytes], member: Member) -> dict[str, Any]:
    """The manifest: nothing states its hash, the zip's checksum has to do."""
    if member.size > _MAX_JSON_BYTES:
        raise EngineError(f"{path}: {member.name!r} is larger than {human_size(_MAX_JSON_BYTES)}")
    return _parse_json(path, member.name, b"".join(storedzip.read_chunks(stream, member)))


def _parse_json(path: Path, name: str, text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise EngineError(f"{path}: {name} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise EngineError(f"{path}: {name} must be a JSON object")
    return content


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key occurs twice")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _receipt_bytes(path: str | Path, receipt: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(dict(receipt), indent=2, ensure_ascii=False, allow_nan=False)
        data = text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise EngineError(f"{path}: the receipt cannot be written as JSON: {error}") from error
    if len(data) > _MAX_JSON_BYTES:
        raise EngineError(f"{path}: a receipt holds at most {human_size(_MAX_JSON_BYTES)}")
    return data


def _plan_name(path: str | Path, fingerprint: str) -> str:
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise EngineError(
            f"{path}: a fingerprint must be 1 to 200 letters, digits and '._+-', "
            f"got {fingerprint[:80]!r}"
        )
    return _PLANS + fingerprint


def _pieces(content: bytes | Path | Iterable[bytes]) -> Iterator[bytes]:
    """Content in chunks; a file is opened only when its turn comes."""
    if isinstance(content, Path):
        with _reading(content) as (stream, _):
            while chunk := stream.read(CHUNK):
                yield chunk
    elif not isinstance(content, bytes):
        yield from content
    else:
        view = memoryview(content)
        for start in range(0, len(view), CHUNK):
            yield bytes(view[start : start + CHUNK])
