"""Augmentation: drawn by key, image and label alike, values kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from samzoo.data import SamzooDataModule
from samzoo.data.augment import Augment, AugmentSettings, unit_key, view_key
from samzoo.errors import ConfigError

PROBABILITIES = [name for name in AugmentSettings.__dataclass_fields__ if name.endswith("_p")]
SPATIAL = ("crop_p", "flip_horizontal_p", "flip_vertical_p", "affine_p")


def only(**given) -> AugmentSettings:
    """Nothing but the given steps."""
    return AugmentSettings(**(dict.fromkeys(PROBABILITIES, 0.0) | given))


EVERYTHING = only(**dict.fromkeys(PROBABILITIES, 1.0))


def blob(channels: int = 1, size: tuple[int, int] = (64, 80)) -> tuple[torch.Tensor, torch.Tensor]:
    """A dark picture with a bright rectangle off the centre, and its label."""
    label = torch.zeros(size, dtype=torch.uint8)
    label[10:30, 20:60] = 7
    return (0.1 + 0.7 * (label > 0)).float().expand(channels, -1, -1).contiguous(), label


def test_the_key_decides_and_nothing_else():
    image, label = blob()
    augment = Augment(AugmentSettings(), 3)
    first = augment(image, label, 0, 4, 17)
    torch.manual_seed(1)
    np.random.seed(1)
    augment(image, label, 0, 4, 18)
    again = Augment(AugmentSettings(), 3)(image, label, 0, 4, 17)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    drawn = {augment(image, label, *unit_key(1, i))[0].numpy().tobytes() for i in range(20)}
    assert len(drawn) > 10
    other = Augment(EVERYTHING, 4)
    assert other.signature != Augment(EVERYTHING, 3).signature != Augment(AugmentSettings(), 3).signature
    assert not torch.equal(other(image, label, 5)[0], Augment(EVERYTHING, 3)(image, label, 5)[0])
    assert view_key("a", 0, 1) != view_key("b", 0, 1)


@pytest.mark.parametrize(("channels", "size"), [(1, (35, 50)), (3, (64, 48)), (2, (7, 5)), (4, (1, 1))])
def test_any_size_and_values_stay_in_range(channels, size):
    image = torch.rand(channels, *size)
    label = torch.randint(0, 3, size)
    label[:, -1] = 255
    given = image.clone(), label.clone()
    for number in range(10):
        moved, moved_label = Augment(EVERYTHING, 0)(image, label, number)
        assert type(moved) is torch.Tensor and moved.dtype == torch.float32 and moved.shape == image.shape
        assert moved_label.dtype == label.dtype and moved_label.shape == label.shape
        assert moved.min() >= 0 and moved.max() <= 1
        assert set(moved_label.unique().tolist()) <= set(label.unique().tolist())
    assert torch.equal(image, given[0]) and torch.equal(label, given[1]), "what was given is left alone"


def test_flips_are_exact():
    image, label = torch.rand(2, 9, 12), torch.randint(0, 9, (9, 12))
    both = Augment(only(flip_horizontal_p=1, flip_vertical_p=1), 0)(image, label, 0)
    assert torch.equal(both[0], image.flip(1, 2)) and torch.equal(both[1], label.flip(0, 1))
    horizontal = Augment(only(flip_horizontal_p=1), 0)(image, label, 0)
    assert torch.equal(horizontal[0], image.flip(2)) and torch.equal(horizontal[1], label.flip(1))
    nothing = Augment(only(), 0)(image, label, 0)
    assert torch.equal(nothing[0], image) and torch.equal(nothing[1], label)


def test_label_moves_with_the_image():
    image, label = blob()
    settings = only(**dict.fromkeys(SPATIAL, 1.0))
    moved_far = 0
    for number in range(20):
        moved, moved_label = Augment(settings, 0)(image, label, number)
        bright = moved[0] > 0.45
        overlap = (bright & (moved_label == 7)).sum() / (bright | (moved_label == 7)).sum()
        assert overlap > 0.97
        moved_far += ((label == 7) & (moved_label == 7)).sum() < 0.7 * (label == 7).sum()
    assert moved_far > 10


def test_rotation_keeps_shapes_where_the_picture_is_not_square():
    """A disc stays a disc of its size: pixels are not stretched."""
    y, x = np.mgrid[:60, :120]
    label = torch.from_numpy(((y - 30) ** 2 + (x - 60) ** 2 < 15**2).astype(np.uint8))
    settings = only(affine_p=1, shift=0, scale=0)
    for number in range(10):
        moved = Augment(settings, 0)(label[None].float(), label, number)[1]
        assert (moved & label).sum() / (moved | label).sum() > 0.93


def test_reflection_leaves_no_border():
    image = torch.full((1, 40, 40), 0.5)
    label = torch.full((40, 40), 2)
    for number in range(5):
        moved, moved_label = Augment(only(affine_p=1, crop_p=1), 0)(image, label, number)
        assert torch.allclose(moved, image) and torch.equal(moved_label, label)


@pytest.mark.parametrize("step", ["blur_p", "brightness_contrast_p", "noise_or_sharpen_p", "dropout_p"])
def test_photometric_steps_change_the_image_alone(step):
    image, label = torch.rand(3, 32, 32) * 0.8 + 0.1, torch.randint(0, 3, (32, 32))
    for number in range(4):
        moved, moved_label = Augment(only(**{step: 1.0}), 0)(image, label, number)
        assert torch.equal(moved_label, label) and not torch.equal(moved, image)
        assert (moved - image).abs().mean() < 0.25, "a picture is still the same picture"


def test_share_of_untouched_pictures_is_that_of_the_recipe():
    image, label = blob(size=(16, 16))
    image = image + 0.1 * torch.rand_like(image)
    augment = Augment(AugmentSettings(), 0)
    same = sum(torch.equal(augment(image, label, i)[0], image) for i in range(1500)) / 1500
    assert 0.09 < same < 0.15, "0.75^7 * 0.9 = 0.12"


@pytest.mark.parametrize(
    "wrong", [{"blur_p": 1.5}, {"crop_area": (1.1, 0.9)}, {"shift": -0.1}, {"dropout_holes": 0}, {"scale": 1.0}]
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ConfigError, match=r"data\.augment.*" + next(iter(wrong))):
        Augment(AugmentSettings(**wrong), 0)


def test_training_batches_are_augmented_and_the_order_stays(pictures):
    def batches(augment):
        dm = SamzooDataModule(root=str(pictures), batch_size=8, units_per_epoch=8, augment=augment)
        dm.setup("fit")
        loader = dm.train_dataloader()
        found = []
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)
            found += list(loader)
        return found, next(iter(dm.val_dataloader()))

    plain, case = batches(None)
    augmented, same_case = batches(EVERYTHING)
    again, _ = batches(EVERYTHING)
    for one, two, three in zip(plain, augmented, again, strict=True):
        assert one.case_id == two.case_id and torch.equal(one.slice_index, two.slice_index)
        assert torch.equal(one.size, two.size) and not torch.equal(one.image, two.image)
        assert torch.equal(two.image, three.image) and torch.equal(two.label, three.label)
    assert not torch.equal(augmented[0].image, augmented[1].image)
    assert torch.equal(case.image, same_case.image), "only training is augmented"
