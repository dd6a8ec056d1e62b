"""Plans of several engine files in one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from boxwright.builds import build_of
from boxwright.combining import combine
from boxwright.engine import Engine
from boxwright.errors import EngineError, InputError, NoPlanError
from tests.engines import read_members, write_members
from tests.models import make_model


def write(path: Path, *plans: str, seed: int = 0) -> Engine:
    receipt = {
        "schema": 1,
        "build": {"backend": "b", "fingerprint": plans[0]},
        "plans": {plan: {"build": {"backend": "b"}, "by": path.stem} for plan in plans[1:]},
        "by": path.stem,
    }
    content = {plan: f"{plan} of {path.stem}".encode() for plan in plans}
    return Engine.write(path, make_model(seed=seed), receipt, content)


def test_plans_and_records_come_together(tmp_path: Path) -> None:
    server, jetson = write(tmp_path / "server.bw", "s", "x"), write(tmp_path / "j.bw", "j", "x")
    both = combine(server, tmp_path / "both.bw", add=[jetson])
    both.verify()
    assert both.plans == ("j", "s", "x")
    assert both.plan_bytes("j") == b"j of j"
    # Of both, the first one's plan and the first one's record.
    assert both.plan_bytes("x") == b"x of server"
    assert build_of(both.receipt, "x").record["by"] == "server"  # type: ignore[union-attr]
    assert build_of(both.receipt, "j").record["by"] == "j"  # type: ignore[union-attr]
    assert both.receipt["build"]["fingerprint"] == "s"
    assert both.model_sha256 == server.model_sha256
    assert server.path.stat().st_size < both.path.stat().st_size


def test_an_engine_may_be_changed_in_place(tmp_path: Path) -> None:
    server, jetson = write(tmp_path / "server.bw", "s"), write(tmp_path / "j.bw", "j", "k")
    both = combine(server, server.path, add=[jetson])
    left = combine(both, both.path, drop=["s", "j"])
    left.verify()
    assert left.plans == ("k",)
    assert left.receipt["by"] == "j"
    assert combine(left, left.path, drop=["*"]).plans == ()


def test_plans_of_another_model_are_refused(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a.bw", "s"), write(tmp_path / "b.bw", "j", seed=1)
    with pytest.raises(EngineError, match=r"b\.bw was built from another model than .*a\.bw"):
        combine(one, tmp_path / "c.bw", add=[other])
    assert not (tmp_path / "c.bw").exists()


def test_the_model_is_read_not_believed(tmp_path: Path) -> None:
    """A manifest that states another file's model proves nothing about this one's."""
    one, other = write(tmp_path / "a.bw", "s"), write(tmp_path / "b.bw", "j", seed=1)
    ours, theirs = read_members(one.path), read_members(other.path)
    size = b'"size": %d' % len(theirs["model.onnx"])
    assert size == b'"size": %d' % len(ours["model.onnx"])
    manifest = theirs["manifest.json"].replace(
        other.model_sha256.encode(), one.model_sha256.encode()
    )
    crafted = Engine.open(write_members(tmp_path / "x.bw", {**theirs, "manifest.json": manifest}))
    with pytest.raises(EngineError, match=r"'model\.onnx' does not match its SHA-256"):
        combine(one, tmp_path / "c.bw", add=[crafted])


def test_cards_that_disagree_are_refused(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a.bw", "s"), write(tmp_path / "b.bw", "j")
    renamed = dataclasses.replace(other, card=dataclasses.replace(other.card, name="other"))
    with pytest.raises(EngineError, match="disagree about their model's card"):
        combine(one, tmp_path / "c.bw", add=[renamed])


@pytest.mark.parametrize("drop", ["z", "s?x", "S"])
def test_a_plan_to_drop_that_is_not_there(tmp_path: Path, drop: str) -> None:
    with pytest.raises(NoPlanError, match="there are: s"):
        combine(write(tmp_path / "a.bw", "s"), tmp_path / "b.bw", drop=[drop])
    with pytest.raises(InputError, match="has no name"):
        combine(write(tmp_path / "a.bw", "s"), tmp_path / "b.bw", drop=[""])
