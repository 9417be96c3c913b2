"""leaderboard.md and leaderboard.csv: what is in their cells, in which order, and that no name breaks them; suites."""

import csv
import io
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from board_fakes import fake_board, fake_section

from samzoo.cli import main
from samzoo.errors import ConfigError
from samzoo.leaderboard import read_suite
from samzoo.leaderboard.board import Board, Estimate
from samzoo.leaderboard.markdown import escaped, markdown
from samzoo.leaderboard.page import Page
from samzoo.leaderboard.table import (
    comparison_table,
    cost_table,
    csv_text,
    final_rows,
    interval,
    rank_table,
    score_table,
)


@pytest.fixture(scope="module")
def board():
    return fake_board()


@pytest.fixture(scope="module")
def section():
    return fake_section()


def rename(section, old, new):
    """The section with another name for one entry, in its rows and among its entries alone."""
    entries = tuple(replace(e, name=new) if e.name == old else e for e in section.entries)
    rows = tuple(replace(r, entry=new) if r.entry == old else r for r in section.rows)
    return replace(section, entries=entries, rows=rows, rankings=(), break_even=(), strata=(), robustness=())


def test_automatic_and_prompted_are_apart_and_only_last_steps_are_shown(section):
    automatic, prompted = final_rows(section, True), final_rows(section, False)
    assert {r.entry for r in automatic} == {"unet", "masksam", "masksam_fixed", "promise"}
    assert {(r.regime, r.step) for r in automatic} == {("auto", 0)}
    assert {(r.regime, r.step) for r in prompted} == {("box_3d", 0), ("clicks_3d", 5), ("box_clicks_3d", 5)}


def test_a_regime_that_starts_for_nothing_but_is_then_corrected_is_prompted(section):
    row = next(r for r in section.rows if r.entry == "unet")
    start = replace(row, regime="auto_clicks_3d", effort=0.0, last=False)
    end = replace(row, regime="auto_clicks_3d", step=5, effort=5.0)
    more = replace(section, rows=(*section.rows, start, end))
    assert end in final_rows(more, False) and start not in final_rows(more, True)


def test_scores_have_intervals_where_there_are_any():
    assert interval(Estimate(0.8721, 0.86, 0.884)) == ("0.872 [0.860, 0.884]", 0.8721)
    assert interval(Estimate(0.8721)).text == "0.872", "too few patients: no interval"
    assert interval(Estimate()) == ("–", None)
    assert interval(Estimate(0.01, -0.02, 0.04), sign="+").text == "+0.010 [-0.020, +0.040]"


def test_seen_base_weights_and_published_dice_are_marked(section):
    table = score_table(section, section.rows, "all")
    names = {row[0].text for row in table.rows}
    assert "sam_med3d\N{NO-BREAK SPACE}†" in names and "unet" in names
    assert table.columns[-1] == "Dice as published" and "0.810" in {row[-1].text for row in table.rows}
    plain = replace(section, rows=tuple(replace(r, dice_published=None) for r in section.rows))
    assert "Dice as published" not in score_table(plain, plain.rows, "all").columns


def test_comparisons_say_in_words_who_is_higher(section):
    ranking = section.rankings[0]
    pair = ranking.comparisons[0]
    table = comparison_table(
        replace(
            ranking,
            comparisons=(
                replace(pair, difference=Estimate(0.1, 0.05, 0.15), p_holm=0.01),
                replace(pair, difference=Estimate(-0.1, -0.15, -0.05), p_holm=0.0001),
                replace(pair, p_holm=0.05),
                replace(pair, p=None, p_holm=None),
            ),
        )
    )
    verdicts = [row[5].text for row in table.rows]
    assert verdicts == [f"{pair.first} higher", f"{pair.second} higher", "not told apart", "–"]
    assert table.rows[1][4].text == "< 0.001"


def test_rank_shares_and_costs(section):
    ranking = section.rankings[0]
    table = rank_table(ranking)
    assert [row[0].text for row in table.rows] == list(ranking.entries)
    assert table.rows[0][1].value == pytest.approx(100 * ranking.shares[ranking.entries[0]][0])
    costs = {row[0].text: row for row in cost_table(section.entries).rows}
    assert costs["sam"][4].text == "93,735,472" and costs["box_ellipse"][6].text == "–"


def test_csv_has_every_row_and_empty_cells_for_what_is_undefined(board):
    rows = list(csv.DictReader(io.StringIO(csv_text(board))))
    assert len(rows) == sum(len(s.rows) for s in board.sections)
    first, tiny = board.sections[0].rows[0], next(r for r in rows if r["section"] == "tiny")
    assert float(rows[0]["dice"]) == pytest.approx(first.dice.mean, rel=1e-5)
    assert float(rows[0]["dice_low"]) == pytest.approx(first.dice.low, rel=1e-5)
    assert tiny["dice"] and tiny["dice_low"] == "" and tiny["seen"] in ("0", "1")


