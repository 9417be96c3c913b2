"""ProMISe's objective beside its reference's, targets at the decoder's resolution, published scores at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from samzoo.errors import DataError
from samzoo.methods.promise.loss import Objective, bce_dice, reference_criterion, soft_targets
from samzoo.methods.promise.published import find_frame, prepare_frame, scores


@pytest.fixture
def masks():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(5, 1, 12, 12, generator=generator)
    target = (torch.rand(5, 1, 12, 12, generator=generator) < 0.3).float()
    target[-1] = 0
    return logits, target


def test_each_mask_counts_alike(masks):
    """The mean over masks, each by its own, Dice over those that hold anything; against a formula in numpy."""
    logits, target = masks
    terms = bce_dice(logits, target)
    bce, dice = [], []
    for x, t in zip(logits.double().numpy(), target.double().numpy(), strict=True):
        p = 1 / (1 + np.exp(-x))
        bce.append(-(t * np.log(p) + (1 - t) * np.log(1 - p)).mean())
        if t.any():
            dice.append(1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))
    assert terms.bce.item() == pytest.approx(np.mean(bce), abs=1e-6)
    assert terms.dice.item() == pytest.approx(np.mean(dice), abs=1e-6)
    assert terms.total.item() == pytest.approx(np.mean(bce) + np.mean(dice), abs=1e-6)
    alone = [bce_dice(logits[i : i + 1], target[i : i + 1]) for i in range(len(logits))]
    torch.testing.assert_close(torch.stack([t.bce for t in alone]).mean(), terms.bce)
    torch.testing.assert_close(torch.stack([t.dice for t in alone]).sum() / len(dice), terms.dice)
    assert 0 < len(dice) < len(logits), "the masks show nothing"


@pytest.mark.parametrize("double_sigmoid", [False, True])
def test_pixels_that_do_not_count(masks, double_sigmoid):
    """Neither value nor gradient sees them, and a cut-away margin is the same as an invalid one."""
    logits, target = masks
    objective = Objective(double_sigmoid)
    valid = torch.ones_like(target, dtype=torch.bool)
    valid[..., 8:] = False
    values = logits.clone().requires_grad_()
    terms = objective(values, target, valid)
    terms.total.backward()
    assert (values.grad[..., 8:] == 0).all() and (values.grad[..., :8] != 0).any()
    torch.testing.assert_close(vars(terms), vars(objective(logits[..., :8], target[..., :8])))
    nothing = objective(logits, target, torch.zeros_like(valid))
    assert all(torch.isfinite(t) for t in vars(nothing).values())


def test_the_reference_objective_takes_the_sigmoid_twice(masks):
    logits, target = masks
    torch.testing.assert_close(
        vars(Objective(double_sigmoid=True)(logits, target)), vars(reference_criterion(logits.sigmoid(), target))
    )
    perfect = torch.where(target > 0, 50.0, -50.0)
    assert Objective()(perfect, target).total < 1e-3
    floor = Objective(double_sigmoid=True)(perfect, target)
    share = target.mean().item()
    assert floor.bce.item() == pytest.approx(math.log(1 + math.exp(-1)) * share + math.log(2) * (1 - share), abs=1e-4)


def test_empty_masks_still_pull_ours_but_not_the_reference(masks):
    """The reference's Dice score passes 1 on empty masks, and its clamp then silences the whole batch."""
    values = torch.full((2, 1, 12, 12), -20.0, requires_grad=True)
    empty = torch.zeros(2, 1, 12, 12)
    (silent,) = torch.autograd.grad(reference_criterion(values, empty).dice, values)
    assert (silent == 0).all()
    values = torch.zeros(2, 1, 12, 12, requires_grad=True)
    (pull,) = torch.autograd.grad(bce_dice(values, empty).total, values)
    assert (pull > 0).all()


def test_losses_are_float32_under_autocast(masks):
    logits, target = masks
    expected = vars(bce_dice(logits.bfloat16().float(), target))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = vars(Objective()(logits.bfloat16(), target))
    assert all(t.dtype == torch.float32 for t in found.values())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("size", "side"), [(32, 8), (24, 16), (16, 16)])
