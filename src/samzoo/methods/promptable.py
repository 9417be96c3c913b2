"""What methods on slices have in common: a SAM and its weights; and those that answer prompts as SAM does."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from samzoo.errors import ConfigError
from samzoo.geometry import Grid, Interpolation, Policy, plan, to_grid
from samzoo.methods.base import Method
from samzoo.sam import LoadReport, Padding, Sam, load_weights, prepare_pictures
from samzoo.types import Batch, Prompts, State

Multimask = Literal["always", "one_click", "never"]
"""When the best of the multimask outputs answers instead of the single-mask output; "one_click": for one click without
a box or a previous mask, as SAM's authors recommend."""

MaskPrompt = Literal["logits", "probabilities"]
"""What of the previous low-resolution mask is fed back: SAM its logits, SAM-Med2D their sigmoid."""


class Sam2d(Method):
    """A method on slices around a SAM.

    Args:
        sam: the network.
        weights: pretrained weights for it: a name of `samzoo zoo`, a path or a url; None keeps it random.
        load_args: of `load_weights`: what the file may lack, what of it may be left out.
        policy, interpolation: how a slice is laid on the S x S grid, see `samzoo.geometry`.
        padding: what lies beside it, see `samzoo.sam.preprocess`.
        method_args: of `Method`.
    """

    def __init__(
        self,
        sam: Sam,
        weights: str | None,
        *,
        policy: Policy,
        interpolation: Interpolation,
        padding: Padding = "mean",
        load_args: Mapping[str, Any] = MappingProxyType({}),
        **method_args,
    ) -> None:
        super().__init__(**method_args)
        self.sam = sam
        self.policy, self.interpolation, self.padding = policy, interpolation, padding
        self.load_report: LoadReport | None = None
        if weights is not None:
            self.load_report = report = load_weights(sam, weights, **load_args)
            self.base_sha256 = report.sha256
            self.not_in_base = frozenset(f"sam.{key}" for key in report.new)

    def prepare(self, image: Tensor, size: Tensor, spacing: Tensor) -> tuple[Tensor, list[Grid]]:
        """(B, C, H, W) in [0, 1] -> (B, 3, S, S) in SAM's pixel statistics, and the grids."""
        sam = self.sam
        return prepare_pictures(
            image,
            size,
            sam.config.image_size,
            self.policy,
            self.interpolation,
            sam.pixel_mean,
            sam.pixel_std,
            self.padding,
        )

    def labels_on_grid(self, batch: Batch) -> Tensor:
        """int64 (B, S, S): the labels where `prepare` lays the pictures, 0 beside them.

        Raises:
            ConfigError: a batch without labels.
        """
        if batch.label is None:
            raise ConfigError(f"{self.spec.name} is trained on labelled slices, this batch has no label")
        side = self.sam.config.image_size
        rows = zip(batch.label[:, None, None], batch.size.tolist(), strict=True)
        return torch.cat(
            [to_grid(row[..., :h, :w], plan((h, w), side, self.policy), "nearest")[:, 0] for row, (h, w) in rows]
        )


class PromptableSam2d(Sam2d):
    """A SAM that answers prompts on slices: one binary mask per prompt, the last mask fed back.

    Args:
        sam, weights: of `Sam2d`, as are `sam_args`.
        multimask, mask_prompt: see above.
        keep_box: False drops the box once there are clicks and a previous mask.
    """

    def __init__(
        self,
        sam: Sam,
        weights: str | None,
        *,
        multimask: Multimask,
        mask_prompt: MaskPrompt,
        keep_box: bool = True,
        **sam_args,
    ) -> None:
        super().__init__(sam, weights, **sam_args)
        self.multimask, self.mask_prompt, self.keep_box = multimask, mask_prompt, keep_box

    def encode(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, C, g, g)"""
        return self.sam.encode(x)

    def decode(self, embedding: Tensor, prompts: Prompts | None, state: State | None = None) -> tuple[Tensor, State]:
        """See `Method.decode`. Logits are (P, 1, 4g, 4g); the state holds them and their predicted quality (P,).

        `prompts` hold all clicks so far; the state adds the previous mask. Prompts without clicks and box are answered
        from the state alone.

        Raises:
            ConfigError: no prompts.
        """
        if prompts is None:
            raise ConfigError(f"{self.spec.name} answers prompts only; choose a regime with boxes or clicks")
        points, labels, boxes, masks = prompts.points, prompts.point_labels, prompts.boxes, None
        if state is not None:
            masks = state["low_res"]
            if self.mask_prompt == "probabilities":
                masks = masks.sigmoid()
            if not self.keep_box and points is not None:
                boxes = None
        elif points is None and boxes is None:
            raise ConfigError(f"{self.spec.name} needs a click, a box or a previous mask for each mask")
        sparse, dense = self.sam.encode_prompts(points, labels, boxes, masks)
        several = self.multimask == "always"
        if self.multimask == "one_click":
            several = points is not None and points.shape[1] == 1 and boxes is None and masks is None
        logits, quality = self.sam.decode(embedding, prompts.image_index, sparse, dense, several)
        best, quality = best_mask(logits.float(), quality.float())
        return best, {"low_res": best, "quality": quality}


def best_mask(logits: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
    """The mask with the highest predicted quality: (P, M, l, l), (P, M) -> (P, 1, l, l), (P,)."""
    rows = torch.arange(len(logits), device=logits.device)
    index = quality.argmax(dim=1)
    return logits[rows, index][:, None], quality[rows, index]