def test_noisy_regimes_are_in_the_csv_alone(section):
    noisy = replace(section.rows[-1], regime="box_3d_jitter10", noisy=True, last=True)
    more = replace(section, rows=(*section.rows, noisy))
    assert noisy not in final_rows(more, False)
    (row,) = (r for r in csv.DictReader(io.StringIO(csv_text(Board((more,))))) if r["noisy"] == "1")
    assert row["regime"] == "box_3d_jitter10" and row["cost_regime"] == section.entry(noisy.entry).cost.regime


def test_no_folder_of_a_machine_is_shown(section):
    entries = tuple(replace(e, base="/home/name/sam.pth") for e in section.entries)
    table = cost_table(entries)
    assert table.rows[0][table.columns.index("base weights")].text == "sam.pth"
    assert "/home" not in csv_text(Board((replace(section, entries=entries),)))


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@sum(a)", " =x", "\uff1dx"])
def test_no_name_becomes_a_formula(section, name):
    rows = list(csv.DictReader(io.StringIO(csv_text(Board((rename(section, "unet", name),))))))
    assert {r["entry"] for r in rows if r["method"] == "UNet"} == {f"'{name}"}


def test_negative_numbers_stay_numbers(section):
    row = replace(section.rows[0], dice=Estimate(-0.5, -0.6, -0.4))
    rows = list(csv.DictReader(io.StringIO(csv_text(Board((replace(section, rows=(row,)),))))))
    assert rows[0]["dice"] == "-0.5"


def test_markdown_tables_are_whole_and_lead_to_each_other(board):
    text = markdown(board, ((), ()), ((), ()))
    widths = []
    for line in text.splitlines():
        if line.startswith("|"):
            widths.append(len(re.findall(r"(?<!\\)\|", line)))
        elif widths:
            assert len(set(widths)) == 1, line
            widths = []
    for anchor in ("s1-automatic", "s1-prompted", "s2-automatic"):
        assert f'<a id="{anchor}">' in text and f"(#{anchor})" in text
    assert "| unet | UNet | auto | 0 | 0.665 [0.612, 0.717] |" in text
    assert "| sam_huge | CUDA out of memory |" in text and "4 patients are too few" in text


def test_markdown_names_are_text(section):
    nasty = "a|b\n<script>`x`*[y](z)"
    text = markdown(Board((rename(section, "unet", nasty),)), ((),), ((),))
    assert r"| a\|b &lt;script>\`x\`\*[y\](z) | UNet |" in text
    assert "<script" not in text
    assert escaped("box_3d _x_") == r"box_3d \_x\_"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("__a__", r"\_\_a\_\_"),
        ("$x$", r"\$x\$"),
        ("http://x www.x", r"http\://x www\.x"),
        ("a\x00\u202eb\u2028\ud800", r"a\\x00\\u202eb \\ud800"),
        ("12_box", "12_box"),
    ],
)
def test_nothing_in_a_name_is_markdown_or_invisible(name, shown):
    assert escaped(name) == shown


def test_a_name_at_the_start_of_a_line_is_a_name(section):
    rankings = tuple(replace(r, regime=name, note="few") for r, name in zip(section.rankings, "#-1", strict=False))
    rankings = (*rankings[:2], replace(rankings[2], regime="1. x"))
    text = markdown(Board((replace(section, rankings=rankings),)), ((),), ((),))
    assert "\n\\#: few\n" in text and "\n\\-: few\n" in text and "\n1\\. x: few\n" in text


def test_a_bracket_in_a_name_does_not_end_a_picture(section):
    picture = SimpleNamespace(name="effort", file="figures/x.png", alt="a] b [c")
    assert "\n![a) b (c](figures/x.png)\n" in markdown(Board((section,)), ((picture,),), ((),))


def test_control_characters_are_shown_in_the_page_and_the_csv(tmp_path, section):
    board = Board((rename(section, "unet", "a\x07\u202eb\nc"),))
    page = Page(tmp_path).render(board, ((),), ((),))
    assert r">a\x07\u202eb c<" in page and "\x07" not in page and "\u202e" not in page
    assert r",a\x07\u202eb c,UNet" in csv_text(board)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cells: [", "not valid YAML"),
        ("cels: {}", "must hold `cells`"),
        ("cells: {a: {config: x.yaml}}\nrun: y", "unknown key 'run'"),
        ("cells: {a: {fit: true}}", "cell 'a' must say which `config`"),
        ("cells: {a: {config: x.yaml, setings: []}}", "unknown key 'setings'"),
        ("cells: {a: {config: x.yaml, fit: often}}", "fit true or false"),
        ("cells: {a/b: {config: x.yaml}}", "a name is made of"),
    ],
)
def test_bad_suites(tmp_path, text, message):
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read_suite(path)
    assert "suite.yaml" in str(error.value)


def test_missing_suite(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["leaderboard"]) == 1
    assert "no suite leaderboard/suite.yaml" in capsys.readouterr().err
