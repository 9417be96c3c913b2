"""To the method's grid and back: the only resampling code.

A `Grid` remembers how one picture was laid on the S x S square that a network sees, so that prompts can follow it there
and logits come back on the native pixels. A `VolumeGrid` does the same for volumes that are resampled to a spacing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from samzoo.errors import ConfigError

Policy = Literal["longest_side", "pad_or_stretch", "stretch"]
"""longest_side: SAM (scale the long side to S, zeros at right and bottom; ResizeLongestSide).
pad_or_stretch: SAM-Med2D training and test (centre-pad if both sides are below S, else stretch to S x S).
stretch: SAM-Med2D predictor (always stretch to S x S)."""

Interpolation = Literal["nearest", "bilinear"]


@dataclass(frozen=True)
class Grid:
    """One picture's place on the method's grid.

    Args:
        native: (h, w) of the picture.
        side: S, the side of the square grid.
        content: (h', w') that the picture covers on the grid after scaling.
        offset: (top, left) of the picture on the grid.
    """

    native: tuple[int, int]
    side: int
    content: tuple[int, int]
    offset: tuple[int, int] = (0, 0)

    @property
    def scale(self) -> tuple[float, float]:
        """(y, x) grid pixels per native pixel."""
        return self.content[0] / self.native[0], self.content[1] / self.native[1]

    def points_to_grid(self, points: Tensor) -> Tensor:
        """(..., 2) x, y in native pixels -> grid pixels, as the originals do: a plain product, no half-pixel shift."""
        sy, sx = self.scale
        top, left = self.offset
        return points * points.new_tensor((sx, sy)) + points.new_tensor((left, top))

    def points_from_grid(self, points: Tensor) -> Tensor:
        """The reverse of `points_to_grid`."""
        sy, sx = self.scale
        top, left = self.offset
        return (points - points.new_tensor((left, top))) / points.new_tensor((sx, sy))

    def boxes_to_grid(self, boxes: Tensor) -> Tensor:
        """(..., 4) x0, y0, x1, y1 in native pixels -> grid pixels."""
        return self.points_to_grid(boxes.unflatten(-1, (2, 2))).flatten(-2)


def plan(native: tuple[int, int], side: int, policy: Policy) -> Grid:
    """Where a picture of `native` (h, w) lies on the S x S grid under `policy`.

    Raises:
        ConfigError: unknown policy.
    """
    h, w = native
    if policy == "longest_side":
        scale = side / max(h, w)
        return Grid(native, side, (max(1, int(h * scale + 0.5)), max(1, int(w * scale + 0.5))))
    if policy == "pad_or_stretch" and h < side and w < side:
        return Grid(native, side, native, ((side - h) // 2, (side - w) // 2))
    if policy in ("pad_or_stretch", "stretch"):
        return Grid(native, side, (side, side))
    raise ConfigError(f"unknown resize policy {policy!r}; known are longest_side, pad_or_stretch, stretch")


def to_grid(image: Tensor, grid: Grid, interpolation: Interpolation = "bilinear", fill: float = 0.0) -> Tensor:
    """(B, C, h, w) on native pixels -> (B, C, S, S); what the picture does not cover is `fill`.

    "nearest" takes source index floor(dst * in / out), as the originals of SAM-Med2D do; "bilinear" is antialiased
    when it shrinks, as SAM's own resizing is. Integer tensors (labels) must use "nearest".
    """
    if tuple(image.shape[-2:]) != grid.native:
        raise ValueError(f"picture of {tuple(image.shape[-2:])} does not belong to a grid of {grid.native}")
    if grid.content != grid.native:
        if interpolation == "nearest":
            rows = torch.arange(grid.content[0], device=image.device) * grid.native[0] // grid.content[0]
            cols = torch.arange(grid.content[1], device=image.device) * grid.native[1] // grid.content[1]
            image = image[..., rows[:, None], cols]
        else:
            image = F.interpolate(image, grid.content, mode="bilinear", align_corners=False, antialias=True)
    top, left = grid.offset
    bottom, right = grid.side - top - grid.content[0], grid.side - left - grid.content[1]
    return F.pad(image, (left, right, top, bottom), value=fill)


def from_grid(logits: Tensor, grid: Grid) -> Tensor:
    """(P, M, l, l) low-resolution logits -> float32 (P, M, h, w) on native pixels.

    First to S x S, then the padding is cut away, then to the native size if that differs: the order in which SAM and
    SAM-Med2D do it. Bilinear without corner alignment, in float32.
    """
    logits = F.interpolate(logits.float(), (grid.side, grid.side), mode="bilinear", align_corners=False)
    top, left = grid.offset
    logits = logits[..., top : top + grid.content[0], left : left + grid.content[1]]
    if grid.content != grid.native:
        logits = F.interpolate(logits, grid.native, mode="bilinear", align_corners=False)
    return logits


@dataclass(frozen=True)
class VolumeGrid:
    """One volume's place on the method's grid.

    Args:
        native: (d, h, w) of the volume.
        content: (d', h', w') that the volume covers after resampling.
        size: (D, H, W) of the grid, at least `content`.
        offset: of the content on the grid.
    """

    native: tuple[int, int, int]
    content: tuple[int, int, int]
    size: tuple[int, int, int]
    offset: tuple[int, int, int] = (0, 0, 0)


def resampled(
    shape: Sequence[int], spacing: Sequence[float], target: Sequence[float | None] | None
) -> tuple[int, int, int]:
    """Voxels along each axis after resampling from one spacing (mm) to another; None leaves an axis as it is."""
    if target is None:
        return tuple(shape)
    ratios = [1.0 if to is None else of / to for of, to in zip(spacing, target, strict=True)]
    return tuple(max(1, round(n * ratio)) for n, ratio in zip(shape, ratios, strict=True))


def plan_volume(native: Sequence[int], content: Sequence[int], least: Sequence[int]) -> VolumeGrid:
    """A grid that is nowhere smaller than `least` (a window), with the content in its middle."""
    size = tuple(map(max, content, least))
    offset = tuple((n - c) // 2 for n, c in zip(size, content, strict=True))
    return VolumeGrid(tuple(native), tuple(content), size, offset)


def volume_to_grid(
    volume: Tensor, grid: VolumeGrid, interpolation: Interpolation = "bilinear", fill: float = 0.0
) -> Tensor:
    """(B, C, d, h, w) on native voxels -> (B, C, D, H, W); what the volume does not cover is `fill`.

    "bilinear" is trilinear, antialiased in the plane where it shrinks; integer tensors (labels) must use "nearest",
    which takes the voxel under each centre.
    """
    if tuple(volume.shape[-3:]) != grid.native:
        raise ValueError(f"volume of {tuple(volume.shape[-3:])} does not belong to a grid of {grid.native}")
    if grid.content != grid.native:
        if interpolation == "nearest":
            index = [
                ((torch.arange(to, device=volume.device) + 0.5) * of / to).long()
                for of, to in zip(grid.native, grid.content, strict=True)
            ]
            volume = volume[..., index[0][:, None, None], index[1][:, None], index[2]]
        else:
            depth, *plane = grid.content
            if tuple(plane) != grid.native[1:]:
                slices = volume.transpose(1, 2).flatten(0, 1)
                slices = F.interpolate(slices, tuple(plane), mode="bilinear", align_corners=False, antialias=True)
                volume = slices.unflatten(0, (len(volume), -1)).transpose(1, 2)
            if depth != grid.native[0]:
                volume = F.interpolate(volume, grid.content, mode="trilinear", align_corners=False)
    ends = [n - o - c for n, o, c in zip(grid.size, grid.offset, grid.content, strict=True)]
    padding = [p for o, e in zip(reversed(grid.offset), reversed(ends), strict=True) for p in (o, e)]
    return F.pad(volume, padding, value=fill) if any(padding) else volume


def corner_around(near: Sequence[float], far: Sequence[float], window: Sequence[int]) -> tuple[int, ...]:
    """First voxel of the window in whose middle a box lies, from `near` to `far` (one past its last voxel).

    What can't be shared evenly is rounded as SAM-Med3D does. The window may stick out of the volume.
    """
    return tuple(math.floor((a + b - n) / 2) for a, b, n in zip(near, far, window, strict=True))


def cut(volume: Tensor, corner: Sequence[int], window: Sequence[int], fill: float = 0.0) -> Tensor:
    """The window (..., *window) of a volume (..., D, H, W) from `corner` on; where it sticks out it holds `fill`."""
    sizes = volume.shape[-len(window) :]
    spans = [(max(c, 0), min(c + n, size)) for c, n, size in zip(corner, window, sizes, strict=True)]
    ends = [(low - c, c + n - high) for (low, high), c, n in zip(spans, corner, window, strict=True)]
    inside = volume[(..., *(slice(*span) for span in spans))]
    padding = [p for pair in reversed(ends) for p in pair]
    return F.pad(inside, padding, value=fill) if any(padding) else inside
