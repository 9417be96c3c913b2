"""SAM's windowed attention with decomposed relative positions, fused into scaled-dot-product calls.

The logit of query n and key m is q_n.k_m / sqrt(d) + h(n, row of m) + w(n, column of m). Two exact forms of it:

- bias: h + w is written out as the mask of a fused attention call;
- augmented: [q / sqrt(d), h(n, .), w(n, .)] . [k, one-hot row, one-hot column] is the same sum without any tensor of
  the size queries x keys, at the price of a head that is wider by two grid sides.

Where windows do not divide the grid, SAM pads with tokens that are zero before the projection, and those take part:
their k and v are the projection's bias. They are put in as keys after the projection, and never become queries, so
that only real tokens go through the linear layers (a third of SAM's own work on a 16 x 16 grid in windows of 14).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from samzoo.sam.modeling import EncoderAttention

AUGMENT_FROM = {"cpu": 4096, "cuda": 1024}
"""Fewest keys from which the augmented form is taken; below, the bias form.

Measured on CPU (ViT-B, float32): bias is 10 to 20 % faster up to 48 x 48 tokens and slower at 64 x 64, where its mask
takes 0.8 GB. For CUDA it is a choice, not a measurement: without a mask the fastest kernels are open.
"""


class Attention(EncoderAttention):
    """Multi-head attention over a token map, globally or within windows; parameters and result are SAM's.

    Args:
        dim: D.
        num_heads: heads of width d = D / num_heads.
        grid: g, side of the token map.
        window: side of the windows, 0 for global attention. That may also be asked for a smaller square map: the
            relative positions are then interpolated linearly, as segment-anything does.
    """

    def __init__(self, dim: int, num_heads: int, grid: int, window: int = 0) -> None:
        side = window or grid
        super().__init__(dim, num_heads, qkv_bias=True, use_rel_pos=True, input_size=(side, side))
        self.side, self.window = side, window
        offsets = torch.arange(side)
        self.register_buffer("rel_index", offsets[:, None] - offsets[None, :] + side - 1, persistent=False)
        rows = torch.eye(side).repeat_interleave(side, 0)
        self.register_buffer("one_hot", torch.cat([rows, torch.eye(side).repeat(side, 1)], 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h, w, D)"""
        _, h, w, dim = x.shape
        side = self.window or h
        qkv = self.qkv(x)
        parts = [
            torch.cat([self._windows(qkv[:, top:bottom, left:right], side) for left, right in bands(w, side)], dim=2)
            for top, bottom in bands(h, side)
        ]
        return self.proj(torch.cat(parts, dim=1).view(-1, h, w, dim))

    def _windows(self, qkv: Tensor, s: int) -> Tensor:
        """Whole windows of side s beside each other, or one short one: (B, a, b, 3D) -> (B, a, b, D)"""
        heads = self.num_heads
        batch, a, b, _ = qkv.shape
        dim = qkv.shape[-1] // 3
        rows, cols = -(-a // s), -(-b // s)

        def split(tokens: Tensor) -> Tensor:  # -> (n * heads, rows, columns, d) of each window
            high, wide = tokens.shape[1] // rows, tokens.shape[2] // cols
            windows = tokens.view(batch, rows, high, cols, wide, -1, heads, dim // heads)
            return windows.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(
                -1, batch * rows * cols, heads, high, wide, dim // heads
            )

        short = (rows * s - a, cols * s - b)
        if short == (0, 0):
            q, k, v = split(qkv)
        else:
            (q,) = split(qkv[..., :dim].contiguous())
            padding = self.qkv.bias[dim:].to(qkv.dtype).expand(batch, rows * s, cols * s, -1)
            real = F.pad(qkv.new_ones(a, b, 1, dtype=torch.bool), (0, 0, 0, short[1], 0, short[0]))
            k, v = split(torch.where(real, F.pad(qkv[..., dim:], (0, 0, 0, short[1], 0, short[0])), padding))
        high, wide = q.shape[2:4]
        out = self._attend(q, k.flatten(2, 3), v.flatten(2, 3), s)
        out = out.view(batch, rows, cols, heads, high, wide, -1).permute(0, 1, 4, 2, 5, 3, 6)
        return out.reshape(batch, a, b, dim)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, s: int) -> Tensor:
        """q (n, heads, rows, columns, d), k and v (n, heads, s * s, d) -> (n, heads, rows * columns, d)"""
        d, (high, wide) = q.shape[-1], q.shape[2:4]
        index, by_row, by_column, one_hot = self._tables(s)
        rel_h = torch.einsum("nhijd,ikd->nhijk", q, by_row[index[:high]].to(q.dtype)).flatten(2, 3)
        rel_w = torch.einsum("nhijd,jkd->nhijk", q, by_column[index[:wide]].to(q.dtype)).flatten(2, 3)
        q = q.flatten(2, 3)
        if s * s < AUGMENT_FROM.get(q.device.type, 1024):
            bias = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(3)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        extra = -(d + 2 * s) % 8  # fused kernels want heads of a multiple of 8, the same for q, k and v
        q = torch.cat([q * self.scale, rel_h, rel_w], -1)
        k = torch.cat([k, one_hot.to(k.dtype).expand(*k.shape[:2], -1, -1)], -1)
        q, k, v = F.pad(q, (0, extra)), F.pad(k, (0, extra)), F.pad(v, (0, 2 * s + extra))
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :d]

    def _tables(self, s: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For maps of side s: index into the relative positions, these by row and by column, and the one-hot keys."""
        if s == self.side:
            return self.rel_index, self.rel_pos_h, self.rel_pos_w, self.one_hot
        h, w = (F.interpolate(t.T[None], 2 * s - 1, mode="linear")[0].T for t in (self.rel_pos_h, self.rel_pos_w))
        one_hot = self.one_hot.view(self.side, self.side, 2, self.side)[:s, :s, :, :s].reshape(s * s, 2 * s)
        return self.rel_index[:s, :s] - (self.side - s), h, w, one_hot


def bands(length: int, side: int) -> Iterator[tuple[int, int]]:
    """The whole windows along an axis, then the one that needs padding."""
    whole = length - length % side
    if whole:
        yield 0, whole
    if whole < length:
        yield whole, length
