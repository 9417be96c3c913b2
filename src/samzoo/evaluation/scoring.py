"""Walk one case through regimes and score every answer on the native grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from samzoo.errors import ConfigError, DataError
from samzoo.evaluation.adapter import Answer, Cost, Inference
from samzoo.evaluation.published import PublishedRow, PublishedScorer, Scores, mean_over_slices
from samzoo.evaluation.records import Record
from samzoo.evaluation.session import CaseSession
from samzoo.evaluation.slices import CaseSlice
from samzoo.methods.base import Method
from samzoo.metrics import Overlap, Surface, overlap, surface
from samzoo.prompts.io import PromptBook
from samzoo.prompts.regimes import Regime, within
from samzoo.types import IGNORE, Case, CasePrompt, MethodSpec


@dataclass(frozen=True)
class Settings:
    """How cases are scored.

    Args:
        dataset, class_names: for the records; names in the order of class ids, from 1.
        seed: of the first prompts.
        surface: whether to compute surface distances.
        published: whether to score as the method was published, too; of methods on slices.
        slices: whether to keep one slice with all that was answered on it.
        replay: prompts to use instead of simulated ones.
        inference: how the method is run over a case.
    """

    dataset: str
    class_names: tuple[str, ...]
    seed: int = 0
    surface: bool = True
    published: bool = False
    slices: bool = False
    replay: PromptBook | None = None
    inference: Inference = field(default_factory=Inference)


@dataclass
class CaseResult:
    """Args:
    records: in the order in which they came about.
    published: likewise; nothing if not asked for, or if the method has no scores of its own.
    prompts: regime -> class id -> the prompt after each step.
    label_maps: regime -> uint8 (D, H, W) after the last step, a later class over an earlier one; only to be looked at.
    cost: what the session spent.
    own_points: what the method prompted itself with, see `CaseSession.own_points`; only to be looked at.
    slice: arrays by name, see `samzoo.evaluation.slices`; None if not asked for.
    """

    case_id: str
    cost: Cost
    records: list[Record] = field(default_factory=list)
    published: list[PublishedRow] = field(default_factory=list)
    own_points: dict[int, np.ndarray] = field(default_factory=dict)
    prompts: dict[str, dict[int, list[CasePrompt]]] = field(default_factory=dict)
    label_maps: dict[str, np.ndarray] = field(default_factory=dict)
    slice: dict[str, np.ndarray] | None = None


def runnable(regimes: Sequence[Regime], spec: MethodSpec) -> tuple[list[Regime], list[str]]:
    """The regimes that a method can answer, and a note on each of the others.

    Raises:
        ConfigError: it can't answer any.
    """
    reasons = {r.name: _misfit(r, spec) for r in regimes}
    notes = [f"regime {name} is left out: {reason}" for name, reason in reasons.items() if reason]
    able = [r for r in regimes if not reasons[r.name]]
    if not able:
        names = ", ".join(r.name for r in regimes) or "(none)"
        raise ConfigError(
            f"{spec.name} works on {spec.unit}s, understands {', '.join(sorted(spec.prompts))} and can't be scored "
            f"with any of the regimes {names}; choose others in protocol.regimes or protocol.val_regimes"
        )
    return able, notes


def _misfit(regime: Regime, spec: MethodSpec) -> str:
    """Why a method can't answer a regime, or nothing."""
    if not regime.kinds <= spec.prompts:
        return f"{spec.name} does not understand {', '.join(sorted(regime.kinds - spec.prompts))}"
    if regime.dim == 2 and spec.dim == 3:
        return f"it prompts slice by slice, {spec.name} sees volumes"
    if regime.dim == 3 and spec.dim == 2:
        return f"its clicks are for methods that see depth, {spec.name} sees one slice at a time"
    return ""


def score_case(method: Method, case: Case, regimes: Sequence[Regime], settings: Settings) -> CaseResult:
    """All regimes on one case; its slices are encoded at most once.

    Classes that are absent from the ground truth are scored in regime auto only: nobody prompts for them.
    `published_scores` of the method are taken on request, see `samzoo.evaluation.published`.

    Raises:
        DataError: the case has no label, a label value beyond the classes, or no (complete) saved prompts.
    """
    if case.label is None:
        raise DataError(f"case {case.id} has no ground truth, so it can't be scored; use `samzoo predict`")
    session = CaseSession(method, case, settings.inference, keep_logits=settings.published)
    return _Walk(method, session, case, settings).run(regimes)


