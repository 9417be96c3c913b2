"""Scores against independent implementations, published cases and cases calculated by hand."""

import math

import numpy as np
import pytest
import surface_distance
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics_references import hausdorff, hausdorff_by_transform, nsd_2d
from scipy import ndimage
from torchmetrics.functional.segmentation import dice_score, hausdorff_distance, mean_iou

from samzoo.metrics import overlap, surface

SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.5, 0.5), (0.5, 5.0, 0.5), (0.7, 1.3, 2.9)]
few = settings(max_examples=25, derandomize=True, deadline=None, database=None)


def blob(rng, shape, smooth=(1.0, 2.0, 2.0), share=0.3):
    """Smooth random shapes of several components, some of which reach the border of the array."""
    field = ndimage.gaussian_filter(rng.normal(size=shape), smooth[-len(shape) :])
    return field > np.quantile(field, 1 - share)


@st.composite
def pairs(draw, depth=(2, 9)):
    """Prediction and truth, neither empty, and a spacing."""
    shape = (draw(st.integers(*depth)), draw(st.integers(3, 18)), draw(st.integers(3, 18)))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    truth = blob(rng, shape, share=draw(st.sampled_from([0.02, 0.3, 0.9])))
    kind = draw(st.sampled_from(["other", "shifted", "one voxel", "full"]))
    if kind == "other":
        prediction = blob(rng, shape)
    elif kind == "shifted":
        prediction = np.roll(truth, draw(st.integers(0, 3)), axis=draw(st.integers(0, 2)))
    else:
        prediction = np.full(shape, kind == "full")
        prediction[tuple(rng.integers(shape))] = True
    return prediction, truth, draw(st.sampled_from(SPACINGS))


def deepmind(prediction, truth, spacing):
    """DeepMind's own distances; its arguments are truth first."""
    return surface_distance.compute_surface_distances(truth, prediction, spacing)


def cube(shape, low, high):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


# --- definitions ------------------------------------------------------------------------------------------------------


@few
@given(pairs())
def test_nsd_is_deepminds_surface_dice(pair):
    distances = deepmind(*pair)
    for tolerance, ours in zip((1.0, 2.0), surface(*pair).nsd, strict=True):
        # samzoo's distances are float32: a distance that equals the tolerance counts as within it on either side
        theirs = [surface_distance.compute_surface_dice_at_tolerance(distances, tolerance + e) for e in (-1e-6, 1e-6)]
        assert min(theirs) - 1e-6 <= ours <= max(theirs) + 1e-6


@few
@given(pairs())
def test_hd95_is_the_larger_directed_percentile_over_surface_voxels(pair):
    hd95 = surface(*pair).hd95
    assert hd95 == pytest.approx(hausdorff(*pair), rel=1e-5, abs=1e-5)
    assert hd95 == pytest.approx(hausdorff_by_transform(*pair), rel=1e-5, abs=1e-5)


@few
@given(pairs(depth=(1, 1)))
def test_pictures(pair):
    prediction, truth, spacing = pair
    flat = prediction[0], truth[0], spacing[1:]
    scores = surface(*pair)
    assert scores.hd95 == pytest.approx(hausdorff(*flat), rel=1e-5, abs=1e-5)
    # torchmetrics' largest distance is right in square pictures alone, and away from the border
    side = [(2, 22 - n) for n in flat[0].shape]
    tensors = [torch.from_numpy(np.pad(m, side))[None, None].long() for m in flat[:2]]
    largest = hausdorff_distance(*tensors, num_classes=1, include_background=True, spacing=list(spacing[1:])).item()
    assert largest == pytest.approx(hausdorff(*flat, percent=100), rel=1e-5, abs=1e-5)
    distances = deepmind(*flat)
    for tolerance, ours in zip((1.0, 2.0), scores.nsd, strict=True):
        assert ours == pytest.approx(nsd_2d(*flat, tolerance), abs=1e-5)
        theirs = [surface_distance.compute_surface_dice_at_tolerance(distances, tolerance + e) for e in (-1e-6, 1e-6)]
        assert min(theirs) - 1e-6 <= ours <= max(theirs) + 1e-6


@few
@given(pairs())
def test_overlap_of_torchmetrics_and_deepmind(pair):
    prediction, truth, _ = pair
    ours = overlap(prediction, truth)
    tensors = [torch.from_numpy(m)[None, None].long() for m in (prediction, truth)]
    assert ours.dice == pytest.approx(dice_score(*tensors, num_classes=1, include_background=True).item(), abs=1e-6)
    assert ours.iou == pytest.approx(
        mean_iou(*tensors, num_classes=1, include_background=True, per_class=True).item(), abs=1e-6
    )
    assert ours.dice == pytest.approx(surface_distance.compute_dice_coefficient(truth, prediction), abs=1e-12)
    both, either = set(zip(*np.nonzero(prediction & truth), strict=True)), np.count_nonzero(prediction | truth)
    assert ours.iou == pytest.approx(len(both) / either)


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 0, 1), (0, 2, 1)])
def test_the_spacing_goes_with_its_axis(order):
    rng, spacing = np.random.default_rng(0), (5.0, 0.5, 1.3)
    prediction, truth = blob(rng, (7, 12, 15)), blob(rng, (7, 12, 15))
    ours = surface(prediction, truth, spacing)
    turned = surface(prediction.transpose(order), truth.transpose(order), [spacing[a] for a in order])
    assert turned.hd95 == pytest.approx(ours.hd95) and turned.nsd == pytest.approx(ours.nsd, abs=1e-5)


