"""A whole ship of a small network: what it leaves, and what it does again."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boxwright.engine import Engine
from boxwright.errors import InputError
from boxwright.progress import silent
from boxwright.ship import pipeline
from boxwright.ship.pipeline import ship
from boxwright.ship.settings import Budgets, ShipSettings
from boxwright.ship.stages import key_of
from boxwright.ship.summary import ShipResult
from boxwright.ship.work import Work
from tests.cli.material import write_image
from tests.ship.material import make_settings, write_material

ALL = [
    "import",
    "build",
    "verify",
    "eval source",
    "eval engine",
    "compare",
    "bench",
    "report",
]
UNLABELLED = ["import", "build", "verify", "bench", "report"]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_material(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def done(material: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> ShipResult:
    """A ship that others look at; they must not change its files."""
    output = tmp_path_factory.mktemp("done") / "out"
    return ship(make_settings(material, output, budgets=Budgets(max_drop=0.5)))


def run(settings: ShipSettings, **options: Any) -> list[str]:
    """The stages that ran."""
    result = ship(settings, **options)
    return [stage.name for stage in result.stages if not stage.skipped]


def test_what_a_ship_leaves(done: ShipResult) -> None:
    assert done.ok
    assert [stage.name for stage in done.stages] == ALL
    assert [(check.name, check.ok) for check in done.budgets] == [("Budget max-drop", True)]
    assert done.summary["ap_source"] == done.summary["ap_engine"]
    assert done.summary["parity_ok"] is True
    assert done.summary["consistent"] is True
    folder = Path(done.files["report"]).parent
    assert json.loads((folder / "summary.json").read_bytes()) == done.summary
    page = Path(done.files["report"]).read_text()
    for title in ("How faithful", "How accurate", "How fast", "Repeat it"):
        assert title in page
    assert "This measures it" not in page
    assert f"--annotations {folder.parents[1]}"[:14] in page
    assert not list(folder.rglob("*.part"))
    json.dumps(done.to_dict(), allow_nan=False)


def test_the_receipt_holds_all_evidence(done: ShipResult) -> None:
    engine = Engine.open(done.files["engine"])
    engine.verify()
    assert [report["ok"] for report in engine.receipt["verified"]] == [True]
    assert len(engine.receipt["consistency"]) == 4
    assert engine.receipt["speed"]["batches"][0]["batch"] == 1
    assert engine.receipt["accuracy"]["accuracy"]["images"] == 5
    assert "precision" not in engine.receipt["accuracy"]["accuracy"]["classes"][0]
    assert engine.receipt["build"]["backend"] in ("openvino", "onnxruntime")


def test_without_labels_there_is_no_accuracy(material: dict[str, Path], tmp_path: Path) -> None:
    result = ship(make_settings(material, tmp_path, annotations=None))
    assert [stage.name for stage in result.stages] == UNLABELLED
    assert result.summary["ap_engine"] is None
    assert result.ok
    assert "boxwright eval" in Path(result.files["report"]).read_text()
    assert "accuracy" not in Engine.open(result.files["engine"]).receipt


def test_only_what_depends_on_a_change_is_done_again(
    material: dict[str, Path], tmp_path: Path
) -> None:
    def settings(**changes: Any) -> ShipSettings:
        return make_settings(material, tmp_path / "out", **changes)

    assert run(settings()) == ALL
    assert run(settings()) == []
    assert run(settings(budgets=Budgets(min_fps=1))) == ["report"]
    assert run(settings(verify_images=3)) == ["verify", "report"]
    assert run(settings(batches=(2,), verify_images=3)) == ["bench", "report"]
    names = {"names": material["weights"].with_suffix(".names")}
    licence = {**names, "licence": "MIT"}
    # The card is part of the model, so everything rests on it.
    assert run(settings(import_options=licence, batches=(2,), verify_images=3)) == ALL


def test_without_labels_now_is_not_with_labels_then(
    material: dict[str, Path], tmp_path: Path
) -> None:
    assert run(make_settings(material, tmp_path)) == ALL
    # The images are the same, but the page and the receipt say less now.
    result = ship(make_settings(material, tmp_path, annotations=None))
    assert [s.name for s in result.stages if not s.skipped] == ["report"]
    assert "accuracy" not in Engine.open(result.files["engine"]).receipt
    assert run(make_settings(material, tmp_path)) == ["report"]


@pytest.mark.parametrize(
    ("harm", "again"),
    [
        ("report.html", ["report"]),
        ("tiny.onnx", ["import"]),
        ("evidence/verify.json", ["verify", "report"]),
        ("evidence/faithful/pictures.json", ["verify"]),
        ("evidence/faithful/00-0.jpg", ["verify"]),
        ("eval/engine/detections.jsonl", ["eval engine", "compare", "report"]),
    ],
)
def test_a_file_that_is_gone_is_made_again(
    harm: str, again: list[str], material: dict[str, Path], tmp_path: Path
) -> None:
    settings = make_settings(material, tmp_path)
    ship(settings)
    (tmp_path / harm).unlink()
    ran = run(settings)
    assert ran[0] == again[0]
    assert set(ran) <= set(again)
    assert run(settings) == []


def test_a_damaged_engine_is_built_and_sealed_again(
    material: dict[str, Path], tmp_path: Path
) -> None:
    settings = make_settings(material, tmp_path, annotations=None)
    ship(settings)
    path = tmp_path / "tiny.bw"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    reasons: list[tuple[str, str]] = []
    ship(settings, on_stage=lambda *stage: reasons.append(stage))
    assert reasons[0] == ("build", "tiny.bw is missing or damaged")
    # Between them what measured the engine, where the plan was not the same to the byte.
    assert reasons[-1][0] == "report"
    assert "speed" in Engine.open(path).receipt


def test_another_image_is_noticed(material: dict[str, Path], tmp_path: Path) -> None:
    own = write_material(tmp_path / "material")
    settings = make_settings(own, tmp_path / "out", annotations=None)
    ship(settings)
    write_image(own["images"] / "0001.png", seed=99)
    assert run(settings) == ["verify", "bench", "report"]


def test_restart_does_everything(material: dict[str, Path], tmp_path: Path) -> None:
    settings = make_settings(material, tmp_path, annotations=None)
    ship(settings)
    assert run(settings, restart=True) == UNLABELLED


def test_every_budget_is_judged_and_named(material: dict[str, Path], tmp_path: Path) -> None:
    budgets = Budgets(max_drop=0.5, min_fps=1e9, max_latency=1e-6)
    result = ship(make_settings(material, tmp_path, budgets=budgets))
    assert not result.ok
    assert [(check.name, check.ok) for check in result.budgets] == [
        ("Budget max-drop", True),
        ("Budget min-fps", False),
        ("Budget max-latency", False),
    ]
    page = Path(result.files["report"]).read_text()
    assert "2 of 5 checks failed" in page


def test_an_unreadable_image_takes_no_part(tmp_path: Path) -> None:
    own = write_material(tmp_path / "material")
    for path in list(own["images"].iterdir())[:4]:
        path.write_bytes(b"no image")
    result = ship(make_settings(own, tmp_path / "out", annotations=None, verify_images=5))
    assert result.remarks == ("4 images could not be read and took no part",)
    assert result.ok


def test_progress_tells_the_whole(material: dict[str, Path], tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    ship(
        make_settings(material, tmp_path, annotations=None),
        progress=lambda *step: told.append(step),
    )
    whole = [done for stage, done, total in told if stage == "overall"]
    assert whole == sorted(whole)
    assert whole[0] == 0
    assert whole[-1] == 100
    assert any(stage.startswith("verify: ") for stage, _, _ in told)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "abacus"}, "target abacus is not available"),
        ({"precision": "fp16"}, "does not build precision fp16 here"),
        ({"precision": "int8"}, "INT8 needs images to calibrate on"),
        (
            {"annotations": None, "budgets": Budgets(max_drop=1)},
            "can only be measured on labelled images",
        ),
        ({"images": ("a", "b")}, "give one --images"),
        ({"weights": (Path("none.weights"),)}, "no such file: none.weights"),
        ({"weights": (Path("a.cfg"),)}, "expected one file of trained weights"),
        ({"images": ("nowhere",)}, "nowhere"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_done(
    changes: dict[str, Any], message: str, material: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        ship(make_settings(material, tmp_path / "out", **changes))
    assert not (tmp_path / "out" / "tiny.onnx").exists()


def test_two_descriptions_of_one_kind_are_refused(material: dict[str, Path]) -> None:
    cfg = material["weights"].with_suffix(".cfg")
    settings = make_settings(
        material, Path("out"), weights=(material["weights"], cfg), import_options={"cfg": cfg}
    )
    with pytest.raises(InputError, match="two files for cfg"):
        settings.options()


def test_descriptions_may_stand_beside_the_weights(
    material: dict[str, Path], tmp_path: Path
) -> None:
    files = [material["weights"].with_suffix(suffix) for suffix in (".names", ".cfg", ".weights")]
    settings = make_settings(
        material, tmp_path, weights=tuple(files), import_options={}, annotations=None
    )
    result = ship(settings)
    assert Engine.open(result.files["engine"]).card.class_names == ("cat", "dog", "bird")


def test_strange_names_go_all_the_way(tmp_path: Path) -> None:
    own = write_material(tmp_path)
    name = "a$\\frac{$<b>&\"'"
    for suffix in (".weights", ".cfg", ".names"):
        (tmp_path / f"tiny{suffix}").rename(tmp_path / f"{name}{suffix}")
    own["weights"] = tmp_path / f"{name}.weights"
    images = tmp_path / "im<i>\udcfe"  # not UTF-8
    own["images"] = own["images"].rename(images)
    result = ship(make_settings(own, tmp_path / "out", against=("bare",)))
    assert result.ok
    page = Path(result.files["report"]).read_text()
    assert "<b>&" not in page
    assert "&lt;b&gt;&amp;" in page


def test_the_command_repeats_the_settings(material: dict[str, Path]) -> None:
    settings = make_settings(
        material,
        Path("my out"),
        budgets=Budgets(0.5, 10, 40),
        import_options={"size": (32, 64), "names": None},
        against=("bare",),
        precision="fp32",
        opencv=True,
    )
    command = settings.command()
    assert command.startswith("boxwright ship ")
    assert "--size 32x64 --precision fp32 --max-drop 0.5 --min-fps 10 --max-latency 40" in command
    assert "--names" not in command
    assert command.endswith("--against bare --second-opinion -o 'my out'")


def test_the_command_is_read_back_as_the_settings(tmp_path: Path) -> None:
    from boxwright.cli import ship as verb
    from boxwright.cli.common import Settings

    wanted = ShipSettings(
        weights=(Path("a b.weights"), Path("a.names")),
        images=("photos", "more/*.jpg"),
        output=Path("my out"),
        annotations=Path("labels.json"),
        precision="fp32",
        budgets=Budgets(0.1234567, 1234567.5, 40),
        import_options={
            "format": "darknet",
            "cfg": Path("a.cfg"),
            "names": None,
            "data": None,
            "size": (32, 64),
            "resize": "letterbox",
            "interpolation": "opencv",
            "licence": "MIT or so",
            "head": "yolov8",
            "options": {"boxes": "a b,c", "normalised": True, "offset": 0.5, "scale": "1/255"},
        },
        against=("bare",),
        opencv=True,
        device="cuda:0",
        seed=7,
    )
    words = shlex.split(wanted.command())
    assert words[:2] == ["boxwright", "ship"]
    options = verb.command.make_context("ship", words[2:]).params
    common = Settings(device=options["device"], seed=options["seed"])
    assert verb.make_settings(common, options) == wanted


def test_import_options_are_in_the_key_of_the_import(material: dict[str, Path]) -> None:
    def key(**options: Any) -> str:
        work = Work(make_settings(material, Path("out"), import_options=options), silent)
        return key_of(pipeline.make_stages(work)[0].inputs())

    def settings(**options: Any) -> str:
        return key(options=options)

    assert key() == key(head=None, options={})
    told = [
        key(),
        key(head="yolov8"),
        key(head="yolox"),
        settings(scale="1/255"),
        settings(scale=1, channels="bgr"),
        settings(normalised=True),
        settings(normalised=False),
    ]
    assert len(set(told)) == len(told)
    # Said in another order, it is the same.
    assert settings(scale=1, channels="bgr") == settings(channels="bgr", scale=1)


def test_a_failed_check_is_not_ok(
    material: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from boxwright.evaluate import consistency

    check: Callable[..., Any] = consistency._compare

    def disagree(name: str, *rest: Any) -> Any:
        import dataclasses

        return dataclasses.replace(check(name, *rest), ok=name != "permuted batch")

    monkeypatch.setattr(consistency, "_compare", disagree)
    result = ship(make_settings(material, tmp_path, annotations=None))
    assert not result.ok
    assert [c.detail for c in result.checks if c.ok is False] == ["failed: permuted batch"]
    assert "1 of 2 checks failed" in Path(result.files["report"]).read_text()


def test_without_matplotlib_there_are_tables_and_a_word(
    material: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = ship(make_settings(material, tmp_path, annotations=None))
    (remark,) = result.remarks
    assert remark.startswith("no charts: matplotlib is not installed")
    page = Path(result.files["report"]).read_text()
    assert "boxwright[report]" in page
    assert "p99 ms" in page
    assert 'class="charts"' not in page
    monkeypatch.undo()
    monkeypatch.setattr(pipeline, "_version", lambda package: "another")
    assert run(make_settings(material, tmp_path, annotations=None)) == ["bench", "report"]
    assert 'class="charts"' in Path(result.files["report"]).read_text()


@pytest.mark.parametrize("name", ["tiny.onnx", "tiny.bw", "report.html"])
def test_a_file_of_the_users_own_is_not_replaced(
    material: dict[str, Path], tmp_path: Path, name: str
) -> None:
    own = tmp_path / name
    own.write_bytes(b"mine")
    settings = make_settings(material, tmp_path, annotations=None)
    with pytest.raises(InputError, match=f"{name} would be written, and is a file that no ship"):
        ship(settings)
    assert own.read_bytes() == b"mine"
    own.unlink()
    assert ship(settings).ok
    # What a ship wrote, the next one replaces, also after its record was dropped.
    assert ship(settings, restart=True).ok
