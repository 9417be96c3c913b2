import torch

from samzoo.prompts.batched import (
    jitter_boxes,
    mask_boxes,
    random_error_clicks,
    random_foreground_click,
    random_points,
)


def generator():
    return torch.Generator().manual_seed(3)


def test_error_clicks_lie_in_the_error_and_carry_the_targets_label():
    target = torch.zeros(2, 1, 12, 20, dtype=torch.bool)
    target[0, 0, 3, 15] = True  # missed
    prediction = torch.zeros_like(target)
    prediction[1, 0, 8, 2] = True  # extra
    points, labels = random_error_clicks(prediction, target, 5, generator())
    assert points.shape == (2, 5, 2) and points.dtype == torch.float32
    assert (points[0] == torch.tensor([15.0, 3.0])).all() and (labels[0] == 1).all()
    assert (points[1] == torch.tensor([2.0, 8.0])).all() and (labels[1] == 0).all()


def test_error_clicks_without_error_or_outside_the_valid_part_have_label_minus_one():
    target = torch.zeros(2, 7, 9, dtype=torch.bool)
    target[1, 2, 2] = True
    valid = torch.ones_like(target)
    valid[1, 2, 2] = False
    _, labels = random_error_clicks(torch.zeros_like(target), target, 3, generator(), valid)
    assert (labels == -1).all()


def test_error_clicks_are_uniform():
    target = torch.zeros(1, 4, 4, dtype=torch.bool)
    target[0, 1] = True
    points, _ = random_error_clicks(torch.zeros_like(target), target, 8000, generator())
    assert (points[0, :, 1] == 1).all()
    assert (torch.bincount(points[0, :, 0].long(), minlength=4) / 8000 - 0.25).abs().max() < 0.03


def test_first_click_is_foreground_or_else_labelled_background():
    target = torch.zeros(2, 1, 10, 6, dtype=torch.bool)
    target[0, 0, 9, 5] = True
    points, labels = random_foreground_click(target, generator())
    assert points[0, 0].tolist() == [5.0, 9.0] and labels.tolist() == [[1], [0]]


def half_empty_full():
    target = torch.zeros(3, 1, 8, 12, dtype=torch.bool)
    target[0, 0, 2:4, 9:] = True
    target[2] = True
    return target


def value_at(target, points):
    x, y = points.long().unbind(-1)
    return target[torch.arange(len(target))[:, None], 0, y, x]


def test_random_points_are_half_foreground_and_labelled_by_what_they_lie_on():
    target = half_empty_full()
    points, labels = random_points(target, 16, generator())
    assert points.shape == (3, 16, 2) and points.dtype == torch.float32 and labels.dtype == torch.int64
    assert torch.equal(value_at(target, points).long(), labels)
    assert labels.sum(dim=1).tolist() == [8, 0, 16]
    points, labels = random_points(target, 1, generator())
    assert torch.equal(value_at(target, points).long(), labels) and labels.flatten().tolist() == [1, 0, 1]


def test_random_points_come_in_random_order_and_everywhere():
    target = half_empty_full()[:1].expand(4000, -1, -1, -1)
    points, labels = random_points(target, 3, generator())
    assert (labels.sum(dim=1) == 1).all() and (labels.float().mean(dim=0) - 1 / 3).abs().max() < 0.04
    inside = points[labels == 1]
    assert torch.bincount(((inside[:, 1] - 2) * 3 + inside[:, 0] - 9).long(), minlength=6).min() > 4000 / 6 * 0.8
    assert len(points[labels == 0].unique(dim=0)) == 8 * 12 - 6


def test_random_points_lie_where_the_target_is_known():
    target = half_empty_full()
    valid = torch.ones_like(target)
    valid[:, :, :2], valid[2] = False, False
    points, labels = random_points(target, 32, generator(), valid)
    assert value_at(valid, points)[:2].all() and labels[:2].sum(dim=1).tolist() == [16, 0]
    assert (labels[2] == -1).all() and (points[2] == 0).all()


def test_boxes_of_all_parts_of_the_largest_part_and_of_nothing():
    target = torch.zeros(2, 16, 24, dtype=torch.bool)
    target[0, 2:5, 3:9] = True
    target[0, 5:7, 9:11] = True  # touches at a corner: the same part
    target[0, 14, 20] = True
    assert mask_boxes(target).tolist() == [[3, 2, 21, 15], [0, 0, 24, 16]]
    assert mask_boxes(target, largest_part=True).tolist() == [[3, 2, 11, 7], [0, 0, 24, 16]]


def test_jitter_moves_corners_together_within_the_limits():
    boxes = torch.tensor([[30.0, 20, 50, 40], [5, 5, 6, 9], [10, 10, 16, 90]]).repeat(2000, 1)
    shift = jitter_boxes(boxes, generator()) - boxes
    assert (shift[:, :2] == shift[:, 2:]).all()
    large, tiny, narrow = shift[0::3], shift[1::3], shift[2::3]
    assert set(large[:, 0].tolist()) == set(range(-5, 5)) and set(large[:, 1].tolist()) == set(range(-5, 5))
    assert (tiny == 0).all() and set(narrow[:, 1].tolist()) == set(range(-3, 3))


def test_the_same_generator_gives_the_same_prompts():
    target = torch.rand(3, 1, 16, 16, generator=generator()) > 0.5
    for draw in (
        lambda g: random_foreground_click(target, g),
        lambda g: random_error_clicks(~target, target, 4, g),
        lambda g: random_points(target, 5, g),
    ):
        first, second = draw(generator()), draw(generator())
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_masks_in_3d_get_clicks_and_boxes_in_x_y_z():
    target = torch.zeros(3, 1, 5, 7, 9, dtype=torch.bool)
    target[0, 0, 4, 6, 8] = target[1, 0, 1:3, 2:6, 3:9] = True
    prediction = torch.zeros_like(target)
    prediction[1] = target[1]
    prediction[1, 0, 0, 1, 2] = True
    for form in (lambda mask: mask, lambda mask: mask[:, 0]):
        points, labels = random_error_clicks(form(prediction), form(target), 4, generator())
        assert points[:, 0].tolist() == [[8.0, 6.0, 4.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
        assert (labels == torch.tensor([[1], [0], [-1]])).all() and points.shape == (3, 4, 3)
        assert random_foreground_click(form(target), generator())[0][0].tolist() == [[8.0, 6.0, 4.0]]
        boxes = mask_boxes(form(target))
        assert boxes.tolist() == [[8, 6, 4, 9, 7, 5], [3, 2, 1, 9, 6, 3], [0, 0, 0, 9, 7, 5]]
    several, kinds = random_points(target, 6, generator())
    x, y, z = several.long().unbind(-1)
    assert (target[torch.arange(3)[:, None], 0, z, y, x].long() == kinds).all() and kinds[:2].sum(1).tolist() == [3, 3]
    moved = jitter_boxes(boxes, generator()) - boxes
    assert (moved[0] == 0).all() and (moved[:, :3] == moved[:, 3:]).all() and moved[2].abs().max() <= 2
