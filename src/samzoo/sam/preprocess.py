"""Pictures of a data set on the square grid that a SAM sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from samzoo.errors import ConfigError
from samzoo.geometry import Grid, Interpolation, Policy, plan, to_grid

Padding = Literal["mean", "black"]
"""What lies beside a picture on the square: SAM's "mean" is 0 after normalisation, "black" 0 before it."""


def prepare_pictures(
    image: Tensor,
    size: Tensor,
    side: int,
    policy: Policy,
    interpolation: Interpolation,
    mean: Sequence[float] | Tensor,
    std: Sequence[float] | Tensor,
    padding: Padding = "mean",
) -> tuple[Tensor, list[Grid]]:
    """Normalise by SAM's pixel statistics, then resize and pad.

    Args:
        image: (B, C, H, W) in [0, 1], padded at the far end; C is 1 (repeated to 3) or 3 (R, G, B).
        size: int64 (B, 2), true height and width of each picture.
        side: S.
        policy, interpolation: see `samzoo.geometry`.
        mean, std: three numbers each, on the 0..255 scale.
        padding: see above.

    Returns:
        x (B, 3, S, S) and each picture's `Grid`.

    Raises:
        ConfigError: neither one nor three channels.
    """
    if image.shape[1] not in (1, 3):
        raise ConfigError(
            f"SAM takes pictures of 1 or 3 channels, these have {image.shape[1]}; choose which ones with data.channels"
        )
    mean = torch.as_tensor(mean, dtype=image.dtype, device=image.device).view(3, 1, 1)
    std = torch.as_tensor(std, dtype=image.dtype, device=image.device).view(3, 1, 1)

    def normalise(pixels: Tensor) -> Tensor:
        return (pixels * 255 - mean) / std  # one channel becomes three by broadcasting

    if padding == "mean":
        image = normalise(image)
    sizes = [tuple(s) for s in size.tolist()]
    grids = [plan(s, side, policy) for s in sizes]
    if len(set(sizes)) == 1:  # the usual case, in one call
        h, w = sizes[0]
        x = to_grid(image[..., :h, :w], grids[0], interpolation)
    else:
        rows = [
            to_grid(image[i : i + 1, :, :h, :w], g, interpolation)
            for i, ((h, w), g) in enumerate(zip(sizes, grids, strict=True))
        ]
        x = torch.cat(rows)
    return (normalise(x) if padding == "black" else x), grids
