"""Which plan of an engine runs, and what happens where none does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright import backends
from boxwright.backends.options import make_spec
from boxwright.backends.plans import fit, misfit
from boxwright.backends.selection import choose, running_plan
from boxwright.builds import builds
from boxwright.engine import Engine
from boxwright.errors import (
    BackendUnavailableError,
    BuildError,
    EngineError,
    InputError,
    NoPlanError,
)
from tests.backends.fakes import compiled, register
from tests.engines import read_members, reseal, write_members
from tests.models import make_images, make_model

Machine = Callable[..., None]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "compiled.txt"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, log: Path) -> Machine:
    """Be on another machine."""
    register(monkeypatch)
    monkeypatch.setenv("FAKE_LOG", str(log))

    def be(gpu: str = "sm90", version: str = "1") -> None:
        monkeypatch.setenv("FAKE_GPU", gpu)
        monkeypatch.setenv("FAKE_VERSION", version)

    be()
    return be


@pytest.fixture
def engine(machine: Machine, tmp_path: Path, log: Path) -> Engine:
    made = backends.build(make_model(), backend="fake", output=tmp_path / "x.bw")
    log.unlink()
    return made


def device(plan: str | None) -> str:
    assert plan is not None
    return plan.split("_")[2]


def test_building_from_an_engine_adds_a_plan(engine: Engine, machine: Machine) -> None:
    machine("sm87")
    both = backends.build(engine, output=engine.path)
    assert sorted(map(device, both.plans)) == ["sm87", "sm90"]
    both.verify()
    assert [build.facts["backend"] for build in builds(both.receipt)] == ["fake", "fake"]
    assert both.receipt["build"] == engine.receipt["build"]
    (added,) = both.receipt["plans"].values()
    assert set(added) == set(engine.receipt) - {"schema", "sources"}
    assert added["build"]["plan_sha256"] == both.plan_sha256(added["build"]["fingerprint"])
    # Each machine finds its own.
    assert device(running_plan(both)) == "sm87"
    machine("sm90")
    assert device(running_plan(both)) == "sm90"
    # Once more is no third plan.
    again = backends.build(both, output=both.path)
    assert sorted(map(device, again.plans)) == ["sm87", "sm90"]


def test_the_engine_given_is_left_alone(engine: Engine, machine: Machine, tmp_path: Path) -> None:
    before = engine.path.read_bytes()
    machine("sm87")
    both = backends.build(engine, precision="fp16", batch=(1, 2, 4), output=tmp_path / "y.bw")
    assert engine.path.read_bytes() == before
    assert both.plans == ("fake_1_sm87_fp16_b1-2-4", "fake_1_sm90_fp32_b1-1-16")


def test_of_several_that_fit_the_one_added_last_runs(engine: Engine) -> None:
    both = backends.build(engine, precision="fp16", output=engine.path)
    assert choose(both).spec.precision == "fp16"
    assert choose(both, precision="fp32").spec.precision == "fp32"
    assert choose(both, precision="fp32").build is None
    assert choose(both).build == choose(both).plan
    # A precision that no build has is what a rebuild would make.
    assert choose(both, precision="int8").plan is None
    assert choose(both, precision="int8").spec.precision == "int8"


def test_the_backend_chooses_among_the_plans(
    engine: Engine, log: Path, caplog: pytest.LogCaptureFixture
) -> None:
    both = backends.build(engine, backend="onnxruntime", output=engine.path)
    assert choose(both).backend == "onnxruntime"
    assert choose(both, backend="fake").plan == engine.plans[0]
    images = make_images(make_model(), 2)
    for name in ("fake", "onnxruntime", None):
        with backends.load(both, backend=name, rebuild=False) as runner:
            assert runner.infer({"images": images})["boxes"].shape[0] == 2
    assert compiled(log) == 0
    assert not caplog.records


def test_a_backend_that_cannot_work_here_is_passed_over(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ABSENT", "")
    monkeypatch.setattr("tests.backends.fakes.AbsentBackend.unavailable", lambda self: None)
    both = backends.build(engine, backend="absent", output=tmp_path / "both.bw")
    only = backends.build(make_model(), backend="absent", output=tmp_path / "only.bw")
    monkeypatch.undo()
    register(monkeypatch)
    assert choose(both).backend == "fake"
    with pytest.raises(BackendUnavailableError, match="its runtime is not installed"):
        backends.load(only)
    with pytest.raises(BackendUnavailableError, match="its runtime is not installed"):
        backends.load(both, backend="absent")
    assert running_plan(only) is None


def test_where_no_backend_of_several_works_all_reasons_are_given(
    engine: Engine, tmp_path: Path
) -> None:
    record = {"build": {"backend": "nosuch", "precision": "fp32", "batch": [1, 1, 1]}}
    other = {"build": {"backend": "absent", "precision": "fp32", "batch": [1, 1, 1]}}
    lost = engine.with_receipt({**record, "plans": {"x": other}}, tmp_path / "lost.bw")
    with pytest.raises(BackendUnavailableError) as raised:
        backends.load(lost)
    assert "absent: its runtime is not installed" in str(raised.value)
    assert "unknown backend 'nosuch'" in str(raised.value)


def test_a_plan_that_fits_besides_runs_after_an_exact_one(
    machine: Machine, tmp_path: Path, log: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine(version="1.2")
    old = backends.build(make_model(), backend="matching", output=tmp_path / "x.bw")
    machine(version="1.3")
    log.unlink()
    assert choose(old).plan == old.plans[0]
    assert fit(old.plans[0]) is None
    with backends.load(old, rebuild=False) as runner:
        runner.infer({"images": make_images(make_model(), 1)})
    assert compiled(log) == 0
    assert not caplog.records
    both = backends.build(old, output=tmp_path / "y.bw")
    assert choose(both).plan == "matching_1.3_sm90_fp32_b1-1-16"
    machine(version="1.4")  # both fit: the newer one
    assert choose(both).plan == "matching_1.3_sm90_fp32_b1-1-16"
    machine(version="2.0")
    assert choose(both).plan is None
    assert fit(old.plans[0]) == "version 1.2"
    machine("sm89", version="1.3")
    with pytest.raises(NoPlanError, match=r"differs in: device sm90 \(here sm89\)"):
        backends.load(both, rebuild=False)


def test_a_backend_is_not_asked_about_anothers_plan_or_precision(
    machine: Machine, engine: Engine, tmp_path: Path
) -> None:
    machine(version="1.2")
    mine = backends.build(engine, backend="matching", precision="fp16", output=tmp_path / "x.bw")
    machine(version="1.3")
    assert choose(mine, backend="matching", precision="fp32").plan is None
    assert choose(mine, backend="matching").plan is not None


def test_a_plan_of_exactly_this_machine_goes_before_one_added_later(
    machine: Machine, tmp_path: Path
) -> None:
    machine(version="1.3")
    mine = backends.build(make_model(), backend="matching", output=tmp_path / "x.bw")
    machine(version="1.2")
    both = backends.build(mine, output=mine.path)
    machine(version="1.3")
    assert choose(both).plan == mine.plans[0]
    machine(version="1.4")
    assert choose(both).plan == "matching_1.2_sm90_fp32_b1-1-16"


def test_a_backend_vouches_for_plans_of_its_own_and_the_precision_only(machine: Machine) -> None:
    machine(version="1.3")
    matching, spec = backends.get("matching"), make_spec("fp32", (1, 1, 16), "auto", None)
    assert misfit(matching, "matching_1.2_sm90_fp32_b1-1-16", spec) is None
    assert misfit(matching, "matching_1.2_sm90_fp32_b1-8-8", spec) is None
    for plan, reason in (
        ("matching_1.2_sm90_fp16_b1-1-16", "precision fp16 (here fp32)"),
        ("fake_1.2_sm90_fp32_b1-1-16", "backend fake (here matching)"),
        ("matching", "another form"),
    ):
        assert reason in (misfit(matching, plan, spec) or "it fits")


def test_a_damaged_plan_is_refused_whatever_it_fits(machine: Machine, tmp_path: Path) -> None:
    machine(version="1.2")
    old = backends.build(make_model(), backend="matching", output=tmp_path / "x.bw")
    members = read_members(old.path)
    name = f"plans/{old.plans[0]}"
    cut = bytearray(members[name])
    cut[-1] ^= 1
    bad = write_members(tmp_path / "bad.bw", {**members, name: bytes(cut)})
    machine(version="1.3")
    with pytest.raises(EngineError, match="does not match its SHA-256"):
        backends.load(bad)


def test_a_compatible_plan_that_does_not_load_is_rebuilt(
    machine: Machine, tmp_path: Path, log: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine(version="1.2")
    old = backends.build(make_model(), backend="matching", output=tmp_path / "x.bw")
    bad = old.with_plan(old.plans[0], b"nonsense", tmp_path / "bad.bw")
    with pytest.raises(EngineError, match="cannot be loaded"):
        backends.load(bad)
    machine(version="1.3")
    log.unlink()
    backends.load(bad).close()
    assert compiled(log) == 1
    assert "cannot be loaded" in caplog.text


@pytest.mark.parametrize(
    ("gpu", "version", "reason", "short"),
    [
        ("sm87", "1", r"device sm90 \(here sm87\)", "of another device"),
        ("sm90", "2", r"version 1 \(here 2\)", "of another version"),
        ("sm87", "2", r"version 1 \(here 2\), device sm90", "of another version and device"),
    ],
)
def test_a_plan_of_another_machine_is_rebuilt_with_the_reason(
    engine: Engine,
    machine: Machine,
    log: Path,
    caplog: pytest.LogCaptureFixture,
    gpu: str,
    version: str,
    reason: str,
    short: str,
) -> None:
    import re

    machine(gpu, version)
    stages: list[str] = []
    with backends.load(engine, progress=lambda stage, *_: stages.append(stage)) as runner:
        runner.infer({"images": make_images(make_model(), 1)})
    (message,) = [record.getMessage() for record in caplog.records]
    assert re.search(reason, message)
    assert f"boxwright build {engine.path} --backend fake" in message
    assert all(stage.startswith(f"rebuild, the plan is {short}: ") for stage in stages)
    assert stages
    # The next time, and where nothing may be compiled, the kept one does.
    caplog.clear()
    backends.load(engine, rebuild=False).close()
    assert compiled(log) == 1
    assert not caplog.records


def test_the_command_that_is_named_builds_what_is_missing(
    engine: Engine, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    import shlex

    from click.testing import CliRunner

    from boxwright.cli.group import cli

    machine("sm87")
    both = backends.build(engine, precision="fp16", batch=(1, 2, 4), output=engine.path)
    machine("sm86")
    backends.load(both, precision="fp16").close()
    (message,) = [record.getMessage() for record in caplog.records]
    program, *words = shlex.split(message.partition("to have it in the file: ")[2])
    assert program == "boxwright"
    done = CliRunner().invoke(cli, words, prog_name=program)
    assert done.exit_code == 0, done.output
    assert "fake_1_sm86_fp16_b1-2-4" in Engine.open(engine.path).plans


def test_nothing_is_compiled_where_nothing_may_be(
    engine: Engine, machine: Machine, log: Path, tmp_path: Path
) -> None:
    backends.load(engine, rebuild=False).close()
    machine("sm87")
    with pytest.raises(NoPlanError, match=r"holds no plan .* None may be built here; .* adds it"):
        backends.load(engine, rebuild=False)
    bare = Engine.write(tmp_path / "bare.bw", make_model(), engine.receipt, {})
    with pytest.raises(NoPlanError, match="it holds none"):
        backends.load(bare, rebuild=False)
    for source in (make_model(), tmp_path / "m.onnx"):
        make_model().save(tmp_path / "m.onnx")
        with pytest.raises(NoPlanError, match="is a model, not an engine"):
            backends.load(source, rebuild=False)
    assert compiled(log) == 0
    # The reference backend runs the model as it is: nothing to compile.
    built = backends.build(make_model(), backend="reference", output=tmp_path / "r.bw")
    backends.load(built, rebuild=False).close()


def test_a_plan_of_another_file_is_refused(engine: Engine, tmp_path: Path) -> None:
    """The same contract, another network: its results would look right and be wrong."""
    other = backends.build(make_model(seed=5), backend="fake", output=tmp_path / "other.bw")
    assert other.plans == engine.plans
    name = f"plans/{engine.plans[0]}"
    ours, theirs = read_members(engine.path), read_members(other.path)
    assert ours[name] != theirs[name]
    swapped = reseal(tmp_path / "swapped.bw", {**ours, name: theirs[name]})
    Engine.open(swapped).verify()
    with pytest.raises(EngineError, match=r"cannot be loaded: its SHA-256 is .* another file"):
        backends.load(swapped)


def test_a_plan_that_its_file_says_nothing_of_runs(engine: Engine, tmp_path: Path) -> None:
    """As engines have them that were built before there were records."""
    facts = {k: v for k, v in engine.receipt["build"].items() if k != "plan_sha256"}
    old = engine.with_receipt({**engine.receipt, "build": facts}, tmp_path / "old.bw")
    images = make_images(make_model(), 1)
    with backends.load(old, rebuild=False) as runner, backends.load(engine) as now:
        np.testing.assert_array_equal(
            runner.infer({"images": images})["boxes"], now.infer({"images": images})["boxes"]
        )


def test_a_backend_without_plans_has_none_to_add(engine: Engine, tmp_path: Path) -> None:
    before = engine.path.read_bytes()
    with pytest.raises(BuildError, match="compiles no plan that could be added"):
        backends.build(engine, backend="reference", output=engine.path)
    with pytest.raises(InputError, match="unknown backend"):
        backends.build(engine, backend="nosuch", output=engine.path)
    with pytest.raises(InputError, match="unknown precision"):
        backends.build(engine, precision="fp8", output=engine.path)  # type: ignore[arg-type]
    assert engine.path.read_bytes() == before
    assert not list(tmp_path.glob(".boxwright*"))


@pytest.mark.parametrize("build", [None, {}, {"backend": "fake"}, {"backend": 3}])
def test_an_added_record_that_says_nothing_is_refused(engine: Engine, build: Any) -> None:
    crafted = engine.with_receipt({**engine.receipt, "plans": {"x": {"build": build}}}, engine.path)
    with pytest.raises(EngineError, match="receipt does not say what was built"):
        backends.load(crafted)
    assert running_plan(crafted) is None


def test_a_specification_says_whether_to_rebuild() -> None:
    from boxwright.backends.base import BuildSpec

    assert BuildSpec().rebuild
    assert [item.name for item in dataclasses.fields(BuildSpec)][-1] == "rebuild"
