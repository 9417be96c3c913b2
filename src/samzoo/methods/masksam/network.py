"""MaskSAM's network: stem, SAM with depth adapters, prompt generator, and a mask and a class for each query.

What it computes and how its tensors are named follow the published method (Xie et al., MaskSAM: Towards Auto-prompt
SAM with Mask Classification for Volumetric Medical Image Segmentation, ICCV 2025). Slices are folded into the batch:
S = B * T, N queries on each slice, K classes with background, P the width of SAM's prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from samzoo.errors import ConfigError
from samzoo.methods.masksam.decoder import SlabMaskDecoder, SlabPromptEncoder
from samzoo.methods.masksam.encoder import SlabEncoder, choose_levels
from samzoo.methods.masksam.generator import Auxiliary, ConvBlocks, PromptGenerator, doubling_norm_gelu
from samzoo.methods.masksam.settings import MaskSAMSettings
from samzoo.sam import Sam, SamConfig

UPSAMPLED_DOUBLINGS = 2
"""From token to voxel grid in `upsampled`, whatever SAM's patch: the stem takes a patch to patch / 4 times its size."""


@dataclass(frozen=True)
class Output:
    """What the losses need.

    Args:
        class_logits: (S, N, K + 1), the last for "no object".
        mask_logits: (S, N, H, W).
        aux_masks: (S, N, H, W), see `Auxiliary.masks`.
        aux_boxes: (S, N, 4), see `Auxiliary.boxes`.
    """

    class_logits: Tensor
    mask_logits: Tensor
    aux_masks: Tensor
    aux_boxes: Tensor


