"""What the methods' papers report, beside what was measured here on the same data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from samzoo.leaderboard.board import Board
from samzoo.leaderboard.table import METRIC_NAMES, Cell, Table, interval, marked, number, words

FILE = Path(__file__).with_name("papers.yaml")
COLUMNS = ("data set", "prompts", "metric", "paper", "here", "the paper's protocol", "where in the paper")


def paper_tables(board: Board) -> list[tuple[str, str, Table]]:
    """One for each method of `papers.yaml`: (citation, link, table); its cells "here" hold what this board measured.

    A figure stands beside a paper's only where the method was scored on a data set of that name, in the regime and
    after the step that come nearest; everything else is a dash.
    """
    papers = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return [(paper["paper"], paper["link"], _table(board, paper)) for paper in papers]


def _table(board: Board, paper: Mapping[str, Any]) -> Table:
    rows = []
    for protocol in paper["protocols"]:
        for figure in protocol["figures"]:
            known = (
                words(figure["dataset"]),
                words(figure["prompts"]),
                words(METRIC_NAMES[figure.get("metric", "dice")]),
            )
            here = measured(board, paper["method"], figure)
            rows.append(
                (*known, number(figure["value"], 4), here, words(protocol["differences"]), words(protocol["table"]))
            )
    return Table(f"{paper['method']}: paper beside here", COLUMNS, tuple(rows), sortable=False)


def measured(board: Board, method: str, figure: Mapping[str, Any]) -> Cell:
    """Every entry of that method on that data set, in that regime and step; a dash if there is none."""
    found = []
    for section in board.sections:
        for row in section.rows:
            same = section.dataset in figure.get("here", ()) and row.method == method
            if not same or (row.regime, row.step) != (figure.get("regime"), figure.get("step")):
                continue
            score = interval(getattr(row, figure.get("metric", "dice")))
            if score.value is not None:
                entry = section.entry(row.entry)
                how = ", ".join(filter(None, (entry.architecture, row.regime, f"step {row.step}")))
                own = row.dice_published if figure.get("metric", "dice") == "dice" else None
                as_published = "" if own is None else f"; scored as the paper does {own:.3f}"
                found.append(f"{marked(entry).text}: {score.text} ({how}{as_published})")
    return words("; ".join(found))
