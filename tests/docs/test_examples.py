"""The examples in README.md and docs/ are run as they stand, page by page, in order.

A page says what it needs in a comment, ``<!-- needs: yolov4-tiny dog.jpg -->``, and which
optional packages, ``<!-- modules: tensorrt_rtx -->``, without which it is skipped; a block
after ``<!-- not run: reason -->`` is left out; a block after ``<!-- file: NAME -->`` is
written to that file. In a ``console`` block, lines after a command are its output, with
``...`` for what may differ.
"""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

import boxwright

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
DARKNET = ("yolov4-tiny.cfg", "yolov4-tiny.weights", "coco.names")
MXNET = {
    "mnet.25-symbol.json": "retinaface-mnet25/mnet.25-symbol.json",
    "mnet.25-0000.params": "retinaface-mnet25/mnet.25-0000.params",
    "genderage-symbol.json": "insightface-genderage/model-symbol.json",
    "genderage-0000.params": "insightface-genderage/model-0000.params",
}
# Several files by one name.
GROUPS = {"yolov4-tiny": DARKNET, "mxnet": tuple(MXNET)}

# A graph that no model of ours is: two operators that few targets take.
THEIRS = """<ir_version: 9, opset_import: ["": 18]>
theirs (float[N,3,64,64] x) => (float[N,3,64,64] y) {
    a = Mish(x)
    y = MaxPool<kernel_shape=[3,3], dilations=[2,2], pads=[2,2,2,2]>(a)
}"""

_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>not run|file): (?P<value>.*?) -->\s*\n)?"
    r"^```(?P<kind>\w+)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_NEEDS = re.compile(r"<!-- needs: (.*?) -->")
_MODULES = re.compile(r"<!-- modules: (.*?) -->")
_OUTPUT = doctest.OutputChecker()
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    kind: str
    body: str
    file: str | None


def blocks(page: Path) -> Iterator[Block]:
    for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        if match["mark"] != "not run":
            yield Block(match["kind"], match["body"], match["value"])


def commands(body: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block with the output that follows it."""
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command.split("   #")[0], output


def runnable(page: Path) -> bool:
    return any(block.kind in ("console", "python") for block in blocks(page))


@pytest.fixture(scope="session")
def supplies(fixtures_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything a page may need, in one folder."""
    folder = tmp_path_factory.mktemp("supplies")
    for name in DARKNET:
        shutil.copy(fixtures_dir / "darknet" / "yolov4-tiny" / name, folder)
    for name, path in MXNET.items():
        shutil.copyfile(fixtures_dir / "mxnet" / path, folder / name)
    shutil.copy(fixtures_dir / "photos" / "zidane.jpg", folder)
    (folder / "photos").mkdir()
    for name in ("dog.jpg", "person.jpg", "horses.jpg"):
        shutil.copy(fixtures_dir / "photos" / name, folder / "photos")
    shutil.copy(folder / "photos" / "dog.jpg", folder)
    shutil.copy(fixtures_dir / "onnx" / "yolox_nano.onnx", folder)
    shutil.copy(fixtures_dir / "photos" / "bus.jpg", folder)
    shutil.copy(fixtures_dir / "pytorch" / "yolov5n.pt", folder)
    for name, source in (
        *(("coco", "coco-tiny"), ("coco8", "coco8")),
        ("mobilenet-ssd", "caffe/mobilenet-ssd"),
    ):
        shutil.copytree(fixtures_dir / source, folder / name)
    shutil.copy(fixtures_dir / "tensorflow" / "efficientdet-lite0.tflite", folder)
    shutil.copytree(
        fixtures_dir / "tensorflow" / "opencv_face_detector", folder / "opencv_face_detector"
    )
    model = boxwright.import_model(folder / "yolov4-tiny.weights")
    boxwright.build(model, output=folder / "tiny.bw")
    onnx.save(onnx.parser.parse_model(THEIRS), folder / "theirs.onnx")
    return folder


def _lay_out(page: Path, supplies: Path, folder: Path) -> None:
    for need in " ".join(_NEEDS.findall(page.read_text(encoding="utf-8"))).split():
        for name in GROUPS.get(need, (need,)):
            source = supplies / name
            if source.is_dir():
                shutil.copytree(source, folder / name)
            else:
                shutil.copy(source, folder / name)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With a `boxwright` and a `python` of this environment first on the PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    boxwright_program = programs / "boxwright"
    boxwright_program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m boxwright "$@"\n')
    boxwright_program.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "BOXWRIGHT_CACHE": str(tmp_path / "cache"),
    }


@pytest.mark.parametrize(
    "page", [page for page in PAGES if runnable(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_examples_of_a_page(
    page: Path, supplies: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    for module in " ".join(_MODULES.findall(page.read_text(encoding="utf-8"))).split():
        pytest.importorskip(module, reason=f"{module} is not installed")
    folder = tmp_path / "page"
    folder.mkdir()
    _lay_out(page, supplies, folder)
    python = []
    for block in blocks(page):
        if block.file is not None:
            (folder / block.file).write_text(block.body)
        elif block.kind == "console":
            for command, expected in commands(block.body):
                if command.startswith(("make ", "pip ")):
                    continue  # tested by running them on a fresh machine
                done = subprocess.run(
                    ["bash", "-c", command],
                    cwd=folder,
                    env=environment,
                    text=True,
                    check=False,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
                assert done.returncode == 0, f"$ {command}\n{done.stdout}"
                fits = not expected or _OUTPUT.check_output(expected, done.stdout, _FLAGS)
                assert fits, f"$ {command}\nexpected:\n{expected}\ngot:\n{done.stdout}"
        elif block.kind == "python":
            python.append(block.body)
    if python:
        # One program: later blocks use the names of earlier ones.
        subprocess.run(
            [sys.executable, "-W", "error", "-c", "\n".join(python)],
            cwd=folder,
            env=environment,
            check=True,
        )


def test_every_link_between_pages_leads_somewhere() -> None:
    broken = []
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")):
            local = not target.startswith(("http://", "https://"))
            if local and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_every_page_is_listed() -> None:
    """In the README, or for a decision in the list of decisions."""
    decisions = ROOT / "docs" / "explanation" / "decisions" / "README.md"
    listed = {
        (page.parent / target).resolve()
        for page in (ROOT / "README.md", decisions)
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8"))
    }
    assert [
        str(page.relative_to(ROOT)) for page in PAGES if page not in {*listed, ROOT / "README.md"}
    ] == []


def test_examples_are_found() -> None:
    page = ROOT / "docs" / "how-to" / "options-in-a-file.md"
    found = list(blocks(page))
    assert [(block.kind, block.file) for block in found] == [
        ("toml", "boxwright.toml"),
        ("console", None),
    ]
    assert list(commands("$ one\nout\n$ two   # remark\n")) == [("one", "out\n"), ("two", "")]
