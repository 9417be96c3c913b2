"""What the report says about a section, in its order; how it looks is `report.py`'s."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from samzoo.evaluation.records import ORDER_OF_AVERAGING
from samzoo.leaderboard.board import Board, Estimate, Row, Section
from samzoo.leaderboard.table import (
    LEVEL,
    METRIC_NAMES,
    SEEN,
    Table,
    automatic_regimes,
    break_even_table,
    class_table,
    comparison_table,
    cost_table,
    final_rows,
    interval,
    make_table,
    number,
    rank_table,
    regime_table,
    robustness_table,
    score_table,
    strata_table,
    words,
)


@dataclass(frozen=True)
class Part:
    """A heading with what stands below it.

    Args:
        name: of its anchor.
        texts: paragraphs.
        figures: names of the figures that belong here.
        tables: shown; folded: shown on request.
        see: (name of a part, text of the link).
    """

    name: str
    title: str
    texts: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: tuple[Table, ...] = ()
    see: tuple[str, str] | None = None


METHODS = {
    "Averages": f"{ORDER_OF_AVERAGING}. Scores are taken on the native grid of each case. Seeds of an entry are "
    "averaged case by case first.",
    "Nothing there": "Nothing to find and nothing found is undefined. Found although it is not there is Dice 0, and "
    "counted as a false positive (false pos.).",
    "Intervals": "95 %, percentile bootstrap by patient. Ranks are counted in the same draws.",
    "Tests": "Two-sided Wilcoxon signed-rank test on patients, with Holm's correction over the pairs of a regime. With "
    "too few patients there are neither intervals nor tests.",
    "Effort": "Human actions per case, summed over its classes and slices. A click is 1, a box 2, what is interpolated "
    "is free. Prompts are simulated from the truth.",
    "Oracle": "What a regime was told that nobody would know. classes: those present in the case; range: the first and "
    "last slice of each; each: every slice of each; crop: where the middle of the structure is.",
    "Sections": "Results on other test cases, splits or versions of a data set stand in sections of their own and are "
    "never compared.",
    SEEN: "The base weights were trained on public training cases of this data set, which is then no unseen data.",
    "Costs": "GFLOP: 1e9 floating point operations of one encoding and of one prompt. ms/case: encoding and decoding "
    "of a case, all classes and steps. Memory is the peak.",
    "Dice as published": "As the method's own paper or code takes it. It ranks nothing.",
    "Dash": "Undefined or not measured.",
}
"""What every table means: term -> explanation."""


def sizes(section: Section) -> str:
    """What is in a section, in words."""
    count = len(section.classes)
    classes = f"{count} {'class' if count == 1 else 'classes'} ({', '.join(section.classes)})"
    return f"Data set {section.dataset}: {section.cases} test cases of {section.patients} patients, {classes}."


def overview_table(board: Board) -> Table:
    """The best automatic and the best prompted entry of each section."""
    lines = []
    for section in board.sections:
        line = [words(section.title), number(section.cases), number(len(section.entries))]
        for automatic in (True, False):
            best = _best(final_rows(section, automatic))
            name = "" if best is None else best.entry if automatic else f"{best.entry}, {best.regime}"
            line += [words(name), interval(best.dice if best else Estimate())]
        lines.append(line)
    columns = "data set|cases|entries|best automatic|Dice [95 %]|best prompted|Dice [95 %]"
    return make_table("Each data set's best", columns, lines)


def answer(section: Section) -> list[str]:
    """The question's answer in sentences: which is best without and with prompts, and from what effort prompts pay."""
    sentences = []
    automatic, prompted = _best(final_rows(section, True)), _best(final_rows(section, False))
    if automatic:
        sentences.append(
            f"Without prompts, {automatic.entry} is best: Dice {_score(automatic.dice)}{_lead(section, automatic)}."
        )
    else:
        sentences.append("Nothing was tested without prompts.")
    if prompted:
        effort = "" if prompted.effort is None else f", at {prompted.effort:,.1f} human actions per case"
        told = f", told {prompted.oracle}" if prompted.oracle else ""
        sentences.append(
            f"With prompts, {prompted.entry} in regime {prompted.regime} is best after its last step: "
            f"Dice {_score(prompted.dice)}{effort}{told}."
        )
    else:
        sentences.append("Nothing was tested with prompts.")
    for metric in ("dice", "nsd_2mm"):
        sentences += _break_even_sentence(section, metric)
    return sentences


