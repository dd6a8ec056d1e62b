"""The whole of quantising a model: calibration, search, latency, and what is handed out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright._version import __version__
from boxwright.card import Transform
from boxwright.errors import InputError
from boxwright.files import sha256_file
from boxwright.model import Model
from boxwright.progress import ProgressCallback, silent
from boxwright.quantize.budget import ALL_METHODS, BudgetResult, Place, search
from boxwright.quantize.calibration import Calibration, calibrate
from boxwright.quantize.comparison import compare_precisions
from boxwright.quantize.finetune.notes import tuning_notes, untouched_note
from boxwright.quantize.finetune.training import Settings
from boxwright.quantize.finetune.tune import Tuner
from boxwright.quantize.latency import INT8, Choice, Latency
from boxwright.quantize.layers import refuse_none
from boxwright.quantize.legacy_ranges import ranges_from_cache
from boxwright.quantize.measurements import Measurements
from boxwright.quantize.objective import (
    AgreementObjective,
    HeadReference,
    LabelledObjective,
    Objective,
)
from boxwright.quantize.on_target import place_on
from boxwright.quantize.placement import Placement, place
from boxwright.quantize.quantizer import TRANSFORM, Quantized, prepare
from boxwright.quantize.request import Request
from boxwright.quantize.rules import Rules
from boxwright.quantize.second_choices import settle
from boxwright.quantize.variants import Variant, Workshop, prepared

if TYPE_CHECKING:
    from boxwright.quantize.ranges import Method
    from boxwright.quantize.speed import Look

__all__ = ["REFUSED", "Outcome", "Request", "quantize_model"]

REFUSED = "quantize:refused"
"""The transform on the card of a float model that was to be quantised and was not."""

# For the order of layers; more images change it little.
_HEAD_IMAGES = 8


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        model: What is handed out: in INT8, or the float model where that is better.
        quantized: The INT8 model that was found; ``None`` where none meets the budget.
        calibration: What it rests on.
        budget: What was measured; ``None`` where nothing was.
        latency: How fast on the target; ``None`` where not measured.
        choice: Which precision to build, where latency was measured.
        look: What was seen of INT8's speed before a search.
        notes: What a user should know.
    """

    model: Model
    quantized: Quantized | None
    calibration: Calibration
    budget: BudgetResult | None
    latency: Latency | None = None
    choice: Choice | None = None
    notes: tuple[str, ...] = ()
    look: Look | None = None

    @property
    def precision(self) -> str:
        """The precision to build `model` in."""
        if self.choice is not None:
            return self.choice.precision
        return "fp32" if self.quantized is None else INT8

    @property
    def met(self) -> bool:
        """Whether the budget was kept to, or none was stated; not whether INT8 came out.

        A target may lose more than the graph says, or refuse to build it.
        """
        if self.budget is None or self.budget.max_drop is None or not self.budget.met:
            return self.budget is None or self.budget.met
        tried = [] if self.choice is None else [row["precision"] for row in self.choice.tried]
        return INT8 not in tried or (self.choice is not None and self.choice.allows(INT8))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "precision": self.precision,
            "met": self.met,
            **({} if self.quantized is None else self.quantized.to_dict()),
            "calibration": {
                "images": self.calibration.images,
                "images_sha256": self.calibration.images_sha256,
            },
            "budget": None if self.budget is None else self.budget.to_dict(),
            "latency": None if self.latency is None else self.latency.to_dict(),
            "choice": None if self.choice is None else self.choice.to_dict(),
            "look": None if self.look is None else self.look.to_dict(),
            "notes": list(self.notes),
        }


def quantize_model(model: Model, request: Request, progress: ProgressCallback = silent) -> Outcome:
    """Quantise a model as asked, and measure what that costs and brings.

    Args:
        model: In float; it is not changed.
        request: What is to be done.
        progress: Told of each part.

    Raises:
        InputError: Something given is wrong or does not fit together.
        MissingExtraError: Labels were given, and what computes AP is not installed.
        BackendUnavailableError: Latency is asked for on a backend that cannot work here.
    """
    return _Job(model, request, progress).run()


