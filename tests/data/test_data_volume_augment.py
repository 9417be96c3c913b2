"""Augmentation of slabs: drawn by key, image and label alike, in the plane, values kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from samzoo.data.augment import unit_key
from samzoo.data.volume_augment import VolumeAugment, VolumeAugmentSettings
from samzoo.errors import ConfigError

PROBABILITIES = [name for name in VolumeAugmentSettings.__dataclass_fields__ if name.endswith("_p")]
INTENSITY = ["noise_p", "blur_p", "brightness_p", "contrast_p", "low_resolution_p", "gamma_inverted_p", "gamma_p"]
EVERYTHING = VolumeAugmentSettings(**dict.fromkeys(PROBABILITIES, 1.0))


def only(**given) -> VolumeAugment:
    """Nothing but the given steps, in all channels."""
    everywhere = {"blur_channel_p": 1.0, "low_resolution_channel_p": 1.0}
    return VolumeAugment(VolumeAugmentSettings(**(dict.fromkeys(PROBABILITIES, 0.0) | everywhere | given)), 0)


def smooth(channels: int = 1, size: tuple[int, int, int] = (5, 40, 48)) -> torch.Tensor:
    """Values around the middle of [0, 1] with some structure."""
    z, y, x = torch.meshgrid(*map(torch.arange, size), indexing="ij")
    return (0.5 + 0.2 * torch.sin(x / 3 + z) * torch.cos(y / 4)).expand(channels, -1, -1, -1).contiguous()


def test_the_key_decides_and_nothing_else():
    image, label = smooth(2), torch.randint(0, 4, (5, 40, 48))
    augment = VolumeAugment(EVERYTHING, 3)
    first = augment(image, label, *unit_key(4, 17))
    torch.manual_seed(1)
    np.random.seed(1)
    augment(image, label, *unit_key(4, 18))
    again = VolumeAugment(EVERYTHING, 3)(image, label, *unit_key(4, 17))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    drawn = {augment(image, label, *unit_key(1, i))[0].numpy().tobytes() for i in range(8)}
    assert len(drawn) == 8
    assert not torch.equal(VolumeAugment(EVERYTHING, 4)(image, label, *unit_key(4, 17))[0], first[0])


@pytest.mark.parametrize(("channels", "size"), [(1, (5, 35, 50)), (3, (2, 16, 12)), (2, (1, 7, 5))])
def test_any_size_and_values_stay_in_range(channels, size):
    image, label = torch.rand(channels, *size), torch.randint(0, 3, size, dtype=torch.uint8)
    label[..., -1] = 255
    given = image.clone(), label.clone()
    for number in range(6):
        moved, moved_label = VolumeAugment(EVERYTHING, 0)(image, label, number)
        assert type(moved) is torch.Tensor and moved.dtype == torch.float32 and moved.shape == image.shape
        assert moved_label.dtype == label.dtype and moved_label.shape == label.shape
        assert moved.min() >= 0 and moved.max() <= 1
        assert set(moved_label.unique().tolist()) <= {0, 1, 2, 255}
    assert torch.equal(image, given[0]) and torch.equal(label, given[1]), "what was given is left alone"


def test_flat_values_stay_numbers():
    """A slab of air: neither range nor deviation."""
    for value in (0.0, 0.3, 1.0):
        moved, _ = only(**dict.fromkeys(INTENSITY, 1.0))(torch.full((1, 3, 9, 9), value), torch.zeros(3, 9, 9), 0)
        assert moved.isfinite().all() and moved.min() >= 0 and moved.max() <= 1


def test_probability_0_is_identity_and_mirroring_exact():
    image, label = torch.rand(2, 3, 9, 12), torch.randint(0, 9, (3, 9, 12))
    nothing = only()(image, label, 0)
    assert torch.equal(nothing[0], image) and torch.equal(nothing[1], label)
    for axes in ((0, 1, 2), (0,), (1,), (2,), (1, 2), ()):
        mirrored = only(mirror_p=1, mirror_axes=axes)(image, label, 0)
        assert torch.equal(mirrored[0], image.flip([axis + 1 for axis in axes]))
        assert torch.equal(mirrored[1], label.flip(axes))
    augment = only(mirror_p=0.5, mirror_axes=(2,))
    share = sum(torch.equal(augment(image, label, i)[1], label) for i in range(300)) / 300
    assert 0.4 < share < 0.6


def test_label_moves_with_the_image_and_slices_stay_apart():
    label = torch.zeros(4, 64, 80, dtype=torch.uint8)
    for z in range(4):
        label[z, 10 : 30 + 5 * z, 20:60] = z + 1
    image = 0.8 * (label > 0).float()[None]
    moved_far = 0
    for number in range(15):
        moved, moved_label = only(rotate_p=1, scale_p=1)(image, label, number)
        bright, marked = moved[0] > 0.4, moved_label > 0
        assert (bright & marked).sum() / (bright | marked).sum() > 0.96
        assert all(set(moved_label[z].unique().tolist()) == {0, z + 1} for z in range(4))
        moved_far += ((label > 0) & marked).sum() < 0.7 * (label > 0).sum()
    assert moved_far > 7


def test_rotation_keeps_shapes_and_the_outside_is_background():
    """A disc stays a disc where the slab is not square, and all slices turn by the same angle."""
    y, x = np.mgrid[:60, :120]
    disc = torch.from_numpy(((y - 29.5) ** 2 + (x - 59.5) ** 2 < 15**2).astype(np.uint8))
    label = torch.stack([disc, torch.ones_like(disc), torch.ones_like(disc)])
    label[2, :, :60] = label[1, :, :60] = 2
    for number in range(8):
        moved, moved_label = only(rotate_p=1)(torch.ones(1, 3, 60, 120), label, number)
        assert (moved_label[0] & disc).sum() / (moved_label[0] | disc).sum() > 0.93
        assert torch.equal(moved_label[1], moved_label[2])
        outside = moved_label[1] == 0
        assert outside.any() and (moved[0, 1][outside] <= 0.51).all() and (moved[0, 1][~outside] >= 0.49).all()


def test_scale_above_1_makes_things_smaller():
    label = torch.zeros(2, 60, 60, dtype=torch.uint8)
    label[:, 20:40, 20:40] = 1
    smaller = only(scale_p=1, scale=(1.4, 1.4))(label[None].float(), label, 0)[1]
    assert smaller.sum() / label.sum() == pytest.approx(1 / 1.4**2, rel=0.1)


@pytest.mark.parametrize("step", INTENSITY)
def test_intensity_steps_change_the_image_alone(step):
    image, label = smooth(3), torch.randint(0, 3, (5, 40, 48))
    for number in range(3):
        moved, moved_label = only(**{step: 1.0})(image, label, number)
        assert torch.equal(moved_label, label)
        assert all(not torch.equal(a, b) for a, b in zip(moved, image, strict=True)), "each channel by itself"
        assert (moved - image).abs().mean() < 0.15, "a slab is still the same slab"


def test_gamma_keeps_mean_and_deviation_and_contrast_the_range():
    image, label = smooth(), torch.zeros(5, 40, 48)
    for step in ("gamma_p", "gamma_inverted_p"):
        moved = only(**{step: 1.0})(image, label, 1)[0]
        assert moved.mean() == pytest.approx(float(image.mean()), abs=1e-3)
        assert moved.std() == pytest.approx(float(image.std()), abs=1e-3)
    moved = only(contrast_p=1.0)(image, label, 1)[0]
    assert moved.min() >= image.min() and moved.max() <= image.max()


def test_low_resolution_leaves_depth_alone():
    """Slices of one value each stay so."""
    image = torch.rand(1, 6, 1, 1).expand(-1, -1, 20, 24).contiguous()
    moved = only(low_resolution_p=1.0, low_resolution=(0.5, 0.5))(image, torch.zeros(6, 20, 24), 0)[0]
    assert torch.allclose(moved, image, atol=1e-6)


def test_half_of_the_factors_are_below_1():
    image, label = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, 2, 2)
    augment = only(brightness_p=1, brightness=(0.9, 1.6))
    factors = np.array([float(augment(image, label, i)[0].mean()) / 0.5 for i in range(400)])
    assert 0.42 < (factors < 1).mean() < 0.58 and factors.min() >= 0.9 - 1e-6 and factors.max() <= 1.6 + 1e-6


def test_what_is_nothing_keeps_its_value():
    """Air, water or 0 HU: rotations and zooms bring it in from outside, and brightness leaves it in its place."""
    image, label = smooth(), torch.ones(5, 40, 48)
    image[0, :, :, :20] = 0.5
    for number in range(4):
        moved, moved_label = only(rotate_p=1, scale_p=1, scale=(1.3, 1.4))(image, label, number, fill=0.5)
        outside = moved_label == 0
        assert outside.any() and moved[0][outside].mean() == pytest.approx(0.5, abs=0.02)
        brighter = only(brightness_p=1)(image, label, number, fill=0.5)[0]
        assert (brighter[..., :20] == 0.5).all() and not torch.allclose(brighter, image)


@pytest.mark.parametrize(
    "wrong",
    [
        {"blur_p": 1.5},
        {"scale": (1.4, 0.7)},
        {"gamma": (0.0, 1.0)},
        {"noise": -0.1},
        {"mirror_axes": (1, 3)},
        {"mirror_axes": (1, 1)},
        {"low_resolution": (0.5, 2.0)},
    ],
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ConfigError, match=r"data\.volume_augment\." + next(iter(wrong))):
        VolumeAugment(VolumeAugmentSettings(**wrong), 0)
