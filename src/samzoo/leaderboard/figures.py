"""Pictures of the leaderboard, from its rows alone. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter, SymmetricalLogLocator

from samzoo.writing import write_atomically

if TYPE_CHECKING:
    from samzoo.leaderboard.table import Row

METRICS = {"dice": "Dice", "nsd_2mm": "NSD at 2 mm"}
MARKERS = "osD^vP*X"


def save_effort_figure(path: Path, rows: Sequence[Row], title: str) -> None:
    """Dice and NSD against human actions per case, as PNG: a line for each entry and regime, a mark for each step.

    Entries have a colour each, regimes a mark. Rows without a score are left out; automatic answers stand at 0.
    """
    entries, regimes = ([*dict.fromkeys(getattr(row, name) for row in rows)] for name in ("entry", "regime"))
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    figure.suptitle(title)
    for axes, (metric, label) in zip(figure.subplots(1, 2, sharex=True), METRICS.items(), strict=True):
        for i, entry in enumerate(entries):
            for j, regime in enumerate(regimes):
                own = sorted((r for r in rows if (r.entry, r.regime) == (entry, regime)), key=lambda r: r.step)
                points = [(r.effort_per_case or 0, y) for r in own if (y := getattr(r, metric)) is not None]
                if points:
                    style = {"color": f"C{i % 10}", "marker": MARKERS[j % len(MARKERS)], "markersize": 5}
                    axes.plot(*zip(*points, strict=True), **style, label=f"{entry}, {regime}")
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        if not all(r.effort_per_case for r in rows):
            axes.set_xlim(left=-0.2)
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -0.02), min(high, 1.02))
        axes.set_xlabel("effort: human actions per case (a click is 1, a box 2)")
        axes.set_ylabel(f"{label}, mean over cases")
        axes.grid(alpha=0.3)
    if lines := figure.axes[0].get_legend_handles_labels()[0]:
        figure.legend(handles=lines, loc="outside right center", fontsize="small")
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110), "wb")
