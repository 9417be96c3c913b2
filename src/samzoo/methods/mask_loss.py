"""The objective of SAM and SAM-Med2D: 20 focal + dice + quality, in float32 whatever the network computes in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FOCAL_ALPHA, FOCAL_GAMMA, FOCAL_EPS = 0.25, 2, 1e-12
DICE_SMOOTH = 1.0
IOU_EPS = 1e-7


@dataclass(frozen=True)
class LossTerms:
    """Scalars; `total` is their weighted sum."""

    focal: Tensor
    dice: Tensor
    quality: Tensor
    total: Tensor


@dataclass(frozen=True)
class Objective:
    """
    Args:
        focal, dice, quality: weights of the terms.
        pooled: True is the reference: overlaps are pooled over all masks of the batch, each predicted quality is
            regressed to that one pooled overlap, and the gradient runs through this target too. False: dice and quality
            by mask, then averaged, with a detached target.
        entropy: plain cross entropy takes the place of the focal loss; from random weights it finds the first masks
            where that one stays at nothing for long.
    """

    focal: float = 20.0
    dice: float = 1.0
    quality: float = 1.0
    pooled: bool = False
    entropy: bool = False

    def __call__(self, logits: Tensor, quality: Tensor, target: Tensor, valid: Tensor | None = None) -> LossTerms:
        """Loss of P prompts.

        Args:
            logits: (P, M, H, W). With M > 1 (per mask only) the mask with the least focal + dice counts, and the
                quality of all M is trained.
            quality: (P, M), predicted.
            target: bool (P, 1, H, W).
            valid: bool (P, 1, H, W), pixels that count; None: all.
        """
        with torch.autocast(logits.device.type, enabled=False):
            return self._terms(logits.float(), quality.float(), target.float(), valid)

    def _terms(self, logits: Tensor, quality: Tensor, target: Tensor, valid: Tensor | None) -> LossTerms:
        weight = torch.ones_like(target) if valid is None else valid.float()
        target = target * weight
        probability = logits.sigmoid() * weight
        if self.entropy:
            pixels = F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none")
        else:
            pixels = focal_map(logits, target)
        sums = [
            (pixels * weight).sum((2, 3)),
            weight.sum((2, 3)),
            (probability * target).sum((2, 3)),
            probability.sum((2, 3)) + target.sum((2, 3)),
        ]
        if self.pooled:
            sums = [s.sum(0, keepdim=True) for s in sums]
        loss, area, both, either = sums
        focal = loss / area.clamp(min=1)
        dice = 1 - (2 * both + DICE_SMOOTH) / (either + DICE_SMOOTH)
        overlap = (both + IOU_EPS) / (either - both + IOU_EPS)
        error = ((overlap if self.pooled else overlap.detach()) - quality) ** 2
        if logits.shape[1] > 1:
            best = (self.focal * focal + self.dice * dice).argmin(1, keepdim=True)
            focal, dice = focal.gather(1, best), dice.gather(1, best)
        focal, dice, error = focal.mean(), dice.mean(), error.mean()
        return LossTerms(focal, dice, error, self.focal * focal + self.dice * dice + self.quality * error)


def focal_map(logits: Tensor, target: Tensor) -> Tensor:
    """Focal loss by pixel: alpha 0.25 on the foreground, gamma 2, log(p + 1e-12) as in the reference.

    log(p + eps) = logaddexp(log p, log eps), which neither underflows nor gives infinite gradients.
    """
    eps = logits.new_tensor(math.log(FOCAL_EPS))
    right = torch.where(target > 0, logits, -logits)  # logit of the truth
    alpha = torch.where(target > 0, FOCAL_ALPHA, 1 - FOCAL_ALPHA)
    return -alpha * torch.sigmoid(-right) ** FOCAL_GAMMA * torch.logaddexp(F.logsigmoid(right), eps)
