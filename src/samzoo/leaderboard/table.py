"""The tables of a leaderboard, the same for Markdown and HTML, and leaderboard.csv."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from samzoo.evaluation.records import METRICS
from samzoo.leaderboard.board import Board, BreakEven, Cost, Entry, Estimate, Missing, Ranking, Row, Section
from samzoo.reading import one_line

DASH = "–"
SEEN = "†"
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""How a formula begins, in full width, too."""
LEVEL = 0.05
"""Of Holm's corrected p, below which a difference is called one."""
METRIC_NAMES = {"dice": "Dice", "iou": "IoU", "nsd_1mm": "NSD@1mm", "nsd_2mm": "NSD@2mm", "hd95_mm": "HD95 mm"}
COST_COLUMNS = (
    "entry|method|architecture|base weights|parameters|trained|GFLOP/encode|GFLOP/prompt|encodings/case|GFLOP/case"
    "|training s|training GiB|ms/encode|ms/prompt|ms/case|in regime|test GiB|device"
)


class Cell(NamedTuple):
    """What a cell shows, and what it is sorted by; None comes last."""

    text: str
    value: float | str | None = None

    @property
    def is_number(self) -> bool:
        return self.text == DASH or isinstance(self.value, int | float)


@dataclass(frozen=True)
class Table:
    """One table. The first cell of a row is its header; `sortable` is false where the order of rows has a meaning."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    sortable: bool = True


def words(text: object) -> Cell:
    return Cell(str(text) or DASH, str(text) or None)


def number(value: float | None, digits: int = 0, unit: str = "") -> Cell:
    return Cell(DASH) if value is None else Cell(f"{value:,.{digits}f}{unit}", value)


def interval(estimate: Estimate, digits: int = 3, sign: str = "") -> Cell:
    """Mean [low, high], or the mean alone where there were too few patients for an interval."""
    if estimate.mean is None:
        return Cell(DASH)
    mean, *ends = (None if v is None else f"{v:{sign}.{digits}f}" for v in (estimate.mean, estimate.low, estimate.high))
    return Cell(mean if None in ends else f"{mean} [{', '.join(ends)}]", estimate.mean)


def make_table(caption: str, columns: str | Sequence[str], rows: Iterable[Iterable[Cell]]) -> Table:
    """`columns` of a string are separated by |."""
    names = columns.split("|") if isinstance(columns, str) else columns
    return Table(caption, tuple(names), tuple(tuple(row) for row in rows))


def final_rows(section: Section, automatic: bool) -> list[Row]:
    """Rows after the last step of each regime whose prompts are not displaced on purpose."""
    free = section.automatic_regimes
    return [r for r in section.rows if r.last and not r.noisy and (r.regime in free) == automatic]


def marked(entry: Entry) -> Cell:
    return words(f"{entry.name}\N{NO-BREAK SPACE}{SEEN}" if entry.seen else entry.name)


def score_table(section: Section, rows: Sequence[Row], caption: str, every_metric: bool = False) -> Table:
    """Scores of the given rows; `every_metric` adds IoU and NSD at 1 mm."""
    published = any(r.dice_published is not None for r in section.rows)
    metrics = [m for m in METRICS if every_metric or m not in ("iou", "nsd_1mm")]
    columns = ["entry", "method", "regime", "step", *(f"{METRIC_NAMES[m]} [95\N{NO-BREAK SPACE}%]" for m in metrics)]
    columns += ["effort per case", "oracle", "cases", "seeds", "false pos.", *["Dice as published"] * published]
    lines = []
    for r in rows:
        line = [marked(section.entry(r.entry)), words(r.method), words(r.regime), number(r.step)]
        line += [interval(getattr(r, m), 2 if m == "hd95_mm" else 3) for m in metrics]
        spread = "" if r.seed_sd is None else f" (SD {r.seed_sd:.3f})"
        line += [number(r.effort, 1), words(r.oracle or "none"), number(r.cases), Cell(f"{r.seeds}{spread}", r.seeds)]
        lines.append([*line, number(r.false_positives), *[number(r.dice_published, 3)] * published])
    return make_table(caption, columns, lines)


def class_table(section: Section, rows: Sequence[Row]) -> Table:
    lines = (
        [marked(section.entry(r.entry)), words(r.regime), *(number(r.by_class.get(c), 3) for c in section.classes)]
        for r in rows
    )
    return make_table("Mean Dice of each class after the last step", ("entry", "regime", *section.classes), lines)


def cost_table(entries: Sequence[Entry]) -> Table:
    lines = [_cost_line(e, e.cost) for e in entries]
    columns = COST_COLUMNS
    if any(e.cost.processes_beside > 1 for e in entries):
        columns += "|tests at once"
        lines = [[*line, number(e.cost.processes_beside)] for e, line in zip(entries, lines, strict=True)]
    return make_table("What each entry costs", columns, lines)


def _cost_line(entry: Entry, cost: Cost) -> list[Cell]:
    line = [marked(entry), words(entry.method), words(entry.architecture), words(base_name(entry))]
    line += [number(cost.parameters), number(cost.trained)]
    line += [number(cost.gflop_encode, 2), number(cost.gflop_prompt, 2)]
    line += [number(cost.encodings_per_case, 1), number(cost.gflop_per_case, 1)]
    line += [number(cost.training_seconds), number(_gib(cost.training_memory_bytes), 2)]
    line += [number(v, 1) for v in (cost.ms_per_encode, cost.ms_per_prompt, cost.ms_per_case)]
    return [*line, words(cost.regime), number(_gib(cost.peak_memory_bytes), 2), words(cost.device)]


def base_name(entry: Entry) -> str:
    """The base weights; of a file its name alone, as its folder is of one machine."""
    return re.split(r"[/\\]", entry.base)[-1]


def _gib(size: float | None) -> float | None:
    return None if size is None else size / 2**30


def comparison_table(ranking: Ranking) -> Table:
    """Pairwise differences with their tests, each in words, too."""
    lines = []
    for c in ranking.comparisons:
        mean = c.difference.mean
        if c.p_holm is None or mean is None:
            verdict = DASH
        else:
            verdict = "not told apart" if c.p_holm >= LEVEL else f"{c.first if mean > 0 else c.second} higher"
        tests = [Cell(DASH) if p is None else Cell("< 0.001" if p < 0.001 else f"{p:.3f}", p) for p in (c.p, c.p_holm)]
        difference = interval(c.difference, sign="+")
        lines.append([words(c.first), words(c.second), difference, *tests, words(verdict), number(c.patients)])
    columns = "first|second|Dice, first − second [95\N{NO-BREAK SPACE}%]|p|p (Holm)|result|patients"
    return make_table(f"Every pair in regime {ranking.regime}, step {ranking.step}", columns, lines)


def rank_table(ranking: Ranking) -> Table:
    """The share of the bootstrap draws in which each entry holds each rank."""
    lines = (
        [words(name), *(number(100 * share, 1, " %") for share in ranking.shares.get(name, ()))]
        for name in ranking.entries
    )
    lines = [[*line, *[Cell(DASH)] * (len(ranking.entries) + 1 - len(line))] for line in lines]
    columns = ("entry", *(f"rank {i + 1}" for i in range(len(ranking.entries))))
    caption = f"Share of bootstrap draws by rank: regime {ranking.regime}, step {ranking.step}"
    return make_table(caption, columns, lines)


def break_even_table(points: Sequence[BreakEven]) -> Table:
    lines = []
    for b in points:
        line = [words(b.entry), words(b.regime), words(METRIC_NAMES.get(b.metric, b.metric)), words(b.automatic)]
        line.append(number(b.automatic_value, 3))
        lines.append([*line, Cell("not reached") if b.effort is None else number(b.effort, 1)])
    columns = "entry|regime|metric|best automatic entry|its value|break-even, actions/case"
    return make_table("From how much effort on prompts do as well as the best automatic entry", columns, lines)


def strata_table(section: Section) -> Table:
    lines = []
    for s in section.strata:
        above = f"{s.low_ml:.3g} and more" if math.isinf(s.high_ml) else f"{s.low_ml:.3g} to {s.high_ml:.3g}"
        lines.append([words(s.entry), words(s.regime), Cell(above, s.low_ml), number(s.dice, 3), number(s.objects)])
    return make_table("Mean Dice by volume of the object", "entry|regime|volume, ml|Dice|objects", lines)


def robustness_table(section: Section) -> Table:
    units = {"jitter": "corners of the box, % of its side", "shift": "clicks, mm"}
    lines = []
    for r in section.robustness:
        for amount, dice in r.points:
            change = dice - r.points[0][1]
            line = [words(r.entry), words(r.regime), number(r.step), words(units.get(r.kind, r.kind))]
            line += [number(amount, 1), number(dice, 3), Cell(f"{change:+.3f}", change), number(r.cases)]
            lines.append(line)
    columns = "entry|regime|step|displaced|standard deviation|Dice|change|cases"
    return make_table("Mean Dice when prompts are displaced", columns, lines)


def regime_table(section: Section) -> Table:
    """What each regime spends and was told, as its runs describe it."""
    told: dict[str, Mapping] = {}
    for run in (run for entry in section.entries for run in entry.runs):
        protocol = run.info.get("protocol")
        regimes = protocol.get("regimes") if isinstance(protocol, Mapping) else None
        if isinstance(regimes, Mapping):
            told |= {str(name): r for name, r in regimes.items() if isinstance(r, Mapping)}
    used = dict.fromkeys(r.regime for r in section.rows)
    oracles = {r.regime: r.oracle for r in section.rows}
    lines = (
        [words(name), words(told.get(name, {}).get("effort_rule", "")), words(oracles[name] or "none")] for name in used
    )
    return make_table("Regimes: what is counted as effort, and what they were told", "regime|effort|oracle", lines)


def missing_table(missing: Sequence[Missing]) -> Table:
    return make_table("Entries without a result", "entry|why", ([words(m.entry), words(m.reason)] for m in missing))


def csv_text(board: Board) -> str:
    """All rows of all sections with what their entries cost; undefined is empty."""
    ends = {metric: (metric, f"{metric}_low", f"{metric}_high") for metric in METRICS}
    costs = {f"cost_{name}" if name in Row.__dataclass_fields__ else name: name for name in Cost.__dataclass_fields__}
    names = ["section", "dataset", "signature", "entry", "method", "regime", "step", "last", "effort", "oracle"]
    names += [name for triple in ends.values() for name in triple]
    names += ["noisy", "false_positives", "cases", "patients", "seeds", "seed_sd", "dice_published"]
    names += ["architecture", "base", "seen", *costs]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for section in board.sections:
        for row in section.rows:
            entry = section.entry(row.entry)
            values = {"section": section.title, "dataset": section.dataset, "signature": section.signature}
            for metric, (mean, low, high) in ends.items():
                estimate = getattr(row, metric)
                values |= {mean: estimate.mean, low: estimate.low, high: estimate.high}
            values |= {"architecture": entry.architecture, "base": base_name(entry), "seen": entry.seen}
            values |= {name: getattr(entry.cost, cost) for name, cost in costs.items()}
            writer.writerow(_csv_cell(values[name] if name in values else getattr(row, name)) for name in names)
    return text.getvalue()


def _csv_cell(value: object) -> object:
    """Text is on one line; what a spreadsheet would take for a formula gets an apostrophe in front."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text
