"""What methods on slabs of slices have in common: where a volume lies on their grid, and nnU-Net's training habits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from samzoo.errors import ConfigError
from samzoo.geometry import VolumeGrid, plan_volume, resampled, volume_to_grid
from samzoo.methods.base import Method
from samzoo.types import Batch

Spacing = tuple[float | None, float | None, float | None]
Optimizer = Literal["adamw", "sgd"]


class SlabMethod(Method):
    """A method on patches of T slices of H x W voxels, at a spacing of its own.

    Args:
        patch: (T, H, W).
        spacing: (3,) mm along depth, height, width to which volumes are resampled; None, for all or for an axis, takes
            each volume as it is.
        in_channels: C of the images.
        intensity: mean and standard deviation of the data set's values in [0, 1], with which they are standardised;
            what lies outside a volume is 0 before. A network that starts with a convolution and instance normalisation
            hardly notices them.
        optimizer: "adamw", or "sgd" with Nesterov momentum 0.99.
        lr: of the first epoch; from there on lr * (1 - epoch / epochs) ** 0.9, as in nnU-Net. Without
            trainer.max_epochs it stays.
        weight_decay: of the optimiser.
        adam_eps: of AdamW. nnU-Net's 1e-4 slows parameters with small gradients down; 1e-8 is torch's own.
        method_args: of `Method`.

    Raises:
        ConfigError: numbers out of range.
    """

    def __init__(
        self,
        patch: tuple[int, int, int],
        spacing: Spacing | None = None,
        in_channels: int = 1,
        intensity: tuple[float, float] = (0.5, 0.25),
        optimizer: Optimizer = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 3e-5,
        adam_eps: float = 1e-4,
        **method_args,
    ) -> None:
        super().__init__(**method_args)
        name = self.spec.name
        if min(patch) < 1:
            raise ConfigError(f"{name}: patch must be three positive numbers of voxels, got {tuple(patch)}")
        if spacing is not None and any(mm is not None and mm <= 0 for mm in spacing):
            raise ConfigError(f"{name}: spacing must be positive mm along depth, height and width, got {spacing}")
        if in_channels < 1 or intensity[1] <= 0:
            raise ConfigError(f"{name}: in_channels and the standard deviation of intensity must be positive")
        self.patch, self.spacing = tuple(patch), None if spacing is None else tuple(spacing)
        self.in_channels, self.intensity = in_channels, tuple(intensity)
        self.optimizer, self.lr, self.weight_decay, self.adam_eps = optimizer, lr, weight_decay, adam_eps

    @property
    def window(self) -> tuple[int, int, int]:
        """(T, H, W)"""
        return self.patch

    def unit_shape(self, spacing: Sequence[float]) -> tuple[int, int, int]:
        """See `Method.unit_shape`."""
        if self.spacing is None:
            return self.patch
        native = [mm if to is None else to for mm, to in zip(spacing, self.spacing, strict=True)]
        return resampled(self.patch, native, spacing)

    def prepare(self, image: Tensor, size: Tensor, spacing: Tensor) -> tuple[Tensor, list[VolumeGrid]]:
        """Whole volumes of one size: (B, C, d, h, w) in [0, 1] -> (B, C, D, H, W), standardised, and the grids.

        Raises:
            ConfigError: volumes of several sizes or spacings in one call, or another number of channels.
        """
        if len(size.unique(dim=0)) > 1 or len(spacing.unique(dim=0)) > 1:
            raise ConfigError(f"{self.spec.name} takes volumes of one size and spacing at a time")
        native = tuple(size[0].tolist())
        content = resampled(native, spacing[0].tolist(), self.spacing)
        grid = plan_volume(native, content, self.patch)
        d, h, w = native
        return self._standardised(volume_to_grid(image[..., :d, :h, :w], grid)), [grid] * len(image)

    def patches(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Training units, which cover one patch each at their own spacing: x (B, C, T, H, W), labels (B, T, H, W).

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
        return self._standardised(torch.cat(images)), torch.cat(labels)

    def _standardised(self, image: Tensor) -> Tensor:
        if image.shape[1] != self.in_channels:
            raise ConfigError(
                f"{self.spec.name} was built for {self.in_channels} channel(s), the data set has {image.shape[1]}: set "
                "model.init_args.in_channels, or choose channels with data.channels"
            )
        mean, deviation = self.intensity
        return (image - mean) / deviation

    def configure_optimizers(self) -> torch.optim.Optimizer:
        parameters = self.trainable_parameters()
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, eps=self.adam_eps)
        return torch.optim.SGD(parameters, self.lr, momentum=0.99, weight_decay=self.weight_decay, nesterov=True)

    def on_train_epoch_start(self) -> None:
        """The rate as a function of the epoch alone: a resumed run needs no scheduler state."""
        epochs = self.trainer.max_epochs
        share = self.current_epoch / epochs if epochs and epochs > 0 else 0
        for group in self.optimizers().param_groups:
            group["lr"] = self.lr * (1 - share) ** 0.9
