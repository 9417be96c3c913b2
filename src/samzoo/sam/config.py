"""The numbers that make one SAM, and the named architectures."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from samzoo.errors import ConfigError


@dataclass(frozen=True)
class SamConfig:
    """Sizes of image encoder, prompt encoder and mask decoder; the defaults are those of all published SAMs.

    Args:
        image_size: S, side of the square input in pixels.
        patch_size: side of a patch; the token grid is g = S / patch_size wide, low-resolution masks are 4g wide.
        embed_dim: D, width of the image encoder.
        depth, num_heads, mlp_ratio: of the image encoder's blocks.
        global_attn_indexes: blocks that attend over the whole grid; the others attend within windows.
        window_size: side of those windows in tokens; the grid is zero-padded to a multiple of it.
        prompt_embed_dim: C, width of prompts, embedding and decoder.
        mask_in_chans: hidden channels of the mask prompt's encoder.
        num_multimask_outputs: masks with multimask on; one more token serves multimask off.
        decoder_depth, decoder_mlp_dim, decoder_num_heads: of the two-way transformer.
        iou_head_depth, iou_head_hidden_dim: of the quality head.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    image_size: int = 1024
    patch_size: int = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    global_attn_indexes: tuple[int, ...] = (2, 5, 8, 11)
    window_size: int = 14
    mlp_ratio: float = 4.0
    prompt_embed_dim: int = 256
    mask_in_chans: int = 16
    num_multimask_outputs: int = 3
    decoder_depth: int = 2
    decoder_mlp_dim: int = 2048
    decoder_num_heads: int = 8
    iou_head_depth: int = 3
    iou_head_hidden_dim: int = 256

    def __post_init__(self) -> None:
        object.__setattr__(self, "global_attn_indexes", tuple(self.global_attn_indexes))
        sizes = {k: v for k, v in vars(self).items() if k not in ("global_attn_indexes", "positions")}
        for name, value in sizes.items():
            if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
                raise ConfigError(f"SAM's {name} must be a positive number, got {value!r}")
        self._divides("image_size", self.image_size, "patch_size", self.patch_size)
        self._divides("embed_dim", self.embed_dim, "num_heads", self.num_heads)
        self._divides("prompt_embed_dim", self.prompt_embed_dim, "twice decoder_num_heads", 2 * self.decoder_num_heads)
        self._divides("prompt_embed_dim", self.prompt_embed_dim, "8 (upscaling halves channels thrice)", 8)
        self._divides("mask_in_chans", self.mask_in_chans, "4", 4)
        outside = [i for i in self.global_attn_indexes if not 0 <= i < self.depth]
        if outside:
            raise ConfigError(
                f"SAM's global_attn_indexes {outside} name no block; there are {self.depth}, counted from 0"
            )

    @staticmethod
    def _divides(name: str, value: int, by_name: str, by: int) -> None:
        if value % by:
            raise ConfigError(
                f"SAM's {name} {value} must be a multiple of {by_name}{'' if by_name[:1].isdigit() else f' {by}'}"
            )

    @property
    def grid(self) -> int:
        """g, tokens per side."""
        return self.image_size // self.patch_size


C = TypeVar("C", bound=SamConfig)

ARCHITECTURES: dict[str, SamConfig] = {
    # samzoo's own, for laptops and tests: patches of 8, so that pictures of 64 to 128 pixels still have 8 to 16 tokens
    # a side; windows of 8 divide that grid and cost no padding.
    "vit_tiny": SamConfig(
        image_size=128,
        patch_size=8,
        embed_dim=128,
        depth=6,
        num_heads=4,
        global_attn_indexes=(2, 5),
        window_size=8,
        prompt_embed_dim=128,
        decoder_mlp_dim=512,
        decoder_num_heads=4,
        iou_head_hidden_dim=128,
    ),
    "vit_b": SamConfig(),
    "vit_l": SamConfig(embed_dim=1024, depth=24, num_heads=16, global_attn_indexes=(5, 11, 17, 23)),
    "vit_h": SamConfig(embed_dim=1280, depth=32, num_heads=16, global_attn_indexes=(7, 15, 23, 31)),
}


def resolve_config(architecture: str | C, image_size: int | None = None, known: Mapping[str, C] = ARCHITECTURES) -> C:
    """A config, given or named in `known`, at another image size if one is asked for.

    Raises:
        ConfigError: unknown name, or a size that does not fit.
    """
    if isinstance(architecture, str):
        if architecture not in known:
            near = difflib.get_close_matches(architecture, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"unknown SAM architecture {architecture!r}{hint} (known: {', '.join(known)})")
        architecture = known[architecture]
    return architecture if image_size is None else replace(architecture, image_size=image_size)
