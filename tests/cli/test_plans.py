"""Several plans in one engine, and giving them out, on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import boxwright
from boxwright.engine import Engine
from tests.cli.conftest import Run
from tests.cli.conftest import run as run  # the fixture
from tests.cli.material import write_darknet, write_image


@pytest.fixture
def engine(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """``tiny.bw`` in the working folder, made here."""
    monkeypatch.setenv("BOXWRIGHT_CACHE", str(tmp_path / "cache"))
    model = boxwright.import_model(write_darknet(tmp_path))
    return boxwright.build(model, output="tiny.bw")


def elsewhere(engine: Engine, path: str, version: str = "0.0.1") -> Engine:
    """The engine as another machine would have built it."""
    fields = engine.plans[0].split("_")
    foreign = "_".join((fields[0], version, *fields[2:]))
    facts = {**engine.receipt["build"], "fingerprint": foreign}
    receipt = {**engine.receipt, "build": facts}
    data = engine.plan_bytes(engine.plans[0])
    return Engine.write(path, engine.model(), receipt, {foreign: data})


def json_of(run: Run, *arguments: str | Path, code: int = 0) -> Any:
    done = run(*arguments, "--json")
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_an_engine_gains_the_plan_of_this_machine(run: Run, engine: Engine) -> None:
    foreign = elsewhere(engine, "moved.bw")
    content = json_of(run, "build", "moved.bw")
    assert content["output"] == "moved.bw"
    assert content["plan"] == engine.plans[0]
    assert content["plans"] == sorted((*foreign.plans, *engine.plans))
    listed = json_of(run, "plans", "moved.bw")
    assert [plan["fits"] for plan in listed["plans"]] == [False, True]
    assert [plan["runs"] for plan in listed["plans"]] == [False, True]
    shown = run("build", "moved.bw").stdout
    assert f"kept     {foreign.plans[0]}" in " ".join(shown.split("\n")).replace("  ", " ") or (
        foreign.plans[0] in shown
    )
    elsewhere(engine, "moved.bw")
    json_of(run, "build", "moved.bw", "-o", "both.bw")
    assert Engine.open("moved.bw").plans == foreign.plans


def test_plans_come_together_and_apart(run: Run, engine: Engine) -> None:
    foreign = elsewhere(engine, "moved.bw")
    both = json_of(run, "plans", "tiny.bw", "--add", "moved.bw", "-o", "both.bw")
    assert {plan["fingerprint"] for plan in both["plans"]} == {*engine.plans, *foreign.plans}
    assert Engine.open("tiny.bw").plans == engine.plans
    left = json_of(run, "plans", "both.bw", "--drop", "*_0.0.1_*")
    assert [plan["fingerprint"] for plan in left["plans"]] == list(engine.plans)
    assert Engine.open("both.bw").plans == engine.plans
    assert "yes, and runs by default" in run("plans", "both.bw").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["tiny.bw", "-o", "x.bw"], 2, "-o needs something to change"),
        (["tiny.bw", "--drop", "nosuch"], 1, "no plan 'nosuch' to drop; there are: onnxruntime_"),
        (["tiny.bw", "--add", "other.bw"], 1, "was built from another model"),
        (["tiny.bw", "--add", "tiny.bw"], 1, "would destroy it"),
        (["tiny.bw", "--add", "copy.bw", "-o", "copy.bw"], 1, "would destroy it"),
        (["tiny.bw", "--add", "tiny.cfg"], 1, "is not a zip file, so not an engine"),
        (["nowhere.bw"], 1, "cannot read nowhere.bw"),
    ],
)
def test_what_does_not_go_together(
    run: Run, engine: Engine, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "other").mkdir()
    boxwright.build(
        boxwright.import_model(write_darknet(tmp_path / "other", seed=1)), output="other.bw"
    )
    Path("copy.bw").write_bytes(engine.path.read_bytes())
    before = Path("tiny.bw").read_bytes()
    done = run("plans", *arguments)
    assert done.exit_code == code
    assert message in done.stderr
    assert Path("tiny.bw").read_bytes() == before


def test_evidence_goes_to_the_plan_that_runs(run: Run, engine: Engine, tmp_path: Path) -> None:
    write_image(tmp_path / "noise.png")
    moved = elsewhere(engine, "moved.bw")
    assert run("build", "moved.bw").exit_code == 0
    assert run("verify", "moved.bw", "--images", "noise.png").exit_code == 0
    receipt = Engine.open("moved.bw").receipt
    assert "verified" not in receipt
    assert receipt["plans"][engine.plans[0]]["verified"][0]["ok"]
    assert receipt["plans"][engine.plans[0]]["measured"]["verified"]["command"]
    measured = {
        plan["fingerprint"]: plan["measured"] for plan in json_of(run, "plans", "moved.bw")["plans"]
    }
    assert measured == {
        moved.plans[0]: [],
        engine.plans[0]: ["verified", "consistency"],
    }
    again = run("verify", "moved.bw", "--images", "noise.png", "--again")
    assert again.exit_code == 0, again.output


def test_a_production_machine_compiles_nothing(run: Run, engine: Engine, tmp_path: Path) -> None:
    write_image(tmp_path / "noise.png")
    elsewhere(engine, "moved.bw")
    done = run("detect", "moved.bw", "noise.png", "--no-rebuild")
    assert done.exit_code == 1
    assert "version 0.0.1 (here " in done.stderr
    assert "None may be built here" in done.stderr
    assert not (tmp_path / "cache").exists()
    assert (
        run("detect", "tiny.bw", "noise.png", "--no-rebuild", "--precision", "fp32").exit_code == 0
    )
    done = run("detect", "moved.bw", "noise.png")
    assert done.exit_code == 0
    assert "to have it in the file: boxwright build moved.bw" in done.stderr
    assert run("detect", "moved.bw", "noise.png", "--no-rebuild").exit_code == 0


def test_inspect_shows_every_plan(run: Run, engine: Engine) -> None:
    foreign = elsewhere(engine, "moved.bw")
    run("build", "moved.bw")
    shown = run("inspect", "moved.bw").stdout
    for plan in (*foreign.plans, *engine.plans):
        assert plan in shown
    assert "runs by default" in shown
    assert [plan["fits"] for plan in json_of(run, "inspect", "moved.bw")["plans"]] == [False, True]


def test_what_is_exported(run: Run, engine: Engine) -> None:
    content = json_of(run, "export", "tiny.bw", "--to", "plan")
    assert [file["path"] for file in content["files"]] == ["tiny.plan", "tiny.plan.json"]
    assert content["plan"] == engine.plans[0]
    assert content["files"][0]["bytes"] == engine.plan_size(engine.plans[0])
    done = run("export", "tiny.bw", "--to", "onnx", "-o", "deep/er.onnx")
    assert done.exit_code == 0
    assert engine.model_sha256 in done.stdout
    # A file that is there may be anybody's; one that is named is meant.
    done = run("export", "tiny.bw", "--to", "plan")
    assert done.exit_code == 1
    assert "tiny.plan is there already; to replace it, name it: -o tiny.plan" in done.stderr
    assert run("export", "tiny.bw", "--to", "plan", "-o", "tiny.plan").exit_code == 0
    assert run("export", "tiny.bw", "--to", "docker").exit_code == 2


def test_openvino_is_exported_with_what_was_compared(run: Run, engine: Engine) -> None:
    pytest.importorskip("openvino")
    content = json_of(run, "export", "tiny.bw", "--to", "openvino", "--seed", "3")
    assert [file["path"] for file in content["files"]] == ["tiny.xml", "tiny.bin"]
    assert max(content["nrmse"].values()) < 1e-4
    shown = run("export", "tiny.bw", "--to", "openvino", "-o", "x.xml").stdout
    assert "on 4 random images: nrmse boxes" in shown
