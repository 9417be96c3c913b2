"""Where a human would click or draw: pure functions on masks, 2D and 3D alike.

Masks are bool numpy arrays of 2 or 3 axes, (H, W) or (D, H, W). Coordinates come back as SAM writes them, x, y (, z):
the reverse of the axis order. A click names a pixel by its index; the far corner of a box is one past the last pixel.
"""

from __future__ import annotations

import hashlib

import numpy as np
from scipy import ndimage

from samzoo.prompts.batched import largest_component

__all__ = [
    "corrective_click",
    "deepest_point",
    "jitter_box",
    "largest_component",
    "prompt_rng",
    "random_foreground_click",
    "random_points",
    "shift_point",
    "tight_box",
]


def prompt_rng(case_id: str, class_id: int, seed: int, step: int = 0, use: str = "") -> np.random.Generator:
    """The generator of the prompts of one class of one case: the same for every method, machine and order.

    Args:
        step: 0 for the first prompts, else the number of clicks before.
        use: what else is drawn for the same prompts; draws of different uses are independent.
    """
    text = f"{case_id}\0{class_id}\0{seed}" + (f"\0{step}" if step else "") + (f"\0{use}" if use else "")
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def tight_box(mask: np.ndarray, largest_part: bool = False) -> tuple[int, ...] | None:
    """The smallest box around a mask.

    Args:
        largest_part: only the largest part counts (neighbours may touch at corners), as SAM-Med2D does in training.

    Returns:
        x0, y0 (, z0), x1, y1 (, z1), the far corner one past the last pixel; None for an empty mask.
    """
    if not mask.any():
        return None
    if largest_part:
        mask = largest_component(mask)
    near, far = [], []
    for axis in reversed(range(mask.ndim)):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        near.append(int(line[0]))
        far.append(int(line[-1]) + 1)
    return (*near, *far)


