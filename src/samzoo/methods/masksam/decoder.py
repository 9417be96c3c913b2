"""SAM's prompt encoder and mask decoder for slabs: a depth code, depth adapters, and a token that names the class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samzoo.methods.masksam.adapters import DConvAdapter, DMLPAdapter
from samzoo.methods.masksam.settings import MaskSAMSettings
from samzoo.sam import SamConfig
from samzoo.sam.mask_decoder import MaskDecoder, attend, to_tokens
from samzoo.sam.prompt_encoder import PromptEncoder

MLP_ADAPTER_SCALE = 0.5


class SlabPromptEncoder(PromptEncoder):
    """SAM's, with a learned code of the depth added to that of the place.

    Args:
        config: sizes; image_size is the canvas that boxes and places refer to.
        depth: T.
        grid: side of the token map, the top-left part of the canvas' one.
    """

    def __init__(self, config: SamConfig, depth: int, grid: int) -> None:
        super().__init__(config)
        self.temporal_embedding = nn.Parameter(torch.zeros(depth, config.prompt_embed_dim, grid, grid))

    def dense_code(self) -> Tensor:
        """(T, P, h, w)"""
        grid = self.temporal_embedding.shape[-1]
        return self.get_dense_pe()[..., :grid, :grid] + self.temporal_embedding


class SlabMaskDecoder(MaskDecoder):
    """Answers each query of each slice with one mask and class logits; queries do not see each other.

    Args:
        config: sizes of SAM.
        settings: depth, classes, adapters, which classifier tokens there are.
    """

    def __init__(self, config: SamConfig, settings: MaskSAMSettings) -> None:
        super().__init__(config)
        self.depth = settings.patch[0]
        width, zero = config.prompt_embed_dim, settings.zero_init_adapters

        def mlp(residual: bool = True) -> DMLPAdapter | None:
            return DMLPAdapter(width, self.depth, residual, zero) if settings.mlp_adapters else None

        for layer in self.transformer.layers:
            layer.Space_Queries_Adapter = mlp()
            layer.Cross_Space_Adapter1 = mlp()
            layer.MLP_Queries_Adapter = mlp(residual=False)
            layer.Cross_Space_Adapter2 = DConvAdapter(width, zero_init=zero) if settings.conv_adapters else None
        self.transformer.Space_Adapter = mlp()
        shared = settings.classifier_tokens != "auxiliary"
        self.classifier_token_Adapter = nn.Embedding(1, width) if shared else None
        self.classifier_embed_Adapter = nn.Linear(width, settings.num_classes + 1)

    def forward(
        self, neck: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor, classifier: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Decode Q queries on each of S = B * T slices.

        Args:
            neck: (S, P, h, w).
            image_pe: (T, P, h, w).
            sparse: (S * Q, 2, P), the corners of the boxes.
            dense: (S * Q, P, h, w), the masks.
            classifier: (S * Q, P), added to the global classifier token; None: that alone.

        Returns:
            mask logits (S * Q, 4h, 4w) of SAM's single mask token, and class logits (S * Q, K + 1).
        """
        slices, grid = len(neck), neck.shape[-1]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).to(sparse.dtype)
        tokens = torch.cat([own.expand(len(sparse), -1, -1), sparse, self._classifier(classifier, sparse)], dim=1)
        image = (neck[:, None] + dense.unflatten(0, (slices, -1))).flatten(0, 1)
        answered, image = self._transform_slab(to_tokens(image), to_tokens(image_pe), tokens, slices)
        hyper = self.output_hypernetworks_mlps[0](answered[:, 1:2])
        return self._masks(image, hyper, grid)[:, 0], self.classifier_embed_Adapter(answered[:, -1])

    def _classifier(self, auxiliary: Tensor | None, sparse: Tensor) -> Tensor:
        parts = [] if auxiliary is None else [auxiliary[:, None].to(sparse.dtype)]
        if self.classifier_token_Adapter is not None:
            parts.append(self.classifier_token_Adapter.weight.to(sparse.dtype).expand(len(sparse), 1, -1))
        return sum(parts[1:], parts[0])

    def _transform_slab(self, image: Tensor, image_pe: Tensor, tokens: Tensor, slices: int) -> tuple[Tensor, Tensor]:
        """The two-way transformer: image (S * Q, L, P), image_pe (T, L, P), tokens (S * Q, n, P)."""
        per_slice, grid = len(image) // slices, int(image.shape[1] ** 0.5)

        def adapt(adapter: nn.Module | None, x: Tensor) -> Tensor:
            return x if adapter is None else adapter(x, self.depth, per_slice)

        def place(image: Tensor) -> Tensor:
            by_depth = image.unflatten(0, (-1, self.depth, per_slice)) + image_pe[:, None]
            return by_depth.flatten(0, 2)

        queries = tokens
        for layer in self.transformer.layers:
            first = layer.skip_first_layer_pe
            placed = queries if first else queries + tokens
            attended = adapt(layer.Space_Queries_Adapter, attend(layer.self_attn, placed, placed, queries))
            queries = layer.norm1(attended if first else queries + attended)

            image_placed = place(image)
            attended = attend(layer.cross_attn_token_to_image, queries + tokens, image_placed, image)
            queries = layer.norm2(queries + adapt(layer.Cross_Space_Adapter1, attended))
            change = layer.mlp(queries)
            if layer.MLP_Queries_Adapter is not None:
                change = change + MLP_ADAPTER_SCALE * adapt(layer.MLP_Queries_Adapter, queries)
            queries = layer.norm3(queries + change)

            attended = attend(layer.cross_attn_image_to_token, image_placed, queries + tokens, queries)
            if layer.Cross_Space_Adapter2 is not None:
                as_map = attended.unflatten(1, (grid, grid))
                attended = adapt(layer.Cross_Space_Adapter2, as_map).flatten(1, 2)
            image = layer.norm4(image + attended)
        attended = attend(self.transformer.final_attn_token_to_image, queries + tokens, place(image), image)
        return self.transformer.norm_final_attn(queries + adapt(self.transformer.Space_Adapter, attended)), image
