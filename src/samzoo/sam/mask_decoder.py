"""SAM's mask decoder for many prompts of many images in one call.

Parameters and numbers are segment-anything's. Its own forward repeats one image for all prompts; here images are
gathered per prompt, and as late as possible: without mask prompts the image tokens are the same for all prompts on an
image until the first layer has answered, so that layer's three projections of them are made per image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from samzoo.sam import modeling
from samzoo.sam.config import SamConfig

Gather = Callable[[Tensor], Tensor]


class MaskDecoder(modeling.MaskDecoder):
    """Answers prompts on image embeddings."""

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

    def forward(
        self,
        embedding: Tensor,
        image_pe: Tensor,
        image_index: Tensor,
        sparse: Tensor,
        dense: Tensor,
        masks: bool | Sequence[int],
        shift: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Answer P prompts on B images.

        Args:
            embedding: (B, C, g, g), or (B, C, g, g, g) for a volume's, and so on below.
            image_pe: (1, C, g, g).
            image_index: int64 (P,), the image that each prompt looks at.
            sparse: (P, T, C).
            dense: (P, C, g, g), or what all share: (1, C, g, g) or (1, C, 1, 1).
            masks: which mask tokens answer: SAM's multimask output, 1.. (True), or 0 (False), or those named.
            shift: (P, mask tokens, C) to be added to the mask tokens (pattern shifting); None: plain SAM.

        Returns:
            logits (P, M, 4g, 4g) and predicted quality (P, M), not bounded to [0, 1].
        """
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        own = own.to(sparse.dtype).expand(len(sparse), -1, -1)
        if shift is not None:
            own = own + F.pad(shift.to(sparse.dtype), (0, 0, 1, 0))  # the quality token stays as it is
        tokens = torch.cat([own, sparse], dim=1)
        if len(dense) == 1:
            image, gather = embedding + dense, lambda rows: rows[image_index]
        else:
            image, gather = embedding[image_index] + dense, lambda rows: rows
        answered, image = self._transform(to_tokens(image), to_tokens(image_pe), tokens, gather)

        chosen = (list(range(1, self.num_mask_tokens)) if masks else [0]) if isinstance(masks, bool) else list(masks)
        hyper = torch.stack([self.output_hypernetworks_mlps[i](answered[:, 1 + i]) for i in chosen], dim=1)
        quality = self.iou_prediction_head(answered[:, 0])[:, chosen]
        return self._masks(image, hyper, embedding.shape[-1]), quality

    def _transform(self, image: Tensor, image_pe: Tensor, tokens: Tensor, gather: Gather) -> tuple[Tensor, Tensor]:
        """The two-way transformer: image (B or P, N, C), tokens (P, T, C) -> tokens and image (P, N, C).

        Args:
            gather: takes image rows to prompt rows; the image has prompt rows from the end of the first layer on.
        """
        queries = tokens
        for layer in self.transformer.layers:
            placed = queries if layer.skip_first_layer_pe else queries + tokens
            attended = attend(layer.self_attn, placed, placed, queries)
            queries = layer.norm1(attended if layer.skip_first_layer_pe else queries + attended)

            image_placed = image + image_pe
            attended = attend(layer.cross_attn_token_to_image, queries + tokens, image_placed, image, to_kv=gather)
            queries = layer.norm2(queries + attended)
            queries = layer.norm3(queries + layer.mlp(queries))

            attended = attend(layer.cross_attn_image_to_token, image_placed, queries + tokens, queries, to_q=gather)
            image = layer.norm4(gather(image) + attended)
            gather = _same
        attended = attend(self.transformer.final_attn_token_to_image, queries + tokens, image + image_pe, image)
        return self.transformer.norm_final_attn(queries + attended), image

    def _masks(self, image: Tensor, hyper: Tensor, grid: int) -> Tensor:
        """Upscale the image fourfold and project it on each mask's vector: (P, N, C), (P, M, C / 8) -> (P, M, 4g, 4g).

        A transposed convolution of kernel 2 and stride 2 is a linear layer from a token to its quarters (in a volume:
        eighths), so everything stays channels-last and only the finished masks are put in order.
        """
        first, norm, activation, second, _ = self.output_upscaling
        x = _to_parts(image, first)
        x = activation(F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps))
        x = activation(_to_parts(x, second))
        masks = hyper @ x.flatten(1, -2).transpose(1, 2)
        n = first.weight.ndim - 2
        masks = masks.unflatten(2, [grid] * n + [2] * 2 * n)
        masks = masks.permute(0, 1, *[2 + axis + scale * n for axis in range(n) for scale in range(3)])
        return masks.reshape(*hyper.shape[:2], *[4 * grid] * n)


def _same(rows: Tensor) -> Tensor:
    return rows


def to_tokens(image: Tensor) -> Tensor:
    """(B, C, g, g) -> (B, g * g, C)"""
    return image.flatten(2).transpose(1, 2)


def _to_parts(x: Tensor, layer: torch.nn.ConvTranspose2d | torch.nn.ConvTranspose3d) -> Tensor:
    """(..., C) -> (..., 4 or 8, C'), the quarters or eighths in reading order."""
    weight = layer.weight.flatten(2).permute(2, 1, 0)
    return F.linear(x, weight.flatten(0, 1), layer.bias.repeat(len(weight))).unflatten(-1, (len(weight), -1))


def attend(
    layer: modeling.DecoderAttention, q: Tensor, k: Tensor, v: Tensor, to_q: Gather = _same, to_kv: Gather = _same
) -> Tensor:
    """segment-anything's decoder attention through the fused kernel, rows gathered after the projections."""
    q = layer._separate_heads(to_q(layer.q_proj(q)), layer.num_heads)
    k = layer._separate_heads(to_kv(layer.k_proj(k)), layer.num_heads)
    v = layer._separate_heads(to_kv(layer.v_proj(v)), layer.num_heads)
    return layer.out_proj(layer._recombine_heads(F.scaled_dot_product_attention(q, k, v)))
