"""The phantom's lesions: as many and as large as asked for, apart from each other, and not to be had by a threshold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, find_objects, label
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist
from test_data_phantom import best_threshold_dice

from samzoo.data import SamzooDataModule
from samzoo.data.phantom import PhantomSettings, make_volume
from samzoo.data.phantom_lesions import make_lesions
from samzoo.errors import ConfigError

SHAPE, SPACING = (50, 120, 128), (2.4, 1.6, 1.5)
DIAMETERS = (8.0, 20.0, 60.0)


@pytest.fixture(scope="module")
def made():
    return make_lesions(SHAPE, SPACING, DIAMETERS, seed=4)


def test_lesions_have_their_diameters_and_do_not_touch(made):
    image, truth = made
    assert image.shape == truth.shape == SHAPE and image.dtype == np.int16 and truth.dtype == np.uint8
    parts, count = label(binary_dilation(truth, iterations=1))
    assert count == len(DIAMETERS), "apart by more than a voxel"
    found = []
    for number, box in enumerate(find_objects(parts), start=1):
        voxels = np.argwhere(truth[box] & (parts[box] == number)) * SPACING
        found.append(pdist(voxels[ConvexHull(voxels).vertices]).max())
    assert all(0.85 * d - max(SPACING) <= f <= d + max(SPACING) for f, d in zip(sorted(found), DIAMETERS, strict=True))
    assert (image[truth > 0] > -200).all(), "inside the body"


def test_lesions_are_irregular_and_no_threshold_finds_them(made):
    image, truth = made
    assert truth.sum() * np.prod(SPACING) < 0.8 * sum(np.pi / 6 * d**3 for d in DIAMETERS), "less than their spheres"
    assert best_threshold_dice(image, truth > 0) < 0.6


def test_same_seed_same_volume_whatever_the_slab(made, monkeypatch):
    for a, b in zip(make_lesions(SHAPE, SPACING, DIAMETERS, seed=4), made, strict=True):
        np.testing.assert_array_equal(a, b)
    monkeypatch.setattr("samzoo.data.phantom_lesions.SLAB", 7)
    for a, b in zip(make_lesions(SHAPE, SPACING, DIAMETERS, seed=4), made, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("diameters", "message"), [((200.0,), "200 mm finds no room"), ((60.0,) * 9, "finds no room"), ((1.0,), "smaller")]
)
def test_lesions_that_do_not_fit(diameters, message):
    with pytest.raises(ConfigError, match=message):
        make_lesions(SHAPE, SPACING, diameters, seed=0)


def test_as_a_data_set_beside_that_of_organs():
    small = PhantomSettings(cases=5, size=40, slices=(10, 12), kind="lesions")
    dm = SamzooDataModule(layout="phantom", phantom=small, name="phantom_lesions")
    assert dm.class_names == ("lesion",) and dm.dataset_name == "phantom_lesions"
    dm.setup("test")
    assert all((case.label == 1).any() for case in dm.test_dataloader())
    assert PhantomSettings().signature == "f98316494415", "as before there were others"
    for number in range(12):  # as thin as settings allow
        assert make_volume(PhantomSettings(kind="lesions", size=32, slices=(4, 4)), number)[1].any()
    for number in range(8):
        _, truth, spacing = make_volume(PhantomSettings(kind="lesions", size=64, slices=(40, 48)), number)
        assert 1 <= label(truth)[1] <= 3 and all(1.5 <= s <= 2.5 for s in spacing)
