"""ProMISe's incremental pattern shifting (IPS): vectors added to the mask tokens of a frozen decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ShiftMLP(nn.Module):
    """One vector per picture, class and mask token, from the picture's mean embedding.

    Args:
        dim: C, width of embedding and tokens.
        tokens: T mask tokens of the decoder.
        num_classes: K.
        zero_init: the last layer starts at zero, so that training starts exactly at SAM; the reference does not.
    """

    def __init__(self, dim: int, tokens: int, num_classes: int = 1, zero_init: bool = False) -> None:
        super().__init__()
        self.shape = (num_classes, tokens, dim)
        self.lin1 = nn.Linear(dim, tokens * dim)
        self.lin2 = nn.Linear(tokens * dim, num_classes * tokens * dim)
        if zero_init:
            nn.init.zeros_(self.lin2.weight)
            nn.init.zeros_(self.lin2.bias)

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, C, g, g) -> (B, K, T, C)"""
        return self.lin2(F.gelu(self.lin1(pooled(embedding)))).unflatten(1, self.shape)


def pooled(embedding: Tensor) -> Tensor:
    """(B, C, g, g) -> (B, C)"""
    return embedding.mean(dim=(2, 3))


def shift_table(dim: int, tokens: int, num_classes: int = 1) -> nn.Parameter:
    """(K, T, C): the same shift for every picture, which is IPS without its view of the picture; starts at SAM."""
    return nn.Parameter(torch.zeros(num_classes, tokens, dim))
