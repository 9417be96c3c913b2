"""What methods on slabs and crops have in common: a window of voxels at a spacing of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from samzoo.errors import ConfigError
from samzoo.geometry import VolumeGrid, plan_volume, resampled, volume_to_grid
from samzoo.methods.base import Method
from samzoo.types import Batch

Spacing = tuple[float | None, float | None, float | None]
Measure = Callable[[], Any]
"""Measures the training cases, see `samzoo.data.fingerprint`; linked from the data set by the command line, and called
only where something is to be planned."""


class VolumeMethod(Method):
    """A method on windows of D x H x W voxels.

    Args:
        patch: (D, H, W).
        spacing: (3,) mm along depth, height, width to which volumes are resampled; None, for all or for an axis, takes
            each volume as it is.
        in_channels: C of the images.
        method_args: of `Method`.

    Raises:
        ConfigError: numbers out of range.
    """

    def __init__(self, patch: Sequence[int], spacing: Spacing | None, in_channels: int, **method_args) -> None:
        super().__init__(**method_args)
        name = self.spec.name
        if min(patch) < 1:
            raise ConfigError(f"{name}: patch must be three positive numbers of voxels, got {tuple(patch)}")
        if spacing is not None and any(mm is not None and mm <= 0 for mm in spacing):
            raise ConfigError(f"{name}: spacing must be positive mm along depth, height and width, got {spacing}")
        if in_channels < 1:
            raise ConfigError(f"{name}: in_channels must be at least 1, got {in_channels}")
        self.patch, self.spacing = tuple(patch), None if spacing is None else tuple(spacing)
        self.in_channels = in_channels

    @property
    def window(self) -> tuple[int, int, int]:
        """(D, H, W)"""
        return self.patch

    def unit_shape(self, spacing: Sequence[float]) -> tuple[int, int, int]:
        """See `Method.unit_shape`."""
        if self.spacing is None:
            return self.patch
        native = [mm if to is None else to for mm, to in zip(spacing, self.spacing, strict=True)]
        return resampled(self.patch, native, spacing)

    def prepare(self, image: Tensor, size: Tensor, spacing: Tensor) -> tuple[Tensor, list[VolumeGrid]]:
        """Whole volumes of one size: (B, C, d, h, w) in [0, 1] -> (B, C, D, H, W), nowhere smaller than the window.

        Raises:
            ConfigError: volumes of several sizes or spacings in one call, or another number of channels.
        """
        if len(size.unique(dim=0)) > 1 or len(spacing.unique(dim=0)) > 1:
            raise ConfigError(f"{self.spec.name} takes volumes of one size and spacing at a time")
        native = tuple(size[0].tolist())
        grid = plan_volume(native, resampled(native, spacing[0].tolist(), self.spacing), self.patch)
        d, h, w = native
        volume = volume_to_grid(image[..., :d, :h, :w], grid, fill=self.fill)
        return self._on_grid(volume), [grid] * len(image)

    def patches(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Training units, which cover one window each at their own spacing: x (B, C, D, H, W), labels (B, D, H, W).

        Raises:
            ConfigError: units without labels, or with another number of channels.
        """
        if batch.label is None:
            raise ConfigError(f"{self.spec.name} is trained on labelled volumes, this batch has no label")
        images, labels = [], []
        for image, label, (d, h, w) in zip(batch.image, batch.label, batch.size.tolist(), strict=True):
            grid = VolumeGrid((d, h, w), self.patch, self.patch)
            images.append(volume_to_grid(image[None, :, :d, :h, :w], grid))
            labels.append(volume_to_grid(label[None, None, :d, :h, :w], grid, "nearest")[:, 0])
        return self._on_grid(torch.cat(images)), torch.cat(labels)

    def _on_grid(self, image: Tensor) -> Tensor:
        """What else is done to volumes and units on the method's grid; here the channels are checked only."""
        if image.shape[1] != self.in_channels:
            raise ConfigError(
                f"{self.spec.name} was built for {self.in_channels} channel(s), the data set has {image.shape[1]}: set "
                "model.init_args.in_channels, or choose channels with data.channels"
            )
        return image


def measured(fingerprint: Measure | None, method: str) -> Any:
    """The fingerprint of the training cases.

    Raises:
        ConfigError: nothing measures them.
    """
    if fingerprint is None:
        raise ConfigError(
            f"{method}: nothing measures the training cases: give patch and spacing (null takes volumes as they are)"
        )
    return fingerprint()
