"""Noisy regimes: boxes drawn in a hurry, clicks that miss."""

import numpy as np
import pytest

from samzoo.errors import ConfigError
from samzoo.prompts import REGIMES, make_regime

SPACING = (2.0, 1.0, 1.0)


@pytest.fixture
def truth():
    """Foreground on slices 2 to 8."""
    mask = np.zeros((12, 60, 60), dtype=bool)
    for z in range(2, 9):
        mask[z, 10 : 30 + z, 15 : 45 + z] = True
    return mask


def first(name, truth, case_id="case", class_id=1, seed=0):
    return make_regime(name).first(truth, class_id, SPACING, seed, case_id)


BOXED = ("box_3d", "box_per_slice", "box_3_slices", "box_5_slices", "box_clicks_3d", "box_clicks_per_slice")
CLICKED = ("clicks_3d", "clicks_per_slice", "points_per_slice", "clicks_3d_oracle_crop", "clicks_3d_published")


@pytest.mark.parametrize("name", BOXED)
def test_boxes_are_the_same_each_time_and_others_for_other_cases_and_seeds(truth, name):
    noisy = first(f"{name}_jitter20", truth)
    assert noisy == first(f"{name}_jitter20", truth)
    assert noisy.boxes != first(name, truth).boxes and noisy.effort == first(name, truth).effort
    for other in ({"case_id": "b"}, {"class_id": 2}, {"seed": 1}):
        assert first(f"{name}_jitter20", truth, **other).boxes != noisy.boxes


@pytest.mark.parametrize("name", CLICKED)
def test_clicks_miss_the_places_that_they_were_meant_for(truth, name):
    meant, noisy = first(name, truth), first(f"{name}_shift4mm", truth)
    assert noisy == first(f"{name}_shift4mm", truth) and noisy.effort == meant.effort and noisy.focus == meant.focus
    assert noisy.clicks != meant.clicks
    assert [c.positive for c in noisy.clicks] == [c.positive for c in meant.clicks]
    if make_regime(name).dim == 2:
        assert [c.z for c in noisy.clicks] == [c.z for c in meant.clicks]
    missed = []
    for i in range(200 if make_regime(name).dim == 3 else 10):
        pairs = zip(*(first(name + noise, truth, case_id=str(i)).clicks for noise in ("", "_shift4mm")), strict=True)
        missed += [(b.x - a.x, b.y - a.y) for a, b in pairs]
    assert np.std(missed) == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("name", [*(f"{n}_jitter0.01" for n in BOXED), *(f"{n}_shift0.01mm" for n in CLICKED)])
def test_tiny_noise_is_none(truth, name):
    noisy, base = first(name, truth), first(name.rsplit("_", 1)[0], truth)
    assert (noisy.boxes, noisy.clicks) == (base.boxes, base.clicks)


@pytest.mark.parametrize("name", BOXED)
def test_boxes_around_one_voxel_stay_in_the_image(name):
    for corner in ((0, 0, 0), (3, 9, 9)):
        truth = np.zeros((4, 10, 10), dtype=bool)
        truth[corner] = True
        for case_id in range(50):
            for box in first(f"{name}_jitter100", truth, str(case_id)).boxes:
                assert 0 <= box.x0 < box.x1 <= 10 and 0 <= box.y0 < box.y1 <= 10 and 0 <= box.z0 < box.z1 <= 4


def test_boxes_in_3d_wander_in_depth_and_those_on_slices_stay_on_them(truth):
    depth = {(b.z0, b.z1) for i in range(30) for b in first("box_3d_jitter20", truth, str(i)).boxes}
    assert len(depth) > 5
    assert [b.z0 for b in first("box_per_slice_jitter20", truth).boxes] == list(range(2, 9))
    drawn = [b for b in first("box_3_slices_jitter20", truth).boxes]
    assert [(b.z0, b.z1) for b in drawn] == [(z, z + 1) for z in range(2, 9)]


