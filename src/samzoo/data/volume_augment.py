"""Training augmentation of slabs and crops, nnU-Net's way; every draw is a pure function of a key."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from monai.transforms import AdjustContrast, GaussianSmooth, RandGaussianNoise, ScaleIntensityFixedMean
from monai.transforms import RandSimulateLowResolution as LowResolution
from torch import Tensor

from samzoo.data.augment import affine, draws, resample
from samzoo.errors import ConfigError


@dataclass(frozen=True)
class VolumeAugmentSettings:
    """Probabilities and ranges; each step has a coin of its own.

    The defaults are those of nnU-Net 2.5 for anisotropic volumes (its "dummy 2D" mode): rotation and scaling stay in
    the plane and are the same for all slices. nnU-Net works on standardised values, samzoo on [0, 1], where a
    standard deviation is about 0.25: the noise is a quarter of nnU-Net's, brightness is multiplied from `fill` (0, but
    for methods with another) rather than from the mean, and values are cut off at 0 and 1 in the end.

    Contrast and gamma move the place of `fill`. Where a method depends on it, as M-SAM does on that of 0 HU, leave them
    out: M-SAM is trained with mirrors alone.

    Args:
        rotate_p: of a rotation of at most `rotate` degrees; what comes in from outside is `fill`, and background.
        rotate: at most.
        scale_p: of a zoom: `scale` pixels of the slab become one, so that above 1 things get smaller.
        scale: lowest and highest.
        noise_p: of Gaussian noise.
        noise: standard deviation at most.
        blur_p: of a Gaussian blur of `blur_sigma` voxels along each axis, drawn for each.
        blur_channel_p: of each channel, if there is one.
        blur_sigma: lowest and highest.
        brightness_p: of (values - fill) * factor + fill.
        brightness: lowest and highest factor; half of the draws are below 1.
        contrast_p: of (values - mean) * factor + mean, kept within the range that they had.
        contrast: lowest and highest factor; half of the draws are below 1.
        low_resolution_p: of a lower resolution in the plane, simulated.
        low_resolution_channel_p: of each channel, if there is one.
        low_resolution: lowest and highest zoom, at most 1.
        gamma_inverted_p: of a gamma of the inverted values; mean and standard deviation stay.
        gamma_p: of a gamma of the values; mean and standard deviation stay.
        gamma: lowest and highest; half of the draws are below 1.
        mirror_p: of mirroring, for each of `mirror_axes`.
        mirror_axes: 0 depth, 1 height, 2 width. Leave out the axis from left to right where the two sides are
            different classes (kidneys, lungs): mirrored, one looks like the other.
    """

    rotate_p: float = 0.2
    rotate: float = 180.0
    scale_p: float = 0.2
    scale: tuple[float, float] = (0.7, 1.4)
    noise_p: float = 0.1
    noise: float = 0.025
    blur_p: float = 0.2
    blur_channel_p: float = 0.5
    blur_sigma: tuple[float, float] = (0.5, 1.0)
    brightness_p: float = 0.15
    brightness: tuple[float, float] = (0.75, 1.25)
    contrast_p: float = 0.15
    contrast: tuple[float, float] = (0.75, 1.25)
    low_resolution_p: float = 0.25
    low_resolution_channel_p: float = 0.5
    low_resolution: tuple[float, float] = (0.5, 1.0)
    gamma_inverted_p: float = 0.1
    gamma_p: float = 0.3
    gamma: tuple[float, float] = (0.7, 1.5)
    mirror_p: float = 0.5
    mirror_axes: tuple[int, ...] = (0, 1, 2)

    def check(self) -> None:
        """Raises ConfigError: a probability outside [0, 1], a range that is empty, or an axis that there is not."""
        for name, value in asdict(self).items():
            key = f"data.volume_augment.{name}"
            if name == "mirror_axes":
                if len(set(value)) < len(value) or not set(value) <= {0, 1, 2}:
                    raise ConfigError(f"{key} are some of 0 (depth), 1 (height) and 2 (width), not {list(value)}")
            elif isinstance(value, tuple):
                if not 0 < value[0] <= value[1]:
                    raise ConfigError(f"{key} is a range: two numbers above 0, the lower one first, not {list(value)}")
            elif name.endswith("_p") and not 0 <= value <= 1:
                raise ConfigError(f"{key} is a probability, at least 0 and at most 1, not {value}")
            elif value < 0:
                raise ConfigError(f"{key} must be at least 0, not {value}")
        if self.low_resolution[1] > 1:
            raise ConfigError(f"data.volume_augment.low_resolution is at most 1, not {self.low_resolution[1]}")


class VolumeAugment:
    """Augments a slab or crop with its label, in nnU-Net's order.

    Args:
        settings: probabilities and ranges.
        seed: part of every key.

    Raises:
        ConfigError: a setting out of range.
    """

    def __init__(self, settings: VolumeAugmentSettings, seed: int) -> None:
        settings.check()  # not when they are made: the parser would hide the reason
        self.settings, self.seed = settings, seed

    def __call__(self, image: Tensor, label: Tensor, *key: int, fill: float = 0.0) -> tuple[Tensor, Tensor]:
        """Args:
            image: float32 (C, D, H, W) in [0, 1].
            label: (D, H, W), of any integer type; its values are kept, and 0 comes in from outside.
            key: whole numbers >= 0 that decide all draws, see `samzoo.data.augment.unit_key`.
            fill: `Method.fill`, what the image holds where there is nothing, in [0, 1].

        Returns:
            image and label of the same shapes and types.
        """
        s, random = self.settings, draws(self.seed, *key)
        angle = math.radians(random.uniform(-s.rotate, s.rotate)) if random.rand() < s.rotate_p else 0.0
        zoom = random.uniform(*s.scale) if random.rand() < s.scale_p else 1.0
        if angle != 0 or zoom != 1:
            matrix = affine(np.full(2, zoom), angle, np.zeros(2))
            image, label = resample(image - fill, label, matrix, outside="zeros")
            image = image + fill
        for p, channel_p, change in self._intensity(random, fill):
            if random.rand() < p:
                image = torch.stack([change(c) if random.rand() < channel_p else c for c in image])
        axes = [axis - 3 for axis in s.mirror_axes if random.rand() < s.mirror_p]
        return image.clamp(0, 1).flip(axes), label.flip(axes)

    def _intensity(
        self, random: np.random.RandomState, fill: float
    ) -> list[tuple[float, float, Callable[[Tensor], Tensor]]]:
        """Probability of a step, of each channel in it, and what it makes of a channel (D, H, W)."""
        s = self.settings

        def noise(channel: Tensor) -> Tensor:
            return RandGaussianNoise(1, std=s.noise).set_random_state(state=random)(channel)

        def blur(channel: Tensor) -> Tensor:
            return GaussianSmooth(random.uniform(*s.blur_sigma, 3).tolist())(channel[None])[0]

        def brightness(channel: Tensor) -> Tensor:
            return (channel - fill) * _around_one(s.brightness, random) + fill

        def contrast(channel: Tensor) -> Tensor:
            return ScaleIntensityFixedMean(_around_one(s.contrast, random) - 1, preserve_range=True)(channel)

        def low_resolution(channel: Tensor) -> Tensor:
            step = LowResolution(1, "nearest-exact", "bilinear", s.low_resolution)  # of a picture with D channels
            return step.set_random_state(state=random)(channel)

        def gamma(channel: Tensor, invert: bool = False) -> Tensor:
            return AdjustContrast(_around_one(s.gamma, random), invert_image=invert, retain_stats=True)(channel)

        def gamma_inverted(channel: Tensor) -> Tensor:
            return gamma(channel, invert=True)

        steps = [
            (s.noise_p, 1.0, noise),
            (s.blur_p, s.blur_channel_p, blur),
            (s.brightness_p, 1.0, brightness),
            (s.contrast_p, 1.0, contrast),
            (s.low_resolution_p, s.low_resolution_channel_p, low_resolution),
            (s.gamma_inverted_p, 1.0, gamma_inverted),
            (s.gamma_p, 1.0, gamma),
        ]
        return [(p, channel_p, _plain(change)) for p, channel_p, change in steps]


def _plain(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """MONAI's MetaTensor makes what follows slow."""
    return lambda channel: torch.as_tensor(np.asarray(change(channel)))


def _around_one(limits: tuple[float, float], random: np.random.RandomState) -> float:
    """Below 1 as often as above, if the limits allow."""
    low, high = limits
    below = random.rand() < 0.5
    if high <= 1 or (low < 1 and below):
        return random.uniform(low, min(high, 1))
    return random.uniform(max(low, 1), high)
