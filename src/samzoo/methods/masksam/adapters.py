"""The two adapters that carry information between the slices of a slab.

Batches are flattened row-major, (b, t) in the image encoder and (b, t, q) in the mask decoder, so both adapters are
told the depth and how many queries each slice has. The names of their layers are those of the published files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

RATIO = 4
"""By how much an adapter is narrower than what it adapts, and by how much the depth MLP's hidden layer is wider."""


class _Bottleneck(nn.Module, ABC):
    """fc2(u + v(u)) with u = GELU(fc1 x), a quarter as wide, plus x in the residual form.

    Args:
        dim: D.
        residual: add the input.
        zero_init: start with an fc2 of zeros, that is, adding nothing.
    """

    def __init__(self, dim: int, residual: bool = True, zero_init: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.D_fc1 = nn.Linear(dim, dim // RATIO)
        self.D_fc2 = nn.Linear(dim // RATIO, dim)
        if zero_init:
            nn.init.zeros_(self.D_fc2.weight)
            nn.init.zeros_(self.D_fc2.bias)

    @abstractmethod
    def _mix(self, u: Tensor) -> Tensor:
        """(B, T, Q, ..., d) -> the same, with the slices mixed"""

    def forward(self, x: Tensor, depth: int, queries: int = 1) -> Tensor:
        """(B * T * Q, ..., D) -> the same shape.

        Args:
            depth: T.
            queries: Q.
        """
        u = F.gelu(self.D_fc1(x)).unflatten(0, (-1, depth, queries))
        out = self.D_fc2((u + self._mix(u)).flatten(0, 2))
        return x + out if self.residual else out


class DConvAdapter(_Bottleneck):
    """Mixes neighbouring slices and pixels of a token map (B * T * Q, h, w, D) by a depthwise 3 x 3 x 3 convolution."""

    def __init__(self, dim: int, residual: bool = True, zero_init: bool = False) -> None:
        super().__init__(dim, residual, zero_init)
        hidden = dim // RATIO
        self.T_DWconv = nn.Conv3d(hidden, hidden, kernel_size=3, padding=1, groups=hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-6)

    def _mix(self, u: Tensor) -> Tensor:
        batch, _, queries = u.shape[:3]
        v = self.T_DWconv(u.permute(0, 2, 5, 1, 3, 4).flatten(0, 1))
        v = v.unflatten(0, (batch, queries)).permute(0, 3, 1, 4, 5, 2)
        return F.gelu(self.norm(v))


class DMLPAdapter(_Bottleneck):
    """Mixes the slices of each token of (B * T * Q, tokens, D) by an MLP T -> 4T -> T, which fixes T.

    Args:
        dim: D.
        depth: T.
        residual, zero_init: see `_Bottleneck`.
    """

    def __init__(self, dim: int, depth: int, residual: bool = True, zero_init: bool = False) -> None:
        super().__init__(dim, residual, zero_init)
        self.T_fc1 = nn.Linear(depth, RATIO * depth)
        self.T_fc2 = nn.Linear(RATIO * depth, depth)

    def _mix(self, u: Tensor) -> Tensor:
        return self.T_fc2(F.gelu(self.T_fc1(u.movedim(1, -1)))).movedim(-1, 1)
