"""A method's own way of scoring, slice by slice, to be set beside its published figures. It ranks nothing.

The method gets its logits on its own grid and the truth of one slice on the case's grid, and says how well they agree
(`Method.published_scores`). Here it is decided which slices count, and means are taken: over the slices of a case where
a value is defined, then over the classes of a case, then over cases.

- Regime auto: every slice counts, for every class.
- Prompted regimes: the slices that were answered and those that hold the class. One that was not answered is scored as
  empty, its logits all `EMPTY_LOGIT`. Several boxes of one class on a slice count as one mask, of their highest logit.

Ignored voxels have no place in the originals' ways of scoring: they are background of the truth.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from samzoo.evaluation.records import mean
from samzoo.evaluation.session import CaseSession
from samzoo.evaluation.slice_adapter import RowAnswer, SliceAnswer
from samzoo.methods.base import Method
from samzoo.writing import write_atomically

EMPTY_LOGIT = -1e4
"""Far below any threshold, and finite in half precision."""

Scores = dict[str, float]
"""name -> value of one slice, NaN where undefined."""


@dataclass(frozen=True)
class PublishedRow:
    """The scores of one class of one case after one step of one regime.

    Args:
        slices: how many slices count.
        values: name -> mean over those of them where it is defined; None where it is so on none.
    """

    case_id: str
    class_id: int
    class_name: str
    regime: str
    step: int
    slices: int
    values: dict[str, float | None]

    @property
    def key(self) -> tuple[str, str, int, int]:
        return self.case_id, self.regime, self.step, self.class_id


class PublishedScorer:
    """Scores the answers of one case as its method was published; of methods on slices.

    Args:
        label: uint8 (D, H, W), the truth.
    """

    def __init__(self, method: Method, session: CaseSession, label: np.ndarray) -> None:
        self.method, self.session, self.label = method, session, label
        self._automatic: dict[int, list[Scores]] = {}
        self._answered: dict[int, dict[int, tuple[list[RowAnswer], list[Scores]]]] = {}

    def look(self, z: int, logits: Tensor) -> None:
        """Score all classes of one slice: class logits (K, l, l) that were given without prompts."""
        classes = np.arange(1, len(logits) + 1)[:, None, None]
        for i, scores in enumerate(self._scores(logits[:, None], self.label[z] == classes)):
            self._automatic.setdefault(i + 1, []).append(scores)

    def automatic(self, class_id: int) -> list[Scores]:
        """What was scored of a class by `look`, slice by slice."""
        return self._automatic.get(class_id, [])

    def answered(self, class_id: int, answer: SliceAnswer) -> list[Scores]:
        """The scores of the slices that count; those whose answer has not changed since the last call are kept."""
        rows: dict[int, list[RowAnswer]] = {}
        for (z, _), row in answer.rows.items():
            rows.setdefault(z, []).append(row)
        truth = self.label == class_id
        known, now = self._answered.get(class_id, {}), {}
        like = next((r.logits for r in answer.rows.values()), None)
        for z in sorted(rows.keys() | set(np.flatnonzero(truth.any(axis=(1, 2))).tolist())):
            on_slice = rows.get(z, [])
            if z in known and known[z][0] == on_slice:  # answers are equal only to themselves
                now[z] = known[z]
            elif like is not None:
                parts = [r.logits for r in on_slice] or [torch.full_like(like, EMPTY_LOGIT)]
                now[z] = on_slice, self._scores(torch.cat(parts).amax(dim=0, keepdim=True), truth[z : z + 1])
        self._answered[class_id] = now
        return [scores for _, of_slice in now.values() for scores in of_slice]

    @torch.no_grad()
    def _scores(self, logits: Tensor, truth: np.ndarray) -> list[Scores]:
        """One dictionary for each prompt of (P, 1, l, l), (P, H, W); none if the method has no way of its own."""
        scores = self.method.published_scores(logits, torch.from_numpy(truth).to(logits.device), self.session.grid)
        columns = {name: values.tolist() for name, values in (scores or {}).items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def mean_over_slices(scores: Sequence[Scores]) -> dict[str, float | None]:
    """name -> mean where defined."""
    return {name: mean([s[name] for s in scores if not math.isnan(s[name])]) for name in scores[0]}


def deduplicate_published(rows: Iterable[PublishedRow]) -> list[PublishedRow]:
    """As for records: a distributed sampler may have repeated cases."""
    unique: dict[tuple, PublishedRow] = {}
    for row in rows:
        unique.setdefault(row.key, row)
    return [unique[key] for key in sorted(unique)]


def published_means(rows: Sequence[PublishedRow]) -> dict[str, dict[int, dict[str, float | None]]]:
    """regime -> step -> name -> mean over the classes of a case, then over cases."""
    found: dict[str, dict[int, dict[str, dict[str, list[float]]]]] = {}
    for row in rows:
        names = found.setdefault(row.regime, {}).setdefault(row.step, {})
        for name, value in row.values.items():
            of_case = names.setdefault(name, {}).setdefault(row.case_id, [])
            if value is not None:
                of_case.append(value)
    return {
        regime: {
            step: {name: mean([mean(v) for v in by_case.values() if v]) for name, by_case in names.items()}
            for step, names in steps.items()
        }
        for regime, steps in found.items()
    }


def write_published(path: str | Path, rows: Sequence[PublishedRow]) -> None:
    """Write a CSV, whole or not at all; an undefined value is an empty cell.

    Raises:
        DataError: the file can't be written.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.values))

    def write(file) -> None:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["case_id", "class_id", "class_name", "regime", "step", "slices", *names])
        for row in rows:
            values = ["" if (v := row.values.get(name)) is None else f"{v:.6g}" for name in names]
            writer.writerow([row.case_id, row.class_id, row.class_name, row.regime, row.step, row.slices, *values])

    write_atomically(path, write)
