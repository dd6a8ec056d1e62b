"""Who takes part in a benchmark: engines, models, other backends, bare runtimes.

Every contender takes the same uint8 pixels ``(N, H, W, 3)`` and gives `boxes` and `scores`
on the host, so what is timed as its network is the same work for all: normalising,
moving to the device and back, running, waiting until it is done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from boxwright.boxes import cxcywh_to_xyxy
from boxwright.closing import Closing
from boxwright.errors import BackendUnavailableError, InputError
from boxwright.images import import_cv2
from boxwright.model import BOXES, IMAGES, SCORES, Model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from boxwright.backends.base import Runner, Tensors
    from boxwright.card import ModelCard
    from boxwright.engine import Engine
    from boxwright.evaluate.bare_openvino import BareOpenVino
    from boxwright.evaluate.bare_tensorrt import BareTensorRt
    from boxwright.evaluate.torch_peer import TorchPeer

Opened: TypeAlias = "Engine | Model"
Bare: TypeAlias = "BareOnnxRuntime | BareOpenVino | BareTensorRt"

BARE = "bare"
OPENCV = "opencv-dnn"
TORCH = "torch"

# How each backend is told its number of threads.
_THREAD_OPTIONS = {
    "onnxruntime": "intra_op_num_threads",
    "openvino": "inference_num_threads",
}

# OpenCV's output rows: cx, cy, w, h, objectness, then one score per class.
_BEFORE_CLASSES = 5


@runtime_checkable
class Synchronising(Protocol):
    """A runner whose `infer` may return before the work is done, as on a GPU.

    A benchmark waits with this method before it stops the clock. Runners that return
    finished results need no such method.
    """

    def synchronize(self) -> None:
        """Return when everything asked for is done."""
        ...


class Contender(Protocol):
    """One side of a benchmark."""

    @property
    def name(self) -> str:
        """Short and unlike the others' names."""
        ...

    @property
    def kind(self) -> str:
        """``engine``, ``model``, ``bare``, ``opencv-dnn`` or ``torch``."""
        ...

    @property
    def backend(self) -> str:
        """The runtime, with its version where that is known."""
        ...

    @property
    def precision(self) -> str:
        """As it was built; ``fp32`` for a model as it is."""
        ...

    @property
    def card(self) -> ModelCard:
        """For the work before and after the network."""
        ...

    @property
    def threads(self) -> int | None:
        """How many threads it was told to use; ``None`` where it cannot be told."""
        ...

    @property
    def fixed_batch(self) -> int | None:
        """The only batch it takes, or ``None`` for any."""
        ...

    def network(self, batch: NDArray[np.uint8]) -> Any:
        """Run the network to the end; the result is for :meth:`tensors`."""
        ...

    def tensors(self, raw: Any) -> Tensors:
        """`boxes` and `scores` of what :meth:`network` gave."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class RunnerContender(Closing):
    """A loaded engine or model.

    Args:
        runner: Closed with the contender.
        card: The model's card.
        name: For reports.
        kind: ``engine`` or ``model``.
        backend: The runtime's name.
        precision: As built.
        threads: How many it was told to use.
    """

    def __init__(
        self,
        runner: Runner,
        card: ModelCard,
        *,
        name: str,
        kind: str = "engine",
        backend: str = "onnxruntime",
        precision: str = "fp32",
        threads: int | None = None,
    ) -> None:
        self._runner = runner
        self.card, self.name, self.kind = card, name, kind
        self.backend, self.precision, self.threads = backend, precision, threads
        self.fixed_batch = runner.inputs[0].shape[0]
        self._synchronize = runner.synchronize if isinstance(runner, Synchronising) else None

    def network(self, batch: NDArray[np.uint8]) -> Tensors:
        """See :class:`Contender`."""
        outputs = self._runner.infer({IMAGES: batch})
        if self._synchronize is not None:
            self._synchronize()
        return outputs

    def tensors(self, raw: Tensors) -> Tensors:
        """The runner's outputs are what is asked for."""
        return raw

    def close(self) -> None:
        """Close the runner."""
        self._runner.close()


