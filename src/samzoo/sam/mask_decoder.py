"""SAM's mask decoder for many prompts of many images in one call."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from samzoo.sam import modeling
from samzoo.sam.config import SamConfig


class DecoderAttention(modeling.DecoderAttention):
    """segment-anything's decoder attention through the fused kernel."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = self._separate_heads(self.q_proj(q), self.num_heads)
        k = self._separate_heads(self.k_proj(k), self.num_heads)
        v = self._separate_heads(self.v_proj(v), self.num_heads)
        return self.out_proj(self._recombine_heads(F.scaled_dot_product_attention(q, k, v)))


class MaskDecoder(modeling.MaskDecoder):
    """Parameters and numbers are segment-anything's; images are gathered per prompt instead of repeated."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__(
            transformer_dim=config.prompt_embed_dim,
            transformer=modeling.TwoWayTransformer(
                depth=config.decoder_depth,
                embedding_dim=config.prompt_embed_dim,
                num_heads=config.decoder_num_heads,
                mlp_dim=config.decoder_mlp_dim,
            ),
            num_multimask_outputs=config.num_multimask_outputs,
            iou_head_depth=config.iou_head_depth,
            iou_head_hidden_dim=config.iou_head_hidden_dim,
        )
        for module in self.transformer.modules():
            if type(module) is modeling.DecoderAttention:
                module.__class__ = DecoderAttention  # same state, other forward

    def forward(
        self,
        embedding: Tensor,
        image_pe: Tensor,
        image_index: Tensor,
        sparse: Tensor,
        dense: Tensor,
        multimask: bool,
    ) -> tuple[Tensor, Tensor]:
        """Answer P prompts on B images.

        Args:
            embedding: (B, C, g, g).
            image_pe: (1, C, g, g).
            image_index: int64 (P,), the image that each prompt looks at.
            sparse: (P, T, C).
            dense: (P, C, g, g) or (1, C, g, g).
            multimask: the masks of tokens 1.. (True) or of token 0 (False).

        Returns:
            logits (P, M, 4g, 4g) and predicted quality (P, M), not bounded to [0, 1].
        """
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.to(sparse.dtype).expand(len(sparse), -1, -1), sparse], dim=1)
        source = embedding[image_index] + dense
        answered, source = self.transformer(source, image_pe, tokens)

        chosen = range(1, self.num_mask_tokens) if multimask else range(1)
        hyper = torch.stack([self.output_hypernetworks_mlps[i](answered[:, 1 + i]) for i in chosen], dim=1)
        quality = self.iou_prediction_head(answered[:, 0])[:, chosen.start : chosen.stop]
        grid = embedding.shape[-1]
        upscaled = self.output_upscaling(source.transpose(1, 2).unflatten(2, (grid, grid)))
        return torch.einsum("pmc,pchw->pmhw", hyper, upscaled), quality
