"""What methods on slabs of slices have in common: standardised intensities and nnU-Net's training habits."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from samzoo.errors import ConfigError
from samzoo.methods.volume import Spacing, VolumeMethod

Optimizer = Literal["adamw", "sgd"]


class SlabMethod(VolumeMethod):
    """A method on patches of T slices of H x W voxels, at a spacing of its own.

    Args:
        patch: (T, H, W).
        spacing, in_channels: of `VolumeMethod`.
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
        super().__init__(patch, spacing, in_channels, **method_args)
        if intensity[1] <= 0:
            raise ConfigError(f"{self.spec.name}: the standard deviation of intensity must be positive")
        self.intensity = tuple(intensity)
        self.optimizer, self.lr, self.weight_decay, self.adam_eps = optimizer, lr, weight_decay, adam_eps

    def _on_grid(self, image: Tensor) -> Tensor:
        mean, deviation = self.intensity
        return (super()._on_grid(image) - mean) / deviation

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
