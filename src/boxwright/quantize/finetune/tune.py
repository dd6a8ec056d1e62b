"""A quantised model in, the same fine-tuned out."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.backends.comparison import fixed_batch
from boxwright.backends.quantized import without_pairs
from boxwright.errors import BackendUnavailableError, InputError
from boxwright.evaluate.heads import with_head_outputs
from boxwright.files import sha256_file
from boxwright.graph.view import View, input_name
from boxwright.model import BOXES, IMAGES, SCORES, Model
from boxwright.progress import ProgressCallback, silent
from boxwright.quantize.calibration import calibrate
from boxwright.quantize.canonical import canonical_runner
from boxwright.quantize.finetune.images import Lessons
from boxwright.quantize.finetune.network import Network, Tensor, import_torch
from boxwright.quantize.finetune.parameters import parameters_of
from boxwright.quantize.finetune.training import Settings, Trained, Trainer, exact
from boxwright.quantize.insert import LEVELS, weight_scales
from boxwright.quantize.layers import last_layers
from boxwright.quantize.preactivation import kept_ranges
from boxwright.quantize.quantizer import Quantized, prepare
from boxwright.quantize.revision import revision_of
from boxwright.ranges import with_ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray

PARAMETERS = "fine_tuning"
"""Where the card's transform keeps what was done."""

# What the result follows from, beside what the quantised model does.
_DECISIVE = (
    *(f"boxwright.quantize.finetune.{name}" for name in (
        "images", "loss", "network", "parameters", "training", "tune"
    )),
    "boxwright.graph.torch_operators",
)  # fmt: skip
_SPREAD_IMAGES = 4
# What two ways to add up in float32 differ by, over a hundred layers: 1e-6 to 1e-5 measured.
_MOST_APART = 1e-3


