"""ProMISe's objective, binary cross-entropy + Dice, as meant and as its reference code computes it; always float32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from samzoo.types import IGNORE

SMOOTH = 1.0


@dataclass(frozen=True)
class LossTerms:
    """Scalars; `total` is the sum of the two."""

    bce: Tensor
    dice: Tensor
    total: Tensor


@dataclass(frozen=True)
class Objective:
    """
    Args:
        double_sigmoid: False is what the paper means. True is what the reference code trains with: its network already
            ends in a sigmoid, and its criterion takes another one.
    """

    double_sigmoid: bool = False

    def __call__(self, logits: Tensor, target: Tensor, valid: Tensor | None = None) -> LossTerms:
        """Loss of P masks, see `bce_dice` for the arguments."""
        if self.double_sigmoid:
            return reference_criterion(logits.float().sigmoid(), target, valid)
        return bce_dice(logits, target, valid)


def bce_dice(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> LossTerms:
    """Cross-entropy on logits + 1 - (2 sum(pt) + 1) / (sum(p) + sum(t) + 1), each by mask, then the mean over masks.

    Dice is taken of masks that hold the class: with several classes most masks of a slice are empty, and Dice, which
    asks an empty one for nothing at all as loudly as a full one for its shape, would drown small structures.

    Args:
        logits: (P, 1, l, l).
        target: (P, 1, l, l) in [0, 1].
        valid: bool (P, 1, l, l), pixels that count; None: all.
    """
    with torch.autocast(logits.device.type, enabled=False):
        bce, probability, target, weight = _by_pixel(logits, target, valid)
        bce = (bce.flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1)).mean()
        both, either = _overlap(probability, target)
        held = (target > 0).flatten(1).any(1)
        dice = ((1 - (2 * both + SMOOTH) / (either + SMOOTH)) * held).sum() / held.sum().clamp(min=1)
        return LossTerms(bce, dice, bce + dice)


def reference_criterion(values: Tensor, target: Tensor, valid: Tensor | None = None) -> LossTerms:
    """The criterion of the reference code, which applies a sigmoid to whatever it is given: there, probabilities.

    Its Dice score 2 (sum(pt) + 1) / (sum(p) + sum(t) + 1) reaches 2 on empty masks, and the *mean over the batch* is
    clamped to [0, 1]: where it lies above, no mask of the batch gets a gradient from Dice.

    Args:
        values: (P, 1, l, l).
        target, valid: see `bce_dice`; the reference knows no `valid`.
    """
    with torch.autocast(values.device.type, enabled=False):
        bce, probability, target, weight = _by_pixel(values, target, valid)
        bce = bce.sum() / weight.sum().clamp(min=1)
        both, either = _overlap(probability, target)
        score = 2 * (both + SMOOTH) / (either + SMOOTH)
        dice = 1 - score.mean().clamp(0, 1)
        return LossTerms(bce, dice, bce + dice)


def _by_pixel(logits: Tensor, target: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cross-entropy, probability, target and weight of every pixel; 0 where it does not count."""
    logits, target = logits.float(), target.float()
    weight = torch.ones_like(target) if valid is None else valid.float()
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return bce * weight, logits.sigmoid() * weight, target * weight, weight


def _overlap(probability: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """sum(pt) and sum(p) + sum(t), (P,) each."""
    return (probability * target).flatten(1).sum(1), (probability + target).flatten(1).sum(1)


def soft_targets(label: Tensor, num_classes: int, side: int) -> tuple[Tensor, Tensor]:
    """Each class's mask at the resolution of the decoder: bilinear between pixel centres, without antialiasing.

    Args:
        label: int64 (B, S, S), 0 background, 1..K, 255 ignored.
        num_classes: K.
        side: l.

    Returns:
        target float32 (B, K, l, l), values between 0 and 1 at edges; valid bool (B, 1, l, l), False where an ignored
        pixel took part.
    """

    def resize(mask: Tensor) -> Tensor:  # one class at a time: K masks at S x S would be the largest tensor of all
        return F.interpolate(mask[:, None].float(), (side, side), mode="bilinear", align_corners=False)

    target = torch.cat([resize(label == k) for k in range(1, num_classes + 1)], dim=1)
    return target, resize(label == IGNORE) == 0
