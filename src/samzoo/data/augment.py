"""Training augmentation of slices; every draw is a pure function of a key."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import (
    OneOf,
    RandCoarseDropout,
    RandGaussianNoise,
    RandGaussianSharpen,
    RandGaussianSmooth,
    RandomizableTransform,
    RandScaleIntensity,
    RandShiftIntensity,
)
from torch import Tensor

from samzoo.data.store import digest
from samzoo.errors import ConfigError


@dataclass(frozen=True)
class AugmentSettings:
    """Probabilities and ranges; each step has a coin of its own.

    The defaults are those of ProMISe's training, at the picture's own size. Two of its four choices beside brightness
    (CLAHE, JPEG) have no counterpart in MONAI: it is noise or sharpening here, and all four blurs are Gaussian.

    Args:
        crop_p: of zooming in or out, by `crop_area` (share of the picture's area) and `crop_ratio` (height by width).
        crop_area, crop_ratio: lowest and highest.
        flip_horizontal_p: of a flip left to right. Set it to 0 where left and right are different classes.
        flip_vertical_p: of a flip upside down.
        affine_p: of a shift (share of the extent), a scaling (1 ± scale) and a rotation (degrees) at once; what comes
            in from outside is the picture reflected at its border.
        shift, scale, rotate: at most.
        blur_p: of a Gaussian blur of `blur_sigma` pixels.
        blur_sigma: lowest and highest.
        brightness_contrast_p: of values * (1 ± contrast) ± brightness.
        brightness, contrast: at most.
        noise_or_sharpen_p: of Gaussian noise, or else a sharpening by `sharpen`.
        noise: standard deviation at most.
        sharpen: lowest and highest weight of the details.
        dropout_p: of black squares; the label is left alone.
        dropout_holes, dropout_pixels: how many of them at most, and their side.
    """

    crop_p: float = 0.25
    crop_area: tuple[float, float] = (0.95, 1.05)
    crop_ratio: tuple[float, float] = (0.95, 1.05)
    flip_horizontal_p: float = 0.25
    flip_vertical_p: float = 0.25
    affine_p: float = 0.25
    shift: float = 0.0625
    scale: float = 0.05
    rotate: float = 45.0
    blur_p: float = 0.25
    blur_sigma: tuple[float, float] = (0.5, 1.1)
    brightness_contrast_p: float = 0.25
    brightness: float = 0.1
    contrast: float = 0.1
    noise_or_sharpen_p: float = 0.25
    noise: float = 0.03
    sharpen: tuple[float, float] = (0.2, 1.0)
    dropout_p: float = 0.1
    dropout_holes: int = 8
    dropout_pixels: int = 8

    def check(self) -> None:
        """Raises ConfigError: a probability outside [0, 1], or a range that is empty."""
        for name, value in asdict(self).items():
            key = f"data.augment.{name}"
            if name.endswith("_p") and not 0 <= value <= 1:
                raise ConfigError(f"{key} is a probability, at least 0 and at most 1, not {value}")
            if isinstance(value, tuple) and not 0 < value[0] <= value[1]:
                raise ConfigError(f"{key} is a range: two numbers above 0, the lower one first, not {list(value)}")
            if isinstance(value, int | float) and value < 0:
                raise ConfigError(f"{key} must be at least 0, not {value}")
        if self.scale >= 1 or self.dropout_holes < 1 or self.dropout_pixels < 1:
            raise ConfigError("data.augment: scale must be below 1, dropout_holes and dropout_pixels at least 1")


def unit_key(epoch: int, position: int) -> tuple[int, ...]:
    """Of a training unit, augmented anew in each epoch."""
    return 0, epoch, position


def place_key(epoch: int, position: int) -> tuple[int, ...]:
    """Of a slab's or crop's place, whether it is augmented or not."""
    return 2, epoch, position


def view_key(case_id: str, slice_index: int, view: int) -> tuple[int, ...]:
    """Of a fixed view of a slice, whatever other cases there are."""
    return 1, int(digest(case_id), 16), slice_index, view


class Augment:
    """Augments a slice with its label.

    Args:
        settings: probabilities and ranges.
        seed: part of every key.

    Raises:
        ConfigError: a setting out of range.
    """

    def __init__(self, settings: AugmentSettings, seed: int) -> None:
        settings.check()  # not when they are made: the parser would hide the reason
        self.settings, self.seed = settings, seed
        s = settings
        x, y = ("sigma_x", "sigma_y")
        self._photometric: list[tuple[float, list[RandomizableTransform]]] = [
            (s.blur_p, [RandGaussianSmooth(**dict.fromkeys((x, y), s.blur_sigma), prob=1)]),
            (s.brightness_contrast_p, [RandScaleIntensity(s.contrast, 1), RandShiftIntensity(s.brightness, prob=1)]),
            (s.noise_or_sharpen_p, [OneOf([RandGaussianNoise(1, std=s.noise), _sharpen(s.sharpen)])]),
            (s.dropout_p, [RandCoarseDropout(1, s.dropout_pixels, fill_value=0, max_holes=s.dropout_holes, prob=1)]),
        ]

    @property
    def signature(self) -> str:
        """Hash of what decides the result besides the key."""
        return digest({"format": 1, "seed": self.seed} | asdict(self.settings))

    def __call__(self, image: Tensor, label: Tensor, *key: int) -> tuple[Tensor, Tensor]:
        """Args:
            image: float32 (C, H, W) in [0, 1].
            label: (H, W), of any integer type; its values are kept, 255 (ignored) among them.
            key: whole numbers >= 0 that decide all draws, see `unit_key` and `view_key`.

        Returns:
            image and label of the same shapes and types.
        """
        random = draws(self.seed, *key)
        image, label = self._spatial(image, label, random)
        for probability, steps in self._photometric:
            if random.rand() < probability:
                for step in steps:
                    step.set_random_state(state=random)
                    image = torch.as_tensor(np.asarray(step(image)))  # MONAI's MetaTensor makes what follows slow
        return image.clamp(0, 1), label

    def _spatial(self, image: Tensor, label: Tensor, random: np.random.RandomState) -> tuple[Tensor, Tensor]:
        """Flips are exact; zoom, shift, scaling and rotation are one resampling."""
        s, size = self.settings, np.array(label.shape)
        flips = [axis for axis, p in ((-1, s.flip_horizontal_p), (-2, s.flip_vertical_p)) if random.rand() < p]
        image, label = image.flip(flips), label.flip(flips)
        # maps a pixel of the result to where it comes from, in (y, x) from the centre, a pixel being 1
        matrix = np.eye(3)
        if random.rand() < s.crop_p:
            area, ratio = random.uniform(*s.crop_area), math.exp(random.uniform(*np.log(s.crop_ratio)))
            zoom = np.sqrt((area * ratio, area / ratio))
            matrix = matrix @ affine(zoom, 0.0, random.uniform(-0.5, 0.5, 2) * abs(1 - zoom) * size)
        if random.rand() < s.affine_p:
            zoom = 1 / random.uniform(1 - s.scale, 1 + s.scale)
            angle = math.radians(random.uniform(-s.rotate, s.rotate))
            matrix = matrix @ affine(np.full(2, zoom), angle, random.uniform(-s.shift, s.shift, 2) * size)
        if np.array_equal(matrix, np.eye(3)):
            return image, label
        return resample(image, label, matrix)


def draws(seed: int, *key: int) -> np.random.RandomState:
    """All draws of one key, of the kind that MONAI's transforms take."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence((seed, *key))))


def resample(
    image: Tensor, label: Tensor, matrix: np.ndarray, outside: Literal["reflection", "zeros"] = "reflection"
) -> tuple[Tensor, Tensor]:
    """Move slices in their plane, all in the same way.

    Args:
        image: float32 (C, *, H, W); interpolated bilinearly.
        label: (*, H, W); takes the nearest value.
        matrix: (3, 3), maps a pixel of the result to where it comes from, in (y, x) from the centre, a pixel being 1.
        outside: what comes in from there: the slice reflected at its border, or zeros.
    """
    # torch wants (x, y), and half the extent to be 1
    half = np.diag((*np.array(label.shape[-2:]) / 2, 1.0))
    matrix = (np.linalg.inv(half) @ matrix @ half)[np.ix_((1, 0, 2), (1, 0, 2))]
    theta = torch.as_tensor(matrix[None, :2], dtype=torch.float32)
    grid = F.affine_grid(theta, [1, 1, *label.shape[-2:]], align_corners=False)

    def sample(values: Tensor, mode: str) -> Tensor:
        planes = values.reshape(1, -1, *values.shape[-2:])
        return F.grid_sample(planes, grid, mode, padding_mode=outside, align_corners=False).reshape(values.shape)

    return sample(image, "bilinear"), sample(label.float(), "nearest").to(label.dtype)


def _sharpen(weight: tuple[float, float]) -> RandGaussianSharpen:
    """Details are what a blur of 1 pixel takes away; the picture itself is hardly blurred."""
    narrow, wide = (0.25, 0.25), (1.0, 1.0)
    axes = {f"sigma{i}_{a}": sigma for i, sigma in ((1, narrow), (2, wide)) for a in "xyz"}
    return RandGaussianSharpen(**axes, alpha=weight, prob=1)


def affine(zoom: np.ndarray, angle: float, shift: np.ndarray) -> np.ndarray:
    """(3, 3): rotate, then stretch, then shift, in (y, x)."""
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = np.eye(3)
    matrix[:2, :2] = np.diag(zoom) @ np.array([[cos, -sin], [sin, cos]])
    matrix[:2, 2] = shift
    return matrix
