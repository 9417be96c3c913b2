"""SAM's prompt encoder without device synchronisation, its position codes always in float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from samzoo.sam import modeling
from samzoo.sam.config import SamConfig


class PromptEncoder(modeling.PromptEncoder):
    """Numerically segment-anything's, which indexes with boolean masks (each a synchronisation on CUDA)."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__(
            embed_dim=config.prompt_embed_dim,
            image_embedding_size=(config.grid, config.grid),
            input_image_size=(config.image_size, config.image_size),
            mask_in_chans=config.mask_in_chans,
        )

    def get_dense_pe(self) -> Tensor:
        """(1, C, g, g) position code of the embedding's grid."""
        with torch.autocast(self._get_device().type, enabled=False):
            return super().get_dense_pe()

    def _position_code(self, coords: Tensor) -> Tensor:
        """(P, N, 2) x, y in grid pixels -> (P, N, C). Half precision cannot tell neighbouring pixels apart."""
        with torch.autocast(coords.device.type, enabled=False):
            return self.pe_layer.forward_with_coords(coords.float() + 0.5, self.input_image_size)

    def _embed_boxes(self, boxes: Tensor) -> Tensor:
        corners = torch.cat([self.point_embeddings[2].weight, self.point_embeddings[3].weight])
        return self._position_code(boxes.reshape(-1, 2, 2)) + corners

    def forward(
        self,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Prompts of one form (all have as many points, all or none have a box, a mask) -> tokens and map.

        Args:
            points: coordinates (P, N, 2) in x, y on the S x S grid, and labels (P, N): 1, 0, or -1 for no point.
            boxes: (P, 4) x0, y0, x1, y1.
            masks: (P, 1, 4g, 4g).

        Returns:
            sparse (P, T, C): points (one more without a box), then two corners; T = 0 without either;
            dense (P, C, g, g), or (1, C, g, g) to be broadcast where there is no mask.
        """
        count = self._get_batch_size(points, boxes, masks)
        tokens = []
        if points is not None:
            tokens.append(embed_points(self, self._position_code, *points, pad=boxes is None))
        if boxes is not None:
            tokens.append(self._embed_boxes(boxes))
        weight = self.no_mask_embed.weight
        sparse = torch.cat(tokens, dim=1) if tokens else weight.new_empty(count, 0, self.embed_dim)
        if masks is None:
            return sparse, weight[:, :, None, None].expand(-1, -1, *self.image_embedding_size)
        return sparse, self._embed_masks(masks)


def embed_points(
    encoder: nn.Module, code_of: Callable[[Tensor], Tensor], points: Tensor, labels: Tensor, pad: bool
) -> Tensor:
    """Tokens (P, N, C) of points (P, N, axes) with labels (P, N): 1, 0, or -1 for no point.

    Args:
        encoder: has the vectors that are added for each label, in 2D and 3D under the same names.
        code_of: position code (P, N, C) of points.
        pad: SAM's rule: points without a box are followed by one "no point", (P, N + 1, C).
    """
    if pad:
        points = torch.cat([points, torch.zeros_like(points[:, :1])], dim=1)
        labels = torch.cat([labels, torch.full_like(labels[:, :1], -1)], dim=1)
    labels, code = labels[..., None], code_of(points)
    code = torch.where(labels == -1, encoder.not_a_point_embed.weight.expand_as(code), code)
    code = torch.where(labels == 0, code + encoder.point_embeddings[0].weight, code)
    return torch.where(labels == 1, code + encoder.point_embeddings[1].weight, code)