def test_soft_targets(size, side):
    label = torch.randint(0, 4, (2, size, size), generator=torch.Generator().manual_seed(1))
    label[1, 3, 5] = 255
    target, valid = soft_targets(label, 3, side)
    onehot = torch.stack([label == k for k in (1, 2, 3)], dim=1).float()
    torch.testing.assert_close(target, F.interpolate(onehot, (side, side), mode="bilinear", align_corners=False))
    assert target.dtype == torch.float32 and valid.dtype == torch.bool
    assert valid.shape == (2, 1, side, side) and valid[0].all()
    # a pixel is left out exactly if its value changes with what stands in place of the ignored pixel
    other, _ = soft_targets(torch.where(label == 255, 1, label), 3, side)
    assert torch.equal((other != target).any(1, keepdim=True), ~valid)


def square(side=40, top=10, left=10, size=12):
    mask = torch.zeros(1, side, side)
    mask[:, top : top + size, left : left + size] = 1
    return mask


def test_published_scores_of_empty_and_full_masks():
    empty, full, some = torch.zeros(1, 40, 40), torch.ones(1, 40, 40), square()
    both = scores(empty, empty)
    assert both["dice"].isnan() and both["iou"] == 0 and both["s_measure"] == 1 and both["mae"] == 0
    assert scores(full, full)["dice"] == 1 and scores(full, full)["s_measure"] == 1
    assert scores(some, empty)["dice"] == 0 and scores(empty, some)["recall"] == 0
    table = scores(torch.cat([empty, full, some]), torch.cat([some, some, some]))
    for name, values in table.items():
        assert values.dtype == torch.float64 and values.shape == (3,)
        alone = torch.cat([scores(m, some)[name] for m in (empty, full, some)])
        torch.testing.assert_close(values, alone)
    assert table["dice"][2] == 1 and table["dice"][1] < 1


def test_published_scores_where_a_quadrant_is_empty():
    truth = torch.zeros(1, 40, 40)
    truth[:, -1] = 1  # its centre is the last row: nothing lies below
    found = scores(truth, truth, opening=0)
    assert found["s_measure"].isnan() and found["dice"] == 1 and found["e_measure"] > 0.99


def test_published_scores_remove_what_the_opening_does_and_keep_the_border():
    narrow = square(size=4)
    assert scores(narrow, narrow)["dice"] == 0 and scores(narrow, narrow, opening=0)["dice"] == 1
    corner = square(top=0, left=0, size=6)
    assert scores(corner, corner)["dice"] == 1
    assert scores(0.5 * corner, corner)["dice"] == 1 and scores(0.499 * corner, corner)["dice"] == 0


def test_published_truth_is_dilated_by_its_resizing():
    truth = square(side=160, top=42, left=42, size=50)  # half a pixel of the small grid at two edges
    low = F.interpolate(truth[None], (40, 40), mode="bilinear", align_corners=False)[0]
    inside = (low == 1).float()
    found = scores(inside, truth.bool())
    assert 0.9 < found["dice"] < 1 and found["precision"] == 1
    torch.testing.assert_close(found, scores(inside, low))


def test_a_dark_picture_keeps_its_size():
    image = np.full((30, 50, 3), 7, np.uint8)
    assert find_frame(image) == (0, 50, 0, 30)
    box, resized, mask = prepare_frame(image, None, 25)
    assert box == (0, 50, 0, 30) and resized.shape == (25, 25, 3) and mask is None
    assert (resized[:15] == 7).all() and (resized[15:] == 0).all()


def test_a_frame_is_cropped_with_its_mask():
    image, mask = np.zeros((60, 90, 3), np.uint8), np.zeros((60, 90), np.uint8)
    image[:15, :15] = 255  # a logo in the corner that does not count
    image[25:55, 30:80], mask[30:40, 40:60] = 200, 255
    box, resized, label = prepare_frame(image, mask, 100)
    assert box == (30, 80, 25, 55)
    assert resized.shape == (100, 100, 3) and (resized[:60] == 200).all() and (resized[60:] == 0).all()
    expected = np.zeros((100, 100), np.uint8)
    expected[10:30, 20:60] = 255
    assert np.array_equal(label, expected)
    with pytest.raises(DataError, match=r"can't have a mask of \(60, 80\)"):
        prepare_frame(image, mask[:, :80], 100)
