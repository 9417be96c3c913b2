"""SAM's image encoder for slabs: slices in the batch, depth adapters in every block, several levels handed out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from samzoo.methods.masksam.adapters import DConvAdapter
from samzoo.methods.masksam.settings import MaskSAMSettings
from samzoo.sam import SamConfig
from samzoo.sam.image_encoder import Block, ImageEncoder
from samzoo.sam.modeling import window_partition, window_unpartition

MLP_ADAPTER_SCALE = 0.5


class SlabBlock(Block):
    """SAM's block with an adapter behind the attention (Space_Adapter) and one beside the MLP (MLP_Adapter).

    The published form works on windows cut from the zero-padded input: padding goes through norm, attention and
    adapter, and the adapter takes successive windows of the batch for successive slices. See `Corrections`, T1 and T2.
    """

    def __init__(self, config: SamConfig, index: int, settings: MaskSAMSettings) -> None:
        super().__init__(config, index, None)
        dim, zero = config.embed_dim, settings.zero_init_adapters
        self.depth = settings.patch[0]
        self.window = 0 if index in config.global_attn_indexes else config.window_size
        self.on_windows = settings.corrections.adapter_order == "windows"
        self.norm_first = settings.corrections.norm_before_window
        self.Space_Adapter = DConvAdapter(dim, zero_init=zero) if settings.conv_adapters else None
        self.MLP_Adapter = DConvAdapter(dim, residual=False, zero_init=zero) if settings.conv_adapters else None

    def forward(self, x: Tensor) -> Tensor:
        """(B * T, h, w, D) -> (B * T, h, w, D)"""
        x = x + self._attended(x)
        n = self.norm2(x)
        x = x + self.mlp(n)
        if self.MLP_Adapter is not None:
            x = x + MLP_ADAPTER_SCALE * self.MLP_Adapter(n, self.depth)
        return x

    def _attended(self, x: Tensor) -> Tensor:
        side, size = self.window, x.shape[1:3]
        on_windows = self.on_windows and self.Space_Adapter is not None
        if not side or (self.norm_first and not on_windows):
            return self._adapted(self.attn(self.norm1(x)))
        # Here padding has a value of its own, or a share in the adapter's answer: the padded map is computed in full.
        padding = (0, 0, 0, -size[1] % side, 0, -size[0] % side)
        y = self.attn(F.pad(self.norm1(x), padding) if self.norm_first else self.norm1(F.pad(x, padding)))
        if not on_windows:
            return self._adapted(y[:, : size[0], : size[1]])
        windows, padded = window_partition(y, side)
        return window_unpartition(self._adapted(windows), side, padded, size)

    def _adapted(self, y: Tensor) -> Tensor:
        return y if self.Space_Adapter is None else self.Space_Adapter(y, self.depth)


class SlabEncoder(ImageEncoder):
    """Parameters have SAM's shapes, those of the canvas; smaller pictures are its top-left part.

    Args:
        config: sizes; image_size is the canvas.
        settings: patch depth, adapters, corrections, checkpointing.
        levels: blocks whose outputs are handed out.
    """

    def __init__(self, config: SamConfig, settings: MaskSAMSettings, levels: tuple[int, ...]) -> None:
        super().__init__(config, block=lambda index: SlabBlock(config, index, settings))
        self.levels, self.checkpointing = levels, settings.checkpointing
        self.temporal_embedding = nn.Parameter(torch.zeros(1, settings.patch[0], config.embed_dim))

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """(S, 3, H, W) -> outputs of the level blocks (S, D, h, w), earliest first, and neck (S, P, h, w), S = B * T"""
        x = self.patch_embed(x)
        x = x + self.pos_embed[:, : x.shape[1], : x.shape[2]]
        depth = self.temporal_embedding.transpose(0, 1)[:, None]  # (T, 1, 1, D)
        x = (x.unflatten(0, (-1, len(depth))) + depth).flatten(0, 1)
        levels = []
        for i, block in enumerate(self.blocks):
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x)
            if i in self.levels:
                levels.append(x.permute(0, 3, 1, 2))
        return levels, self.neck(x.permute(0, 3, 1, 2))


def choose_levels(config: SamConfig, wanted: int, used: int) -> tuple[int, ...]:
    """The last `used` of the `wanted` blocks that a generator may read.

    The originals read the outputs of the 4 blocks with global attention. Encoders with another number of them give the
    ends of `wanted` parts of equal length.
    """
    blocks = config.global_attn_indexes
    if len(blocks) != 4:
        blocks = tuple((i + 1) * config.depth // wanted - 1 for i in range(wanted))
    return tuple(sorted(blocks)[len(blocks) - used :])