# --- published cases: DeepMind's tests of surface-distance ----------------------------------------------------------


def test_published_two_voxels_2_mm_apart():
    truth, prediction = np.zeros((2, 60, 70, 80), dtype=bool)
    truth[50, 60, 70] = prediction[50, 60, 72] = True
    scores = surface(prediction, truth, (3, 2, 1))
    assert scores.nsd == (pytest.approx(0.5), pytest.approx(1.0)) and scores.hd95 == pytest.approx(2.0)
    assert overlap(prediction, truth).dice == 0


def test_published_two_pixels_2_mm_apart():
    truth, prediction = np.zeros((2, 1, 128, 128), dtype=bool)
    truth[0, 50, 70] = prediction[0, 50, 72] = True
    scores = surface(prediction, truth, (9, 2, 1))
    assert scores.nsd == (pytest.approx(0.5), pytest.approx(1.0)) and scores.hd95 == pytest.approx(2.0)


def test_published_two_cubes_shifted_by_one_plane():
    truth, prediction = cube((100,) * 3, (0, 0, 0), (50, 100, 100)), cube((100,) * 3, (0, 0, 0), (51, 100, 100))
    scores = surface(prediction, truth, (2, 1, 1))
    assert scores.nsd[0] == pytest.approx(0.836, abs=5e-4) and scores.nsd[1] == pytest.approx(1.0)
    assert scores.hd95 == pytest.approx(2.0)
    assert overlap(prediction, truth).dice == pytest.approx(0.990, abs=5e-4)


def test_published_two_squares_one_row_longer():
    """Contours of 2 x 2 and 3 x 2 pixels of 2 x 1 mm; what does not lie on the other is one pixel away from it."""
    truth, prediction = cube((1, 6, 6), (0, 1, 1), (1, 3, 3)), cube((1, 6, 6), (0, 1, 1), (1, 4, 3))
    diagonal = math.hypot(2, 1) / 2
    lengths = (4 * diagonal + 2 * 1 + 2 * 2) + (4 * diagonal + 2 * 1 + 4 * 2)
    # of the truth only the middle of its bottom is off, by 1 mm; of the prediction the three of its bottom, by 2 mm
    assert surface(prediction, truth, (7, 2, 1)).nsd[0] == pytest.approx(1 - (2 * diagonal + 1) / lengths)
    assert surface(prediction, truth, (7, 2, 1)).nsd[1] == pytest.approx(1.0)


# --- by hand --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", range(3))
def test_by_hand_a_shift_along_each_axis_of_anisotropic_voxels(axis):
    """A long bar shifted across itself by n voxels: every voxel is n voxels away, along that axis alone."""
    spacing, along = (5.0, 0.5, 0.7), (axis + 1) % 3
    low, high = [10] * 3, [11] * 3
    low[along], high[along] = 1, 39
    truth = cube((40,) * 3, low, high)
    scores = surface(np.roll(truth, 3, axis), truth, spacing)
    assert scores.hd95 == pytest.approx(3 * spacing[axis])


def test_by_hand_one_far_voxel_in_many_and_in_few():
    """Less than 5 % of the surface may lie anywhere; a percentile between two voxels is interpolated."""
    truth = cube((3, 3, 60), (1, 1, 0), (2, 2, 20))
    prediction = truth.copy()
    prediction[1, 1, 29] = True  # 10 mm beyond the end; one of 21 surface voxels, which is 4.8 %
    assert surface(prediction, truth, (1, 1, 1)).hd95 == pytest.approx(0.0)
    prediction[1, 1, 30] = True  # two of 22: 95 % of the way from first to last is 19.95, between 0 and 10
    assert surface(prediction, truth, (1, 1, 1)).hd95 == pytest.approx(9.5, rel=1e-5)


def test_by_hand_one_voxel_inside_a_cube():
    """From a face of the cube of 5 voxels to the middle: 2 mm; from a corner: sqrt(12) mm, which 8 of 98 are."""
    truth, prediction = cube((9,) * 3, (2,) * 3, (7,) * 3), cube((9,) * 3, (4,) * 3, (5,) * 3)
    assert surface(prediction, truth, (1, 1, 1)).hd95 == pytest.approx(math.sqrt(12))
    assert overlap(prediction, truth).dice == pytest.approx(2 / 126)


@pytest.mark.parametrize("depth", (1, 4))
def test_empty_masks_and_what_others_say_of_them(depth):
    nothing, something = np.zeros((depth, 6, 6), dtype=bool), cube((depth, 6, 6), (0, 2, 2), (1, 3, 4))
    both, missed, extra = (
        surface(p, t, (1, 1, 1)) for p, t in ((nothing,) * 2, (nothing, something), (something, nothing))
    )
    assert both.nsd == (None, None) and both.hd95 is None and overlap(nothing, nothing).dice is None
    assert missed == extra and missed.nsd == (0.0, 0.0) and missed.hd95 is None
    assert overlap(nothing, something).dice == overlap(something, nothing).dice == 0
