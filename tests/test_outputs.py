from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright.detections import Detections
from boxwright.errors import InputError
from boxwright.formats import COCO_CATEGORY_IDS, CocoIds, coco_results, yolo_names, yolo_text
from boxwright.outputs import (
    Journal,
    ResultWriter,
    failure_record,
    image_record,
    write_jsonl,
)

NAMES = ("cat", "dog")
SETTINGS = {"model": "0" * 64, "score_threshold": 0.25}


def detections(seed: int = 0, count: int = 2) -> Detections:
    rng = np.random.default_rng(seed)
    low, size = rng.uniform(0, 50, (count, 2)), rng.uniform(1, 50, (count, 2))
    xyxy = np.concatenate([low, low + size], axis=1).astype(np.float32)
    score = np.sort(rng.random(count).astype(np.float32))[::-1]
    return Detections(xyxy, score, rng.integers(0, 2, count), NAMES)


def test_record_keeps_float32_exactly() -> None:
    one = detections(count=5)
    record = json.loads(json.dumps(image_record("a.jpg", (100, 200), one)))
    assert (record["path"], record["width"], record["height"]) == ("a.jpg", 200, 100)
    xyxy = np.array([item["xyxy"] for item in record["detections"]], np.float32)
    score = np.array([item["score"] for item in record["detections"]], np.float32)
    np.testing.assert_array_equal(xyxy, one.xyxy)
    np.testing.assert_array_equal(score, one.score)
    assert len(json.dumps(record["detections"][0]["xyxy"])) < 60
    assert record["detections"][0]["class_name"] in NAMES


def test_jsonl_is_valid_whatever_the_path_holds(tmp_path: Path) -> None:
    paths = ["plain.jpg", "Fuß ' \" \\ \n.jpg", "自転車.jpg", "not utf-8 \udce4.jpg"]
    write_jsonl(tmp_path / "out.jsonl", (failure_record(path, "gone") for path in paths))
    text = (tmp_path / "out.jsonl").read_bytes().decode()
    assert [json.loads(line)["path"] for line in text.splitlines()] == paths
    assert "自転車" in text


# --- the journal -----------------------------------------------------------------------


def test_journal_remembers(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal"
    with Journal(path, SETTINGS) as journal:
        journal.append(image_record("a.jpg", (10, 20), detections()))
        journal.append(failure_record("b.jpg", "cannot read"))
        assert "a.jpg" in journal
        assert journal.get("a.jpg") == image_record("a.jpg", (10, 20), detections())
    with Journal(path, SETTINGS) as journal:
        assert journal.done == {"a.jpg", "b.jpg"}
        assert Path("b.jpg") in journal
        assert journal.get("b.jpg") == {"path": "b.jpg", "error": "cannot read"}
        journal.append(failure_record("c.jpg", "x"))
        journal.remove()
    assert not path.exists()


def test_journal_cut_at_any_byte_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, SETTINGS) as journal:
        for i in range(3):
            journal.append(image_record(f"{i}.jpg", (10, 20), detections(i)))
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with Journal(path, SETTINGS) as journal:
            complete = sum(end <= length for end in ends[1:])
            assert journal.done == {f"{i}.jpg" for i in range(complete)}
            for i in range(complete, 3):
                journal.append(image_record(f"{i}.jpg", (10, 20), detections(i)))
        assert path.read_bytes() == whole


def test_zeros_after_a_power_cut_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, SETTINGS) as journal:
        journal.append(failure_record("a.jpg", "x"))
    with path.open("ab") as stream:
        stream.write(b"\0" * 100)
    with Journal(path, SETTINGS) as journal:
        assert journal.done == {"a.jpg"}


def test_damage_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, SETTINGS) as journal:
        for i in range(3):
            journal.append(failure_record(f"{i}.jpg", "x"))
    path.write_bytes(path.read_bytes().replace(b'"1.jpg"', b"1.jpg"))
    with pytest.raises(InputError, match=r"damaged at byte \d+; start the run anew"):
        Journal(path, SETTINGS)
    with Journal(path, SETTINGS, restart=True) as journal:
        assert journal.done == set()


def test_other_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(path, SETTINGS).close()
    message = r"other settings \(score_threshold: 0.25 then, 0.5 now\).*start it anew"
    with pytest.raises(InputError, match=message):
        Journal(path, {**SETTINGS, "score_threshold": 0.5})
    Journal(path, {**SETTINGS, "score_threshold": 0.5}, restart=True).close()
    with pytest.raises(InputError, match="other settings"):
        Journal(path, SETTINGS)


