"""SAM-Med3D's attention over cubes of tokens, with relative positions along three axes and cheap window padding.

Logit of query (x, y, z) and key (i, j, k): q.k / sqrt(d) plus a bias from three tables of offsets, where q(...) is the
unscaled query at a position of the same cube:

- published: q(x,y,z).D[x-k] + q(x,y,i).H[y-k] + q(x,y,j).W[j-k], what SAM-Med3D computes (the terms are broadcast along
  wrong axes, https://github.com/uni-medical/SAM-Med3D/issues/101) and its weights were trained with;
- intended: q(x,y,z).D[x-i] + q(x,y,z).H[y-j] + q(x,y,z).W[z-k].

SAM-Med3D pads its grid of 8 to a window of 14 with tokens that are zero before the projection and take part in the
softmax. All of them have one k and one v (the projection's bias), so exp(q.k) is a common factor of theirs: together
they are one key whose bias is the log of the sum of exp(bias) over them. That sum falls apart along the axes. 512 + 1
keys stand for 2744, exactly.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from samzoo.errors import ConfigError
from samzoo.sam.attention import bands
from samzoo.sam.sam3d.config import Positions

Tables = tuple[Tensor, Tensor, Tensor]


class Attention3d(nn.Module):
    """Multi-head attention over a cube of tokens, globally or within windows; parameters are SAM-Med3D's.

    Args:
        dim: D.
        num_heads: heads of width d = D / num_heads.
        grid: g, edge of the token cube. Another one may be given to `forward`: tables of global attention are then
            resampled linearly.
        window: edge of the windows, 0 for global attention.
        positions: see the module's text.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: int, window: int = 0, positions: Positions = "published"
    ) -> None:
        super().__init__()
        self.num_heads, self.window, self.positions = num_heads, window, positions
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        length = 2 * (window or grid) - 1
        self.rel_pos_d = nn.Parameter(torch.zeros(length, dim // num_heads))
        self.rel_pos_h = nn.Parameter(torch.zeros(length, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(length, dim // num_heads))

    def forward(self, x: Tensor) -> Tensor:
        """(B, g, g, g, D) -> (B, g, g, g, D)

        Raises:
            ConfigError: the map is not cubic.
        """
        a, b, c = x.shape[1:4]
        if not a == b == c:
            raise ConfigError(f"SAM-Med3D attends over cubic maps of tokens, got {a} x {b} x {c}; give cubic crops")
        side = self.window or a
        qkv = self.qkv(x)
        out = torch.empty_like(qkv[..., : x.shape[-1]])
        for region in itertools.product(*[[slice(*band) for band in bands(a, side)]] * 3):
            out[:, *region] = self._windows(qkv[:, *region], side)
        return self.proj(out)

    def _windows(self, qkv: Tensor, side: int) -> Tensor:
        """Windows of equal size beside each other, whole or short ones: (B, A, B, C, 3D) -> (B, A, B, C, D)"""
        counts = {name: -(-length // side) for name, length in zip("ijk", qkv.shape[1:4], strict=True)}
        q, k, v = rearrange(
            qkv, "n (i a) (j b) (k c) (qkv h d) -> qkv (n i j k) h a b c d", qkv=3, h=self.num_heads, **counts
        )
        size = q.shape[2:5]
        filler_q, filler_k, filler_v = rearrange(
            self.qkv.bias.to(q.dtype), "(qkv h d) -> qkv h 1 d", qkv=3, h=self.num_heads
        )
        tables = self.rel_pos_d, self.rel_pos_h, self.rel_pos_w
        bias = relative_bias(q, tables, self.positions, side, filler_q[..., None, None, :])
        q, k, v = (t.flatten(2, 4) for t in (q, k, v))
        if bias.shape[-1] > k.shape[-2]:
            k = torch.cat([k, filler_k.expand(len(k), -1, -1, -1)], dim=-2)
            v = torch.cat([v, filler_v.expand(len(v), -1, -1, -1)], dim=-2)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).unflatten(2, size)
        return rearrange(out, "(n i j k) h a b c d -> n (i a) (j b) (k c) (h d)", **counts)


def relative_bias(
    q: Tensor, tables: Tables, positions: Positions, side: int | None = None, filler: Tensor | None = None
) -> Tensor:
    """What relative positions add to the logits of a cube of tokens, summed in float32 at least.

    Args:
        q: (..., a, b, c, d), unscaled queries of the real tokens, which fill one corner of the cube.
        tables: D, H, W, each (2 side - 1, d): row o + side - 1 is for query minus key = o. Those of another length are
            resampled linearly.
        positions: see the module's text.
        side: edge of the whole cube, a by default.
        filler: (..., 1, 1, 1, d), the query of all padding tokens; needed if there are any.

    Returns:
        (..., abc, abc), queries by keys. With padding (..., abc, abc + 1): the last stands for all padding together.
    """
    side = side or q.shape[-4]
    with torch.autocast(q.device.type, enabled=False):
        exact = torch.promote_types(q.dtype, torch.float32)
        offset = torch.arange(side, device=q.device)
        index = offset[:, None] - offset + side - 1
        by_offset = [_resampled(t.to(exact), 2 * side - 1)[index] for t in tables]  # (side, side, d): query, key
        terms = _published_terms if positions == "published" else _intended_terms
        bias, padding = terms(q.to(exact), by_offset, None if filler is None else filler.to(exact))
        bias = bias.flatten(-6, -4).flatten(-3)
        if padding:
            total = torch.stack(padding, dim=-1).logsumexp(-1).flatten(-3)
            bias = torch.cat([bias, total[..., None]], dim=-1)
        return bias.to(q.dtype)


def _published_terms(q: Tensor, tables: list[Tensor], filler: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Bias (..., x, y, z, i, j, k) and the log-sums (..., x, y, z) over the boxes of padding keys."""
    a, b, c = q.shape[-4:-1]
    d, h, w = tables
    side = len(d)
    line = q
    if c < side:
        line = torch.cat([q, filler.expand(*q.shape[:-2], side - c, -1)], dim=-2)
    d = torch.einsum("...xyzc,xkc->...xyzk", q, d[:a])
    h = torch.einsum("...xyic,ykc->...xyik", line, h[:b])
    w = torch.einsum("...xyjc,jkc->...xyjk", line, w)
    plane = h[..., :a, None, :c] + w[..., None, :b, :c]
    padding = [
        (d[..., k] + (h[..., i, k].logsumexp(-2) + w[..., j, k].logsumexp(-2))[..., None, :]).logsumexp(-1)
        for i, j, k in _padding(a, b, c, side)
    ]
    return d[..., None, None, :c] + plane[..., None, :, :, :], padding


def _intended_terms(q: Tensor, tables: list[Tensor], _: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    a, b, c = q.shape[-4:-1]
    d, h, w = tables
    side = len(d)
    d = torch.einsum("...xyzc,xic->...xyzi", q, d[:a])
    h = torch.einsum("...xyzc,yjc->...xyzj", q, h[:b])
    w = torch.einsum("...xyzc,zkc->...xyzk", q, w[:c])
    padding = [
        d[..., i].logsumexp(-1) + h[..., j].logsumexp(-1) + w[..., k].logsumexp(-1)
        for i, j, k in _padding(a, b, c, side)
    ]
    return d[..., :a, None, None] + h[..., None, :b, None] + w[..., None, None, :c], padding


def _padding(a: int, b: int, c: int, side: int) -> list[tuple[slice, slice, slice]]:
    """Boxes that make up a cube without its corner of a x b x c."""
    everything = slice(0, side)
    boxes = [
        (everything, everything, slice(c, side)),
        (slice(a, side), everything, slice(0, c)),
        (slice(0, a), slice(b, side), slice(0, c)),
    ]
    return [box for box, real in zip(boxes, (c, a, b), strict=True) if real < side]


def _resampled(table: Tensor, length: int) -> Tensor:
    if len(table) == length:
        return table
    return F.interpolate(table.T[None], length, mode="linear", align_corners=False)[0].T
