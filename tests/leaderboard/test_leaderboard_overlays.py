"""Pictures of cases and the replay of prompts."""

import io
import json
import shutil
from dataclasses import replace

import board_fakes
import numpy as np
import pytest
from PIL import Image

from samzoo.leaderboard import overlays
from samzoo.leaderboard.figures_style import stem
from samzoo.leaderboard.overlays import save_overlays
from samzoo.leaderboard.overlays_draw import MAX_BYTES, Panel, draw_strip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A section of three entries with run folders."""
    folder = tmp_path_factory.mktemp("runs")
    section = board_fakes.fake_section(folder, patients=8)
    names = ("unet", "sam", "m_sam")
    kept = tuple(f for f in section.findings if f.kind == "worst" and f.entries[0] in names)
    apart = next(f for f in section.findings if f.kind == "disagreement" and f.regime == "box_clicks_3d")
    apart = replace(apart, entries=("sam", "m_sam"), dice={n: apart.dice[n] for n in ("sam", "m_sam")})
    entries = tuple(e for e in section.entries if e.name in names)
    rows = tuple(r for r in section.rows if r.entry in names)
    return folder, replace(section, entries=entries, rows=rows, findings=(*kept, apart))


def moved(runs, tmp_path):
    """A copy of the runs that a test may damage."""
    folder, section = runs
    shutil.copytree(folder, tmp_path / "runs")

    def run(r):
        return replace(r, folder=tmp_path / "runs" / r.folder.relative_to(folder))

    entries = tuple(replace(e, runs=tuple(run(r) for r in e.runs)) for e in section.entries)
    return replace(section, entries=entries)


def test_findings_and_replays(runs, tmp_path):
    _, section = runs
    found = {o.name: o for o in save_overlays(tmp_path, section)[0]}
    assert list(found) == [
        "disagreement_box_clicks_3d_1",
        *("worst_sam", "worst_unet", "worst_m_sam"),
        *("replay", "replay_sam", "replay_m_sam"),
    ]
    assert [when for when, _ in found["replay"].steps] == [f"box_clicks_3d, step {i}" for i in range(6)]
    for overlay in found.values():
        assert overlay.file in overlay.frames or not overlay.frames
        for file in {overlay.file, *overlay.frames}:
            assert (tmp_path / file).stat().st_size <= MAX_BYTES
            with Image.open(tmp_path / file) as image:
                assert image.format == "PNG" and image.width <= 720
    replay = found["replay"]
    assert replay.frames == tuple(f"figures/phantom_replay_{step}.png" for step in range(6)), "step 0 comes first"
    assert len({(tmp_path / f).read_bytes() for f in replay.frames}) == 6
    worst = next(f for f in section.findings if f.kind == "worst" and f.entries == ("sam",))
    assert f"{worst.case_id}: Dice of the case {worst.dice['sam']:.3f} (slice 6 of 12" in found["worst_sam"].alt
    assert "3 prompts on other slices" in found["worst_sam"].caption, "the third click of each class is"
    assert "(seed 0)" in found["worst_unet"].caption, "one of three seeds is drawn"


def test_the_same_bytes_each_time(runs, tmp_path):
    _, section = runs
    section = replace(section, findings=section.findings[3:4])
    for name in ("a", "b"):
        files = [f for o in save_overlays(tmp_path / name, section)[0] for f in (o.file, *o.frames)]
    assert files and all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_never_more_files_than_a_page_can_bear(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(overlays, "MAX_FILES", 10)
    _, section = runs
    names = [o.name for o in save_overlays(tmp_path, section)[0]]
    assert names == ["disagreement_box_clicks_3d_1", "worst_sam", "worst_unet", "worst_m_sam", "replay"]
    assert len(list((tmp_path / "figures").iterdir())) == 10


def test_runs_without_slices_have_no_pictures(tmp_path):
    assert save_overlays(tmp_path, board_fakes.fake_section(patients=4)) == ([], [])
    assert not list(tmp_path.iterdir())


def test_runs_without_prompts_are_drawn_without(runs, tmp_path):
    section = moved(runs, tmp_path)
    for path in (tmp_path / "runs").rglob("prompts.json"):
        path.unlink()
    found, _ = save_overlays(tmp_path, replace(section, findings=section.findings[:1]))
    assert found and "other slices" not in found[0].caption


def damage(path, **changes):
    with np.load(path) as file:
        arrays = dict(file) | changes
    np.savez_compressed(path, **{k: v for k, v in arrays.items() if v is not None})


@pytest.mark.parametrize(
    "changes",
    [
        {"truth": None},
        {"spacing": np.array([1.0, 0.0, 1.0])},
        {"box_clicks_3d/5": np.zeros((3, 3), np.uint8)},
        {"image": np.zeros((72, 96, 2), np.uint8)},
        {"z": np.array(12)},
        {"case_id": np.array("another")},
    ],
)
def test_a_damaged_slice_is_left_out_and_named(runs, tmp_path, changes):
    section = moved(runs, tmp_path)
    finding = next(f for f in section.findings if f.entries == ("sam",))
    path = section.entry("sam").runs[0].folder / "slices" / f"{finding.case_id}.npz"
    damage(path, **changes)
    found, damaged = save_overlays(tmp_path, replace(section, findings=(finding,)))
    assert found == [] and len(damaged) == 1
    assert damaged[0].startswith(f"sam: its slice of case {finding.case_id} is not drawn")
    assert str(tmp_path) not in damaged[0]


def test_other_damage_is_named(runs, tmp_path):
    section = moved(runs, tmp_path)
    finding = next(f for f in section.findings if f.entries == ("sam",))
    section, folder = replace(section, findings=(finding,)), section.entry("sam").runs[0].folder
    prompts = json.loads((folder / "prompts.json").read_text())
    for boxes in ([[1, 2]], [[1, 2, float("inf"), 4]]):
        prompts["cases"][finding.case_id]["box_clicks_3d"]["liver"][0]["boxes"] = boxes
        (folder / "prompts.json").write_text(json.dumps(prompts))
        found, damaged = save_overlays(tmp_path, section)
        assert found and damaged[0].startswith(f"sam: its prompts of case {finding.case_id} in box_clicks_3d are not")
    for text in ("[]", "[" * 100_000):
        (folder / "prompts.json").write_text(text)
        found, damaged = save_overlays(tmp_path, section)
        assert found and damaged[0].startswith("sam: its prompts are not drawn, its file can't be used: ")
    path = folder / "slices" / f"{finding.case_id}.npz"
    path.write_bytes(path.read_bytes()[:200])
    found, damaged = save_overlays(tmp_path, section)
    assert found == [] and "damaged" in damaged[0]


def test_names_of_files_are_apart():
    names = ["UNet (a)", "UNet [a]", "UNet _a_", "x" * 300, "x" * 301]
    assert (
        len({stem(n) for n in names}) == len(names) and stem("unet") == "unet" and max(map(len, map(stem, names))) < 80
    )


def picture(panel):
    """RGB of the only panel of a strip, without heading, title and legend."""
    pixels = np.asarray(Image.open(io.BytesIO(draw_strip([panel], {1: "liver"}, "x"))).convert("RGB")).astype(int)
    rows = np.flatnonzero((pixels[:, 40] < 200).any(axis=1) & (pixels[:, 340] < 200).any(axis=1))
    return pixels[rows[0] : rows[-1] + 1, :354]


def test_prompts_lie_where_they_were_given():
    blank = np.zeros((20, 40), np.uint8)
    plain = picture(Panel("a", blank + 60, blank, blank, 2.0))
    assert 345 <= plain.shape[0] <= 360, "pixels are twice as high as wide"
    scale = np.array([354 / 20, 354 / 40])
    marked = picture(Panel("a", blank + 60, blank, blank, 2.0, (), ((30.0, 5.0, True, 1, 2),)))
    changed = np.argwhere(np.abs(marked - plain[: len(marked)]).sum(axis=2) > 60)
    disc = changed[np.abs(changed - (np.array([5, 30]) + 0.5) * scale).max(axis=1) < 9]
    assert np.allclose(disc.mean(axis=0), (np.array([5, 30]) + 0.5) * scale, atol=4)
    boxed = picture(Panel("a", blank + 60, blank, blank, 2.0, ((10.0, 4.0, 30.0, 16.0, 1),)))
    changed = np.argwhere(np.abs(boxed - plain[: len(boxed)]).sum(axis=2) > 60)
    assert np.allclose(changed.min(axis=0), np.array([4, 10]) * scale, atol=2)
    assert np.allclose(changed.max(axis=0), np.array([16, 30]) * scale, atol=3)


def test_noise_fits_into_few_bytes():
    noise = np.random.default_rng(0).integers(0, 256, (384, 384, 3)).astype(np.uint8)
    labels = np.zeros((384, 384), np.uint8)
    assert len(draw_strip([Panel("a", noise, labels, labels, 1.0)] * 10, {}, "x")) <= MAX_BYTES