@pytest.mark.parametrize("content", [b"{}\n", b"text\n", b"no line end", b"[1]\n", b"\xff\n"])
def test_foreign_files_are_not_touched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a journal"):
        Journal(path, SETTINGS)
    assert path.read_bytes() == content


def test_newer_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text('{"boxwright_journal": 2, "settings": {}}\n')
    with pytest.raises(InputError, match="another version"):
        Journal(path, SETTINGS)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, SETTINGS), pytest.raises(InputError, match="in use by another run"):
        Journal(path, SETTINGS, restart=True)


# --- a whole run -----------------------------------------------------------------------


def outputs(folder: Path) -> dict[str, Any]:
    return {
        "jsonl": folder / "out.jsonl",
        "coco": folder / "coco.json",
        "yolo": folder / "labels",
    }


def run(folder: Path, count: int = 6, stop_after: int | None = None) -> dict[str, bytes]:
    paths = [f"photos/{i}.jpg" for i in range(count)]
    with ResultWriter(paths, SETTINGS, class_names=NAMES, **outputs(folder)) as writer:
        for done, path in enumerate(writer.pending()):
            if done == stop_after:
                return {}
            number = int(path.stem)
            if number == 3:
                writer.add_failure(path, "truncated")
            else:
                writer.add(path, (100, 200), detections(number, count=number))
        writer.finish()
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_run_writes_all_outputs(tmp_path: Path) -> None:
    files = run(tmp_path)
    # No journal and no temporary file stays behind.
    assert sorted(files) == [
        "coco.json",
        *[f"labels/{i}.txt" for i in (0, 1, 2, 4, 5)],
        "out.jsonl",
    ]
    lines = [json.loads(line) for line in files["out.jsonl"].splitlines()]
    assert [line["path"] for line in lines] == [f"photos/{i}.jpg" for i in range(6)]
    assert lines[3] == {"path": "photos/3.jpg", "error": "truncated"}
    results = json.loads(files["coco.json"])
    assert len(results) == 1 + 2 + 4 + 5
    assert results[0].keys() == {"image_id", "category_id", "bbox", "score"}
    assert files["labels/0.txt"] == b""
    assert len(files["labels/5.txt"].splitlines()) == 5


@pytest.mark.parametrize("stop_after", range(6))
def test_resumed_run_gives_the_same_files(tmp_path: Path, stop_after: int) -> None:
    expected = run(tmp_path / "whole")
    folder = tmp_path / "resumed"
    assert run(folder, stop_after=stop_after) == {}
    assert not (folder / "out.jsonl").exists()
    with ResultWriter(
        [f"photos/{i}.jpg" for i in range(6)], SETTINGS, class_names=NAMES, **outputs(folder)
    ) as writer:
        assert writer.resumed == stop_after
        assert [path.stem for path in writer.pending()] == [str(i) for i in range(stop_after, 6)]
    assert run(folder) == expected


