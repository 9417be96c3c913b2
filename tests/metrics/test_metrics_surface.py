import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from samzoo.metrics import surface

SPACING = (3.0, 0.8, 1.2)


def blobs(seed, shape=(9, 24, 30)):
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=shape), (1, 3, 3))
    truth = field > 0.02
    return np.roll(truth, 2, axis=2) & (field > -0.02), truth


def batch(mask):
    return torch.from_numpy(mask)[None, None]


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_monai_on_the_whole_array(seed):
    prediction, truth = blobs(seed)
    ours = surface(prediction, truth, SPACING)
    for tolerance, value in zip((1.0, 2.0), ours.nsd, strict=True):
        theirs = compute_surface_dice(
            batch(prediction), batch(truth), [tolerance], True, spacing=SPACING, use_subvoxels=True
        )
        assert value == pytest.approx(theirs.item(), abs=1e-6)
    theirs = compute_hausdorff_distance(batch(prediction), batch(truth), True, percentile=95, spacing=SPACING)
    assert ours.hd95 == pytest.approx(theirs.item())


def test_a_shifted_cube_by_hand():
    truth = np.zeros((12, 40, 40), dtype=bool)
    truth[4:8, 10:20, 10:20] = True
    shifted = np.roll(truth, 3, axis=2)
    assert surface(truth, truth, SPACING) == surface(truth, truth, SPACING)
    perfect = surface(truth, truth, SPACING)
    assert perfect.nsd == (1.0, 1.0) and perfect.hd95 == 0.0
    assert surface(shifted, truth, (1.0, 1.0, 1.0)).hd95 == pytest.approx(3.0)
    assert surface(shifted, truth, (1.0, 1.0, 2.5)).hd95 == pytest.approx(7.5)


def test_pictures_are_scored_as_contours():
    truth = np.zeros((1, 30, 30), dtype=bool)
    truth[0, 5:15, 5:15] = True
    prediction = np.roll(truth, 4, axis=1)
    flat = surface(prediction, truth, (5.0, 1.0, 1.0))
    theirs = compute_surface_dice(
        batch(prediction[0]), batch(truth[0]), [1.0], True, spacing=(1.0, 1.0), use_subvoxels=True
    )
    assert flat.nsd[0] == pytest.approx(theirs.item(), abs=1e-6) and 0 < flat.nsd[0] < 1
    assert flat.hd95 == pytest.approx(4.0)


def test_undefined_is_none_and_missing_is_zero():
    nothing, something = np.zeros((3, 8, 8), dtype=bool), np.ones((3, 8, 8), dtype=bool)
    assert surface(nothing, nothing, SPACING).nsd == (None, None) and surface(nothing, nothing, SPACING).hd95 is None
    for prediction, truth in ((nothing, something), (something, nothing)):
        scores = surface(prediction, truth, SPACING)
        assert scores.nsd == (0.0, 0.0) and scores.hd95 is None


def test_ignored_voxels_count_nowhere():
    truth = np.zeros((3, 16, 16), dtype=bool)
    truth[1, 2:6, 2:6] = True
    prediction = truth.copy()
    prediction[1, 12, 12] = True
    valid = np.ones_like(truth)
    valid[1, 12, 12] = False
    assert surface(prediction, truth, SPACING).nsd[0] < 1
    assert surface(prediction, truth, SPACING, valid).nsd == (1.0, 1.0)


def test_one_voxel_and_masks_at_the_border():
    truth = np.zeros((2, 5, 5), dtype=bool)
    truth[0, 0, 0] = True
    assert surface(truth, truth, SPACING).nsd == (1.0, 1.0)
    full = np.ones((2, 5, 5), dtype=bool)
    assert surface(full, full, SPACING).hd95 == 0.0