@dataclass(frozen=True)
class Tuner:
    """Fine-tunes quantised models that were made of one float model.

    Attributes:
        model: In float.
        images: Image files to learn from; no labels are needed.
        settings: How.
        work: Folder for what a stopped training goes on with; ``None`` keeps nothing.

    Raises:
        MissingExtraError: PyTorch is not installed.
        BackendUnavailableError: The device is not there.
        InputError: There are no images, or the model holds something that cannot be
            differentiated here.
    """

    model: Model
    images: Sequence[Path]
    settings: Settings
    work: Path | None = None

    def __post_init__(self) -> None:
        # All that can be known to fail does so now, not after hours of other work.
        if not self.images:
            raise InputError("fine-tuning learns from images: give --calibration too")
        _device(self.settings.device)
        learnt_tensors(self.model)
        fixed = fixed_batch(self.model)
        if fixed is not None and fixed > 1:
            raise InputError(
                f"{self.model.card.name} takes {fixed} images at a time and no other number; "
                "fine-tuning needs a model of any number: import it with one"
            )

    @property
    def key(self) -> dict[str, Any]:
        """What the result depends on beside the quantised model; JSON values.

        Raises:
            InputError: An image cannot be read.
        """
        torch = import_torch()
        settings = dataclasses.asdict(self.settings)
        digest = hashlib.sha256("".join(map(sha256_file, self.images)).encode()).hexdigest()
        return {
            **settings,
            "device": str(_device(self.settings.device)),
            "images_sha256": digest,
            "revision": revision_of(_DECISIVE),
            "torch": str(torch.__version__),
        }

    def tune(self, quantized: Quantized, progress: ProgressCallback = silent) -> Quantized:
        """The model with weights, biases and scales as they were trained.

        Where the error on the images held back did not fall, it is the model as it was,
        and its card says so.

        Args:
            quantized: Made from the float model; it is not changed.
            progress: Told of the steps done.

        Raises:
            InputError: An image cannot be read, a pair of the graph is not symmetric INT8,
                PyTorch computes something else than ONNX Runtime, or the loss is no number.
        """
        found = {**self.key, "model": _digest(quantized.model)}
        key = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
        work = None if self.work is None else self.work / f"finetuning-{key[:16]}.npz"
        try:
            with exact(import_torch()):
                trainer = self._trainer(quantized, progress)
                trained = trainer.run(key=key, work=work, progress=progress)
        except RuntimeError as error:
            # PyTorch's word for all that goes wrong in it: memory, most of all.
            reason = str(error).strip().split("\n")[0][:300]
            raise InputError(
                f"PyTorch could not fine-tune {self.model.card.name}: {reason}"
            ) from error
        return self._result(quantized, trained, progress)

    def _trainer(self, quantized: Quantized, progress: ProgressCallback) -> Trainer:
        settings, card, batch = self.settings, self.model.card, self._batch
        device = _device(settings.device)
        lessons = Lessons(card, self.images, batch=batch, seed=settings.seed)
        prepared = Model(prepare(self.model).proto, card)
        targets = learnt_tensors(prepared)
        teacher = Network(prepared.proto, targets, device)
        progress("look at the float model", 0, None)
        _check_agreement(prepared, teacher, targets, lessons.batch(0)[:1], device)
        student = Network(quantized.model.proto, targets, device)
        layers = Network(prepared.proto, [n.output[0] for n in teacher.convolutions], device)
        spread = _spread(layers, lessons.batch(0)[:_SPREAD_IMAGES], device)
        groups = {tensor.name: tensor.group for tensor in quantized.placement.tensors}
        parameters = parameters_of(student, quantized.model.proto, groups, spread)
        settings = dataclasses.replace(settings, batch=batch)
        detections = targets[-1] == SCORES
        return Trainer(teacher, student, parameters, lessons, settings, device, detections)

    def _result(
        self, quantized: Quantized, trained: Trained, progress: ProgressCallback
    ) -> Quantized:
        model, amax = quantized.model, dict(quantized.amax)
        if trained.best:
            model = _with_values(model, trained.values)
            for node in model.proto.graph.node:
                scale = trained.values.get(input_name(node, 1))
                if node.op_type == "QuantizeLinear" and scale is not None and node.input[0] in amax:
                    amax[node.input[0]] = float(scale) * LEVELS
            # Ranges where the graph has no pair are those of the network as it is now.
            plain = Model(without_pairs(model.proto), model.card)
            seen = calibrate(plain, self.images, progress=progress)
            kept = kept_ranges(prepare(plain).proto, quantized.placement, seen, amax)
            with_ranges(model.proto, kept)
        last = model.card.transforms[-1]
        torch = import_torch()
        step = dataclasses.replace(
            last,
            parameters={**last.parameters, PARAMETERS: self._told(trained)},
            versions={**last.versions, "torch": str(torch.__version__)},
        )
        card = dataclasses.replace(model.card, transforms=(*model.card.transforms[:-1], step))
        model = model.with_card(card)
        model.check("the fine-tuned model")
        return dataclasses.replace(quantized, model=model, amax=amax)

    @property
    def _batch(self) -> int:
        """Images a step; a graph of one image at a time takes that."""
        return fixed_batch(self.model) or self.settings.batch

    @property
    def _detections(self) -> bool:
        return learnt_tensors(self.model)[-1] == SCORES

    def _told(self, trained: Trained) -> dict[str, Any]:
        """For the card."""
        return {
            "steps": self.settings.steps,
            "batch": self._batch,
            "rates": dataclasses.asdict(self.settings.rates),
            "seed": self.settings.seed,
            "images": len(self.images),
            "learnt": ["heads", "detections"] if self._detections else ["heads"],
            "error": {
                "before": round(trained.before, 5),
                "after": round(trained.after, 5),
            },
            "best_step": trained.best,
        }


