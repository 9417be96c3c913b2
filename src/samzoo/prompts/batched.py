"""Prompts of many masks at once, as tensors: what training simulates on the device.

All draws come from one generator, which may live on the CPU whatever the device of the masks: the same generator then
gives the same prompts everywhere. Masks are (P, H, W) or (P, 1, H, W) in 2D and (P, D, H, W) with D > 1 or
(P, 1, D, H, W) in 3D; coordinates are x, y (, z) in pixels of their grid.

The distributions are those of SAM-Med2D (arXiv 2308.16184 and its reference implementation), which are those of
SAM-Med3D and M-SAM, too; for `random_points` those of ProMISe (arXiv 2403.04164 and its reference implementation).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


def random_error_clicks(
    prediction: Tensor, target: Tensor, n: int, generator: torch.Generator | None = None, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`n` pixels per mask, uniform over the error region with replacement.

    Args:
        prediction, target: bool, 2D or 3D.
        valid: bool of the same shape; errors outside do not count. None: all count.

    Returns:
        points float32 (P, n, 2 or 3) in x, y (, z); labels int64 (P, n): 1 where the target is foreground, 0 where it
        is not, -1 (and the point 0, 0 (, 0)) for a mask without any error.
    """
    flat, extent = _flat(target)
    error = _flat(prediction)[0] != flat
    if valid is not None:
        error &= _flat(valid)[0]
    index, found = _draw(error, n, generator)
    labels = flat.gather(1, index).long()
    points = _points(index, extent)
    return torch.where(found[..., None], points, 0.0), torch.where(found, labels, -1)


def random_foreground_click(target: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """One uniformly drawn foreground pixel per mask; a background pixel with label 0 where the mask is empty.

    Args:
        target: bool, 2D or 3D.

    Returns:
        points float32 (P, 1, 2 or 3) in x, y (, z); labels int64 (P, 1).
    """
    flat, extent = _flat(target)
    present = flat.any(dim=1, keepdim=True)
    index, _ = _draw(flat | ~present, 1, generator)
    return _points(index, extent), present.long()


def random_points(
    target: Tensor, n: int, generator: torch.Generator | None = None, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`n` points per mask in random order, n // 2 (at least one) on the foreground and the rest on the background.

    Uniform with replacement. A mask without background gets foreground points only, an empty one background points
    only (ProMISe's reference fails on both).

    Args:
        target: bool, 2D or 3D.
        valid: bool of the same shape, where the target is known; points lie nowhere else. None: everywhere.

    Returns:
        points float32 (P, n, 2 or 3) in x, y (, z); labels int64 (P, n): 1 foreground, 0 background, -1 (and the point
        0, 0 (, 0)) for a mask of which nothing is valid.
    """
    flat, extent = _flat(target)
    known = torch.ones_like(flat) if valid is None else _flat(valid)[0]
    inside, present = _draw(flat & known, n, generator)
    outside, surrounded = _draw(~flat & known, n, generator)
    first = torch.arange(n, device=flat.device) < max(1, n // 2)
    positive = (first & present) | ~surrounded
    order = _rand(tuple(positive.shape), generator, flat.device).argsort(dim=1)
    points = _points(torch.where(positive, inside, outside).gather(1, order), extent)
    found = present | surrounded
    return torch.where(found[..., None], points, 0.0), torch.where(found, positive.gather(1, order).long(), -1)


def mask_boxes(target: Tensor, largest_part: bool = False) -> Tensor:
    """The tight box of each mask, float32 (P, 4) in x0, y0, x1, y1 or (P, 6) in x0, y0, z0, x1, y1, z1.

    The far corner is one past the last pixel. An empty mask gets the box of the whole picture or volume.

    Args:
        target: bool, 2D or 3D.
        largest_part: only the largest part counts, as in SAM-Med2D (labelled on the CPU; neighbours may touch at
            corners).
    """
    flat, extent = _flat(target)
    target = flat.unflatten(1, extent)
    if largest_part:
        target = torch.from_numpy(np.stack([largest_component(m) for m in target.cpu().numpy()])).to(target.device)
    near, far = [], []
    axes = range(1, target.ndim)
    for axis in reversed(axes):
        line = target.any(dim=[other for other in axes if other != axis]).byte()
        near.append(line.argmax(1))  # argmax gives the first of equal values, hence 0 for an empty line
        far.append(target.shape[axis] - line.flip(1).argmax(1))
    return torch.stack(near + far, dim=1).float()


def jitter_boxes(boxes: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """SAM-Med2D's training noise: one integer shift for each of x, y (and z), both corners together, not clipped.

    Uniform on {-m, ..., m - 1} with m = min(5, int(0.5 * the shortest side)), 0 where m is 0.

    Args:
        boxes: as `mask_boxes` gives them.
    """
    dim = boxes.shape[1] // 2
    limit = ((boxes[:, dim:] - boxes[:, :dim]).amin(dim=1, keepdim=True) * 0.5).floor().clamp(0, 5)
    shift = (_rand((len(boxes), dim), generator, boxes.device) * 2 * limit).floor() - limit
    return boxes + shift.to(boxes.dtype).repeat(1, 2)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest part of a bool mask (any dimension; neighbours may touch at corners); of equals, the first one."""
    parts, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    if count < 2:
        return mask
    return parts == np.bincount(parts.ravel())[1:].argmax() + 1


def _flat(mask: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """bool (P, number of pixels), and the extent (H, W) or (D, H, W)."""
    extent = mask.shape[2:] if mask.ndim > 3 and mask.shape[1] == 1 else mask.shape[1:]
    return mask.reshape(mask.shape[0], -1).bool(), tuple(extent)


def _rand(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """float64 in [0, 1), drawn where the generator lives."""
    where = device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=where, dtype=torch.float64).to(device)


def _draw(mask: Tensor, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """`n` true positions per row of a bool (P, L), uniform with replacement: index (P, n), found (P, n)."""
    ranks = mask.cumsum(dim=1)
    count = ranks[:, -1:]
    wanted = (_rand((len(mask), n), generator, mask.device) * count).long() + 1  # the wanted-th true position
    index = torch.searchsorted(ranks, wanted).clamp(max=mask.shape[1] - 1)
    return index, (count > 0).expand(-1, n)


def _points(index: Tensor, extent: tuple[int, ...]) -> Tensor:
    return torch.stack(torch.unravel_index(index, extent)[::-1], dim=-1).float()
