"""Damaged and crafted engine files are refused with one error, quickly, every one of them."""

from __future__ import annotations

import json
import time
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from boxwright import backends, storedzip
from boxwright.engine import Engine
from boxwright.errors import BoxwrightError, EngineError
from tests.engines import read_members, reseal, write_members
from tests.hostile.mutate import mutations
from tests.models import make_images, make_model

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 2000
SLOWEST_SECONDS = 5.0


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    path = tmp_path_factory.mktemp("engine") / "sound.bw"
    return backends.build(make_model(channels=4), output=path)


def try_to_use(path: Path) -> str:
    """Everything a user could do with a file; returns ``used`` or the error's message.

    Any exception but Boxwright's own fails the test that calls this.
    """
    started = time.perf_counter()
    try:
        engine = Engine.open(path)
        engine.verify()
        for fingerprint in engine.plans:
            engine.plan_bytes(fingerprint)
        with backends.load(engine) as runner:
            runner.infer({"images": np.zeros((1, 32, 64, 3), np.uint8)})
        outcome = "used"
    except BoxwrightError as error:
        outcome = f"{type(error).__name__}: {error}"
    assert time.perf_counter() - started < SLOWEST_SECONDS
    return outcome


def test_the_sound_file_is_used(sound: Engine) -> None:
    assert try_to_use(sound.path) == "used"


def test_no_damaged_file_is_used(sound: Engine, tmp_path: Path) -> None:
    data, path = sound.path.read_bytes(), tmp_path / "damaged.bw"
    for description, damaged in mutations(data, COUNT):
        path.write_bytes(damaged)
        outcome = try_to_use(path)
        assert outcome.startswith("EngineError: "), f"{description}: {outcome}"
        assert "\n" not in outcome, description


def test_mutations_are_the_same_every_time_and_never_the_original() -> None:
    data = bytes(range(256)) * 4
    first, second = (list(mutations(data, 300, seed=3)) for _ in range(2))
    assert first == second
    assert first != list(mutations(data, 300, seed=4))
    assert all(copy != data for _, copy in first)
    assert len({copy for _, copy in first}) > 250


