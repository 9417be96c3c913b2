"""The numbers that make one 3D SAM, and the named architectures of SAM-Med3D."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from samzoo.errors import ConfigError
from samzoo.sam.config import SamConfig

Positions = Literal["published", "intended"]


@dataclass(frozen=True)
class Sam3dConfig(SamConfig):
    """Sizes as in `SamConfig`, of cubes instead of squares; the defaults are those of the published SAM-Med3D.

    Args:
        image_size: S, edge of the cubic crop in voxels; the token grid has g = S / patch_size tokens an edge.
        window_size: edge of the attention's windows in tokens. SAM-Med3D's is larger than its grid, which is padded.
        prompt_embed_dim: C, here also a multiple of 3, for a position's code has three equal parts.
        in_channels: channels of the crop.
        positions: "published": relative positions and the grid's position code with the axes as SAM-Med3D mixes them
            up, which its weights need; "intended": every axis in its place.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    image_size: int = 128
    prompt_embed_dim: int = 384
    in_channels: int = 1
    positions: Positions = "published"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._divides("prompt_embed_dim", self.prompt_embed_dim, "3 (a position's code has three equal parts)", 3)
        if self.positions not in ("published", "intended"):
            raise ConfigError(f"SAM-Med3D's positions are 'published' or 'intended', not {self.positions!r}")


ARCHITECTURES_3D: dict[str, Sam3dConfig] = {
    # samzoo's own, for laptops and tests: 6 tokens an edge, in windows of 4.
    "vit_tiny_3d": Sam3dConfig(
        image_size=48,
        patch_size=8,
        embed_dim=96,
        depth=4,
        num_heads=4,
        global_attn_indexes=(1, 3),
        window_size=4,
        prompt_embed_dim=96,
        decoder_mlp_dim=256,
        decoder_num_heads=4,
        iou_head_hidden_dim=96,
    ),
    "vit_b_ori": Sam3dConfig(),
    "vit_b": Sam3dConfig(image_size=256, embed_dim=384),
    "vit_l": Sam3dConfig(image_size=256, embed_dim=1024, depth=24, num_heads=16, global_attn_indexes=(5, 11, 17, 23)),
    "vit_h": Sam3dConfig(image_size=256, embed_dim=1280, depth=32, num_heads=16, global_attn_indexes=(7, 15, 23, 31)),
}
"""Weights are published for vit_b_ori alone."""
