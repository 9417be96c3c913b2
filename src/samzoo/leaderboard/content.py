"""What the report says about a section, in its order; how it looks is `page.py`'s and `markdown.py`'s."""

from __future__ import annotations

import math
from dataclasses import dataclass

from samzoo.evaluation.records import ORDER_OF_AVERAGING
from samzoo.leaderboard.board import Board, Estimate, Ranking, Row, Section
from samzoo.leaderboard.figures_style import heading
from samzoo.leaderboard.table import (
    DASH,
    LEVEL,
    METRIC_NAMES,
    SEEN,
    Cell,
    Table,
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
    "Sections": "Results on other test cases, or on other versions of them, stand in sections of their own and are "
    "never compared. Where entries were trained on other cases than most, a note says so.",
    SEEN: "The base weights were trained on public training cases of this data set, or the run itself on some of the "
    "test cases: no unseen data.",
    "Costs": "GFLOP: 1e9 floating point operations of one encoding and of one prompt; a case takes several. ms/case: "
    "encoding and decoding of a case in the regime named, all classes and steps. Memory is the peak. Where tests ran "
    "at once on one machine, their number is in the table: it makes times longer.",
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
    """The best automatic entry of each section, and the best prompted ones of the regimes that `answer` names."""
    lines = []
    for section in board.sections:
        free = [_best(section, ranking) for ranking in _automatic(section)]
        paid = [_best(section, ranking) for ranking in _shared_and_cheapest(section)]
        for i in range(max(len(free), len(paid), 1)):
            first, second = (rows[i] if i < len(rows) else None for rows in (free, paid))
            line = [words(section.title), number(section.cases), number(len(section.entries))]
            line += [words(first.entry if first else ""), interval(first.dice if first else Estimate())]
            if second:
                line += [words(second.entry), words(heading(second.regime, second.step)), number(second.effort, 1)]
                line += [words(second.oracle or "none"), interval(second.dice)]
            lines.append(line + [Cell(DASH)] * (10 - len(line)))
    columns = "data set|cases|entries|best automatic|Dice [95 %]|best prompted|in regime|effort per case|oracle"
    return make_table("Each data set's best", f"{columns}|Dice [95 %]", lines)


def answer(section: Section) -> list[str]:
    """The question's answer in sentences: which is best without and with prompts, and from what effort prompts pay.

    Prompted regimes differ in effort and oracle, so that none of them is the best: the answer names the best entry of
    the regime that most entries share and of the cheapest one.
    """
    sentences = []
    for ranking in _automatic(section):
        if best := _best(section, ranking):
            sentences.append(f"Without prompts, {best.entry} is best: Dice {_score(best)}{_lead(ranking)}.")
    if not sentences:
        sentences.append("Nothing was tested without prompts.")
    prompted = _shared_and_cheapest(section)
    for ranking, which in zip(prompted, ("the regime that most share", "the cheapest regime"), strict=False):
        if best := _best(section, ranking):
            effort = "" if best.effort is None else f" ({best.effort:,.1f} human actions per case{_told(best)})"
            sentences.append(
                f"With prompts, in {heading(best.regime, best.step)}, {which}{effort}, {best.entry} is best of "
                f"{len(ranking.entries)}: Dice {_score(best)}{_lead(ranking)}."
            )
    if not prompted:
        sentences.append("Nothing was tested with prompts.")
    for metric in ("dice", "nsd_2mm"):
        sentences += _break_even_sentence(section, metric)
    return sentences


def _rankings(section: Section, automatic: bool) -> list[Ranking]:
    """Of regimes with a Dice, the one that most entries share first, then by name."""
    regimes = {r.regime for r in final_rows(section, automatic) if r.dice.mean is not None}
    own = [r for r in section.rankings if r.regime in regimes]
    return sorted(own, key=lambda r: (-len(r.entries), r.regime))


def _automatic(section: Section) -> list[Ranking]:
    """The ranking that the best automatic entry leads."""
    found = _rankings(section, True)
    return [r for r in found if r.entries[0] == section.best_automatic][:1] or found[:1]


def _shared_and_cheapest(section: Section) -> list[Ranking]:
    """Of the prompted regimes; one if that is the same."""
    found = _rankings(section, False)
    efforts = {r.regime: r.effort for r in final_rows(section, False) if r.effort is not None}
    cheapest = sorted(found, key=lambda r: efforts.get(r.regime, math.inf))[:1]
    return found[:1] + [r for r in cheapest if r is not found[0]]


def _best(section: Section, ranking: Ranking) -> Row | None:
    """The row of the first of a ranking."""
    first = (ranking.regime, ranking.step, ranking.entries[0])
    return next((r for r in section.rows if (r.regime, r.step, r.entry) == first), None)


def _score(row: Row) -> str:
    return interval(row.dice).text


def _told(row: Row) -> str:
    return f", told {row.oracle}" if row.oracle else ""


def _lead(ranking: Ranking) -> str:
    """Whether the first of a ranking is told apart from the second, as the tests say."""
    if len(ranking.entries) < 2:
        return ""
    first, second = ranking.entries[:2]
    pair = next((c for c in ranking.comparisons if {c.first, c.second} == {first, second}), None)
    if pair is None or pair.p_holm is None or pair.difference.mean is None:
        return f", ahead of {second} (not tested)"
    ahead = pair.difference.mean if pair.first == first else -pair.difference.mean
    if pair.p_holm >= LEVEL:
        return f", not told apart from {second} (p = {pair.p_holm:.2f})"
    return f", ahead of {second}" if ahead > 0 else f", although {second} is not lower on the cases that both have"


def _break_even_sentence(section: Section, metric: str) -> list[str]:
    points = [b for b in section.break_even if b.metric == metric]
    if not points:
        return []
    reached = [b for b in points if b.effort is not None]
    least = min(reached, key=lambda b: (b.effort, b.entry, b.regime)) if reached else points[0]
    goal = f"{least.automatic}'s {METRIC_NAMES[metric]} of {least.automatic_value:.3f}"
    means = [getattr(r, metric).mean for r in final_rows(section, True) if r.entry == least.automatic]
    if not any(mean is not None and abs(mean - least.automatic_value) < 0.0005 for mean in means):
        goal += " (on the classes that both were scored on)"
    if not reached:
        return [f"No prompted entry reaches {goal} in any regime tested."]
    count = f"{len(reached)} of {len(points)} pairs of prompted entry and regime reach it at all"
    return [f"{least.entry} in {least.regime} reaches {goal} with {least.effort:,.1f} actions per case; {count}."]


def parts(section: Section) -> list[Part]:
    """All parts that have something to show."""
    automatic, prompted = final_rows(section, True), final_rows(section, False)
    free = section.automatic_regimes
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
            tables=tuple(rank_table(r) for r in rankings if r.regime in free and len(r.shares) > 1),
            folded=tuple(rank_table(r) for r in rankings if r.regime not in free and len(r.shares) > 1)
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
        Part("regimes", "Regimes", tables=(regime_table(section),)),
    ]
    return [p for p in found if p.texts or p.tables or p.folded]
