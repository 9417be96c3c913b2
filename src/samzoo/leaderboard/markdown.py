"""leaderboard.md: the same content as index.html, with links to the pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from samzoo.leaderboard.board import Board, Section
from samzoo.leaderboard.content import METHODS, answer, overview_table, parts, sizes
from samzoo.leaderboard.papers import paper_tables
from samzoo.leaderboard.table import Table, missing_table
from samzoo.reading import printable

if TYPE_CHECKING:
    from samzoo.leaderboard.figures import Figure
    from samzoo.leaderboard.overlays import Overlay


def markdown(board: Board, figures: Sequence[Sequence[Figure]], overlays: Sequence[Sequence[Overlay]]) -> str:
    """The whole file; `figures` and `overlays` are those of each section."""
    lines = ["# Leaderboard", "", "Written by `samzoo leaderboard` from records alone; `index.html` shows more."]
    if len(board.sections) > 1:
        lines += _table(overview_table(board))
    for i, section in enumerate(board.sections):
        lines += _section(f"s{i + 1}", section, figures[i], overlays[i])
    if board.missing:
        lines += ["", "## Missing results", *_table(missing_table(board.missing))]
    lines += ["", "## Paper beside here", "", "What the papers report, as fractions, beside what was measured here."]
    for citation, link, table in paper_tables(board):
        lines += ["", f"[{escaped(citation)}]({link})", *_table(table)]
    lines += ["", "## How it was made", "", *(f"- *{term}*: {escaped(text)}" for term, text in METHODS.items())]
    return "\n".join(lines) + "\n"


def _section(name: str, section: Section, figures: Sequence[Figure], overlays: Sequence[Overlay]) -> list[str]:
    lines = ["", f"## {escaped(section.title)}", "", escaped(sizes(section)), ""]
    lines += "\n>\n".join(f"> {_paragraph(text)}" for text in answer(section)).split("\n")
    lines += [f"\n**Note:** {escaped(note)}" for note in section.notes]
    own = parts(section)
    for part in own:
        lines += ["", f'<a id="{name}-{part.name}"></a>', "", f"### {part.title}"]
        lines += [f"\n{_paragraph(text)}" for text in part.texts]
        lines += [_image(f) for f in figures if f.name in part.figures]
        for table in part.tables:
            lines += _table(table)
        for table in part.folded:
            lines += ["", "<details>", f"<summary>{escaped(table.caption)}</summary>", *_table(table, caption=False)]
            lines += ["", "</details>"]
        if part.see:
            lines += ["", f"See also: [{part.see[1]}](#{name}-{part.see[0]})"]
    placed = {figure for part in own for figure in part.figures}
    lines += [_image(f) for f in figures if f.name not in placed]
    if overlays:
        lines += ["", "### Cases to look at"]
    for overlay in overlays:
        last = "".join(f" Here {when}. {seen}" for when, seen in overlay.steps[-1:])
        lines += [_image(overlay), "", f"*{escaped(overlay.title)}*: {escaped(overlay.caption + last)}"]
    return lines


def _image(figure: Figure | Overlay) -> str:
    alt = escaped(figure.alt.replace("[", "(").replace("]", ")"))  # a bracket without its other would end it
    return f"\n![{alt}]({figure.file})"


def _table(table: Table, caption: bool = True) -> list[str]:
    numeric = [any(isinstance(row[i].value, int | float) for row in table.rows) for i in range(len(table.columns))]
    lines = ["", f"{escaped(table.caption)}:"] if caption else []
    lines += ["", _line(table.columns), "| " + " | ".join("---:" if right else "---" for right in numeric) + " |"]
    return [*lines, *(_line(c.text for c in row) for row in table.rows)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(escaped(cell) for cell in cells) + " |"


def escaped(text: str) -> str:
    """Text on one line in which nothing is taken for markup; brackets of intervals stay readable."""
    text = re.sub(r"([\\|`*~$])", r"\\\1", printable(" ".join(text.split()))).replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # within a word it is none
    text = re.sub(r"(?<=www)\.|:(?=//)", r"\\\g<0>", text, flags=re.IGNORECASE)
    return re.sub(r"\](?=[(\[:])", r"\\]", text)


def _paragraph(text: str) -> str:
    """Escaped text that begins no heading, list, quotation or line."""
    return re.sub(r"^(\d*)(?=[#>+.)=-])", r"\1\\", escaped(text))