def learnt_tensors(model: Model) -> tuple[str, ...]:
    """The raw heads, and `boxes` and `scores` behind them where the decoding can be run here.

    Raises:
        MissingExtraError: PyTorch is not installed.
        InputError: What is in front of the heads cannot be run.
    """
    heads = head_tensors(model)
    proto = prepare(model).proto
    Network(proto, heads)
    if not {BOXES, SCORES} <= {value.name for value in proto.graph.output}:
        return heads
    with contextlib.suppress(InputError):
        Network(proto, (*heads, BOXES, SCORES))
        return (*heads, BOXES, SCORES)
    return heads


def head_tensors(model: Model) -> tuple[str, ...]:
    """The raw heads: outputs of the convolutions after which no other comes.

    Raises:
        InputError: There is none.
    """
    from boxwright.quantize.placement import place
    from boxwright.quantize.rules import Rules

    proto = prepare(model).proto
    last = last_layers(View(proto), place(proto, Rules(), ()).layers)
    found = tuple(node.output[0] for node in proto.graph.node if node.name in last)
    if not found:
        raise InputError(f"{model.card.name} has no convolutions that could be fine-tuned")
    return found


def _device(name: str) -> Any:
    """The ``torch.device`` of a name; what other runtimes have names for is a CPU's here.

    Raises:
        InputError: No GPU is called that.
        BackendUnavailableError: It is not there.
    """
    torch = import_torch()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not name.startswith("cuda"):
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::(\d{1,3}))?", name)
    if match is None:
        raise InputError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {name!r}")
    if not torch.cuda.is_available():
        raise BackendUnavailableError("PyTorch sees no GPU here; use --device cpu")
    number, count = int(match.group(1) or 0), torch.cuda.device_count()
    if number >= count:
        raise BackendUnavailableError(
            f"PyTorch sees {count} GPU{'s' if count > 1 else ''} here, counted from 0; got {name}"
        )
    return torch.device(name)


def _digest(model: Model) -> str:
    return hashlib.sha256(model.proto.SerializeToString(deterministic=True)).hexdigest()


def _check_agreement(
    model: Model, network: Network, targets: Sequence[str], image: NDArray[np.uint8], device: Any
) -> None:
    """Nothing shall be learnt from a teacher that computes something else than the model."""
    torch = import_torch()
    with canonical_runner(with_head_outputs(model, targets)) as runner:
        expected = runner.infer({IMAGES: image})
    with torch.no_grad():
        got = network.run(torch.from_numpy(image).to(device))
    for name, values in zip(targets, got, strict=True):
        norm = float(np.linalg.norm(expected[name]))
        apart = float(np.linalg.norm(values.cpu().numpy() - expected[name]))
        if not apart <= _MOST_APART * max(norm, 1e-6):
            raise InputError(
                f"the model cannot be fine-tuned: PyTorch computes another {name!r} than ONNX "
                f"Runtime (nrmse {apart / max(norm, 1e-6):.2g}); leave --finetune out"
            )


def _spread(network: Network, images: NDArray[np.uint8], device: Any) -> dict[str, Tensor]:
    """The standard deviation of each channel of each layer's output, image by image."""
    torch = import_torch()
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for image in images:
            outputs = network.run(torch.from_numpy(image[None]).to(device))
            for node, values in zip(network.convolutions, outputs, strict=True):
                axes = [0, *range(2, values.ndim)]
                part = values.var(dim=axes, correction=0) / len(images)
                found[node.output[0]] = found.get(node.output[0], 0) + part
    return {name: variance.sqrt() for name, variance in found.items()}


def _with_values(model: Model, values: Mapping[str, NDArray[np.float32]]) -> Model:
    """The model whose initializers have other values; weights' scales follow from them."""
    from onnx import numpy_helper

    proto = type(model.proto)()
    proto.CopyFrom(model.proto)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    changed = dict(values)
    for node in proto.graph.node:
        # The scale of an activation is among the values; that of weights is not.
        if node.op_type == "QuantizeLinear" and node.input[0] in values:
            changed[node.input[1]] = weight_scales(values[node.input[0]])
    for name, value in changed.items():
        tensors[name].CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32), name))
    return Model(proto, model.card)
