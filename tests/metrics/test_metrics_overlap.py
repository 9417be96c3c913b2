import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_iou
from torchmetrics.functional.segmentation import dice_score

from samzoo.metrics import overlap


def masks(seed, shape=(4, 9, 13), p=0.4):
    rng = np.random.default_rng(seed)
    return rng.random(shape) < p, rng.random(shape) < p


def one_hot(mask):
    return torch.from_numpy(mask)[None, None].float()


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_monai_and_torchmetrics(seed):
    prediction, truth = masks(seed)
    ours = overlap(prediction, truth)
    assert ours.dice == pytest.approx(compute_dice(one_hot(prediction), one_hot(truth)).item())
    assert ours.iou == pytest.approx(compute_iou(one_hot(prediction), one_hot(truth)).item())
    theirs = dice_score(one_hot(prediction).long(), one_hot(truth).long(), num_classes=1, include_background=True)
    assert ours.dice == pytest.approx(theirs.item())


def test_counts_by_hand():
    truth = np.array([[[1, 1, 0, 0]]], dtype=bool)
    prediction = np.array([[[0, 1, 1, 0]]], dtype=bool)
    ours = overlap(prediction, truth)
    assert (ours.tp, ours.fp, ours.fn, ours.dice, ours.iou) == (1, 1, 1, 0.5, pytest.approx(1 / 3))


def test_undefined_and_zero():
    nothing, something = np.zeros((1, 2, 2), dtype=bool), np.ones((1, 2, 2), dtype=bool)
    both_empty = overlap(nothing, nothing)
    assert both_empty.dice is None and both_empty.iou is None and not both_empty.false_positive
    extra = overlap(something, nothing)
    assert extra.dice == 0 and extra.iou == 0 and extra.false_positive
    missed = overlap(nothing, something)
    assert missed.dice == 0 and missed.iou == 0 and not missed.false_positive


def test_ignored_voxels_count_nowhere():
    prediction, truth = np.ones((1, 2, 3), dtype=bool), np.ones((1, 2, 3), dtype=bool)
    truth[0, 0] = False
    valid = truth.copy()
    assert overlap(prediction, truth, valid).dice == 1
    assert overlap(prediction, truth, ~truth & valid).empty


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="can't be compared"):
        overlap(np.ones((1, 2, 2), dtype=bool), np.ones((1, 2, 3), dtype=bool))
