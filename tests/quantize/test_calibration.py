"""Calibration of a model over image files."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from boxwright.errors import ImageError, InputError
from boxwright.evaluate.npz import read_npz, write_npz
from boxwright.graph.session import plain_session
from boxwright.images import load_image
from boxwright.model import Model
from boxwright.preprocess import Preprocessor
from boxwright.quantize import calibration, store
from boxwright.quantize.activations import Activations, Reader, in_groups
from boxwright.quantize.calibration import Calibration, calibrate
from boxwright.quantize.histogram import BINS
from boxwright.quantize.legacy_cache import read_legacy_cache
from tests.models import GraphBuilder, make_model

_ROOT = Path(__file__).parents[2]
CONV = "conv_3"


@pytest.fixture
def model() -> Model:
    return make_model(channels=4)


def write_images(folder: Path, count: int, seed: int = 0) -> list[Path]:
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    paths = []
    for number in range(count):
        size = (int(random.integers(20, 90)), int(random.integers(20, 90)), 3)
        path = folder / f"{number}.png"
        Image.fromarray(random.integers(0, 256, size, np.uint8)).save(path)
        paths.append(path)
    return paths


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return write_images(tmp_path / "images", 11)


def content(found: Calibration, folder: Path) -> bytes:
    found.save(folder / "content.npz")
    return (folder / "content.npz").read_bytes()


def activations_of(model: Model, images: Sequence[Path]) -> dict[str, NDArray[Any]]:
    """All float tensors that a session of our own gives, image by image."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    names = [name for node in proto.graph.node for name in node.output]
    del proto.graph.output[:]
    for name in names:
        proto.graph.output.add(name=name)
    session = plain_session(proto)
    prepare = Preprocessor(model.card).prepare
    runs = [session.run(None, {"images": prepare(load_image(p))[0][None]}) for p in images]
    return {name: np.concatenate([run[at] for run in runs]) for at, name in enumerate(names)}


def test_statistics_are_those_of_the_activations(model: Model, images: list[Path]) -> None:
    found = calibrate(model, images)
    expected = {k: v for k, v in activations_of(model, images).items() if v.dtype == np.float32}
    assert list(found.statistics) == list(expected)
    for name, values in expected.items():
        item = found.statistics[name]
        assert found.range(name) == (values.min(), values.max())
        assert found.amax(name) == np.abs(values).max()
        assert item.total == values.size
        histogram, _ = np.histogram(
            np.abs(values[values != 0]).astype(np.float64), BINS, (0, 2.0**item.exponent)
        )
        np.testing.assert_array_equal(item.counts, histogram)
    assert found.images == 11


def test_the_same_gives_the_same_bytes(model: Model, images: list[Path], tmp_path: Path) -> None:
    whole = content(calibrate(model, images), tmp_path)
    assert content(calibrate(model, images), tmp_path) == whole
    # Neither how many at a time matters, nor in how many groups.
    assert content(calibrate(model, images, batch=3), tmp_path) == whole
    assert content(calibrate(model, images, batch=1, budget=20_000), tmp_path) == whole
    assert content(calibrate(model, images, budget=1), tmp_path) == whole


def test_the_order_of_images_does_not_matter(model: Model, images: list[Path]) -> None:
    first, second = calibrate(model, images), calibrate(model, images[::-1])
    assert first.images_sha256 != second.images_sha256
    for name, item in first.statistics.items():
        np.testing.assert_array_equal(item.counts, second.statistics[name].counts)
        assert first.range(name) == second.range(name)


def test_the_model_is_not_changed(model: Model, images: list[Path]) -> None:
    before = model.to_bytes()
    calibrate(model, images[:1])
    assert model.to_bytes() == before


def test_some_tensors(model: Model, images: list[Path]) -> None:
    whole = calibrate(model, images)
    found = calibrate(model, images, ["scores", CONV])
    assert list(found.statistics) == [CONV, "scores"]
    assert found.amax(CONV, "entropy") == whole.amax(CONV, "entropy")
    with pytest.raises(InputError, match="'boxes' was not calibrated; 2 others were"):
        found.amax("boxes")
    with pytest.raises(InputError, match="was not calibrated"):
        found.range("boxes")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere", "it is not there; the model has"),
        ("images", "it is not there"),  # uint8, and no node's output
        ("constant_0", "it is not there"),
    ],
)
def test_a_tensor_that_cannot_be(model: Model, images: list[Path], name: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"cannot calibrate the tensor '{name}'.*{reason}"):
        calibrate(model, images, [name])


