"""index.html: one file, whole, escaped, and the same for the same board."""

import re
import subprocess
import sys
from dataclasses import dataclass, replace
from html.parser import HTMLParser

import pytest
import yaml
from board_fakes import fake_board, fake_section
from PIL import Image
from test_leaderboard_table import rename

from samzoo.leaderboard import report
from samzoo.leaderboard.board import Board, Missing, Section
from samzoo.leaderboard.content import answer
from samzoo.leaderboard.papers import FILE, measured, paper_tables

VOID = {"meta", "img", "input", "br", "link"}


@dataclass(frozen=True)
class Picture:
    name: str
    file: str
    title: str
    alt: str
    caption: str
    frames: tuple[str, ...] = ()


def one_figure(folder, section):
    file = f"figures/{section.dataset}_effort.png"
    (folder / "figures").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(folder / file)
    return [Picture("effort", file, "Effort", 'a "quoted" <alt>', "A caption.")]


def two_overlays(folder, section):
    (figure,) = one_figure(folder, section)
    worst = replace(figure, name="worst", title="Worst <case>")
    return [worst, replace(worst, name="replay", title="Replay", frames=(figure.file,) * 3)]


@pytest.fixture
def pictures(monkeypatch):
    monkeypatch.setattr(report, "save_figures", one_figure)
    monkeypatch.setattr(report, "save_overlays", two_overlays)


class Outline(HTMLParser):
    """Checks that tags are balanced, and collects what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.levels = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def test_the_page_is_one_accessible_file(tmp_path, pictures):
    report.write_report(tmp_path, fake_board())
    text = (tmp_path / "index.html").read_text()
    page = Outline(text)
    assert not re.search(r'(?:src|href)="(?!data:image/png;base64,|#|https://arxiv\.org/)', text), (
        "nothing from outside"
    )
    assert not re.search(r"url\(|@import|fetch\(", text)
    assert page.all("html") == [{"lang": "en"}] and len(page.all("main")) == 1 == len(page.all("nav"))
    assert all(b - a <= 1 for a, b in zip(page.levels, page.levels[1:], strict=False)) and page.levels.count(1) == 1
    assert all(th.get("scope") in ("col", "row") for th in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) > 20
    assert all(img["alt"] for img in page.all("img")) and page.all("img")[0]["alt"] == 'a "quoted" <alt>'
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")} <= set(ids)
    assert {a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a} <= set(ids)
    assert "Frame 3 of 3" in text and "Worst &lt;case&gt;" in text
    assert "CUDA out of memory" in text and "neither intervals nor tests" in text


def test_the_same_board_gives_the_same_bytes_wherever_it_is_written(tmp_path, pictures):
    board = Board((fake_section(patients=4),))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        report.write_report(tmp_path / name, board)
    for name in ("index.html", "leaderboard.md", "leaderboard.csv"):
        first, second = ((tmp_path / folder / name).read_bytes() for folder in "ab")
        assert first == second and str(tmp_path).encode() not in first


def test_nothing_from_files_is_taken_for_markup(tmp_path, pictures):
    evil = '"><script>alert(1)</script>'
    section = rename(fake_section(patients=4), "unet", evil)
    section = replace(section, title=evil, dataset="d", notes=(evil,), classes=(evil,))
    report.write_report(tmp_path, Board((section,), (Missing(evil, evil),)))
    text = (tmp_path / "index.html").read_text()
    Outline(text)
    assert text.count("<script") == 1 and "&lt;script&gt;" in text
    assert "<script" not in (tmp_path / "leaderboard.md").read_text()


def test_a_board_without_results_is_written(tmp_path, pictures):
    empty = Section("none", "none", "s", 0, 0, (), (), (), (), (), (), (), ())
    report.write_report(tmp_path, Board((empty,), (Missing("unet", "not run yet"),)))
    text = (tmp_path / "index.html").read_text()
    assert "Nothing was tested without prompts." in text and "not run yet" in text


def test_neither_reading_nor_writing_imports_torch():
    code = "import sys, samzoo.leaderboard.compute, samzoo.leaderboard.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_answer_comes_first_and_in_words():
    section = fake_section()
    best, prompted, *even = answer(section)
    assert best.startswith(
        "Without prompts, unet is best: Dice 0.665 [0.612, 0.717], not told apart from masksam_fixed"
    )
    assert "m_sam_fixed in regime box_clicks_3d" in prompted and "at 19.8 human actions per case" in prompted
    least = min((b.effort, b.entry) for b in section.break_even if b.metric == "dice" and b.effort is not None)
    assert even[0].startswith(f"{least[1]} in ") and f"with {least[0]:.1f} actions per case" in even[0]
    never = replace(section, break_even=tuple(replace(b, effort=None) for b in section.break_even))
    assert answer(never)[2].startswith("No prompted entry reaches unet's Dice of 0.665")
    assert "(not tested)" in answer(fake_section(patients=4))[0]


def test_a_cell_beside_a_paper_holds_only_what_was_measured_here():
    figure = {"here": ["amos_ct"], "regime": "auto", "step": 0}
    amos = Board((replace(fake_section(), dataset="amos_ct"),))
    assert measured(Board((fake_section(),)), "MaskSAM", figure).text == "–"
    assert measured(amos, "MaskSAM", figure | {"step": 1}).text == "–"
    assert measured(amos, "MaskSAM", {"metric": "dice"}).text == "–", "nothing here comes near"
    cell = measured(amos, "MaskSAM", figure).text
    assert cell.startswith("masksam_fixed: 0.639 [") and "masksam: 0.564 [" in cell and "unet" not in cell
    (paper,) = (t for _, _, t in paper_tables(amos) if t.caption.startswith("MaskSAM"))
    assert [row[3].text for row in paper.rows] == ["0.9052", "0.9339", "0.8723"]
    assert [row[4].text == "–" for row in paper.rows] == [False, True, True]


def test_papers_name_data_sets_that_exist_and_figures_are_fractions():
    known = {"dice", "iou"}
    folder = FILE.parents[3] / "configs/datasets"
    names = {yaml.safe_load(path.read_text())["name"] for path in folder.glob("*.yaml")}
    for paper in yaml.safe_load(FILE.read_text()):
        assert paper["link"].startswith("https://arxiv.org/abs/")
        for figure in (f for protocol in paper["protocols"] for f in protocol["figures"]):
            assert set(figure.get("here", ())) <= names and figure.get("metric", "dice") in known
            assert figure["value"] is None or 0 < figure["value"] < 1
            assert ("regime" in figure) == ("here" in figure) == ("step" in figure)
