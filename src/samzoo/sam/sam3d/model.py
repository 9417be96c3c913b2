"""A whole SAM-Med3D: encode crops once, then answer prompts. Source: SAM-Med3D, https://arxiv.org/abs/2310.15161."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from samzoo.sam.config import resolve_config
from samzoo.sam.sam3d.config import ARCHITECTURES_3D, Positions, Sam3dConfig
from samzoo.sam.sam3d.image_encoder import ImageEncoder3d
from samzoo.sam.sam3d.mask_decoder import MaskDecoder3d
from samzoo.sam.sam3d.prompt_encoder import PromptEncoder3d


class Sam3d(nn.Module):
    """Keys of the state dict are SAM-Med3D's: image_encoder.*, prompt_encoder.*, mask_decoder.*.

    The axes 0, 1, 2 of its crops are those of the files that it was trained on (x, y, z), clicks come in that order.

    Args:
        config: sizes.
        boxes: take box prompts, too; see `PromptEncoder3d`.
    """

    def __init__(self, config: Sam3dConfig, boxes: bool = False) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = ImageEncoder3d(config)
        self.prompt_encoder = PromptEncoder3d(config, boxes)
        self.mask_decoder = MaskDecoder3d(config)

    def encode(self, x: Tensor) -> Tensor:
        """Normalised crops (B, channels, S, S, S) -> embedding (B, C, g, g, g)."""
        return self.image_encoder(x)

    def encode_prompts(
        self,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `PromptEncoder3d.forward`: points (P, N, 3), labels (P, N), boxes (P, 6), masks (P, 1, 4g, 4g, 4g)."""
        return self.prompt_encoder(None if points is None else (points, point_labels), boxes, masks)

    def decode(
        self,
        embedding: Tensor,
        image_index: Tensor,
        sparse: Tensor,
        dense: Tensor,
        masks: bool | Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        """See `MaskDecoder.forward`: P prompts on B crops -> logits (P, M, 4g, 4g, 4g) and quality (P, M)."""
        image_pe = self.prompt_encoder.get_dense_pe()
        return self.mask_decoder(embedding, image_pe, image_index, sparse, dense, masks)


def build_sam3d(
    architecture: str | Sam3dConfig,
    image_size: int | None = None,
    in_channels: int | None = None,
    positions: Positions | None = None,
    boxes: bool = False,
) -> Sam3d:
    """A SAM-Med3D with random weights, in training mode; see `load_weights` for pretrained ones.

    Args:
        architecture: name in `ARCHITECTURES_3D`, or a config.
        image_size, in_channels, positions: see `Sam3dConfig`; None: the architecture's own.
        boxes: take box prompts, too.

    Raises:
        ConfigError: unknown architecture or numbers that do not fit.
    """
    config = resolve_config(architecture, image_size, ARCHITECTURES_3D)
    changes = {"in_channels": in_channels, "positions": positions}
    return Sam3d(replace(config, **{k: v for k, v in changes.items() if v is not None}), boxes)
