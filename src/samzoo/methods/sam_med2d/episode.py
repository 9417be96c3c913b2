"""One training batch of SAM-Med2D: a first prompt, then rounds of correction, one optimiser step each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from samzoo.methods.mask_loss import LossTerms, Objective
from samzoo.methods.promptable import best_mask
from samzoo.sam import Sam


@dataclass
class Part:
    """A micro-batch: some pictures and the masks asked for on them.

    Args:
        images: normalised (B, 3, S, S).
        image_index: int64 (P,), the picture of each mask.
        target: bool (P, 1, S, S).
        valid: bool (P, 1, S, S), pixels that are not ignored; None: all.
        points, labels: first clicks (P, N, 2), (P, N), or None.
        boxes: first boxes (P, 4), or None.
        share: of this part in the batch's loss.
        embedding: (B, C, g, g), detached, from the first pass on.
        low_res: (P, 1, 4g, 4g), logits of the mask answered last, detached.
        quality: (P,), its predicted quality, detached.
        prediction: bool (P, 1, S, S), that mask.
    """

    images: Tensor
    image_index: Tensor
    target: Tensor
    valid: Tensor | None = None
    points: Tensor | None = None
    labels: Tensor | None = None
    boxes: Tensor | None = None
    share: float = 1.0
    embedding: Tensor | None = None
    low_res: Tensor | None = None
    quality: Tensor | None = None
    prediction: Tensor | None = None


Corrections = Callable[[int, Part], tuple[Tensor, Tensor] | None]
"""Clicks (P, N, 2) and labels (P, N) of refinement 0, 1, ... for a part; None: the mask prompt alone."""


@dataclass(frozen=True)
class Episode:
    """How a batch is worked through.

    Args:
        objective: the loss.
        refinements: R; there are R + 1 passes.
        min_loss: train the mask with the least loss instead of the one with the highest predicted quality (which is
            the one fed back in either case).
        train_prompts: let refinements train the prompt encoder; False is the reference.
        keep_box: keep the box of the first pass beside the clicks; False is the reference.
    """

    objective: Objective
    refinements: int = 8
    min_loss: bool = False
    train_prompts: bool = False
    keep_box: bool = False

    def run(
        self,
        sam: Sam,
        parts: Sequence[Part],
        corrections: Corrections,
        backward: Callable[[Tensor], None],
        step: Callable[[], None],
    ) -> list[LossTerms]:
        """All passes over all parts.

        The first pass encodes the pictures; refinements reuse its embeddings, detached, so that only the decoder (and,
        with `train_prompts`, the prompt encoder) gets a gradient. The mask prompt is the sigmoid of the previous
        logits, detached.

        Args:
            backward: accumulates the gradients of a loss.
            step: applies and then *removes* them: with zeros in their place Adam would go on moving the adapters.

        Returns:
            the loss of each pass over all parts, detached.
        """
        losses = []
        for number in range(self.refinements + 1):
            terms = []
            for part in parts:
                loss = self._forward(sam, part, number, corrections)
                backward(loss.total * part.share)
                terms.append((part.share, loss))
            step()
            losses.append(_combine(terms))
        return losses

    def _forward(self, sam: Sam, part: Part, number: int, corrections: Corrections) -> LossTerms:
        points, labels, boxes, masks = part.points, part.labels, part.boxes, None
        embedding = part.embedding
        if number == 0:
            embedding = sam.encode(part.images)
            part.embedding = embedding.detach()
        else:
            clicks = corrections(number - 1, part)
            points, labels = clicks if clicks is not None else (None, None)
            boxes = part.boxes if self.keep_box and clicks is not None else None
            masks = part.low_res.sigmoid()
        with torch.set_grad_enabled(number == 0 or self.train_prompts):
            sparse, dense = sam.encode_prompts(points, labels, boxes, masks)
        logits, quality = sam.decode(embedding, part.image_index, sparse, dense, True)

        best, best_quality = best_mask(logits, quality)
        full = _full_size(best, part.target)
        part.low_res, part.quality = best.detach().float(), best_quality.detach().float()
        part.prediction = full.detach() > 0
        if self.min_loss:
            return self.objective(_full_size(logits, part.target), quality, part.target, part.valid)
        return self.objective(full, best_quality[:, None], part.target, part.valid)


def _full_size(logits: Tensor, target: Tensor) -> Tensor:
    return F.interpolate(logits.float(), target.shape[-2:], mode="bilinear", align_corners=False)


def _combine(terms: Sequence[tuple[float, LossTerms]]) -> LossTerms:
    names = ("focal", "dice", "quality", "total")
    return LossTerms(**{n: sum(share * getattr(loss, n).detach() for share, loss in terms) for n in names})
