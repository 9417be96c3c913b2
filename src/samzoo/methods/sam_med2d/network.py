"""The network of SAM-Med2D: SAM with a convolutional adapter beside the MLP of every encoder block."""

from __future__ import annotations

from torch import Tensor, nn

from samzoo.errors import ConfigError
from samzoo.sam import Sam, SamConfig, build_sam


class Adapter(nn.Module):
    """Channel gate, then a strided and a transposed full convolution, then LayerNorm over a skip (arXiv 2308.16184).

    It sees the whole token map, never windows, and ends in a LayerNorm: a fresh adapter is no identity. Parameter names
    are those of the published checkpoint.

    Args:
        dim: D, width of the encoder.
        ratio: hidden width of the gate / D.
    """

    def __init__(self, dim: int, ratio: float = 0.25) -> None:
        super().__init__()
        hidden = int(ratio * dim)
        self.norm = nn.LayerNorm(dim)
        self.channel = nn.Sequential(
            nn.Linear(dim, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, dim, bias=False), nn.Sigmoid()
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(dim, dim, kernel_size=3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(dim, dim, kernel_size=4, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, g, g, D) -> (B, g, g, D), g even."""
        gate = self.channel(x.mean(dim=(1, 2)))
        gated = (x * gate[:, None, None]).permute(0, 3, 1, 2)
        return self.norm(x + self.spatial(gated).permute(0, 2, 3, 1))


def build_sam_med2d(architecture: str | SamConfig, image_size: int | None, adapters: bool) -> Sam:
    """A random SAM of that size, with adapters or without.

    Raises:
        ConfigError: adapters on an odd token grid, which their strided convolution can't restore.
    """
    sam = build_sam(architecture, image_size, Adapter if adapters else None)
    config = sam.config
    if adapters and config.grid % 2:
        raise ConfigError(
            f"SAM-Med2D's adapters need an even number of tokens a side; image_size {config.image_size} / patch "
            f"{config.patch_size} gives {config.grid}: choose a multiple of {2 * config.patch_size}"
        )
    return sam
