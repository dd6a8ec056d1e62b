"""The engine file: what it holds, what it refuses, and that it is always whole."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnx import numpy_helper

from boxwright import storedzip
from boxwright.engine import Engine, is_engine_file
from boxwright.errors import EngineError, InputError, NoPlanError
from tests.engines import make_manifest, read_members, reseal, write_members
from tests.models import make_model

if TYPE_CHECKING:
    from collections.abc import Callable

RECEIPT = {"schema": 1, "build": {"backend": "none", "unit": "ms"}, "text": "größer"}
# The second is longer than what is read at a time, and no part of it like another.
PLANS = {"b_1": b"plan b", "a_1.2+x-y": random.Random(0).randbytes((2 << 20) + 5)}


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine.write(tmp_path / "süß und salzig.bw", make_model(), RECEIPT, PLANS)


def test_what_is_written_is_read_back(engine: Engine) -> None:
    again = Engine.open(engine.path)
    assert again == engine
    assert again.card == make_model().card
    assert again.receipt == RECEIPT
    assert again.plans == ("a_1.2+x-y", "b_1")
    assert {name: again.plan_bytes(name) for name in again.plans} == PLANS
    assert again.plan_size("b_1") == 6
    assert again.model().to_bytes() == make_model().to_bytes()
    again.verify()


def test_any_zip_tool_reads_it(engine: Engine) -> None:
    with zipfile.ZipFile(engine.path) as archive:
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.read("plans/b_1") == b"plan b"
        assert archive.read("model.onnx") == make_model().to_bytes()


def test_the_same_content_gives_the_same_bytes(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plan").write_bytes(PLANS["b_1"])
    plans: dict[str, bytes | Path] = {"a_1.2+x-y": PLANS["a_1.2+x-y"], "b_1": tmp_path / "plan"}
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    again = Engine.write(tmp_path / "again.bw", make_model(), RECEIPT, plans)
    assert again.path.read_bytes() == engine.path.read_bytes()


def test_a_plan_is_added_or_replaced(engine: Engine, tmp_path: Path) -> None:
    more = engine.with_plan("c", b"plan c", tmp_path / "more.bw")
    assert more.plans == ("a_1.2+x-y", "b_1", "c")
    assert more.plan_bytes("c") == b"plan c"
    assert (more.card, more.receipt, more.model_sha256) == (
        engine.card,
        engine.receipt,
        engine.model_sha256,
    )
    in_place = more.with_plan("b_1", b"plan B", more.path)
    assert in_place.plan_bytes("b_1") == b"plan B"
    in_place.verify()
    direct = Engine.write(tmp_path / "x.bw", make_model(), RECEIPT, {**PLANS, "c": b"plan c"})
    assert more.with_plan("b_1", b"plan b", more.path).path.read_bytes() == direct.path.read_bytes()


def test_the_receipt_is_replaced(engine: Engine, tmp_path: Path) -> None:
    other = engine.with_receipt({"ap": 0.5}, tmp_path / "other.bw")
    assert other.receipt == {"ap": 0.5}
    assert other.plans == engine.plans


def test_a_plan_is_saved_to_a_file(engine: Engine, tmp_path: Path) -> None:
    engine.save_plan("a_1.2+x-y", tmp_path / "plan.bin")
    assert (tmp_path / "plan.bin").read_bytes() == PLANS["a_1.2+x-y"]


@pytest.mark.parametrize("use", ["plan_bytes", "plan_size"])
def test_a_missing_plan_is_named_with_those_present(engine: Engine, use: str) -> None:
    with pytest.raises(NoPlanError, match=r"holds no plan 'z'; it holds: a_1\.2\+x-y, b_1"):
        getattr(engine, use)("z")
    with pytest.raises(NoPlanError):
        engine.plan_bytes("../model.onnx")


def test_opening_and_copying_take_little_memory(tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    with plan.open("wb") as stream:
        stream.truncate(64 << 20)
    tracemalloc.start()
    engine = Engine.write(tmp_path / "large.bw", make_model(), {}, {"p": plan})
    engine.with_plan("q", b"", tmp_path / "larger.bw").verify()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20


def test_writing_needs_little_memory_beside_the_model(tmp_path: Path) -> None:
    model = make_model()
    for number in range(8):
        values = np.full(4 << 18, number, np.float32)
        model.proto.graph.initializer.append(numpy_helper.from_array(values, f"big_{number}"))
    size = len(model.to_bytes())
    assert size > 32 << 20
    tracemalloc.start()
    Engine.write(tmp_path / "large.bw", model, {}, {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size / 2


def test_one_changed_byte_anywhere_is_found(engine: Engine, tmp_path: Path) -> None:
    """The seeded mutations try many changes at random; these are the chosen places."""
    data = engine.path.read_bytes()
    with engine.path.open("rb") as stream:
        members = storedzip.read_index(stream, len(data))
    places = [place for m in members.values() for place in (m.header_offset + 6, m.offset)]
    index = data.rindex(b"PK\x01\x02")
    for place in (*places, *range(index, len(data))):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        path = tmp_path / "damaged.bw"
        path.write_bytes(damaged)
        with pytest.raises(EngineError):
            Engine.open(path).verify()


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def with_encryption_bit(path: Path, members: dict[str, bytes]) -> Path:
    reseal(path, members)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    return path


def with_bytes_between(path: Path, members: dict[str, bytes]) -> Path:
    """A hole before the index, which the end record accounts for."""
    reseal(path, members)
    data = bytearray(path.read_bytes())
    start = struct.unpack_from("<I", data, len(data) - 6)[0]
    data[start:start] = b"hidden"
    struct.pack_into("<I", data, len(data) - 6, start + 6)
    path.write_bytes(data)
    return path


def duplicated(path: Path, members: dict[str, bytes]) -> Path:
    with path.open("wb") as stream:
        writer = storedzip.Writer(stream)
        for name, content in [*members.items(), ("card.json", members["card.json"])]:
            writer.add(name, [content])
        writer.finish()
    return path


def changed(member: str, content: bytes | None) -> Callable[[Path, dict[str, bytes]], Path]:
    def make(path: Path, members: dict[str, bytes]) -> Path:
        kept = {**members, member: content} if content is not None else dict(members)
        if content is None:
            del kept[member]
        return reseal(path, {k: v for k, v in kept.items() if v is not None})

    return make


def claiming(**claims: object) -> Callable[[Path, dict[str, bytes]], Path]:
    def make(path: Path, members: dict[str, bytes]) -> Path:
        return write_members(path, {**members, "manifest.json": make_manifest(members, **claims)})

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, m: zipped(p, m, zipfile.ZIP_DEFLATED), "compressed member"),
        (zipped, "not laid out as Boxwright writes it"),
        (lambda p, m: zipped(p, {"a.txt": b"a"}), "not laid out|holds 'a.txt'"),
        (with_encryption_bit, "encrypted member"),
        (with_bytes_between, "not laid out as Boxwright writes it"),
        (duplicated, "two members named 'card.json'"),
        (changed("notes.txt", b""), r"holds 'notes\.txt', which engine files do not"),
        (changed("../card.json", b""), "which engine files do not"),
        (changed("/card.json", b""), "which engine files do not"),
        (changed("plans/../../x", b""), "which engine files do not"),
        (changed("plans/a/b", b""), "which engine files do not"),
        (changed("plans/..", b""), "which engine files do not"),
        (changed("plans/", b""), "which engine files do not"),
        (changed("plans/" + "x" * 201, b""), "which engine files do not"),
        (changed("model.onnx", None), "lacks 'model.onnx'"),
        (changed("receipt.json", b"[]"), "receipt.json must be a JSON object"),
        (changed("receipt.json", b'{"a": NaN}'), "NaN is not JSON"),
        (changed("receipt.json", b'{"a": 1, "a": 2}'), "a key occurs twice"),
        (changed("receipt.json", b"\xff"), "not valid JSON"),
        (changed("receipt.json", b" " * (17 << 20)), "may hold at most 16.0 MiB"),
        (changed("card.json", b"{}"), "model card"),
        (claiming(schema=2), "schema 1, got '2'; a newer Boxwright may read it"),
        (claiming(format="zip"), "its manifest says another format"),
        (claiming(members=[]), "manifest does not list its members"),
        (claiming(members={}), "manifest does not list its members"),
        (lambda p, m: write_members(p, {k: m[k] for k in m if k[0] != "c"}), "lacks 'card.json'"),
    ],
)
def test_an_odd_file_is_refused(
    engine: Engine,
    tmp_path: Path,
    make: Callable[[Path, dict[str, bytes]], Path],
    message: str,
) -> None:
    path = make(tmp_path / "odd.bw", read_members(engine.path))
    with pytest.raises(EngineError, match=message):
        Engine.open(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: b"", "is not a zip file"),
        (lambda data: b"PK", "is not a zip file"),
        (lambda data: b"PK\x03\x04", "is truncated"),
        (lambda data: b"\x08\x07" + data, "is not a zip file"),
        (lambda data: data[:-1], "is truncated"),
        (lambda data: data[: len(data) // 2], "is truncated"),
        (lambda data: data + b"\0", "other bytes follow its end"),
        (lambda data: data + data, "index is not where its last bytes say"),
        (lambda data: data[:200] + data[201:], "index is not where its last bytes say"),
    ],
)
def test_a_cut_or_extended_file_is_refused(
    engine: Engine, tmp_path: Path, edit: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / "cut.bw"
    path.write_bytes(edit(engine.path.read_bytes()))
    with pytest.raises(EngineError, match=message):
        Engine.open(path)


def test_a_model_that_is_not_the_cards_is_refused(engine: Engine, tmp_path: Path) -> None:
    members = read_members(engine.path)
    other = dataclasses.replace(make_model().card, name="other").to_json().encode()
    path = reseal(tmp_path / "odd.bw", {**members, "card.json": other})
    with pytest.raises(EngineError, match="disagree about the model"):
        Engine.open(path).verify()


def test_a_member_that_does_not_match_its_hash_is_refused(engine: Engine, tmp_path: Path) -> None:
    """The zip's own checksums are right here: whoever changed it used a zip tool."""
    members = read_members(engine.path)
    path = write_members(tmp_path / "odd.bw", {**members, "plans/b_1": b"plan B"})
    odd = Engine.open(path)
    for use in (odd.verify, lambda: odd.plan_bytes("b_1")):
        with pytest.raises(EngineError, match="'plans/b_1' does not match its SHA-256"):
            use()
    with pytest.raises(EngineError, match=r"manifest and index differ on 'receipt\.json'"):
        Engine.open(write_members(path, {**members, "receipt.json": members["card.json"]}))


