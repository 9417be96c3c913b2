"""What becomes of crops before a network sees them, and what training asks about them."""

from __future__ import annotations

import torch
from torch import Tensor

from samzoo.prompts.batched import random_error_clicks
from samzoo.types import IGNORE

CONSTANT = 1e-6
"""Difference of values in [0, 1] up to which they count as equal."""


def reversed_axes(x: Tensor) -> Tensor:
    """(B, C, i, j, k) -> (B, C, k, j, i): between a case's axes and the network's."""
    return x.permute(0, 1, 4, 3, 2)


def normalised(x: Tensor, zero: float) -> Tensor:
    """z-score of each crop and channel by itself, over its voxels above `zero`, applied to all.

    SAM-Med3D's rule with the unbiased deviation; its code pools a whole batch. A crop without two different values
    above `zero` is scored over all its voxels; a constant one becomes 0.

    Args:
        x: (B, C, S, S, S).
    """
    x = x.float()
    inside = x > zero + CONSTANT  # resampling leaves what lies around a volume at `zero` only up to rounding
    mean, deviation = _moments(x, inside)
    everywhere = torch.ones_like(inside)
    whole_mean, whole_deviation = _moments(x, everywhere)
    usable = deviation > CONSTANT
    mean, deviation = torch.where(usable, mean, whole_mean), torch.where(usable, deviation, whole_deviation)
    return torch.where(deviation > CONSTANT, (x - mean) / deviation.clamp(min=CONSTANT), 0)


def _moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased deviation over the voxels of a mask, (B, C, 1, 1, 1) each."""
    axes = (2, 3, 4)
    count = mask.sum(axes, keepdim=True)
    mean = torch.where(mask, x, 0).sum(axes, keepdim=True) / count.clamp(min=1)
    square = torch.where(mask, (x - mean) ** 2, 0).sum(axes, keepdim=True)
    return mean, (square / (count - 1).clamp(min=1)).sqrt()


def draw_objects(label: Tensor, generator: torch.Generator, count: int = 1) -> tuple[Tensor, Tensor]:
    """The class in the middle of each crop, which was cut around it; elsewhere one of those that the crop holds.

    Args:
        label: int64 (B, S, S, S).
        count: objects of each crop; those after the first are drawn from all that it holds, with replacement.

    Returns:
        target and valid, bool (count * B, 1, S, S, S), all crops' first objects first; the targets of a crop without
        any class are empty.
    """
    valid = label != IGNORE
    classes = torch.where(valid, label, 0)
    present = torch.zeros(len(label), IGNORE, dtype=torch.bool, device=label.device)
    present = present.scatter_(1, classes.flatten(1), True)[:, 1:].cpu().double()
    present += present.sum(1, keepdim=True) == 0
    drawn = torch.multinomial(present, count, replacement=True, generator=generator).to(label.device) + 1
    middle = classes[(slice(None), *(n // 2 for n in label.shape[1:]))]
    drawn[:, 0] = torch.where(middle > 0, middle, drawn[:, 0])
    wanted = drawn.T.reshape(-1, 1, 1, 1, 1)
    return classes.repeat(count, 1, 1, 1)[:, None] == wanted, valid.repeat(count, 1, 1, 1)[:, None]


def error_or_foreground_click(
    prediction: Tensor, target: Tensor, valid: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One voxel of the error; where there is none, one of the object; where that is empty, too, "no point" (-1).

    Args:
        prediction, target, valid: bool (B, 1, S, S, S).

    Returns:
        points float32 (B, 1, 3) in x, y, z, labels int64 (B, 1).
    """
    nothing = torch.zeros_like(prediction)
    points, labels = random_error_clicks(prediction, target, 1, generator, valid)
    inside, positive = random_error_clicks(nothing, target, 1, generator, valid)
    perfect = labels == -1
    return torch.where(perfect[..., None], inside, points), torch.where(perfect, positive, labels)
