"""The figures of a leaderboard: which there are, what they say, and that they are the same each time."""

import subprocess
import sys
from dataclasses import replace

import board_fakes
import matplotlib
import numpy as np
import pytest
from PIL import Image

from samzoo.leaderboard import figures
from samzoo.leaderboard.board import Estimate
from samzoo.leaderboard.figures import DRAWINGS, entry_styles, save_figures
from samzoo.leaderboard.figures_cases import _front, pareto


@pytest.fixture(scope="module")
def section():
    return board_fakes.fake_section()


@pytest.fixture(scope="module")
def saved(section, tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    return folder, {f.name: f for f in save_figures(folder, section)}


def only(section, *entries):
    """The section with these entries alone."""

    def kept(items):
        return tuple(item for item in items if item.entry in entries)

    rankings = tuple(replace(r, entries=tuple(n for n in r.entries if n in entries)) for r in section.rankings)
    rankings = tuple(
        replace(r, shares={n: r.shares[n][: len(r.entries)] for n in r.entries}) for r in rankings if r.entries
    )
    parts = {name: kept(getattr(section, name)) for name in ("rows", "break_even", "strata", "robustness")}
    own = tuple(e for e in section.entries if e.name in entries)
    return replace(section, entries=own, rankings=rankings, findings=(), **parts)


def test_all_figures_are_pictures_with_words(saved):
    folder, found = saved
    assert list(found) == list(DRAWINGS)
    for name, figure in found.items():
        assert figure.file == f"figures/phantom_{name}.png"
        with Image.open(folder / figure.file) as image:
            assert image.width == 960 and np.asarray(image.convert("L")).std() > 5, "something is drawn"
        assert figure.title and figure.caption and len(figure.alt) > 60


def test_the_same_section_gives_the_same_bytes(section, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "DRAWINGS", {name: DRAWINGS[name] for name in ("classes", "pareto")})
    few = only(section, "unet", "masksam", "m_sam")
    once, again = tmp_path / "once", tmp_path / "again"
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30)
    saved = save_figures(once, few)
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 10)
    save_figures(again, few)
    assert len(saved) == 2 and all((once / f.file).read_bytes() == (again / f.file).read_bytes() for f in saved)


def test_words_hold_the_main_numbers(section, saved):
    _, found = saved
    row = next(r for r in section.rows if r.entry == "unet" and r.regime == "auto")
    assert f"best automatic entry is unet with a Dice of {row.dice.mean:.3f}" in found["effort"].alt
    assert f"unet {row.dice.mean:.3f} [{row.dice.low:.3f}, {row.dice.high:.3f}]" in found["intervals"].alt
    least = min((b for b in section.break_even if b.effort and b.metric == "dice"), key=lambda b: b.effort)
    assert f"{least.entry} in {least.regime} at {least.effort:.1f} actions" in found["effort"].alt
    noisy = next(r for r in section.robustness if r.entry == "sam" and r.kind == "jitter")
    assert (
        f"sam (box_3d): {noisy.points[0][1]:.3f} without, {noisy.points[-1][1]:.3f} at 20 %" in found["robustness"].alt
    )


def test_medians_are_over_cases_not_seeds(section, saved):
    _, found = saved
    own = [r for run in section.entry("unet").runs for r in run.records if r.class_name == "liver"]
    cases = {}
    for record in own:
        cases.setdefault(record.case_id, []).append(record.dice)
    assert f"unet (auto): liver {np.median([np.mean(v) for v in cases.values()]):.3f}" in found["classes"].alt


def drawn(section):
    styles = entry_styles(section)
    return {name: drawing for name, draw in DRAWINGS.items() if (drawing := draw(section, styles))}


def test_what_has_no_data_is_left_out(section):
    assert set(drawn(only(section, "box_ellipse"))) == {"effort", "intervals", "classes", "strata", "robustness"}
    assert set(drawn(only(section, "unet", "masksam"))) == {"intervals", "classes", "pareto", "ranks", "strata"}
    assert not drawn(replace(section, rows=(), rankings=(), break_even=(), strata=(), robustness=()))


def test_undefined_scores_and_too_few_patients():
    section = board_fakes.fake_section(patients=4)
    rows = tuple(
        replace(r, dice=Estimate(), nsd_2mm=Estimate(), effort=None) if r.entry == "sam" else r for r in section.rows
    )
    found = drawn(replace(section, rows=rows))
    assert "ranks" not in found and "[" not in found["intervals"].alt and " sam " not in found["intervals"].alt


def test_names_from_files_are_drawn_as_they_are(section, tmp_path, monkeypatch):
    few = only(section, "unet", "m_sam")
    odd = "_a$b\\frac{"
    few = replace(few, title="../a b", entries=(replace(few.entries[0], name=odd), few.entries[1]))
    few = replace(few, rows=tuple(replace(r, entry=odd) if r.entry == "unet" else r for r in few.rows))
    few = replace(few, rankings=(), break_even=(), strata=())
    monkeypatch.setattr(figures, "DRAWINGS", {"effort": DRAWINGS["effort"], "intervals": DRAWINGS["intervals"]})
    files = [f.file for f in save_figures(tmp_path, few)]
    assert files == ["figures/.._a_b-75e96e29_effort.png", "figures/.._a_b-75e96e29_intervals.png"]
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == [f.split("/")[1] for f in files]


def test_entries_look_different_without_colour(section):
    styles = entry_styles(section)
    assert list(styles) == [e.name for e in section.entries]
    assert len({s.marker for s in styles.values()}) == len(styles) == len({s.color for s in styles.values()})
    many = replace(section, entries=tuple(replace(section.entries[0], name=f"e{i}") for i in range(60)))
    assert len(set(entry_styles(many).values())) == 60


def test_costs_are_those_of_the_regime_and_times_those_of_a_device(section):
    few = only(section, "unet", "masksam", "promise", "sam", "box_ellipse")
    words = pareto(few, entry_styles(few))
    assert "unet (0.9, Dice" in words.alt and "sam (7.8, Dice" in words.alt
    assert "box_ellipse" not in words.alt.split("time")[1]
    assert "Times are those on cuda; measured elsewhere: box_ellipse." in words.caption


def test_noisy_regimes_are_in_no_figure_of_scores(section):
    noisy = replace(section.rows[0], regime="auto_jitter10", noisy=True, dice=Estimate(0.123))
    for name, drawing in drawn(replace(section, rows=(*section.rows, noisy))).items():
        assert "0.123" not in drawing.alt and (name == "robustness" or "jitter" not in drawing.alt)


def test_front_holds_what_none_beats():
    points = [
        (1.0, 0.5, "a"),
        (2.0, 0.4, "dearer and worse"),
        (2.0, 0.7, "b"),
        (2.0, 0.6, "worse"),
        (3.0, 0.7, "dearer"),
    ]
    assert [name for *_, name in _front(points)] == ["a", "b"]


def test_needs_no_torch():
    code = "import sys, samzoo.leaderboard.figures, samzoo.leaderboard.overlays; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
