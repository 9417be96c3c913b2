"""The pictures of a leaderboard, from a section alone. Needs no torch."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib import style
from PIL import Image

from samzoo.leaderboard import figures_cases, figures_scores
from samzoo.leaderboard.board import Section
from samzoo.leaderboard.figures_style import RC, Style, entry_styles, section_stem
from samzoo.writing import write_atomically

__all__ = ["Figure", "Style", "entry_styles", "save_figures"]

DRAWINGS = {
    "effort": figures_scores.effort,
    "intervals": figures_scores.intervals,
    "classes": figures_cases.classes,
    "pareto": figures_cases.pareto,
    "ranks": figures_scores.ranks,
    "strata": figures_scores.strata,
    "robustness": figures_scores.robustness,
}
DPI = 150


@dataclass(frozen=True)
class Figure:
    """A saved picture.

    Args:
        name: what it shows, in one word; unique in its section.
        file: relative to the leaderboard's folder.
        alt: what is seen, in words and with the main numbers.
    """

    name: str
    file: str
    title: str
    alt: str
    caption: str


def save_figures(folder: Path, section: Section) -> list[Figure]:
    """Write the figures of a section as PNG under `folder`/figures; one without data is left out.

    Raises:
        DataError: a file can't be written.
    """
    styles, saved = entry_styles(section), []
    with style.context("default"), matplotlib.rc_context(RC):
        for name, draw in DRAWINGS.items():
            drawing = draw(section, styles)
            if drawing is None:
                continue
            file = f"figures/{section_stem(section)}_{name}.png"
            _save(folder / file, drawing.sheet)
            saved.append(Figure(name, file, drawing.title, drawing.alt, drawing.caption))
    return saved


def _save(path: Path, sheet) -> None:
    whole = io.BytesIO()
    sheet.savefig(whole, format="png", dpi=DPI)
    few = Image.open(whole).convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    write_atomically(path, lambda file: few.save(file, "PNG", optimize=True), "wb")  # a third of the bytes