class MaskSAMNetwork(nn.Module):
    """The network. What of it is SAM's own, and what is new, it says itself; to freeze is up to the method.

    Args:
        config: sizes of SAM; image_size is the canvas, of which patches of the direct design are the top-left part.
        settings: everything else.

    Raises:
        ConfigError: sizes that do not fit together.
    """

    def __init__(self, config: SamConfig, settings: MaskSAMSettings) -> None:
        super().__init__()
        doublings, levels = _check(config, settings)
        self.config, self.settings = config, settings
        direct = settings.design == "direct"
        depth, side = settings.patch[0], settings.patch[1]
        self.grid = side // config.patch_size if direct else config.grid
        enlarging = config.patch_size.bit_length() - 3  # doublings from four times the token grid to the input's
        self.first_conv = _direct_stem(settings) if direct else _enlarging_stem(settings, enlarging)
        self.image_encoder = SlabEncoder(config, settings, choose_levels(config, len(settings.widths) - 1, levels))
        self.prompt_encoder = SlabPromptEncoder(config, depth, self.grid)
        self.mask_decoder = SlabMaskDecoder(config, settings)
        self.generator = PromptGenerator(config, settings, doublings, levels)
        self.final_conv = _final_head(settings, enlarging) if direct else None
        with torch.device("meta"):
            self.sam_keys = frozenset(Sam(config).state_dict())
        """What a plain SAM of these sizes holds under the same names."""

    def sam_parameters(self) -> list[nn.Parameter]:
        """SAM's own."""
        return [parameter for name, parameter in self.named_parameters() if name in self.sam_keys]

    def new_parameters(self) -> list[nn.Parameter]:
        """MaskSAM's: stem, generator, head, adapters, depth embeddings, classifier token and class head."""
        return [parameter for name, parameter in self.named_parameters() if name not in self.sam_keys]

    def unused_parameters(self) -> list[nn.Parameter]:
        """Those of SAM that no forward pass uses: for points, for no mask, for further masks, for their quality."""
        prompts, decoder = self.prompt_encoder, self.mask_decoder
        unused = [*prompts.point_embeddings[:2], prompts.not_a_point_embed, prompts.no_mask_embed]
        unused += [*decoder.output_hypernetworks_mlps[1:], decoder.iou_prediction_head]
        return list(nn.ModuleList(unused).parameters())

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """(B, C, T, H, W) -> the levels that the generator reads (S, E, h, w), earliest first, and neck (S, P, h, w).

        Raises:
            ConfigError: patches of another size or number of channels than the network was built for.
        """
        expected = (self.settings.in_channels, *self.settings.patch)
        if x.ndim != 5 or tuple(x.shape[1:]) != expected:
            raise ConfigError(f"this MaskSAM takes (channels, T, H, W) = {expected}, got {tuple(x.shape[1:])}")
        return self.image_encoder(self.first_conv(x).transpose(1, 2).flatten(0, 1))

    def generate(self, levels: list[Tensor], neck: Tensor) -> Auxiliary:
        """See `PromptGenerator.forward`."""
        return self.generator(levels, neck)

    def prompts(self, masks: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """What SAM's prompt encoder is given: binary masks (n, 1, 4h, 4w) and boxes (n, 4) in pixels of the canvas.

        Threshold and floor let no gradient through.

        Args:
            masks: logits (S, Q, H, W).
            boxes: fractions (S, Q, 4).
        """
        side = self.settings.patch[1]
        scale = 1 if self.settings.design == "direct" else self.config.image_size // side
        boxes = (boxes.detach().float() * side).floor() * scale
        masks = (masks.detach() > 0).to(self.prompt_encoder.temporal_embedding.dtype)
        masks = F.interpolate(masks.flatten(0, 1)[:, None], (4 * self.grid, 4 * self.grid), mode="nearest")
        return masks, boxes.flatten(0, 1)

    def decode(self, neck: Tensor, auxiliary: Auxiliary) -> tuple[Tensor, Tensor]:
        """Neck (S, P, h, w) and prompts -> class logits (S, N, K + 1) and mask logits (S, N, H, W)."""
        image_pe = self.prompt_encoder.dense_code()
        size = self.settings.query_chunk or self.settings.queries
        tokens = (None,) * -(-self.settings.queries // size)
        if auxiliary.tokens is not None:
            tokens = auxiliary.tokens.split(size, 1)
        answers = [
            self._run(self._decode, neck, image_pe, *chunk)
            for chunk in zip(auxiliary.mask_logits.split(size, 1), auxiliary.boxes.split(size, 1), tokens, strict=True)
        ]
        class_logits, masks = (torch.cat(parts, 1) for parts in zip(*answers, strict=True))
        return class_logits, self._run(self.refine, masks) if self._mixes else masks

    def forward(self, x: Tensor) -> Output:
        """(B, C, T, H, W) -> masks, classes and auxiliary prompts of all queries."""
        levels, neck = self.encode(x)
        auxiliary = self.generate(levels, neck)
        class_logits, mask_logits = self.decode(neck, auxiliary)
        return Output(class_logits, mask_logits, auxiliary.masks, auxiliary.boxes)

    def _run(self, part, *inputs):
        """`part` of the inputs, computed anew in the backward pass if activations are not to be kept."""
        if self.settings.checkpointing and torch.is_grad_enabled():
            return checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False)
        return part(*inputs)

    def _decode(
        self, neck: Tensor, image_pe: Tensor, masks: Tensor, boxes: Tensor, tokens: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Some of the queries: class logits (S, Q, K + 1), masks (S, Q, H, W), or (S, Q, 4h, 4w) if a head follows."""
        count = masks.shape[:2]
        masks, boxes = self.prompts(masks, boxes)
        sparse, dense = self.prompt_encoder(boxes=boxes, masks=masks)
        tokens = None if tokens is None else tokens.flatten(0, 1)
        logits, classes = self.mask_decoder(neck, image_pe, sparse, dense, tokens)
        logits, classes = logits.unflatten(0, count), classes.unflatten(0, count)
        return classes, logits if self._mixes else self.refine(logits)

    @property
    def _mixes(self) -> bool:
        """Whether the final masks are made of all queries at once."""
        return self.final_conv is not None and self.settings.corrections.final_head == "mixing"

    def refine(self, masks: Tensor) -> Tensor:
        """The final masks: (S, Q, 4h, 4w) -> (S, Q, H, W), by the head (direct) or by way of the canvas (upsampled)."""
        depth, *plane = self.settings.patch
        if self.final_conv is None:
            canvas = F.interpolate(masks, (self.config.image_size,) * 2, mode="bilinear", align_corners=False)
            return F.interpolate(canvas, plane, mode="bilinear", align_corners=False)
        volumes = masks.unflatten(0, (-1, depth)).transpose(1, 2)
        if self._mixes:
            return self.final_conv(volumes).transpose(1, 2).flatten(0, 1)
        refined = self.final_conv(volumes.flatten(0, 1)[:, None])[:, 0]
        return refined.unflatten(0, volumes.shape[:2]).transpose(1, 2).flatten(0, 1)


def semantic_scores(class_logits: Tensor, mask_logits: Tensor, depth: int) -> Tensor:
    """Sum over queries of class and mask probability: (B * T, N, K + 1), (B * T, N, H, W) -> float32 (B, K, T, H, W).

    They are no distribution: they may exceed 1 and do not sum to 1. The highest wins a voxel.
    """
    with torch.autocast(class_logits.device.type, enabled=False):
        classes = class_logits.float().softmax(-1)[..., :-1]
        scores = torch.einsum("snk,snyx->skyx", classes, mask_logits.float().sigmoid())
    return scores.unflatten(0, (-1, depth)).transpose(1, 2)


def _direct_stem(settings: MaskSAMSettings) -> nn.Sequential:
    return nn.Sequential(ConvBlocks(settings.in_channels, 8), ConvBlocks(8, 3))


def _enlarging_stem(settings: MaskSAMSettings, doublings: int) -> nn.Sequential:
    widths = [16] * doublings + [32]
    layers: list[nn.Module] = [ConvBlocks(settings.in_channels, 16)]
    for i in range(doublings):
        layers += doubling_norm_gelu(widths[i], widths[i + 1])
    return nn.Sequential(*layers, ConvBlocks(32, 32), ConvBlocks(32, 3))


def _final_head(settings: MaskSAMSettings, doublings: int) -> nn.Sequential:
    queries = settings.queries if settings.corrections.final_head == "mixing" else 1
    layers: list[nn.Module] = [ConvBlocks(queries, settings.head_width)]
    for _ in range(doublings):
        layers += doubling_norm_gelu(settings.head_width, settings.head_width)
    return nn.Sequential(*layers, nn.Conv3d(settings.head_width, queries, 3, padding=1))


def _check(config: SamConfig, settings: MaskSAMSettings) -> tuple[int, int]:
    """Doublings from the token to the voxel grid, and how many encoder levels are read."""
    side, patch, canvas = settings.patch[1], config.patch_size, config.image_size
    if patch < 8 or patch & (patch - 1):
        raise ConfigError(f"MaskSAM needs a SAM whose patches are 8, 16, ... pixels wide, not {patch}")
    width = config.prompt_embed_dim
    if width & (width - 1):
        raise ConfigError(f"MaskSAM needs a SAM whose prompt_embed_dim is a power of two, not {width}")
    if settings.design == "direct":
        if side % patch or side > canvas:
            raise ConfigError(
                f"MaskSAM (direct): patches of {side} pixels don't fit: take a multiple of SAM's patch {patch} up to "
                f"its image size {canvas} (model.init_args.patch)"
            )
        doublings = patch.bit_length() - 1
        stages = doublings + 1
    elif side * patch != 4 * canvas:
        raise ConfigError(
            f"MaskSAM (upsampled): patches are enlarged {patch // 4}-fold to SAM's image size {canvas}, so they must "
            f"be {4 * canvas / patch:g} pixels wide, not {side}: change model.init_args.patch or the image size"
        )
    else:
        doublings, stages = UPSAMPLED_DOUBLINGS, 5
    if len(settings.widths) != stages or (settings.kernels is not None and len(settings.kernels) != stages):
        given = f"{len(settings.widths)} widths"
        given += "" if settings.kernels is None else f" and {len(settings.kernels)} kernels"
        raise ConfigError(
            f"MaskSAM ({settings.design}, SAM's patches of {patch}): the generator has {stages} stages and takes "
            f"as many widths and kernels, got {given}"
        )
    if any(k % 2 == 0 for kernel in settings.kernels or () for k in kernel):
        raise ConfigError(f"MaskSAM: kernels must be odd, got {settings.kernels}")
    tail = slice(UPSAMPLED_DOUBLINGS, None)
    shared = settings.design == "upsampled" and settings.corrections.share_skips
    if shared and (len(set(settings.widths[tail])) > 1 or len(set((settings.kernels or ())[tail])) > 1):
        raise ConfigError("MaskSAM (upsampled): with share_skips the last three widths, and kernels, must be equal")
    levels = stages - 1 if settings.skip_levels is None else settings.skip_levels
    if not 0 <= levels < stages:
        raise ConfigError(f"MaskSAM: skip_levels must be 0 to {stages - 1} here, got {levels}")
    if len(config.global_attn_indexes) != 4 and config.depth < stages - 1:
        raise ConfigError(f"MaskSAM reads {stages - 1} levels of the encoder, which has only {config.depth} blocks")
    return doublings, levels
