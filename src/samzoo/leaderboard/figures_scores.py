"""Figures of mean scores: against effort, with intervals, by rank, by volume, and under noisy prompts."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter, SymmetricalLogLocator

from samzoo.leaderboard.board import Estimate, Row, Section
from samzoo.leaderboard.figures_style import (
    Drawing,
    Style,
    heading,
    last_rows,
    legend,
    limits,
    main_rankings,
    sheet,
)

METRICS = {"dice": "Dice", "nsd_2mm": "NSD at 2 mm"}
RING = {"marker": "o", "linestyle": "none", "markerfacecolor": "none", "markersize": 9, "markeredgewidth": 1.6}


def effort(section: Section, styles: dict[str, Style]) -> Drawing | None:
    """Dice and NSD against effort: a row of panels for each family of prompted regimes."""
    families = _families(section)
    if not families:
        return None
    figure = sheet(1.2 + 2.1 * len(families))
    panels = figure.subplots(len(families), 2, sharex=True, sharey="col", squeeze=False)
    best = _best_automatic(section)
    shown = [r for rows in families.values() for r in rows]
    for column, (metric, label) in enumerate(METRICS.items()):
        values = [v for r in shown if (v := getattr(r, metric).mean) is not None]
        values += [] if (value := best and getattr(best, metric).mean) is None else [value]
        for line, (family, rows) in enumerate(families.items()):
            axes = panels[line, column]
            _reference(axes, best, metric)
            _curves(axes, rows, metric, styles)
            _rings(axes, section, {r.regime for r in rows}, metric, styles)
            axes.set_title(family if column == 0 else " ")
            axes.set_ylabel(label)
        if values:
            panels[0, column].set_ylim(limits(values))
    _effort_axis(panels[-1], [r.effort for r in shown])
    dashed = Line2D([], [], color="0.25", linestyle=(0, (4, 2)), linewidth=1.4, label="best automatic")
    extra = [dashed] if best else []
    if any(b.effort is not None for b in section.break_even):
        extra.append(Line2D([], [], **RING, color="0.25", label="break-even"))
    legend(figure, {r.entry for r in shown}, styles, extra)
    words = [f"Dice and NSD at 2 mm against human actions per case, for {len(families)} kinds of prompts."]
    if best:
        words.append(f"The best automatic entry is {best.entry} with a Dice of {best.dice.mean:.3f}.")
    for regime, rows in last_rows(section).items():
        if regime not in section.automatic_regimes:
            top = rows[0]
            words.append(f"{regime}: {top.entry} is highest, Dice {top.dice.mean:.3f} at {top.effort:.1f} actions.")
    reached = [b for b in section.break_even if b.metric == "dice" and b.effort is not None]
    if reached:
        least = min(reached, key=lambda b: (b.effort, b.entry, b.regime))
        words.append(f"The least break-even in Dice: {least.entry} in {least.regime} at {least.effort:.1f} actions.")
    caption = "Each mark is a step of a regime, mean over cases. A click is one action, a box two."
    if best:
        caption += " Dashed: the automatic entry with the best Dice, with its 95 % interval where there is one. A ring"
        caption += " marks the least effort at which the mean reaches that of this entry, both over what both answered."
    return Drawing(figure, "Dice and NSD against effort", " ".join(words), caption)


def _families(section: Section) -> dict[str, list[Row]]:
    """Title -> rows of prompted regimes. Regimes of one step that begin with the same word share a panel."""
    steps: dict[str, set[int]] = {}
    for row in section.rows:
        steps.setdefault(row.regime, set()).add(row.step)
    groups: dict[str, list[Row]] = {}
    for regime in last_rows(section):
        if regime not in section.automatic_regimes:
            family = regime if len(steps[regime]) > 1 else regime.split("_")[0]
            groups.setdefault(family, []).extend(r for r in section.rows if r.regime == regime and r.effort is not None)
    named = {", ".join(dict.fromkeys(r.regime for r in rows)): rows for rows in groups.values() if rows}
    return dict(sorted(named.items(), key=lambda item: (-len({r.entry for r in item[1]}), item[0])))


def _best_automatic(section: Section) -> Row | None:
    shown = last_rows(section)
    rows = [r for name in section.compared if name in section.automatic_regimes for r in shown.get(name, ())]
    return next((r for r in rows if r.entry == section.best_automatic), None)


def _reference(axes: Axes, row: Row | None, metric: str) -> None:
    value: Estimate | None = getattr(row, metric) if row else None
    if value and value.mean is not None:
        axes.axhline(value.mean, color="0.25", linestyle=(0, (4, 2)), linewidth=1.4, zorder=1)
        if value.low is not None and value.high is not None:
            axes.axhspan(value.low, value.high, color="0.5", alpha=0.14, linewidth=0, zorder=0)
        place = {"xytext": (-2, 2), "textcoords": "offset points", "ha": "right", "va": "bottom"}
        axes.annotate(row.entry, (1, value.mean), xycoords=("axes fraction", "data"), fontsize=8.5, **place)


def _rings(axes: Axes, section: Section, regimes: set[str], metric: str, styles: dict[str, Style]) -> None:
    """A ring for each break-even; those at the same effort lie one within the other."""
    sizes: dict[float, int] = {}
    for point in section.break_even:
        if point.effort is not None and point.metric == metric and point.regime in regimes:
            size = sizes[point.effort] = sizes.get(point.effort, 5) + 4
            axes.plot(
                point.effort, point.automatic_value, **RING | {"markersize": size}, color=styles[point.entry].color
            )


def _curves(axes: Axes, rows: list[Row], metric: str, styles: dict[str, Style]) -> None:
    for name in dict.fromkeys(r.entry for r in rows):
        own = sorted((r for r in rows if r.entry == name), key=lambda r: (r.effort, r.step))
        points = [(r.effort, y) for r in own if (y := getattr(r, metric).mean) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), **styles[name].options)


def _effort_axis(bottom: np.ndarray, efforts: list[float]) -> None:
    """Logarithmic; linear below 1 where there is an effort of 0."""
    positive = [e for e in efforts if e > 0] or [1.0]
    subs = (1, 2, 5) if max(positive) / min(positive) < 60 else (1, 3)
    for axes in bottom:
        if min(efforts) > 0:
            axes.set_xscale("log")
            axes.set_xlim(min(positive) / 1.25, max(positive) * 1.25)
            axes.xaxis.set_major_locator(LogLocator(subs=subs))
        else:
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xlim(-0.25, max(positive) * 1.25)
            axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=subs))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("human actions per case")


def intervals(section: Section, styles: dict[str, Style]) -> Drawing | None:
    """A forest plot of Dice: automatic entries first, then a block for each prompted regime."""
    blocks = last_rows(section)
    if not blocks:
        return None
    ticks: list[tuple[float, str, bool]] = []
    rows = [r for own in blocks.values() for r in own]
    figure = sheet(0.9 + 0.2 * (len(rows) + 1.6 * len(blocks)))
    axes = figure.subplots()
    y, words = 0.0, ["Mean Dice over cases with 95 % intervals."]
    for regime, own in blocks.items():
        title = ("automatic: " if regime in section.automatic_regimes else "") + heading(regime, own[0].step)
        ticks.append((y, title, True))
        words.append(f"{title}: " + "; ".join(f"{r.entry} {_interval(r.dice)}" for r in own) + ".")
        for row in own:
            y += 1
            style, dice = styles[row.entry], row.dice
            if dice.low is not None and dice.high is not None:
                axes.plot([dice.low, dice.high], [y, y], color=style.color, linewidth=2, solid_capstyle="butt")
            axes.plot(dice.mean, y, **style.options)
            axes.annotate(
                _interval(dice), (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, color="0.2"
            )
            ticks.append((y, row.entry, False))
        y += 1.6
    axes.set_yticks([t[0] for t in ticks], [t[1] for t in ticks])
    for label, (_, _, bold) in zip(axes.get_yticklabels(), ticks, strict=True):
        label.set_fontweight("bold" if bold else "normal")
    axes.set_ylim(y - 0.9, -0.7)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(limits([v for r in rows for v in (r.dice.low, r.dice.mean, r.dice.high) if v is not None]))
    axes.set_xlabel("Dice, mean over cases")
    caption = "Mean over cases after the last step of each regime; lines are 95 % intervals, bootstrapped by patient."
    return Drawing(figure, "Dice with 95 % intervals", " ".join(words), caption)


def _interval(value: Estimate) -> str:
    bounds = "" if value.low is None or value.high is None else f" [{value.low:.3f}, {value.high:.3f}]"
    return f"{value.mean:.3f}{bounds}"


def ranks(section: Section, styles: dict[str, Style]) -> Drawing | None:
    """Shares of the bootstrap draws in which an entry holds a rank: a panel for each main ranking."""
    rankings = [r for r in main_rankings(section) if len(r.shares) > 1]
    if not rankings:
        return None
    sizes = [len(r.shares) for r in rankings]
    most = max(sizes)
    figure = sheet(0.9 + sum(0.6 + 0.27 * n for n in sizes))
    panels = figure.subplots(len(rankings), 1, squeeze=False, height_ratios=[n + 1 for n in sizes])[:, 0]
    colors = colormaps["viridis"](np.linspace(0.05, 0.97, most))
    words = ["Share of the bootstrap draws in which each rank holds."]
    for axes, ranking in zip(panels, rankings, strict=True):
        names = [name for name in ranking.entries if name in ranking.shares]
        for y, name in enumerate(names):
            left = 0.0
            for rank, share in enumerate(ranking.shares[name]):
                axes.barh(y, 100 * share, left=left, color=colors[rank], height=0.82, edgecolor="white", linewidth=0.6)
                if share >= 0.07:
                    dark = np.dot(colors[rank][:3], (0.3, 0.59, 0.11)) < 0.55
                    text = {"color": "white" if dark else "black", "ha": "center", "va": "center", "fontsize": 8.5}
                    axes.text(left + 50 * share, y, f"{rank + 1}", **text)
                left += 100 * share
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.grid(visible=False)
        axes.set_title(heading(ranking.regime, ranking.step))
        axes.tick_params(axis="y", length=0)
        firsts = "; ".join(f"{n} is first in {100 * ranking.shares[n][0]:.0f} %" for n in names[:3])
        words.append(f"{heading(ranking.regime, ranking.step)}: {firsts}.")
    panels[-1].set_xlabel("share of bootstrap draws (%)")
    handles = [Line2D([], [], color=colors[k], linewidth=8, label=f"rank {k + 1}") for k in range(most)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(most, 5), handlelength=1)
    caption = "How sure the order by mean Dice is: the length of a part is the share of draws in which the entry holds"
    return Drawing(figure, "How sure the ranks are", " ".join(words), f"{caption} the rank written on it.")


def strata(section: Section, styles: dict[str, Style]) -> Drawing | None:
    """Dice by the volume of the object: a panel for automatic entries, one for each prompted regime."""
    found = [s for s in section.strata if s.dice is not None]
    if not found:
        return None
    regimes = sorted({s.regime for s in found}, key=lambda r: (r not in section.automatic_regimes, r))
    bins = sorted({(s.low_ml, s.high_ml) for s in found})
    counts = {b: max(s.objects for s in found if (s.low_ml, s.high_ml) == b) for b in bins}
    figure = sheet(3.6 if len(regimes) < 3 else 5.8)
    panels = figure.subplots(-(-len(regimes) // 2), min(2, len(regimes)), sharey=True, squeeze=False).ravel()
    for axes, regime in zip(panels, regimes, strict=False):
        names = [n for n in styles if any((s.entry, s.regime) == (n, regime) for s in found)]
        for i, name in enumerate(names):
            shift = 0.4 * ((i + 0.5) / len(names) - 0.5)
            own = {(s.low_ml, s.high_ml): s.dice for s in found if (s.entry, s.regime) == (name, regime)}
            x = [k + shift for k, b in enumerate(bins) if b in own]
            axes.plot(x, [own[b] for b in bins if b in own], **styles[name].options)
        axes.set_xticks(range(len(bins)), [_volume(b, i, len(bins)) + f"\nn = {counts[b]}" for i, b in enumerate(bins)])
        axes.set_xlim(-0.5, len(bins) - 0.5)
        axes.grid(visible=False, axis="x")
        axes.set_title(regime)
        axes.set_xlabel("volume of the object (ml)")
    for axes in panels[len(regimes) :]:
        axes.remove()
    panels[0].set_ylabel("Dice, mean over objects")
    panels[0].set_ylim(limits([s.dice for s in found]))
    legend(figure, {s.entry for s in found}, styles)
    words = ["Mean Dice by the volume of the object."]
    for regime in regimes:
        for name in dict.fromkeys(s.entry for s in found if s.regime == regime):
            own = sorted((s for s in found if (s.entry, s.regime) == (name, regime)), key=lambda s: s.low_ml)
            words.append(f"{name} ({regime}): " + ", ".join(f"{s.dice:.3f}" for s in own) + ".")
    caption = "An object is a class in a case; the limits of volume are the same for all entries. n: objects."
    return Drawing(figure, "Dice by volume of the object", " ".join(words), caption)


def _volume(limits_ml: tuple[float, float], i: int, count: int) -> str:
    low, high = (f"{v:.3g}" for v in limits_ml)
    if count == 1:
        return "all"
    return f"< {high}" if i == 0 else f"≥ {low}" if i == count - 1 else f"{low} to {high}"


def robustness(section: Section, styles: dict[str, Style]) -> Drawing | None:
    """Dice against the noise of the prompts: a panel for each kind of noise and regime."""
    found = [r for r in section.robustness if len(r.points) > 1]
    if not found:
        return None
    kinds = sorted({(r.kind, r.regime) for r in found})
    lines = -(-len(kinds) // 2)
    figure = sheet(1.2 + 2.4 * lines)
    panels = figure.subplots(lines, min(2, len(kinds)), sharey=True, squeeze=False).ravel()
    words = ["Dice against the noise of the prompts."]
    for axes, (kind, regime) in zip(panels, kinds, strict=False):
        for r in sorted((r for r in found if (r.kind, r.regime) == (kind, regime)), key=lambda r: r.entry):
            axes.plot(*zip(*r.points, strict=True), **styles[r.entry].options)
            (_, start), (amount, end) = r.points[0], r.points[-1]
            unit = "% jitter" if kind == "jitter" else "mm shift"
            words.append(f"{r.entry} ({regime}): {start:.3f} without, {end:.3f} at {amount:g} {unit}.")
        axes.set_title(regime)
        axes.set_xlabel("jitter of a box (% of its side)" if kind == "jitter" else "shift of a click (mm)")
        axes.set_xticks(sorted({p[0] for r in found if (r.kind, r.regime) == (kind, regime) for p in r.points}))
    for axes in panels[len(kinds) :]:
        axes.remove()
    panels[0].set_ylim(limits([p[1] for r in found for p in r.points]))
    for axes in panels[::2]:
        axes.set_ylabel("Dice, mean over cases")
    legend(figure, {r.entry for r in found}, styles)
    caption = "Prompts displaced at random by a normal draw of the given standard deviation, the same for all entries."
    return Drawing(figure, "Dice under noisy prompts", " ".join(words), caption)
