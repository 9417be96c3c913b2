"""What the figures share: their form, a colour and a mark for each entry, and which regimes stand for a section.

Figures are 6.4 inches wide with letters of 9 points or more, so that a telephone shows them legibly.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from samzoo.evaluation.records import file_name
from samzoo.leaderboard.board import Ranking, Row, Section

WIDTH = 6.4
RC = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 9.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "font.size": 9.5,
    "grid.alpha": 0.3,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.parse_math": False,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}
COLORS = (  # after Okabe and Ito (2008) and Tol (2021); none of them is too pale for white paper
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#332288",
    "#882255",
    "#56B4E9",
    "#777733",
    "#000000",
    "#AA4499",
    "#44AA99",
)
MARKERS = "osD^vPX*<>phd"
LINES = ("-", "--", "-.", (0, (1, 1.2)), (0, (5, 1, 1, 1, 1, 1)))


@dataclass(frozen=True)
class Style:
    """How an entry is drawn, in all figures of a section; `line` is a line style of matplotlib."""

    color: str
    marker: str
    line: str | tuple

    @property
    def options(self) -> dict[str, Any]:
        """For matplotlib's `plot`."""
        mark = {"marker": self.marker, "markersize": 8 if self.marker == "*" else 6, "markeredgecolor": "white"}
        return {"color": self.color, "linestyle": self.line, "linewidth": 1.3, "markeredgewidth": 0.5, **mark}


@dataclass(frozen=True)
class Drawing:
    """A figure before it is saved; `alt` says in words what is seen, for those who do not see it."""

    sheet: Sheet
    title: str
    alt: str
    caption: str


def entry_styles(section: Section) -> dict[str, Style]:
    """Entry -> style. No two of up to 60 entries are alike, nor do two of up to 12 differ in colour alone."""
    return {
        entry.name: Style(COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)], LINES[i % len(LINES)])
        for i, entry in enumerate(section.entries)
    }


def section_stem(section: Section) -> str:
    """How the names of a section's files begin; no two sections of a board share it."""
    return stem(section.title)


def stem(name: str) -> str:
    """A name as part of a file's; where letters had to be replaced or left out, a checksum keeps two names apart."""
    short = file_name(name)[:60]
    return short if short == name else f"{short}-{zlib.crc32(name.encode()):08x}"


def last_rows(section: Section) -> dict[str, list[Row]]:
    """Regime -> rows of its last step, best Dice first; automatic regimes come first, noisy ones are left out."""
    found: dict[str, list[Row]] = {}
    for row in section.rows:
        if row.last and not row.noisy and row.dice.mean is not None:
            found.setdefault(row.regime, []).append(row)
    order = sorted(found, key=lambda regime: regime not in section.automatic_regimes)
    return {regime: sorted(found[regime], key=lambda r: (-r.dice.mean, r.entry)) for regime in order}


def main_rankings(section: Section) -> list[Ranking]:
    """Of the section's `compared` regimes."""
    shown = last_rows(section)
    return [r for name in section.compared for r in section.rankings if r.regime == name and name in shown]


def heading(regime: str, step: int) -> str:
    return regime + f", step {step}" * bool(step)


def sheet(height: float) -> Sheet:
    return Sheet(figsize=(WIDTH, height), layout="constrained")


def legend(figure: Sheet, names: Iterable[str], styles: dict[str, Style], extra: Sequence[Line2D] = ()) -> None:
    """A legend of entries below the figure."""
    shown = set(names)
    handles = [Line2D([], [], **style.options, label=name) for name, style in styles.items() if name in shown]
    # matplotlib leaves out labels that begin with an underscore
    labels = [h.get_label().replace("_", "\u200b_", 1) if h.get_label().startswith("_") else h.get_label()
              for h in (*handles, *extra)]  # fmt: skip
    figure.legend([*handles, *extra], labels, loc="outside lower center", ncols=3, handlelength=3, columnspacing=1.2)


def limits(values: Iterable[float]) -> tuple[float, float]:
    """Limits of an axis for scores in [0, 1]."""
    values = list(values)
    room = 0.06 * max(max(values) - min(values), 0.05)
    return max(min(values) - room, -0.02), min(max(values) + room, 1.02)


def label_points(axes: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names (x, y, name, colour) beside points, each where it covers least of the others; one for close twins.

    The layout must be final: call it after `draw_without_rendering`.
    """
    places = axes.transData.transform([(x, y) for x, y, _, _ in points])
    unit = axes.figure.dpi / 72
    taken = [(px - 4 * unit, py - 4 * unit, px + 4 * unit, py + 4 * unit) for px, py in places]
    frame = axes.get_window_extent().extents
    named: list[tuple[str, float, float]] = []
    for (x, y, name, color), (px, py) in zip(points, places, strict=True):
        if any(n == name and abs(px - u) + abs(py - v) < 16 * unit for n, u, v in named):
            continue
        named.append((name, px, py))
        text = axes.annotate(name, (x, y), (0, 0), textcoords="offset points", color=color, va="bottom", fontsize=8.5)
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])
        box = text.get_window_extent()
        options = []
        for reach in (6, 14, 24, 34):
            for dx, dy in ((-0.8, 0.8), (1, 0), (-1, 0), (0.8, -0.8), (0.8, 0.8), (-0.8, -0.8), (0, 1), (0, -1)):
                left = px + dx * reach * unit - box.width * (0.5 - 0.5 * np.sign(dx))
                low = py + dy * reach * unit - box.height * (0.5 - 0.5 * np.sign(dy))
                own = (left, low, left + box.width, low + box.height)
                outside = sum(max(0, d) for d in (*(frame[:2] - own[:2]), *(np.array(own[2:]) - frame[2:])))
                options.append((sum(_overlap(own, t) for t in taken) + outside * 20 * unit, len(options), own, reach))
        _, _, own, reach = min(options)
        taken.append(own)
        text.set_position(((own[0] - px) / unit, (own[1] - py) / unit))
        if reach > 6:
            ends = np.clip((px, py), own[:2], own[2:])
            line = axes.transData.inverted().transform([(px, py), ends])
            axes.plot(*line.T, color=color, linewidth=0.6, alpha=0.7, scalex=False, scaley=False)


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