@pytest.mark.parametrize("member", ["card.json", "receipt.json", "manifest.json", "model.onnx"])
def test_members_changed_under_a_valid_seal_never_crash(
    sound: Engine, tmp_path: Path, member: str
) -> None:
    members = read_members(sound.path)
    for description, damaged in mutations(members[member], COUNT // 20, marks=()):
        path = reseal(tmp_path / "crafted.bw", {**members, member: damaged})
        outcome = try_to_use(path)
        assert "\n" not in outcome, description


def test_a_file_cut_at_any_boundary_is_refused(sound: Engine, tmp_path: Path) -> None:
    """Copies that broke off: before, at and after the start and end of every member."""
    data, path = sound.path.read_bytes(), tmp_path / "cut.bw"
    with sound.path.open("rb") as stream:
        members = storedzip.read_index(stream, len(data))
    ends = {place for m in members.values() for place in (m.header_offset, m.offset)}
    ends |= {m.offset + m.size for m in members.values()} | {len(data), 4, 30}
    for end in sorted({place + step for place in ends for step in (-1, 0, 1)} - {len(data)}):
        if not 0 <= end < len(data):
            continue
        path.write_bytes(data[:end])
        outcome = try_to_use(path)
        assert outcome.startswith("EngineError: "), end
        assert "truncated" in outcome or "not a zip file" in outcome, outcome
        if end >= 4:
            assert "copy it again from where it was made" in outcome


def test_a_manifest_that_was_edited_is_refused(sound: Engine, tmp_path: Path) -> None:
    members = read_members(sound.path)
    manifest = json.loads(members["manifest.json"])
    plan = f"plans/{sound.plans[0]}"
    edits: dict[str, Any] = {
        "a hash": {"members": {**manifest["members"], plan: {"size": 1, "sha256": "0" * 64}}},
        "a name": {"members": {n: v for n, v in manifest["members"].items() if n != plan}},
        "a name more": {"members": {**manifest["members"], "plans/x": manifest["members"][plan]}},
        "the schema": {"schema": 2},
        "the format": {"format": "another"},
    }
    for what, edit in edits.items():
        text = json.dumps({**manifest, **edit}).encode()
        path = write_members(tmp_path / "edited.bw", {**members, "manifest.json": text})
        outcome = try_to_use(path)
        assert outcome.startswith("EngineError: "), what
    size = manifest["members"][plan]["size"]
    hashed = {**manifest["members"], plan: {"size": size, "sha256": "0" * 64}}
    text = json.dumps({**manifest, "members": hashed}).encode()
    path = write_members(tmp_path / "edited.bw", {**members, "manifest.json": text})
    assert "does not match its SHA-256" in try_to_use(path) or "another file" in try_to_use(path)


@pytest.mark.parametrize("kind", ["wheel", "office", "numpy", "empty"])
def test_another_kind_of_zip_is_no_engine(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.bw"
    if kind == "numpy":
        with path.open("wb") as stream:
            np.savez(stream, a=np.zeros(3))
    else:
        names = {"wheel": ["boxwright/__init__.py"], "office": ["[Content_Types].xml"], "empty": []}
        with zipfile.ZipFile(path, "w") as archive:
            for name in names[kind]:
                archive.writestr(name, "")
    outcome = try_to_use(path)
    assert outcome.startswith("EngineError: ")
    assert "\n" not in outcome


def test_plans_changed_under_a_valid_seal_are_refused_or_run(
    sound: Engine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A plan that parses may compute anything; what it may not do is crash or chatter."""
    members, refused = read_members(sound.path), 0
    plan = f"plans/{sound.plans[0]}"
    for description, damaged in mutations(members[plan], COUNT // 10, marks=()):
        path = reseal(tmp_path / "crafted.bw", {**members, plan: damaged})
        outcome = try_to_use(path)
        assert outcome == "used" or outcome.startswith("EngineError: "), description
        refused += outcome != "used"
    assert refused
    assert capfd.readouterr() == ("", "")


def test_a_plan_of_another_model_is_refused(sound: Engine, tmp_path: Path) -> None:
    """Its outputs would be read as if they had this card's classes and size."""
    other = backends.build(make_model(height=48), output=tmp_path / "other.bw")
    crafted = sound.with_plan(
        sound.plans[0], other.plan_bytes(other.plans[0]), tmp_path / "crafted.bw"
    )
    with pytest.raises(EngineError, match=r"does not go with its card: 'images' must be uint8"):
        backends.load(crafted)


def test_a_wrong_claim_about_the_model_does_not_reach_anothers_cached_plan(
    sound: Engine, tmp_path: Path
) -> None:
    """The cache goes by the model's hash, so a file must not be believed about its own."""
    bare = Engine.write(tmp_path / "bare.bw", sound.model(), sound.receipt, {})
    backends.load(bare).close()  # now the cache holds a plan for this model
    members = read_members(bare.path)
    other = make_model(seed=7, channels=4)
    manifest = members["manifest.json"]
    path = write_members(
        tmp_path / "crafted.bw",
        {
            **members,
            "model.onnx": other.to_bytes(),
            "manifest.json": manifest.replace(
                b'"size": %d' % len(members["model.onnx"]), b'"size": %d' % len(other.to_bytes())
            ),
        },
    )
    crafted = Engine.open(path)
    assert crafted.model_sha256 == bare.model_sha256
    with pytest.raises(EngineError, match=r"'model\.onnx' does not match its SHA-256"):
        backends.load(crafted)


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("weights.bin", "beside the working folder"),
        ("../{folder}/weights.bin", "through the folder above"),
        ("{absolute}", "by its full path"),
    ],
)
def test_a_plan_cannot_read_other_files(
    sound: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    location: str,
    reason: str,
) -> None:
    import onnx

    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "weights.bin"
    secret.write_bytes(bytes(1 << 16))
    proto = onnx.ModelProto.FromString(sound.plan_bytes(sound.plans[0]))
    tensor = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    length = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    place = location.format(folder=tmp_path.name, absolute=secret)
    for key, value in (("location", place), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    crafted = sound.with_plan(sound.plans[0], proto.SerializeToString(), tmp_path / "crafted.bw")
    # ONNX Runtime itself refuses all three from 1.24 on only.
    with pytest.raises(EngineError, match=r"cannot be loaded.*keeps values in another file"):
        backends.load(crafted)


@pytest.mark.parametrize(
    "build",
    [
        None,
        [],
        {},
        {"backend": "onnxruntime"},
        {"backend": "onnxruntime", "precision": "fp32", "batch": [3, 2, 1]},
        {"backend": "onnxruntime", "precision": [], "batch": [1, 1, 1]},
        {"backend": "onnxruntime", "precision": "fp32", "batch": 7},
        {"backend": ["x"], "precision": "fp32", "batch": [1, 1, 1]},
        {"backend": "onnxruntime", "precision": "fp32", "batch": [1, 1, 1], "options": [1]},
    ],
)
def test_a_receipt_that_does_not_say_what_was_built_is_refused(
    sound: Engine, tmp_path: Path, build: object
) -> None:
    crafted = sound.with_receipt({**sound.receipt, "build": build}, tmp_path / "crafted.bw")
    with pytest.raises(EngineError, match="receipt does not say what was built"):
        backends.load(crafted)


def test_json_of_a_million_brackets_is_refused(sound: Engine, tmp_path: Path) -> None:
    members = read_members(sound.path)
    for member in ("card.json", "receipt.json"):
        path = reseal(tmp_path / "deep.bw", {**members, member: b"[" * 1_000_000})
        with pytest.raises(EngineError, match="not valid JSON"):
            Engine.open(path)


def test_an_unmodified_file_still_detects_the_same_after_all_this(sound: Engine) -> None:
    images = make_images(make_model(), 2)
    with backends.load(sound) as runner, backends.load(make_model(channels=4)) as plain:
        for name, value in plain.infer({"images": images}).items():
            np.testing.assert_array_equal(runner.infer({"images": images})[name], value)
    assert json.dumps(sound.receipt)
