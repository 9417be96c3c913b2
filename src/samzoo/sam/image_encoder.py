"""SAM's image encoder (ViT with windowed and global blocks, convolutional neck) with room for an adapter per block."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from samzoo.errors import ConfigError
from samzoo.sam.attention import Attention
from samzoo.sam.config import SamConfig
from samzoo.sam.modeling import LayerNorm2d, MLPBlock, PatchEmbed

NORM_EPS = 1e-6


class Block(nn.Module):
    """u = x + attn(norm1(x)); n = norm2(u); out = u + mlp(n) (+ Adapter(n)), all on B x g x g x D."""

    def __init__(self, config: SamConfig, index: int, adapter: Callable[[int], nn.Module] | None) -> None:
        super().__init__()
        dim = config.embed_dim
        window = 0 if index in config.global_attn_indexes else config.window_size
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, config.num_heads, config.grid, window)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MLPBlock(dim, int(dim * config.mlp_ratio))
        # The capital is SAM-Med2D's: published checkpoints hold `blocks.{i}.Adapter.*`.
        self.Adapter = adapter(dim) if adapter else None

    def forward(self, x: Tensor, use_adapter: bool = True) -> Tensor:
        """(B, g, g, D) -> (B, g, g, D)"""
        x = x + self.attn(self.norm1(x))
        n = self.norm2(x)
        x = x + self.mlp(n)
        if self.Adapter is not None and use_adapter:
            x = x + self.Adapter(n)
        return x


class ImageEncoder(nn.Module):
    """Parameter names are those of segment-anything's ImageEncoderViT.

    Args:
        config: sizes.
        adapter: given D, builds the module that stands beside each block's MLP; None for plain SAM.
        block: given its index, builds a block in place of `Block`.
    """

    def __init__(
        self,
        config: SamConfig,
        adapter: Callable[[int], nn.Module] | None = None,
        block: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        block = block or (lambda index: Block(config, index, adapter))
        patch = (config.patch_size, config.patch_size)
        self.image_size = config.image_size
        self.use_adapters = True
        """False leaves the adapters out and gives the encoder they were put into."""
        self.patch_embed = PatchEmbed(kernel_size=patch, stride=patch, embed_dim=config.embed_dim)
        self.pos_embed = nn.Parameter(torch.empty(1, config.grid, config.grid, config.embed_dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.ModuleList(block(i) for i in range(config.depth))
        width = config.prompt_embed_dim
        self.neck = nn.Sequential(
            nn.Conv2d(config.embed_dim, width, kernel_size=1, bias=False),
            LayerNorm2d(width),
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(width),
        )

    def forward(self, x: Tensor, taps: Sequence[int] = ()) -> Tensor | tuple[Tensor, list[Tensor]]:
        """(B, 3, S, S) -> embedding (B, C, g, g); with `taps` also the residual stream (B, g, g, D) after those blocks.

        Raises:
            ConfigError: pictures of another size than the encoder was built for.
        """
        if x.shape[-2:] != (self.image_size, self.image_size):
            raise ConfigError(
                f"this encoder takes pictures of {self.image_size} x {self.image_size}, got {tuple(x.shape[-2:])}"
            )
        x = self.patch_embed(x) + self.pos_embed
        tapped = {}
        for i, block in enumerate(self.blocks):
            x = block(x, self.use_adapters)
            if i in taps:
                tapped[i] = x
        embedding = self.neck(x.permute(0, 3, 1, 2))
        return (embedding, [tapped[i] for i in taps]) if taps else embedding
