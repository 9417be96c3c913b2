"""Figures of single cases and of costs: the distribution of Dice by class, and Dice against what it costs."""

from __future__ import annotations

from collections import Counter
from statistics import fmean

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, SymmetricalLogLocator

from samzoo.leaderboard.board import Entry, Section
from samzoo.leaderboard.compute_load import distinct_devices
from samzoo.leaderboard.figures_style import (
    Drawing,
    Style,
    heading,
    label_points,
    last_rows,
    limits,
    main_rankings,
    sheet,
)

COSTS = {
    "gflop_per_case": ("encodings of a case (GFLOP)", 1.0),
    "ms_per_case": ("time for a case (s)", 1e-3),
    "trained": ("trained parameters (millions)", 1e-6),
}


def classes(section: Section, styles: dict[str, Style]) -> Drawing | None:
    """Dice of every case by class: automatic entries, and prompted ones in the regime that most share."""
    blocks = []
    for ranking in main_rankings(section):
        scores = {n: _by_class(section.entry(n), ranking.regime, ranking.step) for n in ranking.entries}
        blocks.append((heading(ranking.regime, ranking.step), scores))
    names = [c for c in section.classes if any(c in s for _, scores in blocks for s in scores.values())]
    if not names:
        return None
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    count = sum(len(scores) + 1.4 for _, scores in blocks)
    figure = sheet(0.7 + lines * (0.45 + 0.19 * count))
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    ticks: list[tuple[float, str, bool]] = []
    y, words, lowest = 0.0, ["Distribution of Dice over cases, by class (medians)."], 1.0
    rng = np.random.default_rng(0)
    for title, scores in blocks:
        ticks.append((y, title, True))
        for name, own in scores.items():
            y += 1
            ticks.append((y, name, False))
            for axes, class_name in zip(panels.ravel(), names, strict=False):
                if values := own.get(class_name):
                    _box(axes, y, values, styles[name].color, rng)
                    lowest = min(lowest, *values)
            medians = ", ".join(f"{c} {np.median(own[c]):.3f}" for c in names if c in own)
            words.append(f"{name} ({title}): {medians}.")
        y += 1.4
    for axes, class_name in zip(panels.ravel(), names, strict=False):
        axes.set_title(class_name)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0, labelleft=axes in panels[:, 0])
    for axes in panels.ravel()[len(names) :]:
        axes.remove()
    first = panels[0, 0]
    first.set_yticks([t[0] for t in ticks], [t[1] for t in ticks])
    for axes in panels[:, 0]:
        for label, (_, _, bold) in zip(axes.get_yticklabels(), ticks, strict=True):
            label.set_fontweight("bold" if bold else "normal")
    first.set_ylim(y - 0.7, -0.6)
    first.set_xlim(limits([lowest, 1.0]))
    figure.supxlabel("Dice of a case", fontsize="medium")
    caption = "A dot is a case (mean over seeds), the bar holds the middle half of the cases, the line is the median."
    return Drawing(figure, "Dice by class", " ".join(words), caption)


def _by_class(entry: Entry, regime: str, step: int) -> dict[str, list[float]]:
    """Class name -> Dice of each case that has one, mean over seeds."""
    values: dict[tuple[str, str], list[float]] = {}
    for run in entry.runs:
        for r in run.records:
            if r.dice is not None and (r.regime, r.step) == (regime, step):
                values.setdefault((r.class_name, r.case_id), []).append(r.dice)
    found: dict[str, list[float]] = {}
    for (name, _), seeds in sorted(values.items()):
        found.setdefault(name, []).append(fmean(seeds))
    return found


def _box(axes, y: float, values: list[float], color: str, rng: np.random.Generator) -> None:
    low, middle, high = np.percentile(values, (25, 50, 75))
    axes.barh(y, high - low, left=low, height=0.7, color=color, alpha=0.3, linewidth=0)
    axes.scatter(values, y + rng.uniform(-0.28, 0.28, len(values)), s=4, color=color, alpha=0.7, linewidths=0)
    axes.plot([middle, middle], [y - 0.38, y + 0.38], color=color, linewidth=2, solid_capstyle="butt")


