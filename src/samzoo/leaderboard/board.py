"""What a leaderboard holds, computed from records and run.json alone. Needs no torch.

A board has a section for each set of test cases; rows of different sections are never compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samzoo.evaluation.records import Record


@dataclass(frozen=True)
class TestedRun:
    """One run folder with a result.

    Args:
        entry: name of its cell.
        seed: of its training; None where nothing was trained.
        folder: where records.csv, run.json, prompts.json and slices/ lie.
        records: all of records.csv.
        info: all of run.json.
    """

    entry: str
    seed: int | None
    folder: Path
    records: tuple[Record, ...]
    info: Mapping[str, Any]


@dataclass(frozen=True)
class Estimate:
    """A mean over cases with its 95 % interval (percentile bootstrap by patient); None is undefined or too few."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Cost:
    """What an entry costs; None is not measured. Means over its seeds.

    Args:
        gflop_encode, gflop_prompt: 1e9 floating point operations of one encoding and of one prompt.
        ms_per_case: encoding and decoding of a case in `regime`, all classes and steps, mean; encoding is the most that
            any regime spent on the case, as later regimes reuse it.
        peak_memory_bytes: of the test: on a GPU of the tensors, else of the whole process.
        training_memory_bytes: of the training.
        device: with its name; several are separated by commas.
        encodings_per_case: images or windows encoded for a case, each once for all regimes of the test, mean.
        gflop_per_case: `encodings_per_case` times `gflop_encode`, without prompts, which are not counted by regime.
        processes_beside: tests that ran side by side on the machine, the most of its seeds, which makes times longer.
    """

    parameters: int | None = None
    trained: int | None = None
    gflop_encode: float | None = None
    gflop_prompt: float | None = None
    training_seconds: float | None = None
    ms_per_encode: float | None = None
    ms_per_prompt: float | None = None
    ms_per_case: float | None = None
    peak_memory_bytes: int | None = None
    training_memory_bytes: int | None = None
    device: str = ""
    regime: str = ""
    encodings_per_case: float | None = None
    gflop_per_case: float | None = None
    processes_beside: int = 1


@dataclass(frozen=True)
class Entry:
    """A method as one cell of the suite configures it.

    Args:
        base: pretrained weights that it started from; "random", or "" where there is nothing to load.
        seen: whether those were trained on public training cases of this data set.
        automatic: whether one of its regimes spends no effort.
        cost: in the regime that ranks it.
        runs: one for each seed, with the records of the regimes that may be compared.
        costs: regime -> cost in it, of the section's `compared` regimes.
    """

    name: str
    method: str
    architecture: str
    base: str
    seen: bool
    automatic: bool
    cost: Cost
    runs: tuple[TestedRun, ...]
    costs: Mapping[str, Cost] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One entry after one step of one regime, mean over its seeds case by case.

    Args:
        effort: human actions per case, summed over its classes.
        false_positives: pairs of case and class, mean over seeds, rounded up.
        oracle: what the regime was told that nobody would know, in words; "" for nothing.
        seed_sd: standard deviation of the seeds' mean Dice; None with one seed.
        by_class: class name -> mean Dice.
        last: whether this is the last step of the regime.
        noisy: whether the regime's prompts were displaced at random; main tables and figures leave such rows out.
    """

    entry: str
    method: str
    regime: str
    step: int
    last: bool
    effort: float | None
    oracle: str
    dice: Estimate
    iou: Estimate
    nsd_1mm: Estimate
    nsd_2mm: Estimate
    hd95_mm: Estimate
    false_positives: int
    cases: int
    patients: int
    seeds: int
    seed_sd: float | None
    by_class: Mapping[str, float | None]
    dice_published: float | None = None
    noisy: bool = False


@dataclass(frozen=True)
class Comparison:
    """Two entries on the same cases, regime and step: first minus second in mean Dice, both in the same draws.

    Args:
        patients: of the test, with a Dice of both.
        p: two-sided Wilcoxon signed-rank test; p_holm: with Holm's correction over the comparisons of this regime.
    """

    first: str
    second: str
    difference: Estimate
    p: float | None
    p_holm: float | None
    patients: int


@dataclass(frozen=True)
class Ranking:
    """Entries of one regime after its last step, best first by mean Dice.

    Args:
        shares: entry -> share of the bootstrap draws in which it holds rank 1, 2, ... of them; ties share the better
            rank. Empty with too few patients.
        comparisons: of every pair; empty with too few patients, `note` then says so.
    """

    regime: str
    step: int
    entries: tuple[str, ...]
    shares: Mapping[str, tuple[float, ...]]
    comparisons: tuple[Comparison, ...]
    note: str = ""


@dataclass(frozen=True)
class BreakEven:
    """The least effort at which a prompted entry's mean is at least that of the best automatic entry.

    Both means are over the objects (case and class) that both have a score of. Steps without any effort don't count.

    Args:
        automatic: the section's `best_automatic`; automatic_value: its mean.
        effort: human actions per case, linear between steps; None: not reached.
    """

    entry: str
    regime: str
    metric: str
    automatic: str
    automatic_value: float
    effort: float | None


@dataclass(frozen=True)
class Stratum:
    """Mean Dice of an entry on the objects (case and class) of a range of volumes; upper end excluded.

    The ranges are the tertiles of the section's objects: the first starts at 0, the last ends at infinity.
    """

    entry: str
    regime: str
    low_ml: float
    high_ml: float
    dice: float | None
    objects: int


@dataclass(frozen=True)
class Robustness:
    """Dice of a regime at growing noise of its prompts.

    Args:
        kind: "jitter" (share of a box's side, in percent) or "shift" (of a click, in mm).
        points: (amount, mean Dice), from 0 on.
        step: after which; cases: that all points have.
    """

    entry: str
    regime: str
    kind: str
    points: tuple[tuple[float, float], ...]
    step: int = 0
    cases: int = 0


@dataclass(frozen=True)
class Finding:
    """A case to look at: the worst of an entry, or the one on which entries disagree most.

    Args:
        kind: "worst" or "disagreement".
    """

    kind: str
    case_id: str
    regime: str
    step: int
    entries: tuple[str, ...]
    dice: Mapping[str, float]


@dataclass(frozen=True)
class Section:
    """Everything about one set of test cases.

    Args:
        title: the data set's name, with a part of the signature where two sets share it.
        signature: of the test cases.
        rows: ordered by regime, step and Dice.
        classes: names.
        notes: what a reader must know (few cases, regimes that were left out, mixed protocols ...).
        main_regimes: entry -> regime that ranks it.
        best_automatic: entry with the highest Dice without prompts; "" where there is none.
        automatic_regimes: those in which nothing is spent at any step.
        compared: the automatic and the prompted regime that most entries share, for figures of a single regime.
    """

    title: str
    dataset: str
    signature: str
    cases: int
    patients: int
    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    rows: tuple[Row, ...]
    rankings: tuple[Ranking, ...]
    break_even: tuple[BreakEven, ...]
    strata: tuple[Stratum, ...]
    robustness: tuple[Robustness, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    main_regimes: Mapping[str, str] = field(default_factory=dict)
    best_automatic: str = ""
    automatic_regimes: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()

    def entry(self, name: str) -> Entry:
        return next(e for e in self.entries if e.name == name)


@dataclass(frozen=True)
class Missing:
    """A cell without result, and why."""

    entry: str
    reason: str


@dataclass(frozen=True)
class Board:
    """All sections, and what has no result."""

    sections: tuple[Section, ...]
    missing: tuple[Missing, ...] = ()
