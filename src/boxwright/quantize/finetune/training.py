"""The loop: the quantised network learns to give the float network's raw heads.

The square root of the loss is the *error* that is told and judged by
(:mod:`boxwright.quantize.finetune.loss`): 0 for the float model, about 1 where nothing is left.

Adam (Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015); the learning rate
falls as half a cosine (Loshchilov and Hutter, "SGDR", 2017).
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.errors import InputError
from boxwright.progress import ProgressCallback, silent
from boxwright.quantize.finetune.checkpoint import Checkpoint, load_checkpoint
from boxwright.quantize.finetune.loss import Loss
from boxwright.quantize.finetune.network import Network, Tensor, import_torch
from boxwright.quantize.finetune.parameters import Parameter, values_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from boxwright.quantize.finetune.images import Lessons

DEFAULT_STEPS = 200

_KINDS = ("weights", "biases", "scales")
_MOST_FOR_VARIANCE = 16
_WARM_UP = 0.05
_JUDGEMENTS = 10
# Adam forgets squares faster than is usual: there are a few hundred steps in all.
_BETAS = (0.9, 0.99)
_SAVE_SECONDS = 10.0
# Of many weights, writing takes a while; it shall not take more than a part of the time.
_SAVE_SHARE = 20


@dataclass(frozen=True)
class Rates:
    """Highest learning rates, in the units of `parameters`.

    Attributes:
        weights: In shares of an output channel's largest weight; a step of INT8 is 0.008.
        biases: In shares of what an output channel spreads over.
        scales: In natural logarithms.
    """

    weights: float = 5e-5
    biases: float = 1e-4
    scales: float = 2e-2


@dataclass(frozen=True)
class Settings:
    """How it is trained.

    Attributes:
        steps: How many.
        batch: Images a step.
        rates: How fast.
        seed: Of everything random.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """

    steps: int = DEFAULT_STEPS
    batch: int = 4
    rates: Rates = field(default_factory=Rates)
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise InputError(
                f"fine-tuning takes 1 step of 1 image at least, got {self.steps} steps of "
                f"{self.batch}"
            )


@dataclass(frozen=True)
class Trained:
    """What training came to.

    Attributes:
        values: By the names of initializers, what they are to hold: float32.
        errors: On the images held back: steps done, and the error then. The
            first is that of the beginning.
        best: Steps after which it was least; 0 where it never fell.
        seconds: What training took; that of an earlier run which was gone on with is not in it.
    """

    values: dict[str, NDArray[np.float32]]
    errors: tuple[tuple[int, float], ...]
    best: int
    seconds: float

    @property
    def before(self) -> float:
        """The error at the beginning."""
        return self.errors[0][1]

    @property
    def after(self) -> float:
        """The error of the best."""
        return min(error for _, error in self.errors)


def rate_at(step: int, steps: int) -> float:
    """A step's learning rate as a share of the highest: up for 5 %, then half a cosine."""
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


@contextlib.contextmanager
def exact(torch: Any) -> Iterator[None]:
    """Let PyTorch compute in float32 throughout, and the same way every time.

    On a GPU its convolutions would be in TF32 else, whose 11 bits are coarser than what is
    learnt here. Where a GPU has no algorithm of an operator that gives the same result every
    time, it takes what it has.
    """
    before = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    switches = _precision_switches(torch)
    set_before = [getattr(place, name) for place, name, _ in switches]
    try:
        for place, name, full in switches:
            setattr(place, name, full)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deterministic.*")
            yield
    finally:
        for (place, name, _), value in zip(switches, set_before, strict=True):
            setattr(place, name, value)
        torch.use_deterministic_algorithms(before, warn_only=only_warns)