def test_a_change_that_only_the_checksum_shows_is_refused(engine: Engine, tmp_path: Path) -> None:
    """Nothing hashes the manifest, and this one still reads well."""
    data = engine.path.read_bytes()
    path = tmp_path / "odd.bw"
    path.write_bytes(data.replace(b'"boxwright": "0', b'"boxwright": "9'))
    assert path.read_bytes() != data
    with pytest.raises(EngineError, match=r"the checksum of member 'manifest\.json' is wrong"):
        Engine.open(path)


def test_a_file_that_changed_since_it_was_opened_is_refused(engine: Engine) -> None:
    other = Engine.write(engine.path, make_model(seed=1), RECEIPT, PLANS)
    with pytest.raises(EngineError, match="damaged"):
        engine.model()
    other.verify()


def test_a_sparse_file_of_many_gigabytes_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "huge.bw"
    with path.open("wb") as stream:
        stream.write(b"PK\x03\x04")
        stream.truncate(10 << 30)
    with pytest.raises(EngineError, match="larger than 4 GiB"):
        Engine.open(path)


def test_content_beyond_four_gigabytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storedzip, "MAX_BYTES", 1 << 20)
    with pytest.raises(EngineError, match="would exceed 4 GiB"):
        Engine.write(tmp_path / "x.bw", make_model(), {}, {"p": bytes(1 << 20)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["missing.bw", ".", "null\0.bw"])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(EngineError, match="cannot read"):
        Engine.open(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.bw")
    # Nobody writes into it: a plain open() would wait for ever.
    with pytest.raises(EngineError, match="it is not a regular file"):
        Engine.open(tmp_path / "pipe.bw")
    assert not is_engine_file(tmp_path / "pipe.bw")


@pytest.mark.parametrize("fingerprint", ["", "a/b", "../x", "ü", "a b", "x" * 201, ".hidden"])
def test_a_fingerprint_that_cannot_be_a_file_name_is_refused(
    tmp_path: Path, fingerprint: str
) -> None:
    with pytest.raises(EngineError, match="a fingerprint must be"):
        Engine.write(tmp_path / "x.bw", make_model(), {}, {fingerprint: b""})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, "\udc80"])
def test_a_receipt_that_is_not_json_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(EngineError, match="cannot be written as JSON"):
        Engine.write(tmp_path / "x.bw", make_model(), {"a": value}, {})


def test_an_unwritable_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        Engine.write(tmp_path / "file" / "x.bw", make_model(), {}, {})


def test_what_an_engine_file_starts_with(engine: Engine, tmp_path: Path) -> None:
    make_model().save(tmp_path / "model.onnx")
    assert is_engine_file(engine.path)
    assert not is_engine_file(tmp_path / "model.onnx")
    assert not is_engine_file(tmp_path / "missing")
    assert not is_engine_file(tmp_path)


def test_the_manifest_states_the_hash_of_the_model(engine: Engine) -> None:
    manifest = json.loads(read_members(engine.path)["manifest.json"])
    assert manifest["members"]["model.onnx"]["sha256"] == engine.model_sha256
    assert Path(engine.path).stat().st_size < 3_000_000
