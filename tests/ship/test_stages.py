"""Stages: what is done is not done again, what changed is, and nothing else is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boxwright.engine import Engine
from boxwright.errors import InputError
from boxwright.files import sha256_file, write_text
from boxwright.ship.stages import (
    LOCK,
    STATE,
    Stage,
    alone,
    engine_digest,
    expected_seconds,
    key_of,
    receipt_digest,
    run_stages,
    sha256_of_files,
)
from tests.models import make_model


class Work:
    """Two stages, the second of which depends on what the first wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = {"first": 1, "second": 1}
        self.ran: list[str] = []
        self.reasons: list[str] = []
        self.fail_in = ""

    def _run(self, name: str) -> Callable[[], None]:
        def run() -> None:
            if self.fail_in == name:
                raise RuntimeError("killed")
            self.ran.append(name)
            # What the first writes depends on the tens of its setting only.
            write_text(self.folder / name, f"{name} {self.settings[name] // 10}")

        return run

    def _inputs(self, name: str) -> Callable[[], dict[str, Any]]:
        def inputs() -> dict[str, Any]:
            own = {"setting": self.settings[name]}
            return own | ({"of": sha256_file(self.folder / "first")} if name == "second" else {})

        return inputs

    def __call__(self, **options: Any) -> list[bool]:
        """Run; whether each stage was skipped."""
        self.ran, self.reasons = [], []

        def digest(name: str) -> Callable[[], str]:
            return lambda: sha256_file(self.folder / name)

        stages = [
            Stage(name, self._inputs(name), {name: digest(name)}, self._run(name))
            for name in ("first", "second")
        ]
        records = run_stages(
            self.folder, stages, on_start=lambda index, why: self.reasons.append(why), **options
        )
        return [record.skipped for record in records]


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


def test_what_is_done_is_not_done_again(work: Work) -> None:
    assert work() == [False, False]
    assert work.ran == ["first", "second"]
    assert work() == [True, True]
    assert work.ran == []


def test_a_run_goes_on_at_the_first_stage_that_is_not_done(work: Work) -> None:
    work.fail_in = "second"
    with pytest.raises(RuntimeError):
        work()
    work.fail_in = ""
    assert work() == [True, False]
    assert work.ran == ["second"]


def test_a_setting_redoes_only_what_depends_on_it(work: Work) -> None:
    work()
    work.settings["second"] = 2
    assert work() == [True, False]
    assert work.reasons == ["setting changed"]
    # The first runs again and writes the same, so the second need not.
    work.settings["first"] = 2
    assert work() == [False, True]
    work.settings["first"] = 20
    assert work() == [False, False]
    assert work.reasons == ["setting changed", "of changed"]


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: path.unlink(), "first is missing or damaged"),
        (lambda path: path.write_text("other"), "first was changed"),
    ],
)
def test_outputs_are_looked_at(work: Work, harm: Callable[[Path], Any], reason: str) -> None:
    work()
    harm(work.folder / "first")
    assert work() == [False, True]
    assert work.reasons == [reason]


def test_restart_does_everything_again_and_survives_being_killed(work: Work) -> None:
    work()
    work.fail_in = "first"
    with pytest.raises(RuntimeError):
        work(restart=True)
    work.fail_in = ""
    assert work() == [False, False]


def test_a_stage_that_fails_the_second_time_is_not_taken_for_done(work: Work) -> None:
    work()
    work.settings["second"] = 2
    work.fail_in = "second"
    with pytest.raises(RuntimeError):
        work()
    work.fail_in, work.settings["second"] = "", 1
    assert work() == [True, False]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stages": {}}', "[" * 100_000])
def test_another_programs_file_is_not_overwritten(work: Work, content: str) -> None:
    (work.folder / STATE).write_text(content)
    with pytest.raises(InputError, match="not the state of a ship"):
        work()
    assert (work.folder / STATE).read_text() == content
    assert expected_seconds(work.folder, ["first"]) == {}


@pytest.mark.parametrize(
    "state",
    [
        {"boxwright_ship": 99, "stages": {}},
        {"boxwright_ship": 1, "stages": {"first": {"key": 1}}},
        {"boxwright_ship": 1, "stages": []},
    ],
)
def test_the_state_of_another_version_counts_for_nothing(work: Work, state: Any) -> None:
    work()
    (work.folder / STATE).write_text(json.dumps(state))
    assert work() == [False, False]


def test_how_long_it_took_is_remembered(work: Work) -> None:
    assert expected_seconds(work.folder, ["first"]) == {}
    work()
    assert set(expected_seconds(work.folder, ["first", "third"])) == {"first"}


def test_a_folder_is_held_by_one_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from boxwright.ship.stages import alone\n"
        "with alone(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="in use by another run"), alone(tmp_path):
            pass
        other.kill()
    # The lock ends with the process that held it.
    with alone(tmp_path):
        assert (tmp_path / LOCK).exists()


def test_what_a_killed_writer_left_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / "deep" / ".boxwright-0123456789abcdef.part"
    left.parent.mkdir()
    left.write_text("half")
    other = tmp_path / "mine.part"
    other.write_text("kept")
    with alone(tmp_path):
        assert not left.exists()
    assert other.exists()


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"), alone(tmp_path / "file"):
        pass


def test_an_engines_digest_is_not_its_receipts(tmp_path: Path) -> None:
    path = tmp_path / "tiny.bw"
    engine = Engine.write(path, make_model(), {"a": 1}, {"print": b"plan"})
    before = engine_digest(path), receipt_digest(path)
    engine.with_receipt({"a": 2}, path)
    after = engine_digest(path), receipt_digest(path)
    assert before[0] == after[0]
    assert before[1] != after[1]
    Engine.open(path).with_plan("print", b"other", path)
    assert engine_digest(path) != before[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError):
        engine_digest(path)


def test_the_order_of_keys_does_not_matter() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})


def test_the_hash_of_files_counts_names_contents_and_missing_ones(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("1")
    hashes = {
        sha256_of_files([one]),
        sha256_of_files([two]),
        sha256_of_files([one, two]),
        sha256_of_files([tmp_path / "none"]),
    }
    assert len(hashes) == 4
    one.write_text("2")
    assert sha256_of_files([one]) not in hashes
