"""Pictures of a data set on the square grid that a SAM sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

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
    """Take the channels to SAM's three, normalise by SAM's pixel statistics, then resize and pad.

    Args:
        image: (B, C, H, W) in [0, 1], padded at the far end; see `three_channels`.
        size: int64 (B, 2), true height and width of each picture.
        side: S.
        policy, interpolation: see `samzoo.geometry`.
        mean, std: three numbers each, on the 0..255 scale.
        padding: see above.

    Returns:
        x (B, 3, S, S) and each picture's `Grid`.
    """
    image = three_channels(image)
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


def three_channels(image: Tensor) -> Tensor:
    """Images of any number of channels as SAM's three.

    SAM's channel i is the mean of the channels floor(i C / 3) to ceil((i + 1) C / 3) - 1: one channel is seen three
    times, of two (a, b) SAM sees a, their mean, b, three stay as they are (red, green, blue), of four (a, b, c, d) it
    sees the means of a and b, b and c, c and d. No channel is left out, and their order in data.channels decides.

    Args:
        image: (B, C, H, W).

    Returns:
        (B, 3, H, W); one channel (B, 1, H, W) is left to broadcasting.
    """
    count = image.shape[1]
    if count in (1, 3):
        return image
    return torch.stack([image[:, i * count // 3 : -(-(i + 1) * count // 3)].mean(1) for i in range(3)], 1)
