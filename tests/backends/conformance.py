"""What every backend must do. A backend's test module subclasses :class:`BackendConformance`.

An exclusion names a test and says why the backend cannot pass it; it is shown as a skip.
What must hold for each model, and not for the backend alone, is in classes of its own:
:class:`ModelConformance` needs a runner, :class:`EngineConformance` builds and loads again.
``test_imports.py`` applies these to every imported model.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx
import pytest

from boxwright import backends
from boxwright.backends.base import TensorSpec
from boxwright.engine import Engine
from boxwright.errors import BuildError, EngineError, InputError, ModelError
from boxwright.model import Model
from tests.models import make_images, make_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from boxwright.backends.base import Precision, Runner, Tensors

    Images = NDArray[np.uint8]

# Runs an engine file on a saved batch, as another program on another day would.
RUN_ELSEWHERE = """
import sys, numpy as np
from boxwright import backends
engine, images, output = sys.argv[1:]
with backends.load(engine) as runner:
    np.savez(output, **runner.infer({"images": np.load(images)}))
"""

# Builds an engine and is killed in the middle: at the given call of the progress callback.
KILLED_BUILD = """
import os, signal, sys
from boxwright import backends
from boxwright.model import Model
model, backend, output, fatal = sys.argv[1:]
calls = 0
def progress(stage, done, total):
    global calls
    if calls == int(fatal):
        os.kill(os.getpid(), signal.SIGKILL)
    calls += 1