def test_pictures_are_prompted_alike_on_slices_and_in_3d(truth):
    picture = truth[4:5]
    for one, other in (("box_3d_jitter20",) * 2, ("box_3d_jitter20", "box_per_slice_jitter20")):
        assert first(one, picture).boxes == first(other, picture).boxes
    (at,), (also,) = (first(f"clicks_{how}_shift4mm", picture).clicks for how in ("3d", "per_slice"))
    assert at == also


@pytest.mark.parametrize("name", ["box_clicks_3d", "clicks_per_slice", "auto_clicks_3d", "auto_clicks_per_slice"])
def test_corrections_answer_what_is_really_wrong_and_miss_alike_for_every_method(truth, name):
    """Two methods leave errors at other places: the clicks differ, how far they miss does not."""
    base, noisy = make_regime(name), make_regime(f"{name}_shift3mm")
    flat = base.dim == 2
    missed = []
    for rows in (slice(10, 20), slice(20, 30)):
        wrong = truth.copy()
        wrong[:, rows] = False
        prompt = noisy.first(truth, 1, SPACING, 0, "case")
        before = base.next(prompt, truth, wrong, SPACING, 0, "case").clicks[len(prompt.clicks) :]
        after = noisy.next(prompt, truth, wrong, SPACING, 0, "case")
        assert after.effort == prompt.effort + len(before)
        clicks = after.clicks[len(prompt.clicks) :]
        assert [c.positive for c in clicks] == [c.positive for c in before] == [True] * len(before)
        missed.append([(b.x - a.x, b.y - a.y, b.z - a.z) for a, b in zip(before, clicks, strict=True)])
        assert noisy.next(prompt, truth, truth, SPACING, 0, "case") is prompt
    assert missed[0] == missed[1] and any(m[:2] != (0, 0) for m in missed[0])
    assert len(missed[0]) == (7 if flat else 1) and (not flat or all(m[2] == 0 for m in missed[0]))


def test_a_later_click_misses_otherwise_than_the_first(truth):
    regime = make_regime("box_clicks_3d_shift4mm", 5)
    prompt = regime.first(truth, 1, SPACING, 0, "case")
    for _ in range(4):
        prompt = regime.next(prompt, truth, np.zeros_like(truth), SPACING, 0, "case")
    assert len(set(prompt.clicks)) == 4


@pytest.mark.parametrize("name", [n for n in REGIMES if n != "auto"])
def test_noise_changes_neither_oracle_nor_steps(name):
    base = make_regime(name, 3)
    noisy = make_regime(name + ("_jitter10" if base.first_boxes else "_shift2.5mm"), 3)
    same = ("effort_rule", "oracle_classes", "oracle_slices", "scored", "start", "kinds", "dim")
    assert all(getattr(base, field) == getattr(noisy, field) for field in same)
    assert noisy.name != name and (noisy.jitter, noisy.shift) in ((10, 0), (0, 2.5))


def test_both_kinds_of_noise_go_together():
    regime = make_regime("box_clicks_3d_jitter12.5_shift4mm")
    assert (regime.jitter, regime.shift, regime.name) == (12.5, 4, "box_clicks_3d_jitter12.5_shift4mm")


@pytest.mark.parametrize(
    "name, message",
    [
        ("auto_jitter10", "nobody draws a box in auto"),
        ("clicks_3d_jitter10", "nobody draws a box in clicks_3d"),
        ("box_3d_shift4mm", "nobody clicks in box_3d"),
        ("box_3d_jitter0", "above 0 and at most 100"),
        ("clicks_3d_shift101mm", "above 0 and at most 100"),
        ("clicks_3d_shift4", "did you mean clicks_3d.*noise is written as in"),
        ("box_3d_jitter", "noise is written as in"),
        ("box_3d_jitter-10", "noise is written as in"),
        ("bx_3d_jitter10", "did you mean box_3d"),
        ("", "unknown regime ''"),
    ],
)
def test_noise_that_does_not_fit_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        make_regime(name)
