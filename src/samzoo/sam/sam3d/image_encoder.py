"""SAM-Med3D's image encoder: a ViT on a cube of patches, windowed and global blocks, convolutional neck."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samzoo.errors import ConfigError
from samzoo.sam.modeling import MLPBlock
from samzoo.sam.sam3d.attention import Attention3d
from samzoo.sam.sam3d.config import Sam3dConfig

NORM_EPS = 1e-6


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, ...), at each place by itself."""

    def __init__(self, channels: int, eps: float = NORM_EPS) -> None:
        super().__init__(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...)"""
        last = F.layer_norm(x.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps)
        return last.movedim(-1, 1)


class PatchEmbed3d(nn.Module):
    """Patches of a volume to tokens, channels last: (B, channels, S, S, S) -> (B, g, g, g, D)"""

    def __init__(self, config: Sam3dConfig) -> None:
        super().__init__()
        self.proj = nn.Conv3d(config.in_channels, config.embed_dim, config.patch_size, stride=config.patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).movedim(1, -1)


class Block3d(nn.Module):
    """u = x + attn(norm1(x)); out = u + mlp(norm2(u)), all on B x g x g x g x D."""

    def __init__(self, config: Sam3dConfig, index: int) -> None:
        super().__init__()
        dim = config.embed_dim
        window = 0 if index in config.global_attn_indexes else config.window_size
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention3d(dim, config.num_heads, config.grid, window, config.positions)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MLPBlock(dim, int(dim * config.mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ImageEncoder3d(nn.Module):
    """Parameter names are those of SAM-Med3D's ImageEncoderViT3D."""

    def __init__(self, config: Sam3dConfig) -> None:
        super().__init__()
        self.expected = (config.in_channels, *[config.image_size] * 3)
        self.patch_embed = PatchEmbed3d(config)
        self.pos_embed = nn.Parameter(torch.empty(1, *[config.grid] * 3, config.embed_dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.ModuleList(Block3d(config, i) for i in range(config.depth))
        width = config.prompt_embed_dim
        self.neck = nn.Sequential(
            nn.Conv3d(config.embed_dim, width, kernel_size=1, bias=False),
            ChannelNorm(width),
            nn.Conv3d(width, width, kernel_size=3, padding=1, bias=False),
            ChannelNorm(width),
        )

    def forward(self, x: Tensor, taps: Sequence[int] = ()) -> Tensor | tuple[Tensor, list[Tensor]]:
        """(B, channels, S, S, S) -> embedding (B, C, g, g, g); with `taps` also the tokens (B, g, g, g, D) after those
        blocks.

        Raises:
            ConfigError: crops of another size or number of channels than the encoder was built for.
        """
        if tuple(x.shape[1:]) != self.expected:
            raise ConfigError(
                "this encoder takes crops of channels x voxels = "
                f"{' x '.join(map(str, self.expected))}, got {' x '.join(map(str, x.shape[1:]))}"
            )
        x = self.patch_embed(x) + self.pos_embed
        tapped = {}
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in taps:
                tapped[i] = x
        embedding = self.neck(x.movedim(-1, 1))
        return (embedding, [tapped[i] for i in taps]) if taps else embedding
