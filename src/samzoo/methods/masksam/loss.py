"""MaskSAM's objective: classes of all queries, masks, auxiliary masks and auxiliary boxes of the matched ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from samzoo.errors import ConfigError
from samzoo.methods.masksam.matcher import Matching, giou, match, pairwise_costs, point_sample, sample_targets
from samzoo.methods.masksam.targets import Targets


@dataclass(frozen=True)
class LossSettings:
    """
    Args:
        ce, mask, dice, aux_mask, aux_dice, aux_box, aux_giou: weights, of the losses and of the costs of matching.
        no_object: weight of the class that unmatched queries should answer, against 1 of the others.
        points: P, at which a pair of masks is compared.
        oversample: candidates per point, among which the least certain ones are kept.
        importance: part of the points that is chosen so; the others are uniform.
    """

    ce: float = 0.2
    mask: float = 1.5
    dice: float = 1.5
    aux_mask: float = 0.5
    aux_dice: float = 0.5
    aux_box: float = 0.5
    aux_giou: float = 0.2
    no_object: float = 0.1
    points: int = 32768
    oversample: float = 2.0
    importance: float = 0.75

    def __post_init__(self) -> None:
        if self.points < 1 or self.oversample < 1 or not 0 <= self.importance <= 1:
            raise ConfigError(
                "MaskSAM's loss: points and oversample must be at least 1 and importance between 0 and 1, got"
                f" {self.points}, {self.oversample} and {self.importance}"
            )

    @property
    def weights(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in TERMS}


ACDC_SYNAPSE = LossSettings()
AMOS = LossSettings(mask=1.2, dice=1.2, points=131072)
"""What the authors train with."""


@dataclass(frozen=True)
class LossTerms:
    """Scalars, unweighted but for `total`, the weighted sum; and the pairs that they are of."""

    ce: Tensor
    mask: Tensor
    dice: Tensor
    aux_mask: Tensor
    aux_dice: Tensor
    aux_box: Tensor
    aux_giou: Tensor
    total: Tensor
    matching: Matching


TERMS = tuple(f.name for f in fields(LossTerms) if f.name not in ("total", "matching"))


class Criterion:
    """Matching and losses of a batch, always float32.

    Sums over pairs are divided by the number of targets, averaged over processes and at least 1: all processes of a
    training have to take part in each call. A batch without a target has a loss too, with zero gradients for masks and
    boxes.
    """

    def __init__(self, settings: LossSettings) -> None:
        self.settings = settings

    def __call__(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        aux_masks: Tensor,
        aux_boxes: Tensor,
        targets: Targets,
        generator: torch.Generator | None = None,
        points: Iterable[Tensor] | None = None,
    ) -> LossTerms:
        """
        Args:
            class_logits: (S, N, K + 1), the last one for no object.
            mask_logits: (S, N, H, W).
            aux_masks: (S, N, Hm, Wm). Published networks emit probabilities, which are taken as logits all the same.
            aux_boxes: (S, N, 4), x1 y1 x2 y2 in [0, 1].
            targets: of the S slices.
            generator: of the points, on any device. One on the device of the predictions is much faster.
            points: instead of random ones, in the order of the draws: (S, P, 2) for matching; for each of the R pairs,
                by slice and query, candidates (R, oversample * P, 2) and further ones (R, (1 - importance) * P, 2), for
                masks and then for auxiliary masks.
        """
        device = class_logits.device
        given = None if points is None else iter(points)

        def draw(rows: int, number: int) -> Tensor:
            if given is not None:
                return next(given).to(device)
            home = device if generator is None else generator.device
            return torch.rand(rows, number, 2, generator=generator, device=home).to(device)

        with torch.autocast(device.type, enabled=False):
            predictions = [x.float() for x in (class_logits, mask_logits, aux_masks, aux_boxes)]
            class_logits, mask_logits, aux_masks, aux_boxes = predictions
            costs = pairwise_costs(*predictions, targets, draw(len(class_logits), self.settings.points))
            pairs = match(costs, self.settings.weights, targets)
            matched, number = (pairs.slices, pairs.queries), _mean_over_processes(targets.counts.sum())
            terms = {"ce": self._class_loss(class_logits, targets, pairs)}
            for prefix, masks in (("", mask_logits), ("aux_", aux_masks)):
                bce, dice = self._mask_losses(masks[matched], targets, pairs, draw)
                terms |= {f"{prefix}mask": bce.sum() / number, f"{prefix}dice": dice.sum() / number}
            boxes, wanted = aux_boxes[matched], targets.boxes[pairs.slices, pairs.targets]
            terms["aux_box"] = (boxes - wanted).abs().sum() / number
            terms["aux_giou"] = (1 - giou(boxes, wanted)).sum() / number
            total = sum(weight * terms[name] for name, weight in self.settings.weights.items())
        return LossTerms(**terms, total=total, matching=pairs)

    def _class_loss(self, logits: Tensor, targets: Targets, pairs: Matching) -> Tensor:
        """Cross-entropy of all queries, by the weights of their classes; slices without a pixel that counts are out."""
        wanted = torch.full(logits.shape[:2], logits.shape[2] - 1, device=logits.device)
        wanted[pairs.slices, pairs.queries] = targets.labels[pairs.slices, pairs.targets]
        by_class = torch.ones(logits.shape[2], device=logits.device)
        by_class[-1] = self.settings.no_object
        weight = by_class[wanted]
        if targets.valid is not None:
            weight = weight * targets.valid.flatten(1).any(1)[:, None]
        loss = F.cross_entropy(logits.mT, wanted, reduction="none")
        return (loss * weight).sum() / weight.sum().clamp(min=torch.finfo(weight.dtype).eps)

    def _mask_losses(self, masks: Tensor, targets: Targets, pairs: Matching, draw) -> tuple[Tensor, Tensor]:
        """Cross-entropy and Dice (R,) of the matched masks (R, H, W), each at points of its own."""
        masks = masks[:, None]
        valid = None if targets.valid is None else targets.valid[pairs.slices]
        points = self._points(masks.detach(), valid, draw)
        wanted, weight = sample_targets(targets.masks[pairs.slices, pairs.targets][:, None], valid, points)
        logits = point_sample(masks, points)
        return mask_bce(logits, wanted, weight).flatten(), mask_dice(logits, wanted, weight).flatten()

    def _points(self, masks: Tensor, valid: Tensor | None, draw) -> Tensor:
        """Points (R, P, 2), more of them where the mask is unsure."""
        number = self.settings.points
        unsure = int(self.settings.importance * number)
        candidates = draw(len(masks), int(self.settings.oversample * number))
        certainty = point_sample(masks, candidates).abs()
        if valid is not None:  # what the network says about ignored pixels must not choose the points
            certainty = certainty.masked_fill(point_sample((~valid)[:, None].float(), candidates) > 0, torch.inf)
        chosen = certainty[:, 0].topk(unsure, dim=1, largest=False, sorted=False).indices
        least = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
        return torch.cat([least, draw(len(masks), number - unsure)], dim=1)


def mask_bce(logits: Tensor, wanted: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy by mask, mean over points that count.

    Args:
        logits: (..., P).
        wanted: (..., P) in [0, 1], 0 at points that don't count.
        weight: 0 or 1, (..., P); None: all points count.
    """
    loss = F.binary_cross_entropy_with_logits(logits, wanted, weight, reduction="none").sum(-1)
    return loss / (logits.shape[-1] if weight is None else weight.sum(-1).clamp(min=1))


def mask_dice(logits: Tensor, wanted: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - (2 sum(pt) + 1) / (sum(p) + sum(t) + 1) by mask, see `mask_bce`."""
    probability = logits.sigmoid()
    if weight is not None:
        probability = probability * weight
    return 1 - (2 * (probability * wanted).sum(-1) + 1) / ((probability + wanted).sum(-1) + 1)


def _mean_over_processes(number: Tensor) -> Tensor:
    number = number.float()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(number)
        number = number / torch.distributed.get_world_size()
    return number.clamp(min=1)