def test_tensors_that_no_image_changes_are_left_out(images: list[Path]) -> None:
    model = make_model(channels=4)
    graph = model.proto.graph
    graph.node.add(op_type="Shape", input=["images"], output=["extent"])
    graph.node.add(op_type="Cast", input=["extent"], output=["extent_float"]).attribute.add(
        name="to", type=onnx.AttributeProto.INT, i=onnx.TensorProto.FLOAT
    )
    assert "extent_float" not in calibrate(model, images[:1]).statistics
    with pytest.raises(InputError, match="no float tensor computed from the image"):
        calibrate(model, images[:1], ["extent_float"])


def test_half_precision_activations(images: list[Path]) -> None:
    model = make_model(channels=4)
    node = model.proto.graph.node.add(op_type="Cast", input=["scores"], output=["half"])
    node.attribute.add(name="to", type=onnx.AttributeProto.INT, i=onnx.TensorProto.FLOAT16)
    found = calibrate(model, images, ["half", "scores"])
    assert found.amax("half") == np.float16(found.amax("scores"))


@pytest.mark.parametrize("batch", [1, 4])
def test_a_graph_of_a_fixed_number_of_images(images: list[Path], batch: int) -> None:
    free, fixed = make_model(channels=4), make_model(channels=4)
    fixed.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    found = calibrate(fixed, images)
    for name, item in calibrate(free, images).statistics.items():
        np.testing.assert_array_equal(item.counts, found.statistics[name].counts)


def test_few_images_are_noted(model: Model, images: list[Path]) -> None:
    (note,) = calibrate(model, images, [CONV]).warnings
    assert "calibrated on 11 images; at least 100" in note
    many = calibrate(model, images * 10, [CONV])
    assert many.warnings == ()
    assert many.images == 110


def test_a_tensor_that_is_always_zero_is_noted(model: Model, images: list[Path]) -> None:
    build = GraphBuilder(0)
    name = build.op("Mul", "scores", build.constant(0.0), output="nothing")
    # The builder counts its constants from 0, and so did the model's.
    build.weights[0].name = build.nodes[0].input[1] = "zero"
    model.proto.graph.node.extend(build.nodes)
    model.proto.graph.initializer.extend(build.weights)
    found = calibrate(model, images * 10, [name])
    assert found.amax(name) == 0
    assert "zero on every image, so without a range: 'nothing'" in found.warnings[0]


def test_wrong_images(model: Model, images: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs images, got none"):
        calibrate(model, [])
    with pytest.raises(InputError, match=r"cannot read .*none\.png"):
        calibrate(model, [*images, tmp_path / "none.png"])
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"text\.png is not an image"):
        calibrate(model, [*images, tmp_path / "text.png"])
    with pytest.raises(InputError, match="at least 1"):
        calibrate(model, images, batch=0)


def test_a_value_that_is_not_finite_is_told_with_its_image(tmp_path: Path) -> None:
    """The logarithm of the brightest pixel: infinite on the black image only."""
    model = make_model(channels=4)
    graph = model.proto.graph
    graph.node.add(op_type="ReduceMax", input=["cast_0"], output=["brightest"]).attribute.extend(
        [onnx.helper.make_attribute("axes", [1, 2, 3])]
    )
    graph.node.add(op_type="Log", input=["brightest"], output=["darkness"])
    paths = write_images(tmp_path / "images", 5)
    Image.new("RGB", (64, 32)).save(paths[3])
    with pytest.raises(InputError, match=r"'darkness' holds -inf on .*3\.png"):
        calibrate(model, paths)


@pytest.mark.parametrize("budget", [1 << 29, 60_000])
def test_progress_ends_at_all_images(model: Model, images: list[Path], budget: int) -> None:
    calls: list[tuple[str, int, int | None]] = []
    calibrate(model, images, budget=budget, progress=lambda *call: calls.append(call))
    done = [call[1] for call in calls if call[0] == "calibrating"]
    assert done == sorted(done)
    assert calls[-1] == ("calibrating", 11, 11)


