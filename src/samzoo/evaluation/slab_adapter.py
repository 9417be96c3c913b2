"""Volumes in sliding windows: methods on slabs that answer without prompts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from samzoo.errors import ConfigError
from samzoo.evaluation.adapter import Adapter, Cost, Inference
from samzoo.evaluation.windows import Corner, importance_map, native_slices, stitched, window_starts
from samzoo.geometry import VolumeGrid
from samzoo.methods.base import Method
from samzoo.types import Case


class SlabAdapter(Adapter):
    """Moves the method's window over the whole case; nothing of it is kept for another call.

    Raises:
        ConfigError: a method that needs prompts.
    """

    def __init__(self, method: Method, case: Case, cost: Cost, inference: Inference, keep_logits: bool = False) -> None:
        super().__init__(method, case, cost, inference, keep_logits)
        if method.spec.needs_prompts:
            raise ConfigError(
                f"{method.spec.name} works on {method.spec.unit}s and needs prompts, which can't be evaluated yet"
            )

    def label_map_without_prompts(self, look: Callable[[int, Tensor], None] | None = None) -> np.ndarray:
        """uint8 (D, H, W): logits are averaged over windows, resampled to the case's voxels, then compared.

        `look` sees nothing: there are no logits of a slice on the method's grid.
        """
        x, grid = self._prepare()
        label = np.empty(self.case.shape, dtype=np.uint8)
        weights = importance_map(self.method.window).to(self.device)
        slices = stitched(self._answers(x), grid.size, weights)
        for z, logits in enumerate(native_slices(slices, grid)):
            top, winner = logits.max(dim=0)
            label[z] = torch.where(top > 0, winner + 1, 0).byte().cpu().numpy()
        return label

    def encode_one(self) -> None:
        """The window in the middle."""
        x, _ = self._prepare()
        starts = window_starts(x.shape[2:], self.method.window, self.inference.window_step)
        window = self._cut(x, [tuple(axis[len(axis) // 2] for axis in starts)])
        self._one = self._timed_encode(self.method.encode, window, 1)

    def answer_one(self) -> None:
        """All classes of that window."""
        self._timed_decode(self._one, None, None)

    def _prepare(self) -> tuple[Tensor, VolumeGrid]:
        """The whole case as (1, C, D, H, W) on the method's grid."""
        size = torch.tensor([self.case.shape], device=self.device)
        spacing = torch.tensor([self.case.spacing], device=self.device)
        x, (grid,) = self.method.prepare(self.case.image[None].float().to(self.device), size, spacing)
        return x, grid

    def _answers(self, x: Tensor) -> Iterator[tuple[Corner, Tensor]]:
        """First voxel and class logits (K, *window) of each window, in the order of depth."""
        window = self.method.window
        corners = itertools.product(*window_starts(x.shape[2:], window, self.inference.window_step))
        while chunk := list(itertools.islice(corners, max(1, self.inference.encode_chunk // window[0]))):
            yield from zip(chunk, self._mirrored(self._cut(x, chunk)), strict=True)

    def _cut(self, x: Tensor, corners: list[Corner]) -> Tensor:
        """(B, C, *window)"""
        depth, height, width = self.method.window
        return torch.cat([x[:, :, z : z + depth, y : y + height, w : w + width] for z, y, w in corners])

    def _mirrored(self, windows: Tensor) -> Tensor:
        """Mean class logits float32 (B, K, *window) over all sets of mirrored axes."""
        axes = self.inference.mirror_axes
        sets = [s for count in range(len(axes) + 1) for s in itertools.combinations(axes, count)]
        total = 0
        for mirrored in sets:
            flipped = [2 + axis for axis in mirrored]
            embedding = self._timed_encode(self.method.encode, windows.flip(flipped), len(windows))
            logits, _ = self._timed_decode(embedding, None, None)
            total = total + logits.float().flip(flipped)
        return total / len(sets)