def _precision_switches(torch: Any) -> list[tuple[Any, str, Any]]:
    """What decides whether a GPU may use TF32: where, its name, its value for float32."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    if hasattr(convolutions, "conv"):
        # PyTorch 2.9 and later, where the older switches must not be mixed with these.
        return [(place, "fp32_precision", "ieee") for place in (convolutions.conv, products)]
    return [(place, "allow_tf32", False) for place in (convolutions, products)]


class Trainer:
    """One training.

    Args:
        teacher: The float network.
        student: The quantised one, of the same targets.
        parameters: What is trained of it.
        lessons: The images.
        settings: How.
        device: Where all of it is, a ``torch.device``.
        detections: Whether the networks' last two targets are `boxes` and `scores`.

    Raises:
        InputError: There are no parameters, or an image cannot be read.
    """

    def __init__(
        self,
        teacher: Network,
        student: Network,
        parameters: Sequence[Parameter],
        lessons: Lessons,
        settings: Settings,
        device: Any,
        detections: bool = False,
    ) -> None:
        self._torch = torch = import_torch()
        self._teacher, self._student, self._parameters = teacher, student, parameters
        self._lessons, self._settings, self._device = lessons, settings, device
        if not parameters:
            raise InputError(
                "the model has nothing that could be fine-tuned: neither weights of its own nor "
                "pairs; leave --finetune out"
            )
        groups = [
            {"params": [item.distance for item in parameters if item.kind == kind], "kind": kind}
            for kind in _KINDS
        ]
        kept = [group for group in groups if group["params"]]
        self._optimizer = torch.optim.Adam(kept, betas=_BETAS, foreach=False)
        self._distances = [item.distance for item in parameters]
        self._judged = [self._on_device(batch) for batch in lessons.judged()]
        with torch.no_grad():
            self._expected = [teacher.run(batch) for batch in self._judged]
        self._loss = Loss.of(torch, self._look(), detections)

    def run(
        self, *, key: str = "", work: Path | None = None, progress: ProgressCallback = silent
    ) -> Trained:
        """All steps, or those that an earlier run had not done.

        Args:
            key: Tells this training from others.
            work: A file to keep how far it is, and to go on from.
            progress: Told of the steps done.

        Raises:
            InputError: The loss is no number any more, or `work` is a file of something else.
        """
        began = saved = time.monotonic()
        steps, cost = self._settings.steps, 0.0
        kept = None if work is None else load_checkpoint(work, key, self._size, steps)
        if kept is None:
            step, errors, best = 0, [(0, self.judge())], self._flat(self._distances)
        else:
            step, errors, best = kept.step, list(kept.errors), kept.best
            self._restore(kept)
        progress("fine-tuning", step, steps)
        while step < steps:
            self._step(step)
            step += 1
            if step % max(1, steps // _JUDGEMENTS) == 0 or step == steps:
                error = self.judge()
                if error < min(known for _, known in errors):
                    best = self._flat(self._distances)
                errors.append((step, error))
            now = time.monotonic()
            if work is not None and (
                step == steps or now - saved > max(_SAVE_SECONDS, _SAVE_SHARE * cost)
            ):
                self._checkpoint(key, step, errors, best).save(work)
                saved = time.monotonic()
                cost = saved - now
            progress("fine-tuning", step, steps)
        self._set(self._distances, best)
        values = {
            name: value.detach().cpu().contiguous().numpy().astype(np.float32)
            for name, value in values_of(self._parameters).items()
        }
        least = min(errors, key=lambda item: item[1])[0]
        return Trained(values, tuple(errors), least, time.monotonic() - began)

    def judge(self) -> float:
        """The error on the images held back."""
        total = 0.0
        with self._torch.no_grad():
            values = values_of(self._parameters)
            for batch, expected in zip(self._judged, self._expected, strict=True):
                loss = self._loss(self._student.run(batch, values), expected)
                total += float(loss) * len(batch)
        error = math.sqrt(total / sum(map(len, self._judged)))
        if not math.isfinite(error):
            raise InputError(
                "fine-tuning went astray: the heads are not finite any more; is the model sound "
                "in float? Leave --finetune out"
            )
        return error

    def _step(self, step: int) -> None:
        batch = self._on_device(self._lessons.batch(step))
        with self._torch.no_grad():
            expected = self._teacher.run(batch)
        loss = self._loss(self._student.run(batch, values_of(self._parameters)), expected)
        self._optimizer.zero_grad()
        loss.backward()
        share = rate_at(step, self._settings.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = share * getattr(self._settings.rates, group["kind"])
        self._optimizer.step()

    def _look(self) -> list[list[Tensor]]:
        """What the float network gives for images learnt from."""
        batches = min(_MOST_FOR_VARIANCE, len(self._lessons.learnt)) // self._settings.batch or 1
        with self._torch.no_grad():
            return [
                self._teacher.run(self._on_device(self._lessons.batch(number)))
                for number in range(batches)
            ]

    def _on_device(self, batch: NDArray[np.uint8]) -> Tensor:
        return self._torch.from_numpy(batch).to(self._device)

    @property
    def _size(self) -> int:
        return sum(item.numel() for item in self._distances)

    def _flat(self, tensors: Sequence[Tensor]) -> NDArray[np.float32]:
        parts = [item.detach().cpu().contiguous().reshape(-1).numpy() for item in tensors]
        return np.concatenate(parts).astype(np.float32)

    def _set(self, tensors: Sequence[Tensor], values: NDArray[np.float32]) -> None:
        at = 0
        with self._torch.no_grad():
            for item in tensors:
                part = values[at : at + item.numel()].reshape(tuple(item.shape))
                item.copy_(self._torch.from_numpy(part.copy()))
                at += item.numel()

    def _moments(self, name: str) -> list[Tensor]:
        return [self._optimizer.state[item][name] for item in self._distances]

    def _checkpoint(
        self,
        key: str,
        step: int,
        errors: Sequence[tuple[int, float]],
        best: NDArray[np.float32],
    ) -> Checkpoint:
        first, second = (self._flat(self._moments(name)) for name in ("exp_avg", "exp_avg_sq"))
        distances = self._flat(self._distances)
        return Checkpoint(key, step, tuple(errors), distances, first, second, best)

    def _restore(self, kept: Checkpoint) -> None:
        self._set(self._distances, kept.distances)
        for item in self._distances:
            self._optimizer.state[item] = {
                "step": self._torch.tensor(float(kept.step)),
                "exp_avg": self._torch.zeros_like(item),
                "exp_avg_sq": self._torch.zeros_like(item),
            }
        self._set(self._moments("exp_avg"), kept.first)
        self._set(self._moments("exp_avg_sq"), kept.second)
