"""ProMISe's own scoring and preparation of pictures, as its reference code does them; for comparison, not for ranking.

Scores are taken at the decoder's resolution, after a morphological opening, against a ground truth that bilinear
resizing has dilated: published figures are made so, and differ from those of the shared evaluator.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samzoo.errors import DataError

F_BETA = 0.3
"""beta squared"""

EPS = 1e-20

FRAME_BRIGHT, FRAME_COUNT, FRAME_CORNER = 20, 10, 20
"""A frame's lines hold more than 10 values above 20; the top left 20 x 20 pixels do not count."""


def scores(probability: Tensor, truth: Tensor, opening: int = 5) -> dict[str, Tensor]:
    """Eight scores of P masks.

    All follow from counts of agreeing and disagreeing pixels, as both maps are binary. `mae` is the share of
    disagreeing pixels. `s_measure` is the mean of an object and a region term, this one over the quadrants around the
    truth's centre. `e_measure` is the enhanced alignment at this one threshold.

    Args:
        probability: (P, l, l); foreground from 0.5 on.
        truth: (P, l, l) in [0, 1] or bool, every value above 0 is foreground; of another size, it is resized bilinearly
            first.
        opening: side of the square that the prediction is opened with; 0: no opening.

    Returns:
        mae, dice, iou, precision, recall, f_beta, s_measure, e_measure: float64 (P,), NaN where the reference's are:
        Dice of two empty masks, the S-measure where a quadrant is empty.
    """
    truth = truth.float()
    if truth.shape != probability.shape:
        size = tuple(probability.shape[-2:])
        truth = F.interpolate(truth[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    truth = truth > 0
    predicted = probability >= 0.5
    if opening:
        predicted = open_masks(predicted, opening)
    p, t = predicted.double(), truth.double()
    tp, fp, fn = (m.sum((1, 2)) for m in (p * t, p * (1 - t), (1 - p) * t))
    pixels = p[0].numel()

    precision, recall = _or_zero(tp, tp + fp), _or_zero(tp, tp + fn)
    return {
        "mae": (fp + fn) / pixels,
        "dice": 2 * tp / (2 * tp + fp + fn),
        "iou": _or_zero(tp, tp + fp + fn),
        "precision": precision,
        "recall": recall,
        "f_beta": _or_zero((1 + F_BETA) * precision * recall, F_BETA * precision + recall),
        "s_measure": _s_measure(p, t),
        "e_measure": _e_measure(p, t),
    }


def open_masks(masks: Tensor, side: int) -> Tensor:
    """Morphological opening of bool (P, H, W) with a square; beyond the border nothing is eroded."""
    padding = side // 2
    eroded = -F.max_pool2d(-masks[:, None].float(), side, stride=1, padding=padding)
    return F.max_pool2d(eroded, side, stride=1, padding=padding)[:, 0] > 0


def _or_zero(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.where(whole > 0, 1.0), 0.0)


def _e_measure(p: Tensor, t: Tensor) -> Tensor:
    """Enhanced alignment of float64 (P, H, W) binary maps, divided by the number of pixels - 1."""
    a, b = (m - m.mean((1, 2), keepdim=True) for m in (p, t))
    alignment = 2 * a * b / (a * a + b * b + EPS)
    enhanced = (alignment + 1) ** 2 / 4
    share = t.mean((1, 2), keepdim=True)
    enhanced = torch.where(share == 0, 1 - p, torch.where(share == 1, p, enhanced))
    return enhanced.sum((1, 2)) / (p[0].numel() - 1 + EPS)


def _s_measure(p: Tensor, t: Tensor) -> Tensor:
    """Structure measure (Fan et al. 2017, alpha 0.5) of float64 (P, H, W) binary maps."""
    share, predicted = t.mean((1, 2)), p.mean((1, 2))
    foreground, background = _object(p, t), _object(1 - p, 1 - t)
    structure = 0.5 * (share * foreground + (1 - share) * background) + 0.5 * _region(p, t)
    structure = structure.where(~(structure < 0), 0.0)  # NaN stays
    return torch.where(share == 0, 1 - predicted, torch.where(share == 1, predicted, structure))


def _object(p: Tensor, inside: Tensor) -> Tensor:
    """2 m / (m^2 + 1 + s) of the prediction's mean and standard deviation within the object."""
    count = inside.sum((1, 2))
    mean = (p * inside).sum((1, 2)) / count
    deviation = (mean * (1 - mean)).clamp(min=0).sqrt()  # of zeros and ones
    return 2 * mean / (mean * mean + 1 + deviation + EPS)


def _region(p: Tensor, t: Tensor) -> Tensor:
    """Structural similarity of the four quadrants around the truth's centre, weighted by their areas."""
    height, width = t.shape[1:]
    total = t.sum((1, 2))
    rows = torch.arange(1, height + 1, dtype=t.dtype, device=t.device)
    cols = torch.arange(1, width + 1, dtype=t.dtype, device=t.device)
    y = ((t.sum(2) * rows).sum(1) / total).round()
    x = ((t.sum(1) * cols).sum(1) / total).round()
    above, left = (rows <= y[:, None]).to(t.dtype), (cols <= x[:, None]).to(t.dtype)
    vertical, horizontal = torch.stack([above, 1 - above], 1), torch.stack([left, 1 - left], 1)

    def per_quadrant(m: Tensor) -> Tensor:
        return torch.einsum("pah,phw,pbw->pab", vertical, m, horizontal)

    count = vertical.sum(2)[:, :, None] * horizontal.sum(2)[:, None]
    a, b, both = per_quadrant(p) / count, per_quadrant(t) / count, per_quadrant(p * t) / count
    free = count / (count - 1 + EPS)
    variances, covariance = free * (a * (1 - a) + b * (1 - b)), free * (both - a * b)
    top, bottom = 4 * a * b * covariance, (a * a + b * b) * variances
    similarity = torch.where(top != 0, top / (bottom + EPS), torch.where(bottom == 0, 1.0, 0.0))
    similarity = similarity.where(count > 0, torch.nan)
    return (count / (height * width) * similarity).sum((1, 2))


def find_frame(image: np.ndarray) -> tuple[int, int, int, int]:
    """The bright part of an endoscope's or dermatoscope's picture, without its dark border.

    Args:
        image: uint8 (H, W, 3).

    Returns:
        x0, x1, y0, y1, the ends exclusive; the whole picture if all of it is dark (where the reference fails).
    """
    bright = image > FRAME_BRIGHT
    bright[:FRAME_CORNER, :FRAME_CORNER] = False
    ends = []
    for axis in (0, 1):
        lines = np.flatnonzero(bright.sum(axis=(axis, 2)) > FRAME_COUNT)
        if not len(lines):
            return 0, image.shape[1], 0, image.shape[0]
        ends += [int(lines[0]), int(lines[-1]) + 1]
    return tuple(ends)


def pad_to_square(array: np.ndarray) -> np.ndarray:
    """(h, w, ...) -> (s, s, ...), zeros at right and bottom."""
    h, w = array.shape[:2]
    side = max(h, w)
    return np.pad(array, [(0, side - h), (0, side - w)] + [(0, 0)] * (array.ndim - 2))


def resize_by_area(array: np.ndarray, side: int) -> np.ndarray:
    """uint8 (s, s, ...) -> (side, side, ...): each pixel the mean of what it covers, parts of pixels included."""
    edges = np.arange(side + 1) * (len(array) / side)
    pixels = np.arange(len(array))
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weight = overlap.clip(0) * (side / len(array))
    resized = np.einsum("yi,xj,ij...->yx...", weight, weight, array.astype(np.float64), optimize=True)
    return np.rint(resized).clip(0, 255).astype(np.uint8)


def prepare_frame(
    image: np.ndarray, mask: np.ndarray | None, side: int
) -> tuple[tuple[int, int, int, int], np.ndarray, np.ndarray | None]:
    """Crop the dark border away, pad to a square with black, resize: the reference's preparation of its data sets.

    Args:
        image: uint8 (H, W, 3).
        mask: uint8 (H, W), foreground above 127 after the resizing; or None.
        side: of the result, 1024 in the reference.

    Returns:
        x0, x1, y0, y1 of `find_frame`; image uint8 (side, side, 3); mask uint8 (side, side) of 0 and 255, or None.

    Raises:
        DataError: image and mask of different sizes.
    """
    if mask is not None and mask.shape != image.shape[:2]:
        raise DataError(f"an image of {image.shape[:2]} (height, width) can't have a mask of {mask.shape}")
    x0, x1, y0, y1 = box = find_frame(image)
    image, mask = (None if a is None else resize_by_area(pad_to_square(a[y0:y1, x0:x1]), side) for a in (image, mask))
    return box, image, None if mask is None else np.where(mask > 127, np.uint8(255), np.uint8(0))
