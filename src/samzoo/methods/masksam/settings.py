"""The numbers and switches that make one MaskSAM; plain values, so that a config can hold them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Literal

from samzoo.errors import ConfigError

Design = Literal["direct", "upsampled"]
"""direct: patches enter the encoder as they are, as the top-left part of SAM's canvas (AMOS, Synapse). upsampled: a
stem enlarges them to the canvas (ACDC)."""

Kernel = tuple[int, int, int]
Tokens = Literal["sum", "global", "auxiliary"]


@dataclass(frozen=True)
class Corrections:
    """What the original does (the defaults), or does otherwise; T1 to T8 of the method card.

    Args:
        adapter_order: T1. "windows": the adapter behind a windowed attention runs on windows, so that its depth axis
            mixes windows; "merged": on the merged map, so that it sees depth.
        norm_before_window: T2. False: windows are padded before the first norm, so that padding is the norm's bias.
        aux_mask_space: T3. "probability": auxiliary masks leave the generator as probabilities, and matcher and loss
            take a second sigmoid of them; "logit": one.
        box_norm: T4. "instance" normalises the box branch over the 2 x 2 values of all slices of a query; "none".
        box_extent: T5. "inclusive": a box ends at its last pixel, and an empty auxiliary mask pulls its box half-way to
            0; "exclusive": one past the last pixel, and empty masks leave the regressed box alone.
        final_head: T6. "mixing": the last 3D head sees all queries at once, so that a mask depends on the others and on
            their order; "per_query": the same head for each query by itself. Of `direct` only.
        share_skips: T7. One skip module serves three encoder levels. Of `upsampled` only.
        box_bias: T8. Whether the box branch's convolution has a bias.
    """

    adapter_order: Literal["windows", "merged"] = "windows"
    norm_before_window: bool = False
    aux_mask_space: Literal["probability", "logit"] = "probability"
    box_norm: Literal["instance", "none"] = "instance"
    box_extent: Literal["inclusive", "exclusive"] = "inclusive"
    final_head: Literal["mixing", "per_query"] = "mixing"
    share_skips: bool = True
    box_bias: bool = False

    def named(self) -> tuple[str, ...]:
        """T1, T2, ... of those that are made."""
        published = asdict(Corrections())
        return tuple(f"T{i}" for i, f in enumerate(fields(self), 1) if getattr(self, f.name) != published[f.name])


FIXED = Corrections(
    adapter_order="merged",
    norm_before_window=True,
    aux_mask_space="logit",
    box_norm="none",
    box_extent="exclusive",
    final_head="per_query",
    share_skips=False,
    box_bias=True,
)
"""All of them: MaskSAM-fixed."""


@dataclass(frozen=True)
class MaskSAMSettings:
    """Sizes of everything around SAM. SAM's own numbers are in `SamConfig`, whose image_size is the canvas.

    Args:
        patch: (T, H, W) voxels; H = W, a multiple of SAM's patch. upsampled: H times a quarter of SAM's patch is the
            canvas (256 and 1024 for published SAMs).
        num_classes: K, background included.
        in_channels: C.
        queries: N.
        design: see `Design`.
        widths: of the generator's stages G1, G2, ...; one more stage than there are doublings from token to voxel grid
            (direct), or five (upsampled).
        kernels: of the stages' convolutions; None: 3 x 3 x 3 everywhere.
        skip_levels: encoder levels that the generator reads beside the neck, the latest first; None: all.
        conv_adapters, mlp_adapters: whether there are depth-convolution and depth-MLP adapters.
        classifier_tokens: "sum" of the global and the auxiliary token, or one of them alone.
        zero_init_adapters: start with adapters that add nothing; the originals do not.
        head_width: channels of the final head (direct).
        query_chunk: queries decoded at a time; None: all.
        checkpointing: compute encoder blocks and decoder chunks anew in the backward pass instead of keeping them.
    """

    patch: tuple[int, int, int]
    num_classes: int
    in_channels: int = 1
    queries: int = 24
    design: Design = "direct"
    widths: tuple[int, ...] = (256, 128, 128, 64, 64)
    kernels: tuple[Kernel, ...] | None = None
    skip_levels: int | None = None
    conv_adapters: bool = True
    mlp_adapters: bool = True
    classifier_tokens: Tokens = "sum"
    zero_init_adapters: bool = False
    head_width: int = 64
    query_chunk: int | None = None
    checkpointing: bool = False
    corrections: Corrections = Corrections()

    def __post_init__(self) -> None:
        for name, least in (("num_classes", 2), ("in_channels", 1), ("queries", 1), ("head_width", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"MaskSAM: {name} must be at least {least}, got {getattr(self, name)}")
        if self.query_chunk is not None and self.query_chunk < 1:
            raise ConfigError(f"MaskSAM: query_chunk must be at least 1, got {self.query_chunk}")
        if self.patch[1] != self.patch[2]:
            raise ConfigError(f"MaskSAM: patches are square in the plane, got {self.patch[1]} x {self.patch[2]}")
