"""Label files made to harm: refused in one sentence, quickly, whatever they hold."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boxwright import datasets
from boxwright.datasets import safe
from boxwright.errors import InputError
from tests.datasets.material import annotation, voc_object, write_coco, write_text, write_voc

LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
BOMB = f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><annotation><folder>&l9;</folder></annotation>'
THIEF = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'


@pytest.mark.parametrize("text", [BOMB, THIEF, "<!DOCTYPE annotation><annotation/>"])
def test_a_document_type_is_refused(tmp_path: Path, text: str) -> None:
    write_voc(tmp_path, "a", voc_object())
    write_text(tmp_path / "Annotations" / "b.xml", text)
    with pytest.raises(InputError, match="has a document type"):
        datasets.open(tmp_path)


def test_deep_xml_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "Annotations" / "a.xml", "<a>" * 10**6)
    with pytest.raises(InputError, match=r"nested too deeply"):
        datasets.open(tmp_path)


@pytest.mark.parametrize("text", ["[" * 10**6, '{"images":' * 10**6, "[" * 10**5 + "]" * 10**5])
def test_deep_json_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"nested too deeply|not valid JSON"):
        datasets.open(write_text(tmp_path / "a.json", text))


def test_deep_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nested too deeply|not valid YAML"):
        datasets.open(write_text(tmp_path / "a.yaml", "[" * 10**4))


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    text = f"names: !!python/object/apply:os.mkdir ['{tmp_path}/made']"
    with pytest.raises(InputError, match="not valid YAML"):
        datasets.open(write_text(tmp_path / "a.yaml", text))
    assert not (tmp_path / "made").exists()


def test_yaml_that_laughs(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{f'*a{n - 1},' * 10}]" for n in range(1, 12))]
    text = "\n".join([*lines, "val: *a11", "names: *a11"])
    with pytest.raises(InputError):
        datasets.open(write_text(tmp_path / "a.yaml", text))


@pytest.mark.parametrize(
    ("name", "limit"), [("a.json", "MAX_JSON_BYTES"), ("a.yaml", "MAX_YAML_BYTES")]
)
def test_huge_files_are_refused_unread(
    tmp_path: Path, name: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe, limit, 1000)
    with pytest.raises(InputError, match="too large"):
        datasets.open(write_text(tmp_path / name, " " * 1001))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_does_not_hold_us_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(InputError, match="must be a file"):
        datasets.open(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["/dev/zero", "../../../../../../dev/zero", "a\0b"])
def test_a_file_name_cannot_mean_a_device(tmp_path: Path, name: str) -> None:
    path = write_coco(tmp_path, annotation())
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = name
    write_text(path, json.dumps(content))
    if "\0" in name:
        with pytest.raises(InputError, match=r"images\[0\]"):
            datasets.open(path)
    else:
        assert dict(datasets.open(path).report.counts) == {"missing_image": 1}


def test_a_name_with_a_nul_in_yaml_and_lists(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.yaml", 'val: "a\\0b"\nnames: [x]')
    with pytest.raises(InputError, match="must be a path"):
        datasets.open(path)
    with pytest.raises(InputError):
        datasets.open(write_text(tmp_path / "a.data", "valid = a\0b\nnames = c\0d"))
    with pytest.raises(InputError):
        datasets.open(write_text(tmp_path / "list.txt", "a\0b\n"), names=["x"])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "image_id": VALUES | st.just(1),
            "category_id": VALUES | st.just(3),
            "bbox": VALUES | st.lists(st.floats() | st.integers(), min_size=4, max_size=4),
            "area": VALUES,
            "iscrowd": VALUES,
        },
    )
    | VALUES
)
def test_any_annotation_is_taken_or_told(tmp_path: Path, item: object) -> None:
    dataset = datasets.open(write_coco(tmp_path, annotation(2), item))
    told = sum(count for kind, count in dataset.report.counts.items() if kind != "clipped")
    told -= dataset.report.counts["duplicate_box"]
    assert dataset.objects + told == 2


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=60) | st.text(alphabet="0123 .-e\nnaif", max_size=40).map(str.encode))
def test_any_label_text_is_taken_or_told(tmp_path: Path, content: bytes) -> None:
    write_coco(tmp_path, images=2)
    for name in ("1", "2"):
        write_text(tmp_path / "val" / f"{name}.txt", "")
    (tmp_path / "val" / "1.txt").write_bytes(content)
    dataset = datasets.open(tmp_path / "val", names=["a", "b", "c"])
    assert len(dataset) + dataset.report.counts["damaged_labels"] == 2


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_damage_to_xml_is_taken_or_told(tmp_path: Path, data: st.DataObject) -> None:
    write_voc(tmp_path, "b", voc_object())
    path = write_voc(tmp_path, "a", voc_object(), voc_object("dog"))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        dataset = datasets.open(tmp_path)
    except InputError:
        return
    assert 1 <= len(dataset) <= 2
