"""The network of M-SAM: SAM-Med3D with LoRA in its encoder and the mask-enhanced adapter before its decoder.

What it computes and how its tensors are named follow the official code of M-SAM (MICCAI 2024, arXiv 2403.05912).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from samzoo.errors import ConfigError
from samzoo.methods.m_sam.adapter import MaskEnhancedAdapter
from samzoo.methods.m_sam.lora import add_lora
from samzoo.sam import Sam3d, Sam3dConfig
from samzoo.types import Embedding


class MSamNetwork(Sam3d):
    """Keys of the state dict are those of official files without the prefix lora_sam.sam.

    Nothing is frozen here; what is the encoder's own and what is new, it says itself.

    Args:
        config: sizes of SAM-Med3D; `config.positions` is the adapter's, too.
        boxes: whether box prompts are understood.
        lora_rank: of the updates of q and v in each encoder block; 0: none.
        adapter: False leaves the sum of image and mask embedding to the decoder, as SAM-Med3D does.
        mea_blocks: mutual feature enhancement blocks of the adapter.
        mea_heads: attention heads of the adapter; they divide `config.prompt_embed_dim`.
        mea_mlp_ratio: hidden width of the adapter's MLPs / `config.prompt_embed_dim`.

    Raises:
        ConfigError: numbers that do not fit.
    """

    def __init__(
        self,
        config: Sam3dConfig,
        boxes: bool = False,
        *,
        lora_rank: int = 4,
        adapter: bool = True,
        mea_blocks: int = 1,
        mea_heads: int = 6,
        mea_mlp_ratio: float = 4.0,
    ) -> None:
        _check(config, lora_rank, mea_blocks, mea_heads)
        super().__init__(config, boxes)
        add_lora(self.image_encoder, lora_rank)
        sizes = (config.prompt_embed_dim, config.grid, mea_blocks, mea_heads, mea_mlp_ratio, config.positions)
        self.bidatt = MaskEnhancedAdapter(*sizes) if adapter else None

    def image_branch(self, embedding: Tensor) -> Embedding:
        """What of the adapter depends on the image alone; without adapter the embedding (B, C, T, T, T) as it is."""
        return embedding if self.bidatt is None else self.bidatt.image_branch(embedding)

    def decode(
        self, embedding: Embedding, image_index: Tensor, sparse: Tensor, dense: Tensor, masks: bool | Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """See `Sam3d.decode`: P prompts on B crops -> logits (P, M, L, L, L) and quality (P, M).

        The decoder looks at the adapter's answer instead of the sum of image and mask embedding.

        Args:
            embedding: `image_branch` of the crops' embedding.
        """
        if self.bidatt is not None:
            embedding = self.bidatt(tuple(t[image_index] for t in embedding), dense)
            image_index = torch.arange(len(embedding), device=embedding.device)
            dense = dense.new_zeros(1, embedding.shape[1], 1, 1, 1)
        return super().decode(embedding, image_index, sparse, dense, masks)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """The image encoder's own, without LoRA: those that stay frozen."""
        return [p for name, p in self.image_encoder.named_parameters() if not is_lora(name)]

    def new_parameters(self) -> list[nn.Parameter]:
        """LoRA and adapter: those that SAM-Med3D does not have."""
        return [p for name, p in self.named_parameters() if part_of(name) is not None]


def is_lora(key: str) -> bool:
    return ".attn.qkv.linear_" in key


def part_of(key: str) -> str | None:
    """Which of M-SAM's parts a tensor belongs to; None: SAM-Med3D's."""
    if is_lora(key):
        return "M-SAM's LoRA"
    return "M-SAM's adapter" if key.startswith("bidatt.") else None


def _check(config: Sam3dConfig, lora_rank: int, mea_blocks: int, mea_heads: int) -> None:
    if not 0 <= lora_rank <= config.embed_dim:
        raise ConfigError(f"M-SAM's lora_rank must be 0 (none) to the encoder's {config.embed_dim}, got {lora_rank}")
    if mea_blocks < 1:
        raise ConfigError(
            f"M-SAM's mea_blocks must be at least 1, got {mea_blocks}; to go without, set adapter to false"
        )
    if mea_heads < 1 or config.prompt_embed_dim % mea_heads:
        raise ConfigError(
            f"M-SAM's mea_heads {mea_heads} must divide the width of the prompts, which is {config.prompt_embed_dim}"
        )
