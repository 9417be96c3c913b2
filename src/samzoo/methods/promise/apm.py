"""ProMISe's auto-prompting module (APM): point prompts regressed from three taps of a frozen image encoder.

Both heads of the reference code: a residual network on fused taps, and learned queries that attend to the taps. Names
of parameters are those of the published files, weights without use included (`fc2`, `norm2`): so such files load whole
and counts of parameters equal the reference's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samzoo.errors import ConfigError
from samzoo.sam.modeling import MLPBlock

TAPS = 3
BLOCKS = (3, 4, 6, 3)


class FeatureFusion(nn.Module):
    """Three 3 x 3 convolutions over all taps at once.

    Args:
        dim: D, width of each tap.
        width: F, of the result.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.fusion_conv1 = nn.Conv2d(TAPS * dim, width, kernel_size=3, padding=1)
        self.fusion_conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.fusion_conv3 = nn.Conv2d(width, width, kernel_size=3, padding=1)

    def forward(self, taps: Sequence[Tensor]) -> Tensor:
        """Three of (B, D, g, g), last block first -> (B, F, g, g)."""
        x = F.relu(self.fusion_conv1(torch.cat(list(taps), dim=1)))
        return self.fusion_conv3(F.relu(self.fusion_conv2(x)))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside an identity, or beside a 1 x 1 convolution if `project`."""

    def __init__(self, dim: int, width: int, stride: int, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if project:
            self.shortcut.append(nn.Conv2d(dim, width, kernel_size=1, stride=stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, h, h) -> (B, width, h / stride, h / stride)"""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResidualHead(nn.Module):
    """A residual network of 34 layers' blocks on the token grid, its stem without stride.

    Args:
        dim: F, width of the fused taps.
        widths: of the four stages.
        outputs: numbers regressed.
        unused: outputs of the reference's second linear layer, which it computes and throws away; here it is never
            computed, and its weights get no gradient.
    """

    def __init__(self, dim: int, widths: Sequence[int], outputs: int, unused: int) -> None:
        super().__init__()
        if len(widths) != len(BLOCKS):
            raise ConfigError(f"APM's residual network has {len(BLOCKS)} stages, got {len(widths)} stage_widths")
        self.conv1 = nn.Conv2d(dim, widths[0], kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        before = widths[0]
        for stage, (width, blocks) in enumerate(zip(widths, BLOCKS, strict=True), start=1):
            layer = nn.Sequential()
            for j in range(blocks):
                stride = 2 if stage > 1 and j == 0 else 1
                last = stage == len(BLOCKS) and j == blocks - 1  # has a projection in the reference without need
                layer.append(ResidualBlock(before, width, stride, project=stride > 1 or before != width or last))
                before = width
            self.add_module(f"layer{stage}", layer)
        self.fc2 = nn.Linear(before, unused)
        self.fc = nn.Linear(before, outputs)

    def pooled(self, x: Tensor) -> Tensor:
        """(B, F, g, g) -> (B, widths[-1])

        Raises:
            ConfigError: in training, one picture whose last stage is a single token: batch norm has no statistics.
        """
        if self.training and len(x) == 1 and x.shape[-1] <= 2 ** len(BLOCKS):
            raise ConfigError(
                f"APM's batch norm can't be trained on a batch of one picture on a grid of {x.shape[-1]} tokens: "
                "use batches of at least two"
            )
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), kernel_size=3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, g, g) -> (B, outputs) float32"""
        pooled = self.pooled(x)
        with torch.autocast(x.device.type, enabled=False):  # half precision would round points to whole pixels
            return self.fc(pooled.float())


class Upsampling(nn.Module):
    """A level twice as fine, but for the border that the unpadded convolution costs."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2)
        self.conv = nn.Conv2d(dim, dim, kernel_size=3)
        self.batchnorm = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, h) -> (B, D, 2h - 2, 2h - 2)"""
        return F.relu(self.batchnorm(self.conv(self.deconv(x))))


class CrossLayer(nn.Module):
    """Queries attend to one level, then an MLP; no attention among queries, so that classes do not mix."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.cross_attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.ffn = MLPBlock(dim, 4 * dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)  # in the reference's files, without use
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, query: Tensor, query_position: Tensor, source: Tensor, position: Tensor) -> Tensor:
        """(B, Q, D), (Q, D), (B, L, D), (L, D) -> (B, Q, D)"""
        attended, _ = self.cross_attention(query + query_position, source + position, source, need_weights=False)
        query = self.norm1(query + attended)
        return self.norm3(query + self.ffn(query))


class CrossHead(nn.Module):
    """Learned queries that attend to the last tap as it is, the middle one twice, the first four times as fine.

    Args:
        dim: D.
        heads: of each attention.
        queries: Q.
    """

    def __init__(self, dim: int, heads: int, queries: int) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"APM's cross_heads {heads} must divide the encoder's width {dim}")
        if dim % 2:
            raise ConfigError(f"APM's cross-attention head needs an encoder of even width, not {dim}")
        self.query_embedding = nn.Embedding(queries, dim)
        self.query_feat = nn.Embedding(queries, dim)
        self.level_embedding = nn.Embedding(TAPS, dim)
        self.layers = nn.ModuleList(CrossLayer(dim, heads) for _ in range(TAPS))
        self.deconv1 = Upsampling(dim)
        self.deconv2 = Upsampling(dim)
        self.deconv3 = Upsampling(dim)

    def forward(self, taps: Sequence[Tensor]) -> Tensor:
        """Three of (B, D, g, g), last block first -> (B, Q, D)."""
        last, middle, first = taps
        levels = (last, self.deconv1(middle), self.deconv3(self.deconv2(first)))
        query = self.query_feat.weight.expand(len(last), -1, -1)
        for layer, level, vector in zip(self.layers, levels, self.level_embedding.weight, strict=True):
            source = level.flatten(2).transpose(1, 2) + vector
            position = sine_code(level.shape[-1], level.shape[1], level.device)
            query = layer(query, self.query_embedding.weight, source, position)
        return query


def sine_code(side: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Position code (side * side, dim) of a square map, the half for y before the half for x, float32.

    The divisors are 1, 2, 3, ... as in the reference, not the usual geometric series.
    """
    half = dim // 2
    angle = torch.arange(1, side + 1, device=device) / (side + 1e-6) * (2 * math.pi)
    feature = torch.arange(half, device=device)
    angle = angle[:, None] / (feature + 1)
    code = torch.where(feature % 2 == 0, angle.sin(), angle.cos())
    y, x = code[:, None].expand(side, side, half), code.expand(side, side, half)
    return torch.cat([y, x], dim=2).flatten(0, 1)