_KILLED = """
import sys, os, signal
sys.path[:0] = {path!r}
from pathlib import Path
from tests.test_outputs import ResultWriter, SETTINGS, NAMES, detections, outputs
paths = [f"photos/{{i}}.jpg" for i in range(6)]
writer = ResultWriter(paths, SETTINGS, class_names=NAMES, **outputs(Path({folder!r})))
for path in writer.pending()[:2]:
    writer.add(path, (100, 200), detections(int(path.stem), count=int(path.stem)))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_run_goes_on(tmp_path: Path) -> None:
    expected = run(tmp_path / "whole")
    folder = tmp_path / "killed"
    root = Path(__file__).resolve().parents[1]
    script = _KILLED.format(path=[str(root), str(root / "src")], folder=str(folder))
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    with ResultWriter(
        [f"photos/{i}.jpg" for i in range(6)], SETTINGS, class_names=NAMES, **outputs(folder)
    ) as writer:
        assert writer.resumed == 2
    assert run(folder) == expected


def test_images_gone_since_are_left_out(tmp_path: Path) -> None:
    run(tmp_path, stop_after=5)
    files = run(tmp_path, count=4)
    assert len(files["out.jsonl"].splitlines()) == 4


def test_unfinished_run_has_no_files(tmp_path: Path) -> None:
    with (
        ResultWriter(["a.jpg", "b.jpg"], SETTINGS, jsonl=tmp_path / "out.jsonl") as writer,
        pytest.raises(InputError, match=r"2 images have no result yet, first a\.jpg"),
    ):
        writer.finish()
    assert not (tmp_path / "out.jsonl").exists()


def test_no_output_asked_for() -> None:
    with pytest.raises(InputError, match="no output was asked for"):
        ResultWriter(["a.jpg"], SETTINGS)


def test_empty_run(tmp_path: Path) -> None:
    with ResultWriter([], SETTINGS, class_names=NAMES, **outputs(tmp_path)) as writer:
        writer.finish()
    assert (tmp_path / "out.jsonl").read_bytes() == b""
    assert json.loads((tmp_path / "coco.json").read_text()) == []


# --- formats ---------------------------------------------------------------------------


def coco_names() -> tuple[str, ...]:
    return tuple(COCO_CATEGORY_IDS)


def test_coco_categories(fixtures_dir: Path) -> None:
    folder = fixtures_dir / "coco-tiny" / "annotations"
    content = json.loads(next(folder.glob("*.json")).read_text())
    theirs = {item["name"]: item["id"] for item in content["categories"]}
    assert {name: COCO_CATEGORY_IDS[name] for name in theirs} == theirs
    assert len(COCO_CATEGORY_IDS) == 80


def test_coco_category_ids_without_annotations() -> None:
    ids = CocoIds([], coco_names())
    assert [ids.category_id(i) for i in (0, 11, 79)] == [1, 13, 90]
    darknet = tuple("aeroplane" if name == "airplane" else name for name in coco_names())
    assert CocoIds([], darknet).category_id(4) == 5
    assert CocoIds([], NAMES).category_id(1) == 18  # cat and dog are COCO's names
    assert CocoIds([], ("cat", "RBC")).category_id(1) == 2


def test_coco_image_ids_without_annotations() -> None:
    ids = CocoIds(["val/000000000139.jpg", "7.jpg"], NAMES)
    assert ids.image_id("val/000000000139.jpg") == 139
    # All of one type.
    ids = CocoIds(["val/000000000139.jpg", "street.jpg"], NAMES)
    assert ids.image_id("val/000000000139.jpg") == "000000000139"
    assert ids.image_id("street.jpg") == "street"
    with pytest.raises(InputError, match=r"a/1\.jpg and b/01\.jpg .* id 1.*annotations"):
        CocoIds(["a/1.jpg", "b/01.jpg"], NAMES)


def coco_file(path: Path, **changes: Any) -> Path:
    content = {
        "images": [
            {"id": 7, "file_name": "a.jpg"},
            {"id": 8, "file_name": "train/b.jpg"},
            {"id": 9, "file_name": "val/b.jpg"},
        ],
        "categories": [{"id": 30, "name": "dog"}, {"id": 31, "name": "bird"}],
        **changes,
    }
    path.write_text(json.dumps(content))
    return path


def test_coco_ids_from_annotations(tmp_path: Path) -> None:
    file = coco_file(tmp_path / "annotations.json")
    ids = CocoIds(["/data/a.jpg", "/data/train/b.jpg", "/data/val/b.jpg"], NAMES, file)
    assert [ids.image_id(path) for path in ("/data/a.jpg", "/data/train/b.jpg")] == [7, 8]
    assert ids.image_id("/data/val/b.jpg") == 9
    assert ids.category_id(1) == 30
    assert ids.category_id(0) is None
    record = image_record("/data/a.jpg", (100, 100), detections(count=6))
    results = list(coco_results([record], ids))
    assert {item["category_id"] for item in results} == {30}
    assert len(results) == sum(item["class_id"] == 1 for item in record["detections"])


def test_coco_longest_matching_name_wins(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "b.jpg"}, {"id": 2, "file_name": "train/b.jpg"}]
    for order in (images, images[::-1]):
        file = coco_file(tmp_path / "a.json", images=order)
        ids = CocoIds(["/data/train/b.jpg", "/data/b.jpg"], NAMES, file)
        assert ids.image_id("/data/train/b.jpg") == 2
        assert ids.image_id("/data/b.jpg") == 1


def test_darknets_names_find_cocos_categories(tmp_path: Path) -> None:
    file = coco_file(tmp_path / "a.json", categories=[{"id": 4, "name": "motorcycle"}])
    assert CocoIds(["a.jpg"], ("motorbike", "tree"), file).category_id(0) == 4


def test_coco_annotations_that_do_not_fit(tmp_path: Path) -> None:
    file = coco_file(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"no such image: c\.jpg"):
        CocoIds(["c.jpg"], NAMES, file)
    with pytest.raises(InputError, match=r"2 images of that name: b\.jpg"):
        CocoIds(["b.jpg"], NAMES, file)
    with pytest.raises(InputError, match="knows none of the detector's classes"):
        CocoIds(["a.jpg"], ("RBC",), file)
    with pytest.raises(InputError, match="'images' must be a list"):
        CocoIds(["a.jpg"], NAMES, coco_file(tmp_path / "b.json", images=5))
    (tmp_path / "c.json").write_text("nonsense")
    with pytest.raises(InputError, match="not valid JSON"):
        CocoIds(["a.jpg"], NAMES, tmp_path / "c.json")
    with pytest.raises(InputError, match="cannot read"):
        CocoIds(["a.jpg"], NAMES, tmp_path / "none.json")


def test_coco_box_is_left_top_width_height() -> None:
    one = Detections(
        np.array([[10, 20, 40, 80]], np.float32), np.array([0.5], np.float32), np.array([1]), NAMES
    )
    ids = CocoIds(["5.jpg"], ("thing", "other"))
    assert list(coco_results([image_record("5.jpg", (100, 100), one)], ids)) == [
        {"image_id": 5, "category_id": 2, "bbox": [10.0, 20.0, 30.0, 60.0], "score": 0.5}
    ]


def test_yolo_line() -> None:
    one = Detections(
        np.array([[10, 20, 40, 80]], np.float32), np.array([0.5], np.float32), np.array([1]), NAMES
    )
    assert yolo_text(image_record("5.jpg", (100, 200), one)) == (
        "1 0.125000 0.500000 0.150000 0.600000 0.500000\n"
    )


def test_yolo_names_keep_folders() -> None:
    names = yolo_names(["data/a/1.jpg", "data/b/1.jpg", "data/2.x.png"])
    assert [str(name) for name in names.values()] == ["a/1.txt", "b/1.txt", "2.x.txt"]
    with pytest.raises(InputError, match=r"1\.jpg and d/1\.png would both write 1\.txt"):
        yolo_names(["d/1.jpg", "d/1.png"])


def test_a_replaced_image_is_done_again(tmp_path: Path) -> None:
    image = tmp_path / "a.jpg"
    image.write_bytes(b"first")
    final = tmp_path / "out" / "a.jsonl"
    with ResultWriter([image], {}, jsonl=final) as writer:
        writer.add(image, (4, 4), Detections.empty())
        assert writer.pending() == []
    image.write_bytes(b"another one")
    with ResultWriter([image], {}, jsonl=final) as writer:
        assert writer.resumed == 0
        assert writer.pending() == [image]
        writer.add(image, (8, 8), Detections.empty())
        writer.finish()
    (record,) = [json.loads(line) for line in final.read_text().splitlines()]
    assert record["height"] == 8
    assert "stamp" not in record


def test_the_same_relative_path_elsewhere_is_another_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(b"x")
    monkeypatch.chdir(tmp_path / "one")
    with ResultWriter(["a.jpg"], {}, jsonl=tmp_path / "out.jsonl") as writer:
        writer.add("a.jpg", (4, 4), Detections.empty())
    monkeypatch.chdir(tmp_path / "two")
    with pytest.raises(InputError, match="working_folder"):
        ResultWriter(["a.jpg"], {}, jsonl=tmp_path / "out.jsonl")


def test_landmarks_keep_float32_exactly() -> None:
    points = np.random.default_rng(0).uniform(0, 999, (2, 5, 2)).astype(np.float32)
    record = image_record("a.jpg", (10, 20), replace(detections(), landmarks=points))
    text = json.dumps(record)
    again = [item["landmarks"] for item in json.loads(text)["detections"]]
    assert np.array_equal(np.array(again, np.float32), points)
    assert len(text) < 900, "as short as float32 allows"
    assert all("landmarks" not in i for i in image_record("b", (1, 1), detections())["detections"])