def _best(rows: Sequence[Row]) -> Row | None:
    return max((r for r in rows if r.dice.mean is not None), key=lambda r: r.dice.mean, default=None)


def _score(estimate: Estimate) -> str:
    return interval(estimate).text


def _lead(section: Section, best: Row) -> str:
    """Whether the best of a regime is told apart from the next, as the tests say."""
    ranking = next((r for r in section.rankings if r.regime == best.regime), None)
    if ranking is None or len(ranking.entries) < 2:
        return ""
    second = next(name for name in ranking.entries if name != best.entry)
    pair = next((c for c in ranking.comparisons if {c.first, c.second} == {best.entry, second}), None)
    if pair is None or pair.p_holm is None:
        return f", ahead of {second} (not tested)"
    return f", ahead of {second}" if pair.p_holm < LEVEL else f", not told apart from {second} (p = {pair.p_holm:.2f})"


def _break_even_sentence(section: Section, metric: str) -> list[str]:
    points = [b for b in section.break_even if b.metric == metric]
    if not points:
        return []
    goal = f"{points[0].automatic}'s {METRIC_NAMES[metric]} of {points[0].automatic_value:.3f}"
    reached = [b for b in points if b.effort is not None]
    if not reached:
        return [f"No prompted entry reaches {goal} in any regime tested."]
    least = min(reached, key=lambda b: (b.effort, b.entry, b.regime))
    count = f"{len(reached)} of {len(points)} pairs of prompted entry and regime reach it at all"
    return [f"{least.entry} in {least.regime} reaches {goal} with {least.effort:,.1f} actions per case; {count}."]


def parts(section: Section) -> list[Part]:
    """All parts that have something to show."""
    automatic, prompted = final_rows(section, True), final_rows(section, False)
    free = automatic_regimes(section)
    steps = [score_table(section, section.rows, "Every step of every regime, all metrics", every_metric=True)]
    rankings = section.rankings
    found = [
        Part(
            "automatic",
            "Automatic methods",
            () if automatic else ("Nothing was tested without prompts.",),
            tables=(score_table(section, automatic, "Without prompts, best Dice first"),) if automatic else (),
            see=("prompted", "Prompted methods"),
        ),
        Part(
            "prompted",
            "Prompted methods",
            () if prompted else ("Nothing was tested with prompts.",),
            tables=(score_table(section, prompted, "After the last step of each regime, by regime, best Dice first"),)
            if prompted
            else (),
            folded=tuple(steps),
            see=("automatic", "Automatic methods"),
        ),
        Part(
            "effort",
            "What a human action is worth",
            figures=("effort",),
            folded=(break_even_table(section.break_even),) if section.break_even else (),
        ),
        Part("costs", "Costs", figures=("pareto",), tables=(cost_table(section.entries),)),
        Part(
            "ranks",
            "How sure the order is",
            tuple(dict.fromkeys(f"{r.regime}: {r.note}" for r in rankings if r.note)),
            figures=("intervals", "ranks"),
            tables=tuple(rank_table(r) for r in rankings if r.regime in free and r.shares),
            folded=tuple(rank_table(r) for r in rankings if r.regime not in free and r.shares)
            + tuple(comparison_table(r) for r in rankings if r.comparisons),
        ),
        Part("classes", "By class", figures=("classes",), folded=(class_table(section, [*automatic, *prompted]),)),
        Part("strata", "By volume", figures=("strata",), folded=(strata_table(section),) if section.strata else ()),
        Part(
            "robustness",
            "When prompts are displaced",
            figures=("robustness",),
            folded=(robustness_table(section),) if section.robustness else (),
        ),
        Part("regimes", "Regimes", folded=(regime_table(section),)),
    ]
    return [p for p in found if p.texts or p.tables or p.folded]
