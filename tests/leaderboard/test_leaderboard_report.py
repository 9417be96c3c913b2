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
from samzoo.leaderboard.board import Board, Estimate, Missing, Section
from samzoo.leaderboard.content import answer, overview_table
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
    steps: tuple[tuple[str, str], ...] = ()


def one_figure(folder, section):
    file = f"figures/{section.dataset}_effort.png"
    (folder / "figures").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(folder / file)
    return [Picture("effort", file, "Effort", 'a "quoted" <alt>', "A caption.")]


def two_overlays(folder, section):
    (figure,) = one_figure(folder, section)
    worst = replace(figure, name="worst", title="Worst <case>")
    steps = tuple((f"clicks_3d, step {i}", "sam: Dice <0.5>") for i in range(3))
    return [worst, replace(worst, name="replay", title="Replay", frames=(figure.file,) * 3, steps=steps)], ["A <note>"]


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
    assert "clicks_3d, step 2. sam: Dice &lt;0.5&gt;" in text and "Worst &lt;case&gt;" in text
    assert "A &lt;note&gt;" in text
    assert "CUDA out of memory" in text and "neither intervals nor tests" in text


def test_pictures_of_an_earlier_board_go_and_nothing_else(tmp_path, pictures, monkeypatch):
    def replayed(folder, section):
        frames = tuple(f"figures/{section.dataset}_replay_sam_{i}.png" for i in range(3))
        for frame in frames:
            Image.new("RGB", (8, 8)).save(folder / frame)
        (overlay,) = (o for o in two_overlays(folder, section)[0] if o.frames)
        return [replace(overlay, file=frames[-1], frames=frames)], []

    with monkeypatch.context() as patch:
        patch.setattr(report, "save_overlays", replayed)
        report.write_report(tmp_path, Board((fake_section(patients=4), fake_section(dataset="tiny", patients=4))))
    (tmp_path / "figures/my_effort.png").write_bytes(b"mine")
    (tmp_path / "figures/tiny_replay_sam_notes.txt").write_text("mine")
    assert len(list((tmp_path / "figures").iterdir())) == 10
    report.write_report(tmp_path, Board((fake_section(patients=4),)))
    kept = {path.name for path in (tmp_path / "figures").iterdir()}
    assert kept == {"phantom_effort.png", "my_effort.png", "tiny_replay_sam_notes.txt"}


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
    assert prompted.startswith(
        "With prompts, in box_3d, the regime that most share (5.7 human actions per case, told classes, range)"
    )
    least = min((b.effort, b.entry) for b in section.break_even if b.metric == "dice" and b.effort is not None)
    assert even[0].startswith(f"{least[1]} in ") and f"with {least[0]:.1f} actions per case" in even[0]
    never = replace(section, break_even=tuple(replace(b, effort=None) for b in section.break_even))
    assert answer(never)[2].startswith("No prompted entry reaches unet's Dice of 0.665 in any regime")
    other = replace(section, break_even=tuple(replace(b, automatic_value=0.7) for b in section.break_even))
    assert "unet's Dice of 0.700 (on the classes that both were scored on) with" in answer(other)[2]
    assert "(not tested)" in answer(fake_section(patients=4))[0]


def test_the_answer_follows_the_ranking_and_its_test():
    section = fake_section()
    ranking = next(r for r in section.rankings if r.regime == "auto")
    first, second, *_ = ranking.entries
    pair = next(c for c in ranking.comparisons if {c.first, c.second} == {first, second})

    def said(**changes):
        tested = replace(ranking, comparisons=(replace(pair, **changes),))
        return answer(replace(section, rankings=(tested,)))[0]

    other = {"first": second, "second": first, "p_holm": 0.01}
    assert said(p_holm=0.01).endswith(f", ahead of {second}.")
    assert said(**other, difference=Estimate(-0.1)).endswith(f", ahead of {second}.")
    assert said(**other, difference=Estimate(0.1)).endswith(
        f"although {second} is not lower on the cases that both have."
    )
    swapped = replace(ranking, entries=(second, first, *ranking.entries[2:]))
    assert answer(replace(section, rankings=(swapped,)))[0].startswith(f"Without prompts, {second} is best")


def test_the_cheapest_prompted_regime_is_named_beside_the_one_that_most_share():
    section = fake_section()
    cheap = replace(
        next(r for r in section.rankings if r.regime == "clicks_3d"), regime="cheap", entries=("sam", "m_sam")
    )
    row = next(r for r in section.rows if (r.entry, r.regime, r.last) == ("sam", "clicks_3d", True))
    row = replace(row, regime="cheap", effort=1.0, oracle="")
    both = answer(replace(section, rows=(*section.rows, row), rankings=(*section.rankings, cheap)))[1:3]
    assert both[0].startswith("With prompts, in box_3d, the regime that most share")
    assert both[1].startswith(
        "With prompts, in cheap, step 5, the cheapest regime (1.0 human actions per case), sam is"
    )
    (table,) = (overview_table(Board((section,))),)
    assert [c.text for c in table.rows[0]][6:9] == ["box_3d", "5.7", "classes, range"]


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
