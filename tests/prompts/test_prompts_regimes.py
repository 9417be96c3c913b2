import numpy as np
import pytest

from samzoo.errors import ConfigError
from samzoo.prompts import REGIMES, make_regime
from samzoo.types import Box

SPACING = (2.0, 1.0, 1.0)


@pytest.fixture
def truth():
    """Foreground on slices 2 to 8, its box wandering by 2 pixels a slice."""
    mask = np.zeros((10, 40, 40), dtype=bool)
    for z in range(2, 9):
        mask[z, 5 : 5 + z, 2 * z : 2 * z + 10] = True
    return mask


def first(name, truth, **settings):
    return make_regime(name, **settings).first(truth, 3, SPACING, 0, "case")


def test_efforts_by_hand(truth):
    assert first("box_per_slice", truth).effort == 14
    assert first("clicks_per_slice", truth).effort == 7
    assert first("box_3d", truth).effort == 2
    assert first("box_3_slices", truth).effort == 6
    assert first("box_5_slices", truth).effort == 10
    assert first("box_clicks_3d", truth).effort == 2
    assert first("box_clicks_per_slice", truth).effort == 14
    assert first("auto_clicks_3d", truth).effort == first("auto_clicks_per_slice", truth).effort == 0
    assert first("points_per_slice", truth).effort == 7 * 16


def test_box_3d_covers_the_structure(truth):
    assert first("box_3d", truth).boxes == (Box(2, 5, 4, 9, 13, 26),)


def test_boxes_on_three_slices_are_interpolated_between(truth):
    boxes = first("box_3_slices", truth).boxes
    assert [b.z0 for b in boxes] == list(range(2, 9)) and all(b.z1 == b.z0 + 1 for b in boxes)
    per_slice = first("box_per_slice", truth).boxes
    assert boxes == per_slice  # a structure that wanders linearly is interpolated exactly
    truth[5, 20:30] = True  # the middle slice is drawn, so its neighbours follow it
    bent = first("box_3_slices", truth).boxes
    assert bent[3].y1 == 30 and bent[2].y1 > boxes[2].y1 and bent[0] == boxes[0]


def test_interpolation_bridges_slices_without_foreground(truth):
    truth[4:7] = False
    prompt = first("box_3_slices", truth)
    assert [b.z0 for b in prompt.boxes] == list(range(2, 9))


@pytest.mark.parametrize("slices, effort", [(1, 2), (2, 4), (3, 6), (4, 6)])
def test_structures_of_few_slices_cost_fewer_boxes(slices, effort):
    truth = np.zeros((6, 10, 10), dtype=bool)
    truth[1 : 1 + slices, 3:5, 3:5] = True
    assert first("box_3_slices", truth).effort == effort


def test_corrections_in_3d_add_one_click_each_and_end_when_nothing_is_wrong(truth):
    regime = make_regime("box_clicks_3d")
    prompt = regime.first(truth, 1, SPACING, 0, "case")
    step = regime.next(prompt, truth, np.zeros_like(truth), SPACING)
    assert step.effort == 3 and len(step.clicks) == 1 and step.boxes == prompt.boxes and step.clicks[0].positive
    assert regime.next(step, truth, truth, SPACING) is step


def test_corrections_per_slice_cost_a_click_only_where_something_is_wrong(truth):
    regime = make_regime("clicks_per_slice")
    prompt = regime.first(truth, 1, SPACING, 0, "case")
    assert all(truth[c.z, c.y, c.x] and c.positive for c in prompt.clicks)
    prediction = truth.copy()
    prediction[4] = False
    prediction[6, 30:35, 0:5] = True
    prediction[0] = True  # no foreground there: nobody looks at that slice
    step = regime.next(prompt, truth, prediction, SPACING)
    assert [(c.z, c.positive) for c in step.clicks[7:]] == [(4, True), (6, False)] and step.effort == 9


def test_automatic_answers_are_corrected_where_anything_is_wrong(truth):
    prediction = truth.copy()
    prediction[4] = False
    prediction[0, 10:12, 10:20] = True  # found on a slice without foreground
    for name, clicks in (
        ("auto_clicks_3d", [(4, True)]),
        ("auto_clicks_per_slice", [(0, False), (4, True)]),
    ):
        regime = make_regime(name, click_steps=2)
        prompt = regime.first(truth, 3, SPACING, 0, "case")
        assert prompt.automatic and not prompt.clicks and not prompt.boxes and not regime.auto
        step = regime.next(prompt, truth, prediction, SPACING)
        assert [(c.z, c.positive) for c in step.clicks] == clicks and step.effort == len(clicks) and step.automatic
        assert regime.next(step, truth, truth, SPACING) is step
        assert regime.scored == (0, 1, 2) and regime.oracle_classes and regime.kinds == {"auto", "click"}
    assert make_regime("auto_clicks_3d").oracle_slices == "none"
    assert make_regime("auto_clicks_per_slice").oracle_slices == "each"


