"""Which query answers for which target: the cheapest assignment of each slice, by all predictions at once.

Points are (x, y) in [0, 1]^2, so that masks of any size can be compared with targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from samzoo.methods.masksam.targets import Targets

NAN_COST = 100.0


@dataclass(frozen=True)
class Matching:
    """R pairs: int64 (R,) each, slice by slice, by ascending query."""

    slices: Tensor
    queries: Tensor
    targets: Tensor


@torch.no_grad()
def match(costs: dict[str, Tensor], weights: dict[str, float], targets: Targets) -> Matching:
    """The pairs with the lowest sum of weighted costs. Slices without a target give none.

    Args:
        costs: see `pairwise_costs`.
        weights: of each cost.
        targets: S slices with at most N targets each.
    """
    total = total_cost(costs, weights).masked_fill(targets.labels[:, None] < 0, torch.inf)
    slices, queries, columns = [], [], []
    for s, cost in enumerate(total.cpu().numpy()):  # the one copy from the device
        padding = np.isinf(cost).all(0)
        rows, matched = linear_sum_assignment(cost[:, ~padding])
        slices.append(np.full_like(rows, s))
        queries.append(rows)
        columns.append(matched)
    pairs = torch.from_numpy(np.stack([np.concatenate(x) for x in (slices, queries, columns)]))
    return Matching(*pairs.to(total.device, torch.int64))


def total_cost(costs: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Weighted sum (S, N, M), NaN as 100, so that one diverged query does not end a training."""
    return torch.nan_to_num(sum(weights[name] * cost for name, cost in costs.items()), nan=NAN_COST)


@torch.no_grad()
def pairwise_costs(
    class_logits: Tensor, mask_logits: Tensor, aux_masks: Tensor, aux_boxes: Tensor, targets: Targets, points: Tensor
) -> dict[str, Tensor]:
    """Cost of each query for each target, unweighted float32 (S, N, M), under the names of the losses.

    Args:
        class_logits: (S, N, K + 1), the last one for no object.
        mask_logits: (S, N, H, W).
        aux_masks: (S, N, Hm, Wm), taken as logits whatever they are.
        aux_boxes: (S, N, 4), x1 y1 x2 y2 in [0, 1].
        targets: S slices with at most M targets; costs of padding mean nothing.
        points: (S, P, 2), shared by all masks of a slice.
    """
    with torch.autocast(class_logits.device.type, enabled=False):
        labels = targets.labels.clamp(min=0)[:, None].expand(-1, class_logits.shape[1], -1)
        costs = {"ce": -class_logits.float().softmax(-1).gather(2, labels)}
        wanted, weight = sample_targets(targets.masks, targets.valid, points)
        for prefix, masks in (("", mask_logits), ("aux_", aux_masks)):
            logits = point_sample(masks.float(), points)
            costs[f"{prefix}mask"] = pairwise_bce(logits, wanted, weight)
            costs[f"{prefix}dice"] = pairwise_dice(logits, wanted, weight)
        costs["aux_box"] = torch.cdist(aux_boxes.float(), targets.boxes, p=1)
        costs["aux_giou"] = -giou(aux_boxes.float()[:, :, None], targets.boxes[:, None])
        return costs


def point_sample(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values (B, C, P) of float maps (B, C, H, W) at points (B, P, 2); outside of the map there are zeros."""
    return F.grid_sample(maps, 2 * points[:, None] - 1, align_corners=False).squeeze(2)


@torch.no_grad()
def sample_targets(masks: Tensor, valid: Tensor | None, points: Tensor) -> tuple[Tensor, Tensor | None]:
    """Values of target masks at points, and which of the points count.

    Args:
        masks: bool (B, M, H, W).
        valid: bool (B, H, W) or None.
        points: (B, P, 2).

    Returns:
        float32 (B, M, P), 0 at points that don't count; weight float32 (B, 1, P), 0 where an ignored pixel takes part
        and else 1, or None: all count.
    """
    values = point_sample(masks.float(), points)
    if valid is None:
        return values, None
    weight = (point_sample((~valid)[:, None].float(), points) == 0).float()
    return values * weight, weight


def pairwise_bce(logits: Tensor, wanted: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy of N masks with M targets, mean over points that count.

    Args:
        logits: (..., N, P).
        wanted: (..., M, P) in [0, 1], 0 at points that don't count.
        weight: 0 or 1, (..., 1, P); None: all points count.
    """
    number = logits.shape[-1] if weight is None else weight.sum(-1, keepdim=True).clamp(min=1)
    # -t log p - (1 - t) log(1 - p) = log(1 + e^x) - x t, whose second part is one matrix product
    return (_mass(F.softplus(logits), weight) - logits @ wanted.mT) / number


def pairwise_dice(logits: Tensor, wanted: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - (2 sum(pt) + 1) / (sum(p) + sum(t) + 1) of N masks with M targets, see `pairwise_bce`."""
    probability = logits.sigmoid()
    either = _mass(probability, weight) + wanted.sum(-1)[..., None, :]
    return 1 - (2 * probability @ wanted.mT + 1) / (either + 1)


def _mass(values: Tensor, weight: Tensor | None) -> Tensor:
    return (values if weight is None else values * weight).sum(-1, keepdim=True)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of boxes x1 y1 x2 y2, (..., 4) each, with 1e-6 added to both denominators."""

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(-1)

    low_a, high_a, low_b, high_b = a[..., :2], a[..., 2:], b[..., :2], b[..., 2:]
    both = area(torch.maximum(low_a, low_b), torch.minimum(high_a, high_b))
    union = area(low_a, high_a) + area(low_b, high_b) - both
    hull = area(torch.minimum(low_a, low_b), torch.maximum(high_a, high_b))
    return both / (union + 1e-6) - (hull - union) / (hull + 1e-6)
