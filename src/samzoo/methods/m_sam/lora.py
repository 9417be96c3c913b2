"""Low-rank updates of the queries and values of the image encoder (Hu et al., LoRA, arXiv 2106.09685)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LoRAQkv(nn.Module):
    """A block's projection to queries, keys and values, with q += B_q A_q x and v += B_v A_v x.

    Neither bias nor scale; B starts at zero, so a fresh one changes nothing. What is zero stays so: padding keys of
    windows hold the bias alone, with LoRA as without. Names are those of the official checkpoints.

    Args:
        qkv: the projection D -> 3D.
        rank: of the updates, r.
    """

    def __init__(self, qkv: nn.Linear, rank: int) -> None:
        super().__init__()
        dim = qkv.in_features
        self.qkv = qkv
        self.linear_a_q = nn.Linear(dim, rank, bias=False)
        self.linear_b_q = nn.Linear(rank, dim, bias=False)
        self.linear_a_v = nn.Linear(dim, rank, bias=False)
        self.linear_b_v = nn.Linear(rank, dim, bias=False)
        for down in (self.linear_a_q, self.linear_a_v):
            nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
        for up in (self.linear_b_q, self.linear_b_v):
            nn.init.zeros_(up.weight)

    @property
    def bias(self) -> Tensor:
        """(3D,): what the attention takes for padding."""
        return self.qkv.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., 3D)"""
        q, k, v = self.qkv(x).chunk(3, -1)
        q = q + self.linear_b_q(self.linear_a_q(x))
        v = v + self.linear_b_v(self.linear_a_v(x))
        return torch.cat([q, k, v], -1)


def add_lora(encoder: nn.Module, rank: int) -> None:
    """Wrap the projection of each of the encoder's `blocks` in place; rank 0 leaves all as it is."""
    if rank:
        for block in encoder.blocks:
            block.attn.qkv = LoRAQkv(block.attn.qkv, rank)
