"""No verb writes over what it reads, or takes its own pictures for images."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from boxwright.errors import InputError
from boxwright.files import atomic_write
from boxwright.images import find_images, load_image
from tests.cli.conftest import Run
from tests.cli.material import write_darknet, write_image


@pytest.fixture
def engine(run: Run, tmp_path: Path) -> Path:
    weights = write_darknet(tmp_path)
    assert run("import", weights, "-o", "tiny.onnx").exit_code == 0
    assert run("build", "tiny.onnx", "-o", "tiny.bw").exit_code == 0
    return tmp_path / "tiny.bw"


@pytest.mark.parametrize(
    ("verb", "source", "output"),
    [
        ("import", "tiny.weights", "tiny.weights"),
        ("import", "tiny.weights", "link.onnx"),
        ("build", "tiny.onnx", "tiny.onnx"),
        ("report", "tiny.bw", "tiny.bw"),
    ],
)
def test_inputs_are_not_overwritten(
    run: Run, engine: Path, verb: str, source: str, output: str
) -> None:
    path = engine.parent / source
    (engine.parent / "link.onnx").symlink_to("tiny.weights")
    before = path.read_bytes()
    result = run(verb, source, "-o", output)
    assert result.exit_code == 1
    assert "writing there would destroy it" in result.stderr
    assert path.read_bytes() == before


def test_a_given_cfg_is_not_overwritten(run: Run, engine: Path) -> None:
    result = run("import", "tiny.weights", "--cfg", "tiny.cfg", "-o", "tiny.cfg")
    assert result.exit_code == 1
    assert "destroy" in result.stderr


def test_a_drawing_does_not_replace_its_photo(run: Run, engine: Path) -> None:
    photo = write_image(engine.parent / "pics" / "drawn" / "a.png")
    before = photo.read_bytes()
    result = run("detect", engine, photo, "-o", "pics")
    assert result.exit_code == 1
    assert "would take the place of an image" in result.stderr
    assert photo.read_bytes() == before


def test_drawings_of_an_earlier_run_are_no_images(run: Run, engine: Path) -> None:
    for number in range(2):
        write_image(engine.parent / f"{number}.png", seed=number)
    for _ in range(3):
        result = run("detect", engine, ".", "-o", "out", "--json")
        assert result.exit_code == 0, result.output
    lines = (engine.parent / "out" / "detections.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["0.png", "1.png"]


def test_a_search_passes_by_our_folders_but_not_a_named_file(tmp_path: Path) -> None:
    mine = write_image(tmp_path / "out" / "drawn" / "a.png")
    photo = write_image(tmp_path / "b.png")
    ours = [tmp_path / "out" / "drawn"]
    assert find_images([tmp_path], without=ours) == [photo]
    assert find_images([tmp_path / "*" / "*" / "*.png", photo], without=ours) == [photo]
    assert find_images([mine], without=ours) == [mine]
    with pytest.raises(InputError, match="no images but those that an earlier run wrote"):
        find_images([tmp_path / "out"], without=ours)


@pytest.mark.parametrize("verb", ["bench", "ship"])
def test_budgets_are_numbers(run: Run, engine: Path, verb: str) -> None:
    subject = engine if verb == "bench" else engine.with_name("tiny.weights")
    result = run(verb, subject, "--images", ".", "--max-latency", "nan")
    assert result.exit_code == 2
    assert "finite" in result.stderr or "range" in result.stderr


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "v3.bin", tmp_path / "current.bin"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with atomic_write(link) as stream:
        stream.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (
        pytest.raises(InputError, match="not a regular file"),
        atomic_write(tmp_path / "pipe") as stream,
    ):
        stream.write(b"x")
    assert (tmp_path / "pipe").is_fifo()


def test_transparency_in_strips(tmp_path: Path) -> None:
    """Over white, rounded, whatever the strip a row lies in."""
    import numpy as np
    from PIL import Image

    rgba = np.random.default_rng(0).integers(0, 256, (150, 20, 4), np.uint8)
    Image.fromarray(rgba, "RGBA").save(tmp_path / "a.png")
    colour, alpha = rgba[..., :3].astype(float), rgba[..., 3:].astype(float)
    expected = np.floor((colour * alpha + 255 * (255 - alpha) + 127) / 255)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), expected)