class BareOnnxRuntime(Closing):
    """An ONNX Runtime session on the very plan, called as its own documentation does.

    What a runner of ours costs more than this is our overhead.

    Args:
        plan: The optimised graph.
        card: The model's card.
        threads: For one operator, as the other contenders have it.
        precision: As built.
    """

    kind = BARE
    fixed_batch = None

    def __init__(self, plan: bytes, card: ModelCard, threads: int, precision: str) -> None:
        from boxwright.extras import import_onnxruntime

        runtime = import_onnxruntime()
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads = threads
        # The plan is optimised already; once more would be another graph.
        settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = runtime.InferenceSession(plan, settings, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        self.name = "bare ONNX Runtime"
        self.backend = f"onnxruntime {runtime.__version__}"
        self.card, self.threads, self.precision = card, threads, precision

    def network(self, batch: NDArray[np.uint8]) -> Any:
        """See :class:`Contender`."""
        return self._session.run(None, {IMAGES: batch})

    def tensors(self, raw: Any) -> Tensors:
        """Name what the session gave in order."""
        return dict(zip(self._names, raw, strict=True))

    def close(self) -> None:
        """Let the session go."""
        self._session = None


class OpenCvDnn(Closing):
    """OpenCV's own Darknet importer and CPU kernels, called as its documentation does.

    Its network time holds ``blobFromImages``, which does what the first nodes of our
    graph do; what it gives is turned into boxes and scores outside of that time.

    Args:
        cfg: The cfg file.
        weights: The weights file.
        card: The subject's, for the work before and after the network.
        threads: What OpenCV was told; it has one number for the whole process.

    Raises:
        BackendUnavailableError: This OpenCV has no Darknet importer.
        InputError: OpenCV does not accept the network.
    """

    kind = OPENCV
    precision = "fp32"
    fixed_batch = None

    def __init__(self, cfg: str | Path, weights: str | Path, card: ModelCard, threads: int) -> None:
        from boxwright.evaluate import opencv_oracle

        reason = opencv_oracle.unavailable()
        if reason is not None:
            raise BackendUnavailableError(reason)
        self._cv2 = cv2 = import_cv2()
        try:
            self._net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
        except cv2.error as error:
            text = " ".join(str(getattr(error, "err", "") or error).split())[:200]
            raise InputError(f"OpenCV cannot read {cfg} and {weights}: {text}") from error
        self._net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        self._net.setPreferableTarget(cv2.dnn.DNN_TARGET_CPU)
        self._outputs = list(self._net.getUnconnectedOutLayersNames())
        self.name = "OpenCV DNN"
        self.backend = f"opencv {cv2.__version__}"
        self.card, self.threads = card, threads

    def network(self, batch: NDArray[np.uint8]) -> Any:
        """See :class:`Contender`."""
        blob = self._cv2.dnn.blobFromImages(list(batch), 1 / 255)
        self._net.setInput(blob)
        return len(batch), self._net.forward(self._outputs)

    def tensors(self, raw: Any) -> Tensors:
        """One table of the heads' rows, which come without the batch axis for one image."""
        count, heads = raw
        rows = np.concatenate([head.reshape(count, -1, head.shape[-1]) for head in heads], axis=1)
        height, width = self.card.input_size
        scale = np.array([width, height, width, height], np.float32)
        boxes = cxcywh_to_xyxy(rows[..., :4]) * scale
        return {BOXES: boxes, SCORES: np.ascontiguousarray(rows[..., _BEFORE_CLASSES:])}


def open_file(path: str | Path) -> Opened:
    """An engine or a model by its file."""
    from boxwright.engine import Engine, is_engine_file

    if is_engine_file(path) or Path(path).suffix.lower() == ".bw":
        return Engine.open(path)
    return Model.load(path)


@contextlib.contextmanager
def open_contenders(
    subject: Opened,
    against: Sequence[str | Path],
    *,
    origin: str | Path | None = None,
    backend: str | None = None,
    device: str = "auto",
    threads: int,
    cfg: str | Path | None = None,
) -> Iterator[list[Contender]]:
    """Load everyone, the subject first; they are closed at the end.

    Args:
        subject: What the benchmark is about.
        against: Files (``.bw``, ``.onnx``, Darknet ``.weights``), names of backends, and
            ``bare``, ``opencv-dnn`` or ``torch``.
        origin: The subject's file; Darknet files are looked for beside it.
        backend: For the subject; by default the engine's own.
        device: Where engines and models run.
        threads: For everyone who can be told.
        cfg: Description of Darknet weights; by default beside them.

    Raises:
        InputError: A name means nothing, or two contenders would be the same.
        BackendUnavailableError: A contender cannot run on this machine.
    """
    with contextlib.ExitStack() as stack:
        name = Path(origin).name if origin is not None else subject.card.name
        first = _load(subject, name, backend, device, threads)
        found: list[Contender] = [stack.enter_context(first)]
        for item in against:
            other = _open_peer(item, subject, origin, first.backend, device, threads, cfg)
            stack.enter_context(other)
            if other.name in {one.name for one in found}:
                raise InputError(f"{other.name} takes part already; name each contender once")
            found.append(other)
        yield found


def _open_peer(
    item: str | Path,
    subject: Opened,
    origin: str | Path | None,
    backend: str,
    device: str,
    threads: int,
    cfg: str | Path | None,
) -> RunnerContender | Bare | OpenCvDnn | TorchPeer:
    if item == TORCH:
        from boxwright.evaluate.torch_peer import TorchPeer

        return TorchPeer(_portable(subject), device, threads)
    if item == BARE:
        return _bare(subject, backend, device, threads)
    if item == OPENCV:
        cfg_path, weights = _find_darknet(subject, origin, cfg)
        return OpenCvDnn(cfg_path, weights, subject.card, threads)
    path = Path(item)
    if path.suffix.lower() == ".weights":
        _must_exist(path)
        return OpenCvDnn(_cfg_of(path, cfg), path, subject.card, threads)
    if path.suffix.lower() in (".bw", ".onnx") or path.is_file():
        _must_exist(path)
        return _load(open_file(path), path.name, None, device, threads)
    from boxwright import backends

    if str(item) not in backends.names():
        raise InputError(
            f"{item} is neither a file nor a contender; there are {_known()}, "
            "engines (.bw), models (.onnx) and Darknet weights (.weights)"
        )
    name = f"{subject.card.name} on {item}"
    return _load(_portable(subject), name, str(item), device, threads)


def _load(
    opened: Opened, name: str, backend: str | None, device: str, threads: int
) -> RunnerContender:
    from boxwright import backends

    chosen, precision = _runs_as(opened, backend, device)
    option = _THREAD_OPTIONS.get(chosen)
    if chosen == "openvino" and device not in ("auto", "cpu"):
        option = None  # a GPU has no threads to be told
    options = {} if option is None else {option: threads}
    runner = backends.load(opened, backend=backend, device=device, options=options)
    if not {BOXES, SCORES} <= {spec.name for spec in runner.outputs}:
        runner.close()
        raise InputError(f"{name} gives no {BOXES!r} and {SCORES!r}; only detectors are measured")
    return RunnerContender(
        runner,
        opened.card,
        name=name,
        kind="model" if isinstance(opened, Model) else "engine",
        backend=chosen,
        precision=precision,
        threads=None if option is None else threads,
    )


def _bare(subject: Opened, running: str, device: str, threads: int) -> Bare:
    """The runtime that the subject runs on, without Boxwright.

    Of TensorRT the engine's own plan; of OpenVINO the model as its documentation compiles
    it; of any other backend a session of ONNX Runtime, on the engine's own plan where it
    fits, else on one made the same way.
    """
    if running in ("tensorrt", "tensorrt-rtx"):
        return _bare_tensorrt(subject, running, device)
    from boxwright.backends import get, spec_of
    from boxwright.backends.onnxruntime import OnnxRuntimeBackend
    from boxwright.backends.options import make_spec, precision_for
    from boxwright.backends.selection import choose

    if device not in ("auto", "cpu"):
        raise InputError(f"the bare session runs on the CPU, got device {device!r}")
    if running == "openvino":
        from boxwright.evaluate.bare_openvino import BareOpenVino

        asked = {} if isinstance(subject, Model) else spec_of(subject, backend=running)[1].options
        precision = str(asked.get("inference_precision", "f32"))
        return BareOpenVino(_portable(subject), threads, precision)
    backend = get("onnxruntime")
    assert isinstance(backend, OnnxRuntimeBackend)  # noqa: S101 - ours cannot be replaced
    choice = None if isinstance(subject, Model) else choose(subject, device="cpu")
    if isinstance(subject, Model) or choice is None or choice.backend != backend.name:
        model = _portable(subject)
        spec = make_spec(precision_for(model, None), (1, 1, 16), "cpu", {})
        plan = backend.compile(model, spec).data
        return BareOnnxRuntime(plan, subject.card, threads, spec.precision)
    if choice.plan is not None:
        plan = subject.plan_bytes(choice.plan)
    else:
        plan = backend.compile(subject.model(), choice.spec).data
    return BareOnnxRuntime(plan, subject.card, threads, choice.spec.precision)


def _bare_tensorrt(subject: Opened, running: str, device: str) -> BareTensorRt:
    from boxwright.backends.selection import choose
    from boxwright.evaluate.bare_tensorrt import BareTensorRt

    choice = None if isinstance(subject, Model) else choose(subject, running, device=device)
    if isinstance(subject, Model) or choice is None or choice.plan is None:
        raise InputError(
            f"{BARE} runs the plan of an engine built for this machine: boxwright build "
            f"--backend {running}, then bench that engine"
        )
    data, precision = subject.plan_bytes(choice.plan), choice.spec.precision
    return BareTensorRt(data, subject.card, precision, running, device)


def _runs_as(opened: Opened, backend: str | None, device: str) -> tuple[str, str]:
    """Backend and precision that `backends.load` takes, or refuses."""
    from boxwright.backends.options import precision_for

    if isinstance(opened, Model):
        return backend or "onnxruntime", precision_for(opened, None)
    from boxwright.backends.selection import choose

    choice = choose(opened, backend, device=device)
    return choice.backend, choice.spec.precision


def _portable(opened: Opened) -> Model:
    return opened if isinstance(opened, Model) else opened.model()


def _find_darknet(
    subject: Opened, origin: str | Path | None, cfg: str | Path | None
) -> tuple[Path, Path]:
    """The very files the subject was imported from, beside it or in the working folder."""
    from boxwright.files import sha256_file

    sources = {Path(file.name).suffix.lower(): file for file in subject.card.source_files}
    if not {".cfg", ".weights"} <= set(sources):
        raise InputError(
            f"{OPENCV} reads Darknet networks, and {subject.card.name} was not imported from one"
        )
    folders = [Path(), *([] if origin is None else [Path(origin).absolute().parent])]
    found = {}
    for suffix in (".cfg", ".weights"):
        wanted = sources[suffix]
        places = [folder / Path(wanted.name).name for folder in folders]
        if suffix == ".cfg" and cfg is not None:
            places = [Path(cfg)]
        for place in places:
            if place.is_file() and sha256_file(place) == wanted.sha256:
                found[suffix] = place
                break
        else:
            raise InputError(
                f"{OPENCV} needs the {wanted.name} that {subject.card.name} was imported from; "
                f"it is not in {' or '.join(sorted({str(p.parent) for p in places}))}: "
                "name the weights themselves, --against FILE.weights"
            )
    return found[".cfg"], found[".weights"]


def _cfg_of(weights: Path, cfg: str | Path | None) -> Path:
    path = weights.with_suffix(".cfg") if cfg is None else Path(cfg)
    _must_exist(path)
    return path


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"no such file: {path}")


def _known() -> str:
    from boxwright import backends

    return ", ".join((*backends.names(), BARE, OPENCV, TORCH))
