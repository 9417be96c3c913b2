"""Names from elsewhere in index.html, leaderboard.md and leaderboard.csv: no markup, no formula, nothing invisible."""

import csv
import io
import json
import re
import unicodedata
from dataclasses import fields, is_dataclass, replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from board_fakes import fake_section
from fuzz_harness import Mutant, both, fuzz
from hypothesis import strategies as st
from test_fuzz_results import INFO, rows

from samzoo.evaluation.records import file_name, write_records
from samzoo.leaderboard.board import Board, Missing
from samzoo.leaderboard.compute import compute_board
from samzoo.leaderboard.compute_load import load_run
from samzoo.leaderboard.figures_style import stem
from samzoo.leaderboard.markdown import _line, _paragraph, escaped, markdown
from samzoo.leaderboard.page import Page
from samzoo.leaderboard.report import write_report
from samzoo.leaderboard.table import csv_text, make_table, words

NASTY = (
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", '" onload="x', "' onload='x", "</td></tr></table>"),
    *("&lt;b&gt;", "&#60;b&#62;", "&amp;amp;", "&", "<!--", "]]>", "<svg/onload=x>", "<a href=javascript:x>y</a>"),
    *("${main}", "$$", "$title", "$x^2$", "%s", "{0}", "\\", "\\\\", "\\|", "a|b", "||", "`x`", "```", "~~x~~", "***"),
    *("_x_", "__x__", "a_b", "a__b", "_", "![x](http://x/y.png)", "[x](javascript:y)", "[x]: http://y", "[x][y]"),
    *("a]b[c", "<http://x>", "http://x.y", "www.x.y", "WWW.x", "x@y.z", "# x", "- x", "+ x", "1. x", "1) x", "> x"),
    *("---", "===", "    x", "| x |", "|---|", "=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", " =1", "\uff1d1"),
    *('=HYPERLINK("http://x")', "x,y", 'x"y', "x;y", "x\ny", "x\r\ny", "x\x00y", "x\x07y", "x\x1b[31my", "\x7f", "'=1"),
    *("\u202egnp.x", "\u2066x\u2069", "\u200bx", "\u200e", "\ufeffx", "\u2028x", "\x85x", "\ud800", "\udcffx"),
    *("x" * 400, "\u4e00" * 90, "\U0001f600", "\u05d0\u05d1", "a\u0301" * 50, "..", ".", "/etc/passwd", "../x", "[^1]"),
)
BREAKS = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029"
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def texts():
    pieces = st.sampled_from(NASTY) | st.text(max_size=6) | st.text("<>&\"'\\`*_~|$[](){}!#=+-@:/w.\n ", max_size=6)
    return st.lists(pieces, min_size=1, max_size=4).map("".join).map(lambda t: Mutant(repr(t), t, True))


def shown(text):
    """What is to be seen of a name: written out by other means than the code that is tested."""
    text = re.sub(f"[{BREAKS}]+", " ", text)
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c)[0] == "C" else c for c in text)


def one_space(text):
    return " ".join(text.split())


def invisible(text):
    return [c for c in text if c != "\n" and (unicodedata.category(c)[0] == "C" or c in BREAKS)]