def test_random_points_on_each_slice_are_half_foreground_and_always_the_same(truth):
    truth[8] = True  # nothing but foreground there
    valid = np.ones_like(truth)
    valid[:, :, 30:] = False
    truth &= valid
    regime = make_regime("points_per_slice")
    draw = lambda seed: regime.first(truth, 3, SPACING, seed, "case", valid)  # noqa: E731
    prompt = draw(0)
    assert all(truth[c.z, c.y, c.x] == c.positive and valid[c.z, c.y, c.x] for c in prompt.clicks)
    per_slice = [[c.positive for c in prompt.clicks if c.z == z] for z in range(10)]
    assert [len(p) for p in per_slice] == [0, 0, *[16] * 7, 0]
    assert [sum(p) for p in per_slice[2:9]] == [8] * 6 + [16]
    assert any(p != sorted(p, reverse=True) for p in per_slice[2:8])
    assert prompt == draw(0) != draw(1) and regime.scored == (0,)


def test_absent_classes_are_not_prompted(truth):
    for name in REGIMES:
        if name != "auto":
            assert first(name, np.zeros_like(truth)) is None


def test_a_picture_makes_3d_and_per_slice_coincide():
    picture = np.zeros((1, 20, 20), dtype=bool)
    picture[0, 3:12, 4:9] = True
    assert (
        first("box_3d", picture).boxes == first("box_per_slice", picture).boxes == first("box_3_slices", picture).boxes
    )
    in_3d, per_slice = make_regime("box_clicks_3d"), make_regime("box_clicks_per_slice")
    prompt = first("box_3d", picture)
    wrong = np.zeros_like(picture)
    assert in_3d.next(prompt, picture, wrong, SPACING) == per_slice.next(prompt, picture, wrong, SPACING)


def test_scored_steps():
    assert make_regime("clicks_per_slice").scored == (1, 3, 5)
    assert make_regime("clicks_per_slice", click_steps=4).scored == (1, 3, 4)
    assert make_regime("box_clicks_3d", click_steps=2).scored == (0, 1, 2)


def test_clicks_in_a_volume_begin_in_the_structure_and_follow_the_largest_error(truth):
    regime = make_regime("clicks_3d", click_steps=10)
    prompt = regime.first(truth, 3, SPACING, 0, "case")
    (click,) = prompt.clicks
    assert truth[click.z, click.y, click.x] and click.positive and prompt.effort == 1 and prompt.focus is None
    assert regime.scored == (1, 3, 5, 7, 9, 10) and regime.start == 1 and regime.oracle_slices == "none"
    step = regime.next(prompt, truth, np.zeros_like(truth), SPACING)
    assert step.clicks[1] == make_regime("box_clicks_3d").next(prompt, truth, np.zeros_like(truth), SPACING).clicks[1]


def test_an_oracle_tells_where_the_structure_lies_and_published_clicks_are_random(truth):
    oracle, published = make_regime("clicks_3d_oracle_crop"), make_regime("clicks_3d_published")
    prompt = first("clicks_3d_oracle_crop", truth)
    assert prompt.focus == Box(2, 5, 4, 9, 13, 26) and prompt.clicks == first("clicks_3d", truth).clicks
    assert first("clicks_3d_published", truth) == prompt and oracle.oracle_slices == published.oracle_slices == "crop"
    prediction = np.roll(truth, 3, axis=2)

    def walk(seed, case):
        known = prompt
        for _ in range(40):
            known = published.next(known, truth, prediction, SPACING, seed, case)
        return known.clicks[1:]

    clicks = walk(0, "case")
    assert clicks == walk(0, "case") and clicks != walk(1, "case") and clicks != walk(0, "other")
    assert all((truth != prediction)[c.z, c.y, c.x] and truth[c.z, c.y, c.x] == c.positive for c in clicks)
    assert {c.positive for c in clicks} == {True, False} and len({c.z for c in clicks}) > 3
    assert published.next(prompt, truth, truth, SPACING, 0, "case") is prompt
    assert oracle.next(prompt, truth, prediction, SPACING).focus == prompt.focus


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(ConfigError, match=r"unknown regime 'box_per_slize'; did you mean box_per_slice"):
        make_regime("box_per_slize")
    with pytest.raises(ConfigError, match="click_steps must be at least 1"):
        make_regime("box_clicks_3d", click_steps=0)
