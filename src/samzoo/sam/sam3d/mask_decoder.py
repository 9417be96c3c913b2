"""SAM-Med3D's mask decoder: SAM's, for a two-way transformer knows tokens only, with upscaling along three axes."""

from __future__ import annotations

from torch import nn

from samzoo.sam.mask_decoder import MaskDecoder
from samzoo.sam.sam3d.config import Sam3dConfig
from samzoo.sam.sam3d.image_encoder import ChannelNorm


class MaskDecoder3d(MaskDecoder):
    """Answers prompts on image embeddings (B, C, g, g, g)."""

    def __init__(self, config: Sam3dConfig) -> None:
        super().__init__(config)
        dim = config.prompt_embed_dim
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose3d(dim, dim // 4, kernel_size=2, stride=2),
            ChannelNorm(dim // 4),
            nn.GELU(),
            nn.ConvTranspose3d(dim // 4, dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
