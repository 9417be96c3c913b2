"""SAM-Med3D's prompt encoder: clicks, boxes and masks in a cubic crop, position codes always in float32."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from samzoo.errors import ConfigError
from samzoo.sam.prompt_encoder import embed_points
from samzoo.sam.sam3d.config import Sam3dConfig
from samzoo.sam.sam3d.image_encoder import ChannelNorm


class PositionCode(nn.Module):
    """Random frequencies of a place in the unit cube: sine, cosine and the sine once more, a third of C each."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(3, dim // 3))

    def forward(self, places: Tensor) -> Tensor:
        """(..., 3) in [0, 1] -> (..., C). Half precision cannot tell neighbouring voxels apart."""
        with torch.autocast(places.device.type, enabled=False):
            angle = 2 * math.pi * ((2 * places - 1) @ self.positional_encoding_gaussian_matrix.to(places.dtype))
            sine = angle.sin()
            return torch.cat([sine, angle.cos(), sine], dim=-1)


class PromptEncoder3d(nn.Module):
    """Parameter names are those of SAM-Med3D's PromptEncoder3D.

    Args:
        config: sizes, and the axes of the grid's position code.
        boxes: have vectors for a box's two corners. The published weights have none.
    """

    def __init__(self, config: Sam3dConfig, boxes: bool = False) -> None:
        super().__init__()
        dim, hidden = config.prompt_embed_dim, config.mask_in_chans
        self.image_size, self.grid, self.positions = config.image_size, config.grid, config.positions
        self.pe_layer = PositionCode(dim)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(4 if boxes else 2))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv3d(1, hidden // 4, kernel_size=2, stride=2),
            ChannelNorm(hidden // 4),
            nn.GELU(),
            nn.Conv3d(hidden // 4, hidden, kernel_size=2, stride=2),
            ChannelNorm(hidden),
            nn.GELU(),
            nn.Conv3d(hidden, dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, dim)

    def get_dense_pe(self) -> Tensor:
        """(1, C, g, g, g) position code of the embedding's grid."""
        frequencies = self.pe_layer.positional_encoding_gaussian_matrix
        centres = (torch.arange(self.grid, device=frequencies.device, dtype=frequencies.dtype) + 0.5) / self.grid
        x, y, z = torch.meshgrid(centres, centres, centres, indexing="ij")
        # the published code's first two axes are exchanged, unlike those of clicks
        places = torch.stack([y, x, z] if self.positions == "published" else [x, y, z], dim=-1)
        return self.pe_layer(places).movedim(-1, 0)[None]

    def _voxel_code(self, voxels: Tensor) -> Tensor:
        """(P, N, 3) voxel indices -> (P, N, C)"""
        dtype = self.pe_layer.positional_encoding_gaussian_matrix.dtype
        return self.pe_layer((voxels.to(dtype) + 0.5) / self.image_size)

    def _embed_boxes(self, boxes: Tensor) -> Tensor:
        if len(self.point_embeddings) < 4:
            raise ConfigError(
                "this SAM-Med3D was built without box prompts, and the published weights have none: prompt it with "
                "clicks, or build it with boxes=True and train it"
            )
        corners = torch.cat([self.point_embeddings[2].weight, self.point_embeddings[3].weight])
        return self._voxel_code(boxes.reshape(-1, 2, 3)) + corners

    def forward(
        self,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Prompts of one form (all have as many points, all or none have a box, a mask) -> tokens and map.

        Args:
            points: voxel indices (P, N, 3) along the crop's axes 0, 1, 2, and labels (P, N): 1, 0, or -1 for no point.
            boxes: (P, 6), near corner, then far corner along axes 0, 1, 2: x0, y0, z0, x1, y1, z1.
            masks: (P, 1, 4g, 4g, 4g), logits.

        Returns:
            sparse (P, T, C): points (one more without a box), then two corners; T = 0 without either or with N = 0;
            dense (P, C, g, g, g), or (1, C, g, g, g) to be broadcast where there is no mask.

        Raises:
            ConfigError: boxes, where the encoder has no vectors for them.
        """
        count = next((len(p) for p in (points and points[0], boxes, masks) if p is not None), 1)
        weight = self.no_mask_embed.weight
        tokens = [weight.new_empty(count, 0, weight.shape[1])]
        if points is not None and points[0].shape[1]:
            tokens.append(embed_points(self, self._voxel_code, *points, pad=boxes is None))
        if boxes is not None:
            tokens.append(self._embed_boxes(boxes))
        sparse = torch.cat(tokens, dim=1)
        if masks is None:
            return sparse, weight[:, :, None, None, None].expand(-1, -1, *[self.grid] * 3)
        return sparse, self.mask_downscaling(masks)