class _Walk:
    def __init__(self, method: Method, session: CaseSession, case: Case, settings: Settings) -> None:
        self.session, self.case, self.settings = session, case, settings
        self.label = case.label.numpy()
        on_slices = np.stack([np.bincount(plane.ravel(), minlength=IGNORE + 1) for plane in self.label])
        counts = on_slices.sum(axis=0)
        self.present = [int(k) for k in np.flatnonzero(counts) if k not in (0, IGNORE)]
        if self.present and self.present[-1] > len(settings.class_names):
            raise DataError(
                f"case {case.id}: label value {self.present[-1]}, but there are {len(settings.class_names)} classes"
            )
        self.valid = self.label != IGNORE if counts[IGNORE] else None
        by_slice = method.spec.unit == "slice"
        self.published = PublishedScorer(method, session, self.label) if settings.published and by_slice else None
        self.result = CaseResult(case.id, session.cost)
        self.slice = CaseSlice(case, on_slices) if settings.slices else None
        if self.slice:
            self.result.slice = self.slice.arrays

    def run(self, regimes: Sequence[Regime]) -> CaseResult:
        for regime in regimes:
            if regime.auto:
                self._automatic(regime)
            else:
                self._prompted(regime)
        self.result.own_points = self.session.own_points()
        return self.result

    def _automatic(self, regime: Regime) -> None:
        before = replace(self.session.cost)
        labels = self.session.label_map(None, self.published.look if self.published else None)
        spent = self._spent(before)
        for class_id in range(1, len(self.settings.class_names) + 1):
            scores = self._score(class_id, labels == class_id)
            own = self.published.automatic(class_id) if self.published else []
            self._record(regime, 0, CasePrompt(class_id), scores, spent, own)
        self.result.label_maps[regime.name] = labels
        if self.slice:
            self.slice.add(regime.name, 0, labels[self.slice.z])

    def _prompted(self, regime: Regime) -> None:
        saved = self._saved(regime)
        classes = self.present if saved is None else list(saved)
        prompts: list[CasePrompt] = []
        answers: list[Answer | None] = []
        history: dict[int, list[CasePrompt]] = {k: [] for k in classes}
        scores: dict[int, tuple[Overlap, Surface]] = {}
        own: dict[int, list[Scores]] = {}
        planes: dict[int, np.ndarray] = {}
        for step in range(regime.start, regime.last + 1):
            if saved is not None:
                updated = [saved[k][step - regime.start] for k in classes]
            elif step == regime.start:
                updated = [self._first(regime, k) for k in classes]
            else:
                updated = [self._next(regime, p, a) for p, a in zip(prompts, answers, strict=True)]
            before = replace(self.session.cost)
            answers = self.session.segment(updated, answers or None)
            spent = self._spent(before)
            for i, k in enumerate(classes):
                history[k].append(updated[i])
                if prompts and updated[i] != prompts[i]:
                    scores.pop(k, None)
                if step in regime.scored:
                    if k not in scores:
                        mask = answers[i].mask
                        scores[k] = self._score(k, mask)
                        if self.slice:
                            planes[k] = mask[self.slice.z].copy()
                        own[k] = self.published.answered(k, answers[i]) if self.published else []
                    self._record(regime, step, updated[i], scores[k], spent, own[k])
            if planes and step in regime.scored:
                self.slice.add_masks(regime.name, step, planes)
            prompts = updated
        self.result.prompts[regime.name] = history
        labels = np.zeros(self.case.shape, dtype=np.uint8)
        for k, answer in zip(classes, answers, strict=True):
            labels[answer.mask] = k
        self.result.label_maps[regime.name] = labels

    def _saved(self, regime: Regime) -> Mapping[int, list[CasePrompt]] | None:
        book = self.settings.replay
        if book is None:
            return None
        names = self.settings.class_names
        saved = book.steps(self.case.id, regime.name, names, self.case.shape)
        place = f"{book.path}: cases.{self.case.id}.{regime.name}"
        needed = regime.last - regime.start + 1
        for k, steps in saved.items():
            if len(steps) < needed:
                raise DataError(f"{place}.{names[k - 1]}: holds {len(steps)} steps, the regime needs {needed}")
        if missing := [names[k - 1] for k in self.present if k not in saved]:
            raise DataError(f"{place}: holds no prompts for {', '.join(missing)}, which the ground truth has")
        return saved

    def _first(self, regime: Regime, class_id: int) -> CasePrompt:
        truth = self.label == class_id
        settings, seen = self.settings, self.session.seen
        return regime.first(truth, class_id, self.case.spacing, settings.seed, self.case.id, self.valid, seen)

    def _next(self, regime: Regime, prompt: CasePrompt, answer: Answer) -> CasePrompt:
        truth, answered = self.label == prompt.class_id, self._kept(answer.mask)
        if prompt.focus is not None:
            part = self.session.seen(prompt.focus)
            truth, answered = within(truth, part), within(answered, part)
        return regime.next(prompt, truth, answered, self.case.spacing, self.settings.seed, self.case.id)

    def _kept(self, mask: np.ndarray) -> np.ndarray:
        """Without the voxels that are to be ignored."""
        return mask if self.valid is None else mask & self.valid

    def _score(self, class_id: int, mask: np.ndarray) -> tuple[Overlap, Surface]:
        truth, mask = self.label == class_id, self._kept(mask)
        distances = Surface((None, None), None)
        if self.settings.surface:
            distances = surface(mask, truth, self.case.spacing)
        return overlap(mask, truth), distances

    def _spent(self, before: Cost) -> tuple[float, float]:
        now = self.session.cost
        return now.encode_seconds - before.encode_seconds, now.decode_seconds - before.decode_seconds

    def _record(
        self,
        regime: Regime,
        step: int,
        prompt: CasePrompt,
        scores: tuple[Overlap, Surface],
        spent: tuple[float, float],
        own: list[Scores],
    ) -> None:
        counts, distances = scores
        name = self.settings.class_names[prompt.class_id - 1]
        if own:
            means = mean_over_slices(own)
            self.result.published.append(
                PublishedRow(self.case.id, prompt.class_id, name, regime.name, step, len(own), means)
            )
        self.result.records.append(
            Record(
                dataset=self.settings.dataset,
                method=self.session.method_name,
                case_id=self.case.id,
                patient=self.case.patient,
                class_id=prompt.class_id,
                class_name=name,
                regime=regime.name,
                step=step,
                effort=prompt.effort,
                oracle_classes=regime.oracle_classes,
                oracle_slices=regime.oracle_slices,
                tp=counts.tp,
                fp=counts.fp,
                fn=counts.fn,
                dice=counts.dice,
                iou=counts.iou,
                nsd_1mm=distances.nsd[0],
                nsd_2mm=distances.nsd[1],
                hd95_mm=distances.hd95,
                encode_seconds=spent[0],
                decode_seconds=spent[1],
                voxel_mm3=math.prod(self.case.spacing),
            )
        )
