"""SAM's windowed attention with decomposed relative positions, fused into one scaled-dot-product call.

The attention logits of query n and key m are q_n.k_m / sqrt(d) + h(n, row of m) + w(n, column of m). Two exact forms:

- bias: h + w is written out as an N x N mask of a fused attention call;
- augmented: [q / sqrt(d), h(n, .), w(n, .)] . [k, one-hot row, one-hot column] is the same sum, without any N x N
  tensor, at the price of a head that is wider by two grid sides.

Padding of windows takes part in SAM's attention as tokens that are zero before the projection, so their q, k and v are
the projection's bias. They are put in after the projection: only real tokens go through the two linear layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from samzoo.sam.modeling import EncoderAttention

AUGMENT_FROM = {"cpu": 1024, "cuda": 1024}
"""Fewest keys from which the augmented form is the faster one (benchmarks/bench_encoder.py); below, the bias form."""


class Attention(EncoderAttention):
    """Multi-head attention over a token map, globally or within windows; parameters and result are SAM's.

    Args:
        dim: D.
        num_heads: heads of width d = D / num_heads.
        grid: g, side of the token map.
        window: side of the windows, 0 for global attention.
    """

    def __init__(self, dim: int, num_heads: int, grid: int, window: int = 0) -> None:
        side = window or grid
        super().__init__(dim, num_heads, qkv_bias=True, use_rel_pos=True, input_size=(side, side))
        self.side = side
        offsets = torch.arange(side)
        self.register_buffer("rel_index", offsets[:, None] - offsets[None, :] + side - 1, persistent=False)
        rows = torch.eye(side).repeat_interleave(side, 0)
        self.register_buffer("one_hot", torch.cat([rows, torch.eye(side).repeat(side, 1)], 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, g, g, D) -> (B, g, g, D)"""
        b, h, w, dim = x.shape
        s = self.side
        rows, cols = -(-h // s), -(-w // s)
        qkv = F.linear(x, self.qkv.weight)
        qkv = F.pad(qkv, (0, 0, 0, cols * s - w, 0, rows * s - h))
        qkv = qkv + self.qkv.bias.to(qkv.dtype)
        qkv = qkv.view(b, rows, s, cols, s, 3, self.num_heads, -1).permute(5, 0, 1, 3, 6, 2, 4, 7)
        q, k, v = qkv.reshape(3, b * rows * cols, self.num_heads, s * s, -1).unbind(0)
        out = self._attend(q, k, v)
        out = out.view(b, rows, cols, self.num_heads, s, s, -1).permute(0, 1, 4, 2, 5, 3, 6)
        out = out.reshape(b, rows * s, cols * s, dim)[:, :h, :w]
        return self.proj(out)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(n, heads, s * s, d) each -> (n, heads, s * s, d)"""
        s, d = self.side, q.shape[-1]
        grid_q = q.unflatten(2, (s, s))
        rel_h = torch.einsum("nhijd,ikd->nhijk", grid_q, self.rel_pos_h[self.rel_index].to(q.dtype))
        rel_w = torch.einsum("nhijd,jkd->nhijk", grid_q, self.rel_pos_w[self.rel_index].to(q.dtype))
        if s * s < AUGMENT_FROM.get(q.device.type, 1024):
            bias = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(4).flatten(2, 3)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        extra = -(d + 2 * s) % 8  # fused kernels want heads of a multiple of 8, the same for q, k and v
        q = torch.cat([q * self.scale, rel_h.flatten(2, 3), rel_w.flatten(2, 3)], -1)
        k = torch.cat([k, self.one_hot.to(k.dtype).expand(*k.shape[:2], -1, -1)], -1)
        q, k, v = F.pad(q, (0, extra)), F.pad(k, (0, extra)), F.pad(v, (0, 2 * s + extra))
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :d]
