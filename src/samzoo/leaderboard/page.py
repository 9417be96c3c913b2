"""index.html: one file that needs neither a network nor, to be read, JavaScript."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape as escape_html
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from samzoo.leaderboard.board import Board, Section
from samzoo.leaderboard.content import METHODS, Part, answer, overview_table, parts, sizes
from samzoo.leaderboard.papers import paper_tables
from samzoo.leaderboard.table import Cell, Table, missing_table
from samzoo.reading import one_line

if TYPE_CHECKING:
    from samzoo.leaderboard.figures import Figure
    from samzoo.leaderboard.overlays import Overlay

TEMPLATES = Path(__file__).with_name("templates")
LEAD = "Which adaptation of the Segment Anything Model works best here, and what does it cost?"
WIDE = 40
"""Letters from which a cell's text is wrapped; three times as many get more room."""


class Page:
    """Builds the page; everything that comes from files goes through `_escaped`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._captions = 0

    def render(self, board: Board, figures: Sequence[Sequence[Figure]], overlays: Sequence[Sequence[Overlay]]) -> str:
        """The whole page; `figures` and `overlays` are those of each section."""
        sections, links = [], []
        for i, section in enumerate(board.sections):
            own = parts(section)
            sections.append(self._section(f"s{i + 1}", section, own, figures[i], overlays[i]))
            links.append(_links(f"s{i + 1}", section, own, overlays[i]))
        end = ["missing"] * bool(board.missing) + ["papers", "methods"]
        titles = {"missing": "Missing results", "papers": "Paper beside here", "methods": "How it was made"}
        links += [f'<li><a href="#{name}">{titles[name]}</a></li>' for name in end]
        main = [self._table(overview_table(board)) if len(board.sections) > 1 else "", *sections]
        if board.missing:
            main.append(_heading(2, "missing", titles["missing"]) + self._table(missing_table(board.missing)))
        main += [_heading(2, "papers", titles["papers"]), self._papers(board)]
        terms = "\n".join(f"<dt>{_escaped(term)}</dt>\n<dd>{_escaped(text)}</dd>" for term, text in METHODS.items())
        main += [_heading(2, "methods", titles["methods"]), f"<dl>\n{terms}\n</dl>"]
        css, js = ((TEMPLATES / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
        policy = f"default-src 'none'; img-src data:; style-src '{_hash(css)}'; script-src '{_hash(js)}'"
        return Template((TEMPLATES / "report.html").read_text(encoding="utf-8")).substitute(
            title="Leaderboard",
            lead=LEAD,
            policy=policy + "; base-uri 'none'; form-action 'none'",
            css=css,
            js=js,
            nav=f'<nav aria-label="Contents">\n<ul>\n{_lines(links)}\n</ul>\n</nav>',
            main=_lines(main),
            footer="<p>Written by samzoo from records alone. leaderboard.csv holds scores, effort and costs; ranks, "
            "tests, break-even, volumes and displaced prompts are in the tables here and in leaderboard.md.</p>",
        )

    def _section(
        self, name: str, section: Section, own: list[Part], figures: Sequence[Figure], overlays: Sequence[Overlay]
    ) -> str:
        lines = [f'<section aria-labelledby="{name}">', _heading(2, name, section.title)]
        lines.append(f'<p class="size">{_escaped(sizes(section))}</p>')
        lines.append(f'<div class="answer">\n{_paragraphs(answer(section))}\n</div>')
        if section.notes:
            lines.append(f'<div class="notes" role="note">\n{_paragraphs(section.notes)}\n</div>')
        for part in own:
            lines.append(_heading(3, f"{name}-{part.name}", part.title))
            lines.append(_paragraphs(part.texts))
            lines += [self._figure(f) for f in figures if f.name in part.figures]
            lines += [self._table(t) for t in part.tables]
            lines += [
                f"<details>\n<summary>{_escaped(t.caption)}</summary>\n{self._table(t)}\n</details>"
                for t in part.folded
            ]
            if part.see:
                see, text = part.see
                lines.append(f'<p class="see">See also: <a href="#{name}-{see}">{text}</a></p>')
        placed = {figure for part in own for figure in part.figures}
        lines += [self._figure(f) for f in figures if f.name not in placed]
        if still := [o for o in overlays if not o.frames]:
            lines.append(_heading(3, f"{name}-cases", "Cases to look at"))
            lines += ['<div class="cases">', *(f"<div>{self._figure(o, level=4)}</div>" for o in still), "</div>"]
        if moving := [o for o in overlays if o.frames]:
            lines.append(_heading(3, f"{name}-replay", "Prompts, step by step"))
            lines += [self._replay(o) for o in moving]
        return _lines([*lines, "</section>"])

    def _figure(self, figure: Figure | Overlay, level: int = 0) -> str:
        heading = _heading(level, "", figure.title) if level else ""
        text = figure.caption if level else f"{figure.title}. {figure.caption}"
        image = self._image(figure.file, figure.alt)
        return f"{heading}<figure>\n{image}\n<figcaption>{_escaped(text)}</figcaption>\n</figure>"

    def _replay(self, overlay: Overlay) -> str:
        frames = (
            f'<li data-when="{_escaped(when)}"><figure>\n{self._image(frame, f"{overlay.title}, {when}: {seen}")}\n'
            f"<figcaption>{_escaped(when)}. {_escaped(seen)}</figcaption>\n</figure></li>"
            for frame, (when, seen) in zip(overlay.frames, overlay.steps, strict=True)
        )
        title = _escaped(overlay.title)
        head = f"{_heading(4, '', overlay.title)}\n<p>{_escaped(overlay.caption)}</p>"
        return f'{head}\n<ol class="frames" data-label="{title}">\n{_lines(frames)}\n</ol>'

    def _image(self, file: str, alt: str) -> str:
        data = base64.b64encode((self.folder / file).read_bytes()).decode()
        return f'<img alt="{_escaped(alt)}" src="data:image/png;base64,{data}">'

    def _table(self, table: Table) -> str:
        self._captions += 1
        caption = f"t{self._captions}"
        numeric = [any(isinstance(row[i].value, int | float) for row in table.rows) for i in range(len(table.columns))]
        kinds = ["sortable"] * table.sortable + ["wide"] * any(len(c.text) > WIDE for row in table.rows for c in row)
        head = (
            f'<th scope="col"{_class(right)}>{_escaped(name)}</th>'
            for name, right in zip(table.columns, numeric, strict=True)
        )
        body = (
            "<tr>" + "".join(_cell(c, i == 0, numeric[i]) for i, c in enumerate(row)) + "</tr>" for row in table.rows
        )
        return (
            f'<div class="scroll" role="region" aria-labelledby="{caption}" tabindex="0">\n'
            f'<table class="{" ".join(kinds)}">\n'
            f'<caption id="{caption}"><span>{_escaped(table.caption)}</span></caption>\n'
            f"<thead>\n<tr>{''.join(head)}</tr>\n</thead>\n<tbody>\n{_lines(body)}\n</tbody>\n</table>\n</div>"
        )

    def _papers(self, board: Board) -> str:
        lines = [
            "<p>What the papers report, as fractions, and beside it what was measured here on that data set; a dash "
            "where nothing was. Where the protocols differ the two numbers say little about each other.</p>"
        ]
        for citation, link, table in paper_tables(board):
            lines.append(f'<p><a href="{_escaped(link)}">{_escaped(citation)}</a></p>\n{self._table(table)}')
        return _lines(lines)


def _links(name: str, section: Section, own: Iterable[Part], overlays: Sequence[Overlay]) -> str:
    links = [(part.name, part.title) for part in own]
    links += [("cases", "Cases to look at")] * any(not o.frames for o in overlays)
    links += [("replay", "Prompts, step by step")] * any(o.frames for o in overlays)
    inner = "".join(f'<li><a href="#{name}-{part}">{_escaped(title)}</a></li>' for part, title in links)
    return f'<li><a href="#{name}">{_escaped(section.title)}</a>\n<ul>{inner}</ul></li>'


def _cell(cell: Cell, is_header: bool, right: bool) -> str:
    """A number, or a dash among numbers, carries what it is sorted by."""
    value = (
        f' data-v="{"" if cell.value is None else _escaped(str(cell.value))}"' if right or cell.value is None else ""
    )
    if is_header:
        return f'<th scope="row"{value}>{_escaped(cell.text)}</th>'
    kind = ' class="long"' if len(cell.text) > 3 * WIDE else _class(right)
    return f"<td{kind}{value}>{_escaped(cell.text)}</td>"


def _escaped(text: str) -> str:
    """Text in which nothing is taken for markup, and nothing is invisible or turns the direction of what follows."""
    return escape_html(one_line(text))


def _class(right: bool) -> str:
    return ' class="n"' if right else ""


def _heading(level: int, name: str, title: str) -> str:
    anchor = f' id="{name}"' if name else ""
    return f"<h{level}{anchor}>{_escaped(title)}</h{level}>"


def _paragraphs(texts: Iterable[str]) -> str:
    return _lines(f"<p>{_escaped(text)}</p>" for text in texts)


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(line for line in lines if line)


def _hash(text: str) -> str:
    """What a page's content security policy calls the one script or style that may take effect."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
