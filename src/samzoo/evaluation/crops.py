"""What the adapter for crops keeps: crops with their answers, and the masks that they make together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from samzoo.evaluation.adapter import Answer
from samzoo.evaluation.windows import Corner
from samzoo.types import CasePrompt, State

GridBox = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Near and far corner along depth, height, width."""


@dataclass(frozen=True, eq=False)
class Crop:
    """One crop of one class: what it was told and, once it was decoded, what was answered.

    Args:
        part: number of the box that it belongs to, -1 for none; crops of different parts are answered for themselves,
            and their masks united.
        box: the part of the box that lies in it, on the method's grid.
        clicks: voxel on the method's grid and whether it is positive, in the order in which they were made.
        parent: where the crop lies out of which it follows a structure; None if it was laid by a prompt.
        logits: (1, 1, l, l, l).
        state: what the method handed on, tensors of one row; before the first answer, what it starts from.
    """

    class_id: int
    corner: Corner
    part: int = -1
    box: GridBox | None = None
    clicks: tuple[tuple[Corner, bool], ...] = ()
    parent: Corner | None = None
    logits: Tensor | None = None
    state: State | None = None

    @property
    def form(self) -> tuple[bool, int, tuple[str, ...]]:
        """Crops of one form fit in one call."""
        return self.box is not None, len(self.clicks), tuple(sorted(self.state or ()))


@dataclass(frozen=True)
class NativePart:
    """Part of a mask: what of it is True, and where that lies in the case."""

    near: Corner
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class CropAnswer(Answer):
    """Args:
    shape: of the case.
    prompt: what was asked.
    crops: of the class, in the order in which they came about.
    parts: masks, by the crops that they were made of: groups that overlap each other.
    """

    shape: tuple[int, int, int]
    prompt: CasePrompt
    crops: tuple[Crop, ...] = ()
    parts: dict[frozenset[Crop], NativePart | None] | None = None

    @property
    def mask(self) -> np.ndarray:
        """See `Answer.mask`; False where no crop lies."""
        mask = np.zeros(self.shape, dtype=bool)
        for part in (self.parts or {}).values():
            if part is not None:
                where = tuple(slice(n, n + extent) for n, extent in zip(part.near, part.mask.shape, strict=True))
                mask[where] |= part.mask
        return mask
