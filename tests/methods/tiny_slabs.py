"""Batches of slabs and a small MaskSAM for them."""

from __future__ import annotations

from dataclasses import replace

import torch
from tiny_methods import TINY

from samzoo.methods import MaskSAM
from samzoo.methods.masksam.loss import LossSettings
from samzoo.types import Batch

DEEPER = replace(TINY, depth=4, global_attn_indexes=(1, 3))

SMALL = {
    "patch": (3, 32, 32),
    "queries": 4,
    "widths": (16, 8, 8, 8),
    "head_width": 4,
    "num_classes": 2,
    "loss": LossSettings(points=128),
    "freeze": False,
}


def masksam(seed: int = 0, **settings) -> MaskSAM:
    torch.manual_seed(seed)
    return MaskSAM(DEEPER, **(SMALL | settings))


def slabs(seed: int = 0, count: int = 2, depth: int = 3, ignored: bool = False, side: int = 32) -> Batch:
    """Two bright classes, one of them on some slices only, at 1 mm."""
    label = torch.zeros(count, depth, side, side, dtype=torch.long)
    label[:, :, 4:16, 6:20] = 1
    label[:, : max(1, depth // 2), 20:28, 3:18] = 2
    noise = torch.rand(count, 1, depth, side, side, generator=torch.Generator().manual_seed(seed))
    image = label[:, None] / 3 + 0.2 * noise
    if ignored:
        label[0, 0, 5:9, 7:12] = 255
    return Batch(
        image=image,
        label=label,
        size=torch.tensor([[depth, side, side]] * count),
        spacing=torch.ones(count, 3),
        case_id=tuple(f"case{i}" for i in range(count)),
        patient=tuple(f"case{i}" for i in range(count)),
        slice_index=torch.zeros(count, dtype=torch.long),
    )