def test_groups_fit_the_budget() -> None:
    assert in_groups([3, 3, 3, 9, 1, 1], 6) == [[0, 1], [2], [3], [4, 5]]
    assert in_groups([], 6) == []


def test_activations_stay_within_the_budget(
    model: Model, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    activations = Activations(model)
    one = np.zeros((1, *model.card.input_size, 3), np.uint8)
    sizes = dict(zip(activations.names, activations.sizes(one), strict=True))
    assert sizes == {
        name: value.nbytes
        for name, value in activations_of(model, images[:1]).items()
        if name in sizes
    }
    budget = 2 * max(sizes.values())
    held: list[int] = []
    original = Reader.values

    def watched(self: Any, batch: NDArray[np.uint8]) -> Any:
        pairs = list(original(self, batch))
        held.append(sum(value.nbytes for _, value in pairs))
        return iter(pairs)

    monkeypatch.setattr(Reader, "values", watched)
    calibrate(model, images, budget=budget)
    assert held
    assert max(held) <= budget


# Files


def test_a_calibration_is_saved_and_loaded(
    model: Model, images: list[Path], tmp_path: Path
) -> None:
    found = calibrate(model, images)
    found.save(tmp_path / "a.npz")
    loaded = Calibration.load(tmp_path / "a.npz")
    assert content(loaded, tmp_path) == (tmp_path / "a.npz").read_bytes()
    for name in found.statistics:
        for method in ("minmax", "entropy", "percentile", "mse"):
            assert loaded.amax(name, method) == found.amax(name, method)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as plain:
        assert plain["counts"].shape == (len(found.statistics), BINS)


def changed(arrays: dict[str, Any], name: str, at: Any, value: Any) -> dict[str, Any]:
    array = arrays[name].copy()
    array[at] = value
    return {**arrays, name: array}


def test_a_file_that_cannot_be_is_refused(model: Model, images: list[Path], tmp_path: Path) -> None:
    calibrate(model, images, [CONV, "scores"]).save(tmp_path / "a.npz")
    sound = read_npz(tmp_path / "a.npz")
    header = sound["boxwright_calibration"].tobytes().decode()

    def with_header(old: str, new: str) -> dict[str, Any]:
        assert old in header
        text = header.replace(old, new).encode()
        return {**sound, "boxwright_calibration": np.frombuffer(text, np.uint8)}

    cases: list[tuple[dict[str, Any], str]] = [
        (changed(sound, "counts", (0, 5), -1), "counts less than nothing"),
        (changed(sound, "counts", (0, 5), 1 << 60), "or too much"),
        (changed(sound, "counts", 0, 0), "does not end at its largest"),
        (changed(sound, "zeros", 0, -1), "counts less"),
        (changed(sound, "negatives", (0, 5), -1), "negative values than values"),
        (changed(sound, "negatives", (0, 5), 1 << 40), "more negative values than values"),
        (changed(sound, "minimum", 0, np.nan), "the range of 'conv_3' is not one"),
        (changed(sound, "maximum", 0, np.inf), "the range of"),
        (changed(sound, "maximum", 0, -1e9), "the range of"),
        (changed(sound, "exponent", 0, 99), "the range of"),
        (changed(sound, "minimum", 1, 2 * sound["maximum"][1]), "the range of 'scores'"),
        ({**sound, "counts": sound["counts"][:1]}, "counts must be int64"),
        ({**sound, "counts": sound["counts"].astype(np.float64)}, "counts must be int64"),
        ({key: value for key, value in sound.items() if key != "zeros"}, "damaged"),
        (with_header('"format": 2', '"format": 1'), "another version"),
        (with_header('"scores"', '"conv_3"'), "names, each another"),
        (with_header('"scores"', "7"), "names, each another"),
        (with_header('"images": 11', '"images": -1'), "of no images"),
        (with_header('"images": 11', '"images": true'), "images must be of type int"),
        (with_header("{", "[" * 100_000), "damaged"),
        (with_header('"progress": null', '"progress": {"group": 1}'), "damaged"),
    ]
    for arrays, reason in cases:
        write_npz(tmp_path / "b.npz", arrays)
        with pytest.raises(InputError, match=reason):
            Calibration.load(tmp_path / "b.npz")


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones(3))
    for name in ("a.npz", "images", "none"):
        (tmp_path / "images").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=r"not a calibration|cannot read"):
            Calibration.load(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(model: Model, images: list[Path], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (Calibration.load, read_legacy_cache, read_npz):
        with pytest.raises(InputError, match="not a regular file"):
            read(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        calibrate(model, images, cache=tmp_path / "pipe")


# Caches


class Killed(BaseException):
    pass


def stop_after(images: int) -> Any:
    def progress(stage: str, done: int, total: int | None) -> None:
        if stage == "calibrating" and done >= images:
            raise Killed

    return progress


@pytest.fixture
def save_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(calibration, "_SAVE_SHARE", 0)


def count_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each run of the network takes."""
    runs: list[int] = []
    original = Reader.values

    def watched(self: Any, batch: NDArray[np.uint8]) -> Any:
        runs.append(len(batch))
        return original(self, batch)

    monkeypatch.setattr(Reader, "values", watched)
    return runs


def test_a_finished_one_is_reused(
    model: Model, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "deep" / "calibration.npz"
    first = calibrate(model, images, cache=cache)
    runs = count_runs(monkeypatch)
    second = calibrate(model, images, cache=cache, batch=2)
    assert runs == []
    assert content(second, tmp_path) == content(first, tmp_path) == cache.read_bytes()
    # Some of them are among all of them.
    some = calibrate(model, images, [CONV], cache=cache)
    assert runs == []
    assert list(some.statistics) == [CONV]
    # And all of them are not among some.
    other = tmp_path / "some.npz"
    calibrate(model, images, [CONV], cache=other)
    for tensors in (["scores"], None):
        wanted = calibrate(model, images, tensors, cache=other)
        assert list(wanted.statistics) == (tensors or list(first.statistics))
    assert not list(cache.parent.glob("*.lock"))
    monkeypatch.undo()
    assert content(some, tmp_path) == content(calibrate(model, images, [CONV]), tmp_path)


@pytest.mark.parametrize("budget", [1 << 29, 60_000])
@pytest.mark.usefixtures("save_always")
def test_an_interrupted_one_goes_on(
    model: Model, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    options: dict[str, Any] = {"batch": 2, "budget": budget}
    whole = calibrate(model, images, **options)
    runs = count_runs(monkeypatch)
    calibrate(model, images, **options)
    needed = len(runs)
    runs.clear()
    cache = tmp_path / "calibration.npz"
    for stop in (4, 7, 9):
        with pytest.raises(Killed):
            calibrate(model, images, cache=cache, progress=stop_after(stop), **options)
        with pytest.raises(InputError, match="was interrupted"):
            Calibration.load(cache)
    found = calibrate(model, images, cache=cache, **options)
    assert content(found, tmp_path) == content(whole, tmp_path) == cache.read_bytes()
    # What was stopped between a batch and its checkpoint is done again, no more.
    assert needed < len(runs) <= needed + 3


@pytest.mark.usefixtures("save_always")
def test_an_interrupted_one_of_other_settings_starts_again(
    model: Model, images: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "calibration.npz"
    whole = content(calibrate(model, images), tmp_path)
    for other in ({"batch": 3}, {"budget": 60_000}, {"tensors": [CONV]}):
        cache.unlink(missing_ok=True)
        with pytest.raises(Killed):
            calibrate(model, images, cache=cache, progress=stop_after(9), **{"batch": 2, **other})  # type: ignore[arg-type]
        caplog.clear()
        found = calibrate(model, images, cache=cache, batch=2)
        assert content(found, tmp_path) == whole
        assert "starts again" in caplog.text


def test_a_cache_of_something_else_is_replaced_with_a_reason(
    model: Model, images: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    cache = tmp_path / "calibration.npz"
    calibrate(model, images, cache=cache)
    other = calibrate(model, images[:5], cache=cache)
    assert "is of other images; calibration starts again" in caplog.text
    assert content(other, tmp_path) == cache.read_bytes()
    calibrate(make_model(channels=4, seed=1), images[:5], cache=cache)
    assert "is of another model; calibration starts again" in caplog.text
    cache.write_bytes(cache.read_bytes()[:-100])
    found = calibrate(model, images[:5], cache=cache)
    assert "not a readable .npz" in caplog.text
    assert content(found, tmp_path) == content(other, tmp_path)


def test_a_file_of_the_users_is_not_replaced(
    model: Model, images: list[Path], tmp_path: Path
) -> None:
    np.savez(tmp_path / "mine.npz", x=np.ones(3))
    for path in (tmp_path / "mine.npz", images[0]):
        before = path.read_bytes()
        with pytest.raises(InputError, match="name another file"):
            calibrate(model, images, cache=path)
        assert path.read_bytes() == before


def test_a_cache_that_cannot_be_written_is_refused_at_once(
    model: Model, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = count_runs(monkeypatch)
    with pytest.raises(InputError, match=r"cannot write .*0\.png/calibration\.npz"):
        calibrate(model, images, cache=images[0] / "calibration.npz")
    with pytest.raises(InputError, match="it is a directory"):
        calibrate(model, images, cache=images[0].parent)
    assert runs == []


def test_two_that_share_a_cache_do_the_work_once(
    model: Model, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = count_runs(monkeypatch)
    cache, found = tmp_path / "calibration.npz", []

    def work() -> None:
        found.append(calibrate(model, images, cache=cache, batch=1))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == len(images)
    assert len({content(item, tmp_path) for item in found}) == 1


_RUN = """
import sys
from pathlib import Path
from boxwright.model import Model
from boxwright.quantize import calibration
calibration._SAVE_SECONDS = 0.0
folder = Path(sys.argv[1])
images = sorted((folder / "images").iterdir())
calibration.calibrate(Model.load(folder / "m.onnx"), images, cache=folder / "c.npz", batch=1)
"""


def test_one_that_is_killed_goes_on(model: Model, tmp_path: Path) -> None:
    """``kill -9`` at any moment leaves a cache that is whole, and the end is the same."""
    images = write_images(tmp_path / "images", 150)
    model.save(tmp_path / "m.onnx")
    cache = tmp_path / "c.npz"
    environment = {**os.environ, "PYTHONPATH": str(_ROOT / "src")}
    command = [sys.executable, "-c", _RUN, str(tmp_path)]
    random = np.random.default_rng(0)
    for _ in range(3):
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 60
            while not cache.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(float(random.uniform(0, 0.2)))
            process.send_signal(signal.SIGKILL)
        assert cache.exists()
        assert store.read(cache).images == 150
    found = calibrate(model, sorted((tmp_path / "images").iterdir()), cache=cache, batch=1)
    assert len(images) == found.images
    fresh = calibrate(model, sorted((tmp_path / "images").iterdir()))
    assert content(found, tmp_path) == content(fresh, tmp_path) == cache.read_bytes()


def test_a_real_network(fixtures_dir: Path, tmp_path: Path) -> None:
    """yolov4-tiny: batches change nothing, and ONNX Runtime's own calibrator agrees."""
    from boxwright.importers import import_model

    source = fixtures_dir / "darknet" / "yolov4-tiny"
    model = import_model(source / "yolov4-tiny.weights", cfg=source / "yolov4-tiny.cfg")
    paths = sorted((fixtures_dir / "coco-tiny" / "val2017").glob("*.jpg"))[:6]
    found = calibrate(model, paths, batch=4)
    assert content(calibrate(model, paths, batch=1), tmp_path) == content(found, tmp_path)
    from onnxruntime.quantization.calibrate import CalibrationDataReader, MinMaxCalibrater

    class Feeds(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            prepare = Preprocessor(model.card).prepare
            self.feeds = iter([{"images": prepare(load_image(p))[0][None]} for p in paths])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    model.save(tmp_path / "m.onnx")
    theirs = MinMaxCalibrater(tmp_path / "m.onnx", ["Conv"], str(tmp_path / "augmented.onnx"))
    theirs.augment_graph()
    theirs.create_inference_session()
    theirs.collect_data(Feeds())
    ranges = {name: data.range_value for name, data in theirs.compute_data().items()}
    common = [name for name in ranges if name in found.statistics]
    assert len(common) > 30
    for name in common:
        # Their session fuses and reorders, so values differ in the last digits.
        low, high = (float(np.ravel(value)[0]) for value in ranges[name])
        amax = found.amax(name)
        assert found.range(name) == pytest.approx((low, high), abs=1e-4 * amax), name
