"""The written report: leaderboard.md, leaderboard.csv, index.html and the pictures in them."""

from __future__ import annotations

from pathlib import Path

from samzoo.leaderboard.board import Board
from samzoo.leaderboard.figures import save_figures
from samzoo.leaderboard.markdown import markdown
from samzoo.leaderboard.overlays import save_overlays
from samzoo.leaderboard.page import Page
from samzoo.leaderboard.table import csv_text
from samzoo.writing import write_atomically


def write_report(folder: Path, board: Board) -> None:
    """Write everything about a board into a folder, each file whole or not at all; the same board gives the same bytes.

    Raises:
        DataError: a file can't be written, or slices or prompts of a run are damaged.
    """
    figures = [save_figures(folder, section) for section in board.sections]
    overlays = [save_overlays(folder, section) for section in board.sections]
    texts = {
        "leaderboard.csv": csv_text(board),
        "leaderboard.md": markdown(board, figures, overlays),
        "index.html": Page(folder).render(board, figures, overlays),
    }
    for name, text in texts.items():
        write_atomically(folder / name, lambda file, text=text: file.write(text))
