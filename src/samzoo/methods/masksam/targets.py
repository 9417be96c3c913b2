"""What the slices of a batch ask for: one mask, box and class per label id that a slice shows, background included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from samzoo.errors import ConfigError
from samzoo.types import IGNORE

BoxExtent = Literal["inclusive", "exclusive"]
"""Where a box ends: at its last pixel (published), or one past it. T5 of the method card."""


@dataclass(frozen=True)
class Targets:
    """S slices, padded to the M classes of the richest one.

    labels: int64 (S, M), ascending by slice, -1 where there is no target.
    masks: bool (S, M, H, W).
    boxes: float32 (S, M, 4), x1 y1 x2 y2 as fractions of W and H; 0 where there is no target.
    counts: int64 (S,).
    valid: bool (S, H, W), pixels that count; None: all.
    """

    labels: Tensor
    masks: Tensor
    boxes: Tensor
    counts: Tensor
    valid: Tensor | None = None


def slice_targets(slices: Tensor, num_classes: int, queries: int, extent: BoxExtent = "inclusive") -> Targets:
    """Targets of label slices; a slice without a pixel that counts has none.

    Args:
        slices: int64 (S, H, W), 0..K-1, 255 ignored.
        num_classes: K, background included.
        queries: N.
        extent: see `BoxExtent`.

    Raises:
        ConfigError: a slice shows more classes than there are queries.
    """
    seen = torch.zeros(len(slices), IGNORE + 1, dtype=torch.bool, device=slices.device)
    seen.scatter_(1, slices.flatten(1), True)
    present = seen[:, :num_classes]
    counts = present.sum(1)
    most, ignored = torch.stack([counts.amax(), seen[:, IGNORE].any().long()]).tolist()  # the one wait for the device
    if most > queries:
        raise ConfigError(
            f"MaskSAM: a slice shows {most} classes (background included), but there are {queries} queries, and each"
            " answers for one class: set model.init_args.queries to the number of classes or more"
        )
    classes = present.long().argsort(dim=1, descending=True, stable=True)[:, :most]
    labels = torch.where(present.gather(1, classes), classes, -1)
    masks = slices[:, None] == labels[..., None, None]
    return Targets(labels, masks, mask_boxes(masks, extent), counts, slices != IGNORE if ignored else None)


def mask_boxes(masks: Tensor, extent: BoxExtent = "inclusive") -> Tensor:
    """Boxes around masks: min x / W, min y / H, max x / W, max y / H, where exclusive maxima lie one pixel further.

    Args:
        masks: bool (..., H, W).
        extent: see `BoxExtent`.

    Returns:
        float32 (..., 4), all 0 for a mask without a pixel.
    """

    def ends(line: Tensor) -> tuple[Tensor, Tensor]:
        size = line.shape[-1]
        index = torch.arange(size, device=line.device)
        last = torch.where(line, index, -1).amax(-1) + (extent == "exclusive")
        return torch.where(line, index, size).amin(-1) / size, last / size

    (x1, x2), (y1, y2) = ends(masks.any(-2)), ends(masks.any(-1))
    return torch.stack([x1, y1, x2, y2], -1) * masks.flatten(-2).any(-1)[..., None]