def pareto(section: Section, styles: dict[str, Style]) -> Drawing | None:
    """Dice against three costs, with the front of the entries that none beats in both."""
    rows = last_rows(section)
    chosen = [(r.regime in section.automatic_regimes, rows[r.regime]) for r in main_rankings(section)]
    costs = [
        (auto, r, cost) for auto, own in chosen for r in own if (cost := section.entry(r.entry).costs.get(r.regime))
    ]
    devices = Counter(c.device for *_, c in costs if c.device and c.ms_per_case is not None)
    device = max(distinct_devices(devices), key=lambda d: (devices[d], d), default="")
    elsewhere = {r.entry for _, r, c in costs if len(distinct_devices((c.device, device))) > 1}
    points = {
        cost: [
            (auto, row.entry, value * factor, row.dice.mean)
            for auto, row, own in costs
            if (value := getattr(own, cost)) is not None and not (cost == "ms_per_case" and row.entry in elsewhere)
        ]
        for cost, (_, factor) in COSTS.items()
    }
    points = {cost: found for cost, found in points.items() if len({p[1] for p in found}) > 1}
    if not points:
        return None
    figure = sheet(0.8 + 2.5 * len(points))
    panels = figure.subplots(len(points), 1, sharey=True, squeeze=False)[:, 0]
    words = ["Dice against cost."]
    for axes, (cost, found) in zip(panels, points.items(), strict=True):
        _cost_axis(axes, [p[2] for p in found])
        for auto in sorted({p[0] for p in found}, reverse=True):
            front = _front([(x, y, name) for kind, name, x, y in found if kind == auto])
            right = axes.get_xlim()[1]
            xs, ys = [p[0] for p in front] + [right], [p[1] for p in front] + [front[-1][1]]
            axes.step(
                xs, ys, where="post", color="0.35", linewidth=1.2, linestyle="-" if auto else (0, (4, 2)), zorder=1
            )
            kind = "automatic" if auto else "prompted"
            listed = ", ".join(f"{name} ({x:.3g}, Dice {y:.3f})" for x, y, name in front)
            words.append(f"Front by {COSTS[cost][0]}, {kind}: {listed}.")
        for auto, name, x, y in found:
            face = styles[name].color if auto else "white"
            axes.plot(x, y, marker=styles[name].marker, markersize=7, color=styles[name].color, markerfacecolor=face,
                      markeredgewidth=1.6)  # fmt: skip
        axes.set_xlabel(COSTS[cost][0])
        axes.set_ylabel("Dice")
    values = [p[3] for found in points.values() for p in found]
    low, high = limits(values)
    panels[0].set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    grey = {"color": "0.35", "marker": "o", "markersize": 7, "markeredgewidth": 1.6}
    handles = []
    for auto, own in chosen:
        name = ("automatic: " if auto else "prompted: ") + heading(own[0].regime, own[0].step)
        line, face = ("-", "0.35") if auto else ((0, (4, 2)), "white")
        handles.append(Line2D([], [], **grey, linestyle=line, markerfacecolor=face, label=name))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, handlelength=3)
    figure.draw_without_rendering()
    for axes, found in zip(panels, points.values(), strict=True):
        label_points(axes, [(x, y, name, styles[name].color) for _, name, x, y in found])
    caption = (
        "Lines: the Pareto fronts, of automatic and of prompted entries; what lies below costs more or scores less."
    )
    caption += " Entries whose cost was not measured are left out."
    if elsewhere:
        caption += f" Times are those on {device}; measured elsewhere: {', '.join(sorted(elsewhere))}."
    return Drawing(figure, "Dice against cost", " ".join(words), caption)


def _front(points: list[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """The points (cost, score, name) that no other equals or beats in both, cheapest first."""
    front: list[tuple[float, float, str]] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1], p[2])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def _cost_axis(axes, values: list[float]) -> None:
    """Logarithmic; where a cost is 0, linear below the least that is not."""
    positive = [v for v in values if v > 0] or [1.0]
    if min(values) > 0:
        axes.set_xscale("log")
        axes.set_xlim(min(positive) / 1.6, max(positive) * 1.9)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if max(positive) / min(positive) < 500 else (1,)))
    else:
        least = 10.0 ** np.floor(np.log10(min(positive)))
        axes.set_xscale("symlog", linthresh=least, linscale=0.5)
        axes.set_xlim(-0.35 * least, max(positive) * 1.9)
        axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=least))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
