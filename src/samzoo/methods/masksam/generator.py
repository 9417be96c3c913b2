"""The prompt generator: a convolutional decoder on encoder levels that gives each query a mask, a box and a token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samzoo.methods.masksam.settings import Kernel, MaskSAMSettings
from samzoo.methods.masksam.targets import mask_boxes
from samzoo.sam import SamConfig


class ConvBlock(nn.Module):
    """Convolution (same size), affine instance normalisation, activation."""

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: Kernel,
        bias: bool = True,
        norm: bool = True,
        activation: Callable[[Tensor], Tensor] = F.leaky_relu,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, out, kernel, padding=[(k - 1) // 2 for k in kernel], bias=bias)
        self.norm = nn.InstanceNorm3d(out, affine=True) if norm else None
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.activation(x if self.norm is None else self.norm(x))


class ConvBlocks(nn.Module):
    """`count` blocks in a row; named as in the published files."""

    def __init__(self, channels: int, out: int, kernel: Kernel = (3, 3, 3), count: int = 1, **block_args) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *(ConvBlock(channels if i == 0 else out, out, kernel, **block_args) for i in range(count))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x)


def doubling(channels: int, out: int) -> nn.ConvTranspose3d:
    """Doubles height and width: (B, C, T, h, w) -> (B, C', T, 2h, 2w)."""
    return nn.ConvTranspose3d(channels, out, (1, 2, 2), (1, 2, 2))


def doubling_norm_gelu(channels: int, out: int) -> list[nn.Module]:
    """As stem and final head double: without learned scale and shift."""
    return [doubling(channels, out), nn.InstanceNorm3d(out), nn.GELU()]


def skip_path(channels: int, out: int, doublings: int, kernel: Kernel) -> nn.Sequential:
    """From an encoder level at the token grid to a stage's grid."""
    layers: list[nn.Module] = []
    for i in range(doublings):
        layers += [doubling(out if i else channels, out), ConvBlocks(out, out, kernel)]
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Auxiliary:
    """What the generator makes of a slab; S = B * T slices.

    Args:
        mask_logits: (S, N, H, W).
        masks: the same as probabilities, or as they are (T3).
        boxes: (S, N, 4), x0, y0, x1, y1 as fractions of width and height.
        tokens: (S, N, P) to be added to the classifier token; None without them.
    """

    mask_logits: Tensor
    masks: Tensor
    boxes: Tensor
    tokens: Tensor | None


class PromptGenerator(nn.Module):
    """Reads the neck and the latest `levels` encoder levels; see the method sheet for the two designs.

    Args:
        config: sizes of SAM: width of levels and neck.
        settings: design, widths, kernels, queries, corrections.
        doublings: from the token to the voxel grid.
        levels: how many encoder levels it reads.
    """

    def __init__(self, config: SamConfig, settings: MaskSAMSettings, doublings: int, levels: int) -> None:
        super().__init__()
        self.depth, self.corrections = settings.patch[0], settings.corrections
        self.levels, self.grows = levels, min(doublings, len(settings.widths) - 1)
        widths, kernels = settings.widths, settings.kernels or ((3, 3, 3),) * len(settings.widths)
        inputs, skips = [config.prompt_embed_dim], []
        for i in range(1, len(widths)):
            inputs.append(widths[i if i <= self.grows else i - 1] + (widths[i] if i <= levels else 0))
            if i <= levels and not (self.corrections.share_skips and i > self.grows):
                skips.append(skip_path(config.embed_dim, widths[i], min(i, self.grows), kernels[i]))
        stages = [
            ConvBlocks(channels, width, kernel, count=1 + (i == 0))
            for i, (channels, width, kernel) in enumerate(zip(inputs, widths, kernels, strict=True))
        ]
        # The names are the published ones, where the second stage at full size comes before the first.
        self.image_decoder_stages = nn.ModuleList(stages[: self.grows + 1])
        self.image_decoder_stages_second = nn.ModuleList(stages[self.grows + 1 : self.grows + 2])
        self.image_decoder_stages_first = nn.ModuleList(stages[self.grows + 2 :])
        self.image_decoder_skips = nn.ModuleList(skips[: self.grows])
        self.image_decoder_skips_second = nn.ModuleList(skips[self.grows : self.grows + 1])
        self.image_decoder_skips_first = nn.ModuleList(skips[self.grows + 1 :])
        self.image_decoder_transpconvs = nn.ModuleList(doubling(widths[i], widths[i + 1]) for i in range(self.grows))
        queries = settings.queries
        self.image_decoder_seg_layers = nn.ModuleList([nn.Conv3d(widths[-1], queries, 1)])
        self.bbox_conv = ConvBlocks(
            sum(widths),
            queries,
            (1, 1, 1),
            bias=self.corrections.box_bias,
            norm=self.corrections.box_norm == "instance",
            activation=torch.sigmoid,
        )
        tokens = settings.classifier_tokens != "global"
        self.residual_classifier = ConvBlocks(sum(widths), queries, activation=F.gelu) if tokens else None
        rows = 2 ** ((config.prompt_embed_dim.bit_length() - 1) // 2)
        self.token_map = (rows, config.prompt_embed_dim // rows)

    def forward(self, levels: Sequence[Tensor], neck: Tensor) -> Auxiliary:
        """Levels (B * T, E, h, w), earliest first, and neck (B * T, P, h, w)."""
        stages = self._stages([self._volume(level) for level in levels], self._volume(neck))
        logits = self._slices(self.image_decoder_seg_layers[0](stages[-1]))
        boxes = self._boxes(self.bbox_conv(_pooled(stages, (2, 2))).float(), logits)
        tokens = None
        if self.residual_classifier is not None:
            tokens = self._slices(self.residual_classifier(_pooled(stages, self.token_map))).flatten(2)
        masks = logits.sigmoid() if self.corrections.aux_mask_space == "probability" else logits
        return Auxiliary(logits, masks, boxes, tokens)

    def _stages(self, levels: list[Tensor], neck: Tensor) -> list[Tensor]:
        blocks = [*self.image_decoder_stages, *self.image_decoder_stages_second, *self.image_decoder_stages_first]
        skips = [*self.image_decoder_skips, *self.image_decoder_skips_second, *self.image_decoder_skips_first]
        stages = [blocks[0](neck)]
        for i, block in enumerate(blocks[1:], 1):
            x = stages[-1] if i > self.grows else self.image_decoder_transpconvs[i - 1](stages[-1])
            if i <= self.levels:
                x = torch.cat([x, skips[min(i, len(skips)) - 1](levels[-i])], 1)
            stages.append(block(x))
        return stages

    def _boxes(self, corners: Tensor, mask_logits: Tensor) -> Tensor:
        """Half-way between the regressed boxes and those of the thresholded masks.

        Args:
            corners: (B, N, T, 2, 2): x0, y0, then how far x1, y1 are on the way from there to 1.
            mask_logits: (S, N, H, W).
        """
        near, way = self._slices(corners).unbind(2)
        own = torch.cat([near, near + (1 - near) * way], -1)
        masks, extent = mask_logits > 0, self.corrections.box_extent
        mean = (own + mask_boxes(masks, extent)) / 2
        if extent == "inclusive":
            return mean
        return torch.where(masks.flatten(2).any(2, keepdim=True), mean, own)

    def _volume(self, slices: Tensor) -> Tensor:
        """(B * T, C, h, w) -> (B, C, T, h, w)"""
        return slices.unflatten(0, (-1, self.depth)).transpose(1, 2)

    def _slices(self, volume: Tensor) -> Tensor:
        """(B, N, T, h, w) -> (B * T, N, h, w)"""
        return volume.transpose(1, 2).flatten(0, 1)


def _pooled(stages: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """All stages side by side on one small grid per slice."""
    return torch.cat([F.adaptive_avg_pool3d(stage, (stage.shape[2], *size)) for stage in stages], 1)
