"""A whole SAM: encode pictures once, then answer prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from samzoo.sam.config import SamConfig, resolve_config
from samzoo.sam.image_encoder import ImageEncoder
from samzoo.sam.mask_decoder import MaskDecoder
from samzoo.sam.prompt_encoder import PromptEncoder

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
"""Of R, G, B on 0..255, for all published SAM weights."""


class Sam(nn.Module):
    """Keys of the state dict are segment-anything's: image_encoder.*, prompt_encoder.*, mask_decoder.*.

    Args:
        config: sizes.
        adapter: given D, builds the module beside each encoder block's MLP; None for plain SAM.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: SamConfig, adapter: Callable[[int], nn.Module] | None = None) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = ImageEncoder(config, adapter)
        self.prompt_encoder = PromptEncoder(config)
        self.mask_decoder = MaskDecoder(config)
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD), persistent=False)

    def encode(self, x: Tensor) -> Tensor:
        """Normalised pictures (B, 3, S, S) -> embedding (B, C, g, g)."""
        return self.image_encoder(x)

    def encode_prompts(
        self,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `PromptEncoder.forward`: points (P, N, 2) with labels (P, N), boxes (P, 4), masks (P, 1, 4g, 4g)."""
        return self.prompt_encoder(None if points is None else (points, point_labels), boxes, masks)

    def decode(
        self,
        embedding: Tensor,
        image_index: Tensor,
        sparse: Tensor,
        dense: Tensor,
        masks: bool | Sequence[int],
        shift: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `MaskDecoder.forward`: P prompts on B images -> logits (P, M, 4g, 4g) and quality (P, M)."""
        image_pe = self.prompt_encoder.get_dense_pe()
        return self.mask_decoder(embedding, image_pe, image_index, sparse, dense, masks, shift)


def build_sam(
    architecture: str | SamConfig,
    image_size: int | None = None,
    adapter: Callable[[int], nn.Module] | None = None,
) -> Sam:
    """A SAM with random weights, in training mode; see `load_weights` for pretrained ones.

    Args:
        architecture: vit_tiny, vit_b, vit_l, vit_h, or a config.
        image_size: S, if another than the architecture's own.
        adapter: given D, builds the module that each encoder block holds as `Adapter`.

    Raises:
        ConfigError: unknown architecture or a size that does not fit.
    """
    return Sam(resolve_config(architecture, image_size), adapter)