@dataclass
class _Job:
    model: Model
    request: Request
    progress: ProgressCallback
    notes: list[str] = field(default_factory=list)
    look: Look | None = None

    def run(self) -> Outcome:
        request = self.request
        request.check()
        tuner = self._tuner()
        rules = request.rules or (Rules.of_target(request.target) if request.target else Rules())
        placement = self._placement(rules)
        if request.work is not None:
            request.work.mkdir(parents=True, exist_ok=True)
        calibration = self._calibration(placement)
        workshop = Workshop(
            self.model,
            calibration,
            images=request.calibration,
            rules=rules,
            keep=request.keep,
            probe=request.probe,
            heads=self._tries_heads(calibration, rules),
            tuner=tuner,
        )
        objective = self._objective()
        if objective is None:
            variant = self._variants()[0]
            made = workshop.make(
                dataclasses.replace(variant, bias=bool(request.bias), tuned=request.tune),
                self.progress,
            )
            self.notes.extend(untouched_note(made))
            return self._finish(made, calibration, None, None, workshop)
        self._note_overlap(objective)
        place = place_on_target(request, self.progress)
        if place is not None and request.max_drop is not None:
            self._look_at_speed(workshop)
            if self.look is not None and self.look.hopeless and not request.insist:
                return self._hopeless(self.look, calibration)
        found = search(
            workshop,
            objective,
            request.max_drop,
            variants=self._variants(),
            bias=request.bias,
            heads=self._heads,
            heads_key=self._heads_key(),
            measurements=self._measurements(),
            place=place,
            leaning=None if self.look is None else self.look.leaning,
            progress=self.progress,
        )
        self.notes.extend(tuning_notes(found))
        return self._finish(found.quantized, calibration, found, objective, workshop)

    def _tries_heads(self, calibration: Calibration, rules: Rules) -> bool:
        """Whether the budget's search goes on to the heads; a cache may lack their ranges."""
        request = self.request
        if not request.heads or request.max_drop is None:
            return False
        found = self._placement(dataclasses.replace(rules, heads=True))
        if all(tensor.name in calibration.statistics for tensor in found.tensors):
            return True
        self.notes.append("the heads stay in float: the calibration cache has no ranges for them")
        return False

    def _tuner(self) -> Tuner | None:
        """What fine-tunes, if that is asked for; what it lacks is told before anything is done."""
        request = self.request
        if not request.tune:
            return None
        settings = Settings(request.tune_steps, seed=request.seed, device=request.device)
        return Tuner(self.model, request.calibration, settings, request.work)

    def _look_at_speed(self, workshop: Workshop) -> None:
        """Whether a search can lead to anything faster than float, and where it begins."""
        from boxwright.quantize.speed import look

        self.look = look(
            *(workshop, self._variants()[0], self.request.target or ""),
            prepared(self.model, self._head_images()[:1]),
            device=self.request.device,
            seed=self.request.seed,
            progress=self.progress,
        )

    def _hopeless(self, found: Look, calibration: Calibration) -> Outcome:
        """The float model, without a search: nothing that it finds could be handed out."""
        choice = found.choice(self.request.max_drop)
        self._note_float(choice)
        effect = self._effect(None, found.latency, choice)
        return Outcome(
            *(self._refused(effect), None, calibration, None),
            *(found.latency, choice, tuple(self.notes), found),
        )

    def _note_float(self, choice: Choice) -> None:
        self.notes.append(
            f"{choice.reason}. So the model handed out is the float one: build it with "
            f"--precision {choice.precision}"
        )

    def _placement(self, rules: Rules) -> Placement:
        """What there is to quantise at least; that it is nothing is told before work begins."""
        found = place(prepare(self.model).proto, rules, self.request.keep)
        refuse_none(found.quantized)
        return found

    def _calibration(self, placement: Placement) -> Calibration:
        request = self.request
        if request.from_cache is not None:
            wanted = [tensor.name for tensor in placement.tensors]
            return ranges_from_cache(self.model, request.from_cache, wanted)
        cache = None if request.work is None else request.work / "calibration.npz"
        found = calibrate(self.model, request.calibration, cache=cache, progress=self.progress)
        self.notes.extend(found.warnings)
        return found

    def _variants(self) -> tuple[Variant, ...]:
        request = self.request
        if request.from_cache is not None:
            return (Variant("minmax"),)
        if request.method == "auto" and self._measures():
            return tuple(
                dataclasses.replace(variant, percentile=request.percentile)
                if variant.method == "percentile"
                else variant
                for variant in ALL_METHODS
            )
        method: Method = "minmax" if request.method == "auto" else request.method
        return (Variant(method, request.percentile if method == "percentile" else 99.99),)

    def _measures(self) -> bool:
        """Whether anything of the result is to be measured."""
        if self.model.card.task != "detect":
            return False
        request = self.request
        stated = request.dataset is not None or request.max_drop is not None or request.images
        choosing = request.method == "auto" and request.from_cache is None
        return bool(stated or choosing or request.latency)

    def _objective(self) -> Objective | None:
        request = self.request
        if self.model.card.task != "detect":
            if request.max_drop is not None:
                raise InputError(
                    f"{self.model.card.name} is a model to {self.model.card.task}; a budget is "
                    "about detections: leave --max-drop out"
                )
            return None
        if not self._measures() or not self.request.measured_images:
            return None
        if request.dataset is not None:
            return LabelledObjective(request.dataset)
        if not request.images:
            self.notes.append(
                "agreement was measured on the images calibrated on, which flatters it; give "
                "others with --images"
            )
        return AgreementObjective(self.model, self.request.measured_images, self.progress)

    def _note_overlap(self, objective: Objective) -> None:
        """Say where images that were calibrated on are measured on as well."""
        request = self.request
        if not request.calibration or not (request.images or request.dataset):
            return
        calibrated = {sha256_file(path) for path in request.calibration}
        shared = sum(
            path.is_file() and sha256_file(path) in calibrated for path in objective.images
        )
        if shared:
            self.notes.append(
                f"WARNING: {shared} of {len(objective.images)} images measured on were calibrated "
                "on as well (the same content), which makes INT8 look better than it is; "
                "calibrate on others"
            )

    def _head_images(self) -> list[Path]:
        """A few, those calibrated on first: of a dataset's, some may be damaged."""
        return list(self.request.calibration or self.request.measured_images)[:_HEAD_IMAGES]

    def _heads(self) -> HeadReference:
        return HeadReference(self.model, prepared(self.model, self._head_images()))

    def _heads_key(self) -> str:
        return " ".join(sha256_file(path)[:16] for path in self._head_images() if path.is_file())

    def _measurements(self) -> Measurements:
        work = self.request.work
        return Measurements(None if work is None else work / "measurements.json")

    def _finish(
        self,
        quantized: Quantized | None,
        calibration: Calibration,
        budget: BudgetResult | None,
        objective: Objective | None,
        workshop: Workshop,
    ) -> Outcome:
        latency = choice = None
        if quantized is not None and self.request.latency:
            latency, choice = self._compare(quantized, objective, budget)
            if budget is not None and place_on_target(self.request) is None:
                budget, (latency, choice), told = settle(
                    *(budget, (latency, choice), workshop),
                    lambda other, result: self._compare(other, objective, result),
                    self.progress,
                )
                quantized = budget.quantized or quantized
                self.notes.extend(told)
            if choice.precision != INT8:
                self._note_float(choice)
                if self.look is not None and budget is not None:
                    self.notes.extend(self.look.lossy(budget))
        effect = self._effect(budget, latency, choice)
        hands_out = quantized is not None and (choice is None or choice.precision == INT8)
        if quantized is not None:
            quantized = dataclasses.replace(quantized, model=_with_effect(quantized.model, effect))
        given = quantized.model if hands_out and quantized is not None else self._refused(effect)
        notes = tuple(self.notes)
        return Outcome(given, quantized, calibration, budget, latency, choice, notes, self.look)

    def _effect(
        self, budget: BudgetResult | None, latency: Latency | None, choice: Choice | None
    ) -> dict[str, Any]:
        """What the card keeps of it."""
        return {
            **({} if self.look is None else {"look": self.look.to_dict()}),
            **({} if budget is None else {"budget": budget.to_dict(times=False)}),
            **({} if latency is None else {"latency": latency.to_dict()}),
            **({} if choice is None else {"choice": choice.to_dict()}),
            **({"notes": list(self.notes)} if self.notes else {}),
        }

    def _compare(
        self, quantized: Quantized, objective: Objective | None, budget: BudgetResult | None
    ) -> tuple[Latency, Choice]:
        """Every precision of the target: how fast, and what it loses there."""
        known: dict[str, float] = {}
        if (
            place_on_target(self.request, self.progress) is not None
            and budget is not None
            and budget.chosen is not None
        ):
            known[INT8] = budget.chosen.drop
        compared = compare_precisions(
            self.model,
            quantized.model,
            self.request.target or "",
            prepared(self.model, self._head_images()[:1]),
            objective=objective,
            float_value=None if budget is None else budget.float_value,
            known=known,
            max_drop=self.request.max_drop,
            device=self.request.device,
            seed=self.request.seed,
            progress=self.progress,
        )
        self.notes.extend(compared.notes)
        choice = compared.choice
        if self.request.insist and choice.precision != INT8 and choice.allows(INT8):
            choice = dataclasses.replace(
                choice, precision=INT8, reason=f"INT8 was asked for. {choice.reason}"
            )
        return compared.latency, choice

    def _refused(self, effect: dict[str, Any]) -> Model:
        """The float model, whose card says what was tried."""
        step = Transform(REFUSED, {}, {"boxwright": __version__}, effect)
        return self.model.with_card(self.model.card.with_transform(step))


def place_on_target(request: Request, progress: ProgressCallback = silent) -> Place | None:
    """Where candidates are run, if that is to be their target."""
    if not request.latency:
        return None
    return place_on(request.target, device=request.device, probe=request.probe, progress=progress)


def _with_effect(model: Model, effect: dict[str, Any]) -> Model:
    """The model whose last transform, the quantisation, also says what was measured."""
    card = model.card
    last = card.transforms[-1]
    if last.name != TRANSFORM:
        raise AssertionError(last.name)
    step = dataclasses.replace(last, effect={**last.effect, **effect})
    return model.with_card(dataclasses.replace(card, transforms=(*card.transforms[:-1], step)))