backends.build(Model.load(model), backend=backend, output=output, progress=progress)
"""

_BUILT: dict[str, Engine] = {}


def reference_results(model: Model, images: Images) -> Tensors:
    with backends.load(model, backend="reference") as reference:
        return reference.infer({"images": images})


def copy_of(model: Model) -> Model:
    return Model(onnx.ModelProto.FromString(model.proto.SerializeToString()), model.card)


def pixels(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.zeros(shape, np.uint8)


# What a runner for H x W images is fed, and what its error must say.
WRONG_FEEDS: dict[str, tuple[Callable[[int, int], Any], str]] = {
    "nothing": (lambda h, w: {}, r"inputs must be \['images'\], got \[\]"),
    "another name": (lambda h, w: {"image": pixels(1, h, w, 3)}, r"got \['image'\]"),
    "one too many": (
        lambda h, w: {"images": pixels(1, h, w, 3), "x": pixels(1)},
        r"got \['images', 'x'\]",
    ),
    "floats": (
        lambda h, w: {"images": pixels(1, h, w, 3).astype(np.float32)},
        "must be uint8 .* got float32",
    ),
    "int8": (
        lambda h, w: {"images": pixels(1, h, w, 3).astype(np.int8)},
        "must be uint8 .* got int8",
    ),
    "no batch": (
        lambda h, w: {"images": pixels(h, w, 3)},
        r"\[any, H, W, 3\], got uint8 of shape \[H, W, 3\]",
    ),
    "another size": (
        lambda h, w: {"images": pixels(1, w + 1, h, 3)},
        r"\[any, H, W, 3\], got uint8 of shape \[1, \d+, H, 3\]",
    ),
    "planes": (
        lambda h, w: {"images": pixels(1, 3, h, w)},
        r"got uint8 of shape \[1, 3, H, W\]",
    ),
    "no images": (
        lambda h, w: {"images": pixels(0, h, w, 3)},
        r"got uint8 of shape \[0, H, W, 3\]",
    ),
    "a number": (lambda h, w: {"images": np.uint8(3)}, "must be a numpy array, got uint8"),
    "a list": (lambda h, w: {"images": [[1, 2]]}, "must be a numpy array, got list"),
}


class ModelConformance:
    """What holds for a model on a backend, whatever they are.

    Subclasses, or their modules, give the fixtures ``model``, ``engine``, ``runner``,
    ``pictures`` (five images) and ``expected`` (the reference backend's results for them).

    Attributes:
        box_tolerance: Largest difference to the reference backend, in pixels.
        score_tolerance: Likewise for scores, and for outputs of other names.
        deviations: What an output's standard deviation exceeds, where that is not 0.01.
    """

    box_tolerance: float = 1e-3
    score_tolerance: float = 1e-5
    deviations: ClassVar[dict[str, float]] = {"boxes": 1}

    def test_inputs_and_outputs_are_the_contracts(self, runner: Runner, model: Model) -> None:
        height, width = model.card.input_size
        assert runner.inputs == (
            TensorSpec("images", np.dtype(np.uint8), (None, height, width, 3)),
        )
        outputs = {spec.name: spec for spec in runner.outputs}
        assert set(outputs) == {value.name for value in model.proto.graph.output}
        assert all(spec.dtype == np.float32 for spec in outputs.values())
        assert all(spec.shape[0] is None for spec in outputs.values())
        if model.card.task == "detect":
            for name, columns in (("boxes", 4), ("scores", len(model.card.class_names))):
                assert outputs[name].shape[2] == columns

    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_any_batch_size_runs(
        self, runner: Runner, pictures: Images, expected: Tensors, count: int
    ) -> None:
        results = runner.infer({"images": pictures[:count]})
        assert {name: (a.shape, a.dtype) for name, a in results.items()} == {
            name: ((count, *a.shape[1:]), np.dtype(np.float32)) for name, a in expected.items()
        }

    def test_results_agree_with_the_reference(
        self, runner: Runner, pictures: Images, expected: Tensors
    ) -> None:
        got = runner.infer({"images": pictures})
        self.assert_agrees(got, expected)
        # The comparison means something only where there is something to tell apart.
        for name, array in expected.items():
            assert array.std() > self.deviations.get(name, 0.01), name

    def test_permuting_a_batch_permutes_the_results(self, runner: Runner, pictures: Images) -> None:
        order = [3, 0, 4, 2, 1]
        straight = runner.infer({"images": pictures})
        permuted = runner.infer({"images": pictures[order]})
        self.assert_close(permuted, {name: array[order] for name, array in straight.items()})

    def test_equal_images_give_equal_results_in_any_batch(
        self, runner: Runner, pictures: Images
    ) -> None:
        alone = runner.infer({"images": pictures[:1]})
        results = runner.infer({"images": np.repeat(pictures[:1], 4, axis=0)})
        for row in range(4):
            self.assert_close({n: a[row : row + 1] for n, a in results.items()}, alone)

    @pytest.mark.parametrize("case", WRONG_FEEDS)
    def test_a_wrong_feed_is_refused(
        self, runner: Runner, model: Model, pictures: Images, case: str
    ) -> None:
        height, width = model.card.input_size
        make, message = WRONG_FEEDS[case]
        given = message.replace("H", str(height)).replace("W", str(width))
        with pytest.raises(InputError, match=given):
            runner.infer(make(height, width))
        # and the runner still works
        runner.infer({"images": pictures[:1]})

    def test_inputs_may_be_views_and_read_only_and_are_left_alone(
        self, runner: Runner, pictures: Images
    ) -> None:
        images = pictures[:4].copy()
        expected = runner.infer({"images": images})
        images.flags.writeable = False
        self.assert_close(runner.infer({"images": images}), expected)
        wide = np.repeat(images, 2, axis=2)
        for view in (wide[:, :, ::2], np.asfortranarray(images)):
            before = view.copy()
            self.assert_close(runner.infer({"images": view}), expected)
            np.testing.assert_array_equal(view, before)
        backwards = runner.infer({"images": images[::-1]})
        self.assert_close(backwards, {name: array[::-1] for name, array in expected.items()})

    def test_two_runners_do_not_disturb_each_other(self, engine: Engine, pictures: Images) -> None:
        images = pictures[:2]
        first, second = backends.load(engine), backends.load(engine)
        expected = first.infer({"images": images})
        self.assert_close(second.infer({"images": images}), expected)
        first.close()
        self.assert_close(second.infer({"images": images}), expected)
        second.close()

    # What the tests above are made of.

    def assert_close(self, got: Tensors, expected: Tensors) -> None:
        tolerances = {"boxes": self.box_tolerance}
        assert set(got) == set(expected)
        for name, array in expected.items():
            np.testing.assert_allclose(
                got[name], array, rtol=0, atol=tolerances.get(name, self.score_tolerance)
            )

    def assert_agrees(self, got: Tensors, expected: Tensors) -> None:
        """With the reference backend."""
        self.assert_close(got, expected)


class EngineConformance(ModelConformance):
    """What holds for an engine of any model; it is built and loaded again for it.

    Attributes:
        backend: Name of the backend.
    """

    backend: str

    def test_landmarks_come_with_the_boxes(self, tmp_path: Path) -> None:
        """An output more, of four axes: the corners of each box, as two points."""
        model = make_model(landmarks=True)
        engine = backends.build(model, backend=self.backend, output=tmp_path / "points.bw")
        with backends.load(engine) as runner:
            specs = {spec.name: spec for spec in runner.outputs}
            results = runner.infer({"images": make_images(model, 3)})
        assert set(specs) == set(results) == {"boxes", "scores", "landmarks"}
        assert specs["landmarks"].shape[2:] == (2, 2)
        assert results["landmarks"].dtype == np.float32
        assert results["landmarks"].shape == (3, 128, 2, 2)
        np.testing.assert_allclose(
            results["landmarks"].reshape(3, 128, 4), results["boxes"], atol=self.box_tolerance
        )

    def test_a_model_runs_without_an_engine_file(
        self, runner: Runner, model: Model, tmp_path: Path
    ) -> None:
        images = make_images(model, 2)
        model.save(tmp_path / "model.onnx")
        for source in (model, tmp_path / "model.onnx", str(tmp_path / "model.onnx")):
            with backends.load(source, backend=self.backend) as plain:
                self.assert_close(plain.infer({"images": images}), runner.infer({"images": images}))

    def test_results_stay_as_they_are_when_the_runner_goes_on(
        self, engine: Engine, model: Model
    ) -> None:
        runner = backends.load(engine)
        first = runner.infer({"images": make_images(model, 2, seed=1)})
        kept = {name: array.copy() for name, array in first.items()}
        runner.infer({"images": make_images(model, 2, seed=2)})
        runner.close()
        for name, array in kept.items():
            np.testing.assert_array_equal(first[name], array)

    def test_closing_twice_is_harmless_and_final(self, engine: Engine, model: Model) -> None:
        runner = backends.load(engine)
        with runner as same:
            assert same is runner
        runner.close()
        with pytest.raises(InputError, match="closed"):
            runner.infer({"images": make_images(model, 1)})

    def test_an_error_inside_the_block_passes_through(self, engine: Engine) -> None:
        with pytest.raises(ZeroDivisionError), backends.load(engine):
            _ = 1 / 0

    def test_other_threads_may_use_a_runner_one_at_a_time(
        self, runner: Runner, model: Model
    ) -> None:
        images = make_images(model, 2)
        expected = runner.infer({"images": images})
        for _ in range(3):
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                self.assert_close(pool.submit(runner.infer, {"images": images}).result(), expected)

    def test_another_process_loads_the_file(
        self, engine: Engine, runner: Runner, model: Model, tmp_path: Path
    ) -> None:
        images, output = make_images(model, 2), tmp_path / "out.npz"
        np.save(tmp_path / "images.npy", images)
        moved = shutil.copy(engine.path, tmp_path / "moved.bw")
        self.run_python(RUN_ELSEWHERE, moved, tmp_path / "images.npy", output)
        with np.load(output) as results:
            self.assert_close(dict(results), runner.infer({"images": images}))

    def test_the_receipt_says_what_was_built_and_where(self, engine: Engine) -> None:
        build = engine.receipt["build"]
        assert build["backend"] == self.backend
        assert build["precision"] == "fp32"
        assert build["batch"] == [1, 1, 16]
        assert engine.receipt["environment"]["libraries"]["numpy"] == np.__version__
        assert engine.receipt["environment"]["cores"] == os.cpu_count()
        assert platform.node() not in engine.receipt["environment"].values()

    def test_a_missing_plan_is_rebuilt_explained_and_kept(
        self,
        engine: Engine,
        runner: Runner,
        model: Model,
        tmp_path: Path,
        isolated_cache: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        foreign = self.with_foreign_plan(engine, tmp_path / "foreign.bw")
        images, stages = make_images(model, 2), list[str]()
        with backends.load(foreign, progress=lambda stage, *_: stages.append(stage)) as rebuilt:
            self.assert_close(rebuilt.infer({"images": images}), runner.infer({"images": images}))
        assert stages
        (message,) = [record.getMessage() for record in caplog.records]
        assert "holds no plan for this machine" in message
        assert "version 0.0.1 (here " in message
        (kept,) = isolated_cache.rglob("*.plan")
        assert kept.stem == engine.plans[0]
        stages.clear()
        with backends.load(foreign, progress=lambda stage, *_: stages.append(stage)) as cached:
            self.assert_close(cached.infer({"images": images}), runner.infer({"images": images}))
        assert not stages, "the second time the cached plan must do"

    def test_a_failed_build_leaves_the_old_file(self, model: Model, tmp_path: Path) -> None:
        engine = backends.build(model, backend=self.backend, output=tmp_path / "x.bw")
        before = engine.path.read_bytes()
        broken = copy_of(model)
        broken.proto.graph.node[3].op_type = "NoSuchOperator"
        with pytest.raises(BuildError, match="NoSuchOperator"):
            backends.build(broken, backend=self.backend, output=engine.path)
        assert engine.path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [engine.path]

    def test_building_leaves_the_model_as_it_was(self, model: Model, tmp_path: Path) -> None:
        before = model.to_bytes()
        engine = backends.build(model, backend=self.backend, output=tmp_path / "x.bw")
        assert model.to_bytes() == before
        assert engine.model().to_bytes() == before

    def test_a_model_outside_the_contract_is_refused(self, model: Model, tmp_path: Path) -> None:
        model = copy_of(model)
        model.proto.graph.output[0].name = "rectangles"
        with pytest.raises(ModelError, match="rectangles"):
            backends.build(model, backend=self.backend, output=tmp_path / "x.bw")
        with pytest.raises(ModelError, match="rectangles"):
            backends.load(model, backend=self.backend)

    # What the tests above are made of.

    def with_foreign_plan(self, engine: Engine, path: Path) -> Engine:
        """The engine with its plan said to be of another version."""
        fields = engine.plans[0].split("_")
        foreign = "_".join((fields[0], "0.0.1", *fields[2:]))
        return Engine.write(
            path, engine.model(), engine.receipt, {foreign: engine.plan_bytes(engine.plans[0])}
        )

    def run_python(self, code: str, *arguments: Any, rc: int | None = 0) -> int:
        import boxwright

        source = str(Path(boxwright.__file__).parents[1])
        # What is on the path already stays: a runtime may have been put there.
        path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert rc is None or done.returncode == rc, done.stderr
        return done.returncode


class BackendConformance(EngineConformance):
    """The suite. Subclasses set the attributes, and nothing else.

    Attributes:
        backend: Name of the backend.
        exclusions: Reason by test name.
        unsupported: Precisions it must refuse.
    """

    backend: str
    exclusions: ClassVar[dict[str, str]] = {}
    unsupported: ClassVar[tuple[Precision, ...]] = ()

    @pytest.fixture(autouse=True)
    def _exclude(self, request: pytest.FixtureRequest) -> None:
        for name in self.exclusions:
            assert hasattr(self, name), f"an exclusion names no test: {name}"
        test = request.node.originalname
        if test in self.exclusions:
            pytest.skip(self.exclusions[test])

    @pytest.fixture
    def model(self) -> Model:
        return make_model()

    @pytest.fixture
    def pictures(self, model: Model) -> Images:
        images = make_images(model, 5)
        images[1], images[2] = 0, 255
        return images

    @pytest.fixture
    def expected(self, model: Model, pictures: Images) -> Tensors:
        return reference_results(model, pictures)

    @pytest.fixture
    def engine(self, tmp_path_factory: pytest.TempPathFactory) -> Engine:
        """Built once for each backend: some take seconds, and no test changes it."""
        if self.backend not in _BUILT:
            path = tmp_path_factory.mktemp("built") / "engine.bw"
            _BUILT[self.backend] = backends.build(make_model(), backend=self.backend, output=path)
        return _BUILT[self.backend]

    @pytest.fixture
    def runner(self, engine: Engine) -> Iterator[Runner]:
        with backends.load(engine) as runner:
            yield runner

    def test_it_is_registered_and_works_here(self) -> None:
        assert backends.available()[self.backend] is None
        assert backends.get(self.backend).name == self.backend

    @pytest.mark.parametrize("name", ["with spaces.bw", "süß-模型-🚗.bw", "deep/er/still.bw"])
    def test_files_may_have_any_name(self, model: Model, tmp_path: Path, name: str) -> None:
        engine = backends.build(model, backend=self.backend, output=tmp_path / name)
        with backends.load(str(engine.path)) as runner:
            runner.infer({"images": make_images(model, 1)})

    @pytest.mark.parametrize("damage", ["cut", "changed", "resealed", "emptied"])
    def test_a_damaged_cache_is_built_again(
        self, engine: Engine, model: Model, tmp_path: Path, isolated_cache: Path, damage: str
    ) -> None:
        foreign = self.with_foreign_plan(engine, tmp_path / "foreign.bw")
        backends.load(foreign).close()
        (kept,) = isolated_cache.rglob("*.plan")
        sound = kept.read_bytes()
        nonsense = b"not a plan"
        kept.write_bytes(
            {
                "cut": sound[:-1],
                "changed": sound[:-1] + bytes([sound[-1] ^ 1]),
                "resealed": hashlib.sha256(nonsense).digest() + nonsense,
                "emptied": b"",
            }[damage]
        )
        with backends.load(foreign) as runner:
            runner.infer({"images": make_images(model, 1)})
        # A compiler that chooses by measuring need not write the same plan twice, nor one of
        # the same size, but a whole one it must be.
        again = kept.read_bytes()
        assert hashlib.sha256(again[32:]).digest() == again[:32]
        assert len(again) > max(len(sound) / 2, 32 + len(nonsense))

    def test_a_cache_that_cannot_be_written_costs_only_time(
        self,
        engine: Engine,
        model: Model,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        (tmp_path / "file").write_text("not a folder")
        monkeypatch.setenv("BOXWRIGHT_CACHE", str(tmp_path / "file"))
        foreign = self.with_foreign_plan(engine, tmp_path / "foreign.bw")
        with backends.load(foreign) as runner:
            runner.infer({"images": make_images(model, 1)})
        assert "is not kept for the next time" in caplog.text

    def test_a_plan_of_nonsense_is_an_engine_error(self, engine: Engine, tmp_path: Path) -> None:
        for number, nonsense in enumerate((b"", b"\0" * 100, b"nonsense" * 1000)):
            path = tmp_path / f"{number}.bw"
            crafted = engine.with_plan(engine.plans[0], nonsense, path)
            with pytest.raises(EngineError, match="cannot be loaded"):
                backends.load(crafted)

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
    @pytest.mark.parametrize("fatal", [0, 1, 2])
    def test_a_killed_build_leaves_nothing(self, model: Model, tmp_path: Path, fatal: int) -> None:
        model.save(tmp_path / "model.onnx")
        folder = tmp_path / "out"
        folder.mkdir()
        result = self.run_python(
            KILLED_BUILD, *(tmp_path / "model.onnx", self.backend, folder / "x.bw", fatal), rc=None
        )
        assert result == -signal.SIGKILL
        assert list(folder.iterdir()) == []

    def test_a_precision_it_lacks_is_refused(self, model: Model, tmp_path: Path) -> None:
        output = tmp_path / "x.bw"
        with pytest.raises(InputError, match="is not quantised, so it cannot be built in int8"):
            backends.build(model, backend=self.backend, precision="int8", output=output)
        if "fp16" in self.unsupported:
            with pytest.raises(BuildError, match=r"builds precision fp32.* got fp16"):
                backends.build(model, backend=self.backend, precision="fp16", output=output)
        assert not output.exists()

    def test_unknown_options_and_devices_are_refused(self, model: Model, tmp_path: Path) -> None:
        output = tmp_path / "x.bw"
        with pytest.raises(InputError, match="unknown option of backend"):
            backends.build(model, backend=self.backend, options={"nosuch": 1}, output=output)
        with pytest.raises(InputError, match="device"):
            backends.build(model, backend=self.backend, device="abacus", output=output)
        assert not output.exists()