def jitter_box(box: tuple[int, ...], rng: np.random.Generator, share: float, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A box as it is drawn in a hurry: each coordinate of both corners is moved by a normal draw of its own.

    Rounded to voxels and clipped to the image; at least one voxel wide.

    Args:
        box: as `tight_box` gives it.
        share: standard deviation, as a share of the box's side along the axis.
        shape: of the image, in axis order.
    """
    corners = np.array(box).reshape(2, -1)
    draws = rng.standard_normal((corners.shape[1], 2)).T  # x and y are drawn alike in 2D and 3D
    near, far = np.sort(np.rint(corners + share * (corners[1] - corners[0]) * draws), axis=0)
    extent = np.array(shape[::-1])
    near = np.clip(near, 0, extent - 1)
    far = np.clip(far, near + 1, extent)
    return tuple(int(i) for i in (*near, *far))


def shift_point(
    point: tuple[int, ...], rng: np.random.Generator, mm: float, spacing: tuple[float, ...], shape: tuple[int, ...]
) -> tuple[int, ...]:
    """A click x, y (, z) that misses: moved by a normal draw along each axis, rounded and clipped to the image.

    Args:
        mm: standard deviation along each axis.
        spacing: mm per axis, in axis order; shape: of the image, likewise.
    """
    moved = np.rint(point + rng.standard_normal(len(point)) * mm / np.array(spacing[::-1]))
    return tuple(int(i) for i in np.clip(moved, 0, np.array(shape[::-1]) - 1))


def random_foreground_click(mask: np.ndarray, rng: np.random.Generator) -> tuple[int, ...] | None:
    """A uniformly drawn foreground pixel x, y (, z); None for an empty mask."""
    index = np.flatnonzero(mask)
    if not len(index):
        return None
    return tuple(int(i) for i in np.unravel_index(index[rng.integers(len(index))], mask.shape)[::-1])


def random_points(
    mask: np.ndarray, n: int, rng: np.random.Generator, valid: np.ndarray | None = None
) -> list[tuple[tuple[int, ...], bool]]:
    """`n` points at once in random order, half of them on the foreground: ProMISe's "GT points".

    n // 2 points (but at least one) are drawn from the foreground and the rest from the background, uniformly with
    replacement. A mask without background gets foreground points only, an empty one background points only.

    Args:
        valid: where the truth is known, bool of the mask's shape; points lie nowhere else. None: everywhere.

    Returns:
        (x, y (, z)) and True for foreground, of each point; no point at all if nothing is valid.
    """
    known = np.ones_like(mask) if valid is None else valid
    inside, outside = np.flatnonzero(mask & known), np.flatnonzero(~mask & known)
    if not (len(inside) or len(outside)):
        return []
    count = (max(1, n // 2) if len(outside) else n) if len(inside) else 0
    index = np.concatenate((rng.choice(inside, count), rng.choice(outside, n - count)))
    order = rng.permutation(n)
    points = np.stack(np.unravel_index(index[order], mask.shape)[::-1], axis=1).tolist()
    return [(tuple(point), bool(i < count)) for point, i in zip(points, order, strict=True)]


def corrective_click(
    truth: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]
) -> tuple[tuple[int, ...], bool] | None:
    """The next click of somebody who corrects the largest error first, at its centre.

    Missed and extra voxels form components of their own (neighbours may touch at corners). The largest component by
    voxels (of equals: missed before extra, then the first) is clicked at the largest Euclidean distance in mm to its
    border, where the border of the array counts as border; of equal distances, the one nearest to their common centre.

    Args:
        spacing: mm per axis, in axis order. Arrays of depth 1 are treated as pictures.

    Returns:
        (x, y (, z)), True for a missed (foreground) and False for an extra (background) voxel; None without error.
    """
    if truth.ndim == 3 and truth.shape[0] == 1:
        found = corrective_click(truth[0], prediction[0], spacing[1:])
        return found and ((*found[0], 0), found[1])
    wrong = truth != prediction
    corners = tight_box(wrong)
    if corners is None:
        return None
    near = corners[: wrong.ndim][::-1]
    crop = tuple(slice(a, b) for a, b in zip(near, corners[wrong.ndim :][::-1], strict=True))
    wrong, truth = wrong[crop], truth[crop]  # labelling a whole volume takes seconds, its wrong part mostly little
    best: tuple[int, np.ndarray, tuple[slice, ...], bool] | None = None
    for positive, error in ((True, wrong & truth), (False, wrong & ~truth)):
        parts, count = ndimage.label(error, np.ones((3,) * error.ndim))
        if not count:
            continue
        sizes = np.bincount(parts.ravel())[1:]
        largest = int(sizes.argmax())
        if best is None or sizes[largest] > best[0]:
            where = ndimage.find_objects(parts)[largest]
            best = int(sizes[largest]), parts[where] == largest + 1, where, positive
    _, component, where, positive = best
    start = [s.start + n for s, n in zip(where, near, strict=True)]
    centre = deepest_point(component, spacing) + start
    return tuple(centre[::-1].tolist()), positive


def deepest_point(component: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Index of the voxel of a mask (not empty) that lies farthest from its border; the array's border counts as one.

    Of equal distances, the one nearest to their common centre.
    """
    border = ndimage.distance_transform_edt(
        np.pad(component, 1), sampling=spacing, return_distances=False, return_indices=True
    )
    # Distances of a whole volume take three times the memory of these indices, hence slab by slab.
    furthest = max(_distances(border, z, spacing).max() for z in range(border.shape[1]))
    near = (
        np.insert(np.argwhere(_distances(border, z, spacing) >= furthest - 1e-6), 0, z, axis=1)
        for z in range(border.shape[1])
    )
    ties = np.concatenate(list(near)) - 1
    offset = (ties - ties.mean(axis=0)) * np.asarray(spacing)
    return ties[np.argmin((offset**2).sum(axis=1).round(9))]


def _distances(border: np.ndarray, z: int, spacing: tuple[float, ...]) -> np.ndarray:
    """Distance in mm of slab z (of the first axis) to the nearest border voxels, given as indices (axes, *shape)."""
    own = np.indices(border.shape[2:], sparse=True)
    squares = [((i[z] - at) * mm) ** 2 for i, at, mm in zip(border, (z, *own), spacing, strict=True)]
    return np.sqrt(sum(squares))
