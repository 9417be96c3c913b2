import numpy as np
import pytest

from samzoo.prompts.simulate import (
    corrective_click,
    jitter_box,
    prompt_rng,
    random_foreground_click,
    random_points,
    shift_point,
    tight_box,
)


def zeros(*shape):
    return np.zeros(shape, dtype=bool)


def test_tight_boxes_in_2d_and_3d():
    mask = zeros(10, 20)
    mask[2:5, 7:9] = True
    mask[8, 18] = True
    assert tight_box(mask) == (7, 2, 19, 9)
    assert tight_box(mask, largest_part=True) == (7, 2, 9, 5)
    volume = zeros(6, 10, 20)
    volume[3] = mask
    volume[4, 2, 7] = True
    assert tight_box(volume) == (7, 2, 3, 19, 9, 5)
    assert tight_box(zeros(4, 4)) is None


def test_drawn_boxes_wander_by_a_share_of_their_side_and_stay_boxes():
    rng = np.random.default_rng(0)
    boxes = np.array([jitter_box((400, 300, 600, 400), rng, 0.1, (1000, 1000)) for _ in range(2000)])
    assert boxes.std(axis=0) == pytest.approx([20, 10, 20, 10], rel=0.1)
    assert boxes.mean(axis=0) == pytest.approx([400, 300, 600, 400], abs=2)
    assert abs(np.corrcoef(boxes[:, 0], boxes[:, 2])[0, 1]) < 0.1  # corners move for themselves
    for small in ((0, 3, 2, 1, 4, 3), (4, 8, 6, 5, 9, 7)):  # one voxel in a corner
        for share in (0.1, 1.0):
            found = np.array([jitter_box(small, rng, share, (7, 9, 5)) for _ in range(300)])
            assert (found[:, :3] >= 0).all() and (found[:, 3:] <= (5, 9, 7)).all()
            assert (found[:, :3] < found[:, 3:]).all()


def test_shifted_points_miss_by_mm_along_each_axis_and_stay_in_the_image():
    rng = np.random.default_rng(0)
    points = np.array([shift_point((500, 500, 50), rng, 4, (2.0, 1.0, 0.5), (100, 1000, 1000)) for _ in range(2000)])
    assert points.std(axis=0) == pytest.approx([8, 4, 2], rel=0.1)
    assert {shift_point((0, 1), rng, 40, (1.0, 1.0), (2, 2)) for _ in range(99)} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_first_prompts_depend_on_case_class_and_seed_only():
    mask = np.ones((5, 50, 50), dtype=bool)
    draw = lambda *key: random_foreground_click(mask, prompt_rng(*key))  # noqa: E731
    assert draw("a", 1, 0) == draw("a", 1, 0)
    assert len({draw("a", 1, 0), draw("b", 1, 0), draw("a", 2, 0), draw("a", 1, 1)}) == 4
    assert random_foreground_click(zeros(3, 3), prompt_rng("a", 1, 0)) is None


def test_click_at_the_centre_of_the_largest_error():
    truth, prediction = zeros(30, 40), zeros(30, 40)
    truth[5:12, 5:12] = True  # 49 missed
    prediction[20:29, 20:29] = True  # 81 extra
    assert corrective_click(truth, prediction, (1.0, 1.0)) == ((24, 24), False)
    prediction[20:29, 20:29] = False
    assert corrective_click(truth, prediction, (1.0, 1.0)) == ((8, 8), True)
    assert corrective_click(truth, truth, (1.0, 1.0)) is None


def test_touching_errors_of_opposite_sign_are_components_of_their_own():
    truth, prediction = zeros(9, 30), zeros(9, 30)
    truth[2:7, 2:12] = True
    prediction[2:7, 12:26] = True
    (x, y), positive = corrective_click(truth, prediction, (1.0, 1.0))
    assert not positive and y == 4 and 14 <= x <= 23


def test_the_border_of_the_array_is_a_border():
    truth = np.ones((11, 21), dtype=bool)
    (x, y), positive = corrective_click(truth, zeros(11, 21), (1.0, 1.0))
    assert positive and y == 5 and x == 10


def test_distances_are_millimetres():
    """With slices 10 mm apart the 3 slices are thicker than the rod is wide, with 0.1 mm they are not."""
    error = zeros(5, 40, 40)
    error[1:4, 10:15, 5:35] = True
    (x, y, z), _ = corrective_click(error, zeros(5, 40, 40), (10.0, 1.0, 1.0))
    assert y == 12 and x in (19, 20) and z == 2
    (x, y, z), _ = corrective_click(error, zeros(5, 40, 40), (0.1, 1.0, 1.0))
    assert z == 2 and y == 12


def test_a_thin_error_is_clicked_in_its_middle_not_at_its_corner():
    error = zeros(7, 30, 30)
    error[3, 5:26, 5:26] = True
    assert corrective_click(error, zeros(7, 30, 30), (1.0, 1.0, 1.0)) == ((15, 15, 3), True)


def test_a_picture_is_2d_whatever_its_slice_thickness():
    error = zeros(1, 30, 30)
    error[0, 5:26, 5:20] = True
    for thickness in (0.01, 1.0, 100.0):
        (x, y, z), positive = corrective_click(error, zeros(1, 30, 30), (thickness, 1.0, 1.0))
        assert (x, z, positive) == (12, 0, True) and 12 <= y <= 18


@pytest.mark.parametrize("seed", range(5))
def test_the_click_lies_in_an_error_of_its_sign(seed):
    rng = np.random.default_rng(seed)
    truth, prediction = rng.random((4, 15, 15)) < 0.5, rng.random((4, 15, 15)) < 0.5
    (x, y, z), positive = corrective_click(truth, prediction, (2.0, 1.0, 1.0))
    assert truth[z, y, x] == positive and prediction[z, y, x] != positive


def test_random_points_at_the_edges_of_what_a_mask_can_be():
    mask, rng = zeros(3, 6, 8), np.random.default_rng(0)
    mask[1, 2:4, 2:5] = True
    points = random_points(mask, 9, rng)
    assert [mask[z, y, x] for (x, y, z), _ in points] == [positive for _, positive in points]
    assert sum(positive for _, positive in points) == 4
    assert [p for _, p in random_points(mask[1], 1, rng)] == [True]
    assert [p for _, p in random_points(zeros(4, 4), 3, rng)] == [False] * 3
    assert [p for _, p in random_points(~zeros(4, 4), 3, rng)] == [True] * 3
    assert random_points(mask[1], 4, rng, zeros(6, 8)) == []
