"""The written report: leaderboard.md, leaderboard.csv, index.html and the pictures in them."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from samzoo.leaderboard.board import Board
from samzoo.leaderboard.figures import save_figures
from samzoo.leaderboard.markdown import markdown
from samzoo.leaderboard.overlays import save_overlays
from samzoo.leaderboard.page import Page
from samzoo.leaderboard.table import csv_text
from samzoo.writing import write_atomically

REPLAY = re.compile(r".+_replay(_.+)?_\d+\.png")


def write_report(folder: Path, board: Board) -> None:
    """Write everything about a board into a folder, each file whole or not at all; the same board gives the same bytes.

    Pictures of an earlier board in the folder go. Pictures do without slices or prompts that are damaged; a note says
    so.

    Raises:
        DataError: a file can't be written.
    """
    before = _pictures(folder)
    figures = [save_figures(folder, section) for section in board.sections]
    drawn = [save_overlays(folder, section) for section in board.sections]
    overlays = [found for found, _ in drawn]
    noted = zip(board.sections, drawn, strict=True)
    board = replace(board, sections=tuple(replace(s, notes=(*s.notes, *damage)) for s, (_, damage) in noted))
    texts = {
        "leaderboard.csv": csv_text(board),
        "leaderboard.md": markdown(board, figures, overlays),
        "index.html": Page(folder).render(board, figures, overlays),
    }
    for name, text in texts.items():
        write_atomically(folder / name, lambda file, text=text: file.write(text))
    files = {file for own in (*figures, *overlays) for f in own for file in (f.file, *getattr(f, "frames", ()))}
    for path in before - {folder / file for file in files}:
        with suppress(OSError):
            path.unlink()


def _pictures(folder: Path) -> set[Path]:
    """Files that the leaderboard.md of an earlier board names, and the other frames of their replays."""
    try:
        text = (folder / "leaderboard.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return set()
    if not text.startswith("# Leaderboard\n"):
        return set()
    found = set()
    for name in re.findall(r"^!\[.*\]\(figures/([\w.-]+\.png)\)$", text, re.MULTILINE):
        start = re.escape(name.rpartition("_")[0])
        frames = re.compile(rf"{start}_\d+\.png" if REPLAY.fullmatch(name) else re.escape(name))
        found |= {p for p in (folder / "figures").glob("*.png") if frames.fullmatch(p.name) and p.is_file()}
    return found