class Outline(HTMLParser):
    """Tags with the names of their attributes, and the text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        # where a long text or a dash stands, a cell has another class or value
        self.tags.append((tag, *(name for name, _ in attrs if name not in ("class", "data-v"))))

    def handle_endtag(self, tag):
        self.tags.append((f"/{tag}",))

    def handle_data(self, data):
        self.texts.append(data)

    def handle_comment(self, data):
        self.tags.append(("comment",))

    handle_decl = handle_pi = unknown_decl = handle_comment


@both
def test_cells(tmp_path, scale):
    """One name at a time, through everything that escapes."""
    (tmp_path / "x.png").write_bytes(b"")

    def html(name):
        page = Page(tmp_path)
        text = page._table(make_table(name, (name, "x"), [[words(name), words(name)]])) + page._image("x.png", name)
        found = Outline(text)
        seen = [one_space(t) for t in found.texts]
        whole = not name or seen.count(one_space(shown(name))) >= 4  # caption, column and two cells
        return found.tags, invisible(text), whole or (found.texts, shown(name))

    fuzz("names in HTML", texts(), html, html("liver"), "", int(1500 * scale))

    def md(name):
        wrong = []
        for text in (escaped(name), _paragraph(name), _line([name])[2:-2]):
            # by CommonMark, what is left of the name to see
            left = unescape(re.sub(r"\\([!-/:-@\[-`{-~])", lambda m: f"&#{ord(m[1])};", text))
            if left != shown(one_space(name)):
                wrong.append(f"{left!r} is seen")
            bare = re.sub(r"\\[!-/:-@\[-`{-~]", "\ue000", text)
            wrong += re.findall(r"[\\|`*~$<\n]|\]\(|\]\[|\]:|://|(?:^|[\W_])_|_(?=[\W_]|$)", bare)
            wrong += invisible(text)
        return wrong + re.findall(r"^(?:#|>|[-+=]|\d+[.)]|\s)", _paragraph(name))

    fuzz("names in Markdown", texts(), md, [], "", int(1500 * scale))

    base = fake_section(None, "tiny", 4)
    first = base.rows[0]

    def comma(name):
        entry = replace(base.entry(first.entry), name=name)
        text = csv_text(Board((replace(base, entries=(entry,), rows=(replace(first, entry=name),)),)))
        (row,) = csv.DictReader(io.StringIO(text))
        formula = row["entry"].lstrip().startswith(FORMULA)
        return formula, invisible(text), row["entry"] in (shown(name), f"'{shown(name)}") or row["entry"]

    fuzz("names in CSV", texts(), comma, comma("liver"), "", int(700 * scale))


def renamed(value, names):
    """A board with other names, wherever they stand."""
    if isinstance(value, str):
        return names.get(value, value)
    if is_dataclass(value):
        return replace(value, **{f.name: renamed(getattr(value, f.name), names) for f in fields(value)})
    if isinstance(value, dict):
        return {renamed(k, names): renamed(v, names) for k, v in value.items()}
    return type(value)(renamed(v, names) for v in value) if isinstance(value, tuple | list) else value


@both
def test_boards(tmp_path, scale):
    """Every name of a board at once."""
    base = fake_section(None, "tiny", 4)
    few = {e.name for e in base.entries[:4]}
    rows_ = tuple(r for r in base.rows if r.entry in few)
    rankings = tuple(replace(r, entries=tuple(n for n in r.entries if n in few)) for r in base.rankings)
    entries = tuple(replace(e, runs=()) for e in base.entries[:4])
    parts = {"break_even": (), "strata": (), "robustness": (), "findings": (), "notes": ("sam",)}
    base = replace(base, entries=entries, rows=rows_, rankings=rankings, best_automatic="promise", **parts)
    old = ("tiny", "promise", "sam", "SAM", "ProMISe", "liver", "auto", "box_3d", "vit_b", "cuda", "sam_vit_b")

    def read(name):
        section = renamed(base, {k: f"{name}{k}" for k in old})
        board = Board((section, section), (Missing(name, name),))
        page = Page(tmp_path).render(board, ((), ()), ((), ()))
        text = markdown(board, ((), ()), ((), ()))
        table = list(csv.reader(io.StringIO(csv_text(board))))
        lines = [re.sub(r"[^|]", "", re.sub(r"\\.", "", line)) for line in text.split("\n")]
        kinds = [re.match(r"#*|>?|\||<[a-z/]+", line)[0] for line in text.split("\n")]
        formulas = [c for row in table for c in row if re.match(r"\s*[=+@]", c)]
        return Outline(page).tags, lines, kinds, [len(row) for row in table], formulas, invisible(page + text)

    fuzz("names of whole boards", texts(), read, read("x"), "", int(60 * scale))


@pytest.mark.slow
def test_boards_from_runs(tmp_path):
    """Names that stand in records.csv, run.json and slices, with figures and pictures."""
    truth = np.zeros((12, 16), np.uint8)
    truth[3:8, 4:9] = 1

    def read(name):
        runs = []
        for entry in ("one", "two"):
            folder = tmp_path / entry
            case = f"a{name}"
            own = [
                replace(r, case_id=r.case_id + name, patient=r.patient + name, class_name=r.class_name + name,
                        method=r.method + name, dataset=f"d{name}", regime=r.regime + name)
                for r in rows()
            ]  # fmt: skip
            write_records(folder / "records.csv", own)
            info = INFO | {"dataset": f"d{name}", "device": {"type": "cpu", "name": f"x{name}"}}
            regimes = {r: {"effort_rule": name} for r in {r.regime for r in own}}
            info |= {"protocol": {"seed": 0, "regimes": regimes}, "cost": {}}
            (folder / "run.json").write_text(json.dumps(info))
            (folder / "slices").mkdir(exist_ok=True)
            arrays = {"case_id": np.array(case), "z": np.array(2), "shape": np.array((5, 12, 16)), "image": truth * 99}
            arrays |= {"spacing": np.array((3.0, 1.0, 1.0)), "factor": np.array(1), "truth": truth}
            answers = {f"{r.regime}/{r.step}": truth for r in own if "/" not in name and "\0" not in name}
            np.savez(folder / "slices" / f"{file_name(case)[:80]}.npz", **arrays, **answers)
            runs.append(load_run(entry, folder))
        out = tmp_path / "out"
        write_report(out, compute_board(runs, [Missing(name, name)], draws=20))
        page, text, table = (
            (out / file).read_text(encoding="utf-8") for file in ("index.html", "leaderboard.md", "leaderboard.csv")
        )
        found = Outline(page)
        assert {p.name for p in out.iterdir()} == {"index.html", "leaderboard.md", "leaderboard.csv", "figures"}
        odd = [t for t in found.tags if t[0] in ("script", "svg", "comment") or any(a.startswith("on") for a in t[1:])]
        rows_ = list(csv.reader(io.StringIO(table)))
        formulas = [c for row in rows_ for c in row if re.match(r"\s*[=+@]", c)]
        return odd, formulas, {len(r) for r in rows_}, invisible(page + text + table)

    chosen = [n for n in NASTY if "\ud800" not in n and "\udcff" not in n][::6]  # no file in UTF-8 can hold these
    fuzz("names in runs", [Mutant(repr(n), n, True) for n in chosen], read, read("x"), "records.csv")
    assert len(stem("x" * 400)) < 80
