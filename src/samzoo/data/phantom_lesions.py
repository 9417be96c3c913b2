"""Phantom with lesions: CT-like volumes of any size, with lesions of given diameters; deterministic by seed.

A body of fat and soft tissue with spine, vessels and folds of fat, in which irregular lesions lie: turned ellipsoids
with dents, whose contrast swells and fades until parts of them can't be told from what is around, the larger ones with
a core. Vessels have the intensities of lesions, and noise lies over all, so that no threshold finds them.

Work goes slab by slab, in float32: 300 x 512 x 512 voxels take about half a minute and 1 GiB on one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, label
from scipy.spatial.transform import Rotation

from samzoo.errors import ConfigError

CLASSES = ("lesion",)
BODY = (0.36, 0.44)
"""Half axes of the body along y and x, in fields of view."""

SLAB = 16
"""Slices that are made at once."""

GAP_MM = 6.0
"""Least distance between two lesions, and from one to the body's surface or the volume's ends; less in a volume that is
thinner than ten times that."""

TRIES = 2000


class _Field:
    """A smooth random field of unit variance over a grid in mm, made where it is asked for.

    Random nodes every `scale` mm, with Gaussian weights between them; the weights of each voxel have unit norm.
    """

    def __init__(self, rng: np.random.Generator, extent_mm: Sequence[float], scale: float) -> None:
        self.scale = scale
        self.nodes = rng.standard_normal([int(e / scale) + 4 for e in extent_mm], dtype=np.float32)

    def __call__(self, *axes_mm: np.ndarray) -> np.ndarray:
        """(len(z), len(y), len(x)) float32 at these places, in mm from the grid's first voxel."""
        out = self.nodes
        for axis, places in enumerate(axes_mm):
            steps = places[:, None] / self.scale + 1.5 - np.arange(self.nodes.shape[axis])
            weights = np.exp(-(steps**2)).astype(np.float32)
            weights /= np.linalg.norm(weights, axis=1, keepdims=True)
            out = np.moveaxis(np.tensordot(weights, out, axes=(1, axis)), 0, axis)
        return out


@dataclass(frozen=True)
class _Lesion:
    """One lesion: its corner in the volume, and within its box the mask and the HU that it adds to what is there."""

    first: tuple[int, int, int]
    mask: np.ndarray
    contrast: np.ndarray


def make_lesions(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], diameters_mm: Sequence[float], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """A volume with a lesion of each diameter, at places where they fit and do not touch.

    Args:
        shape: (D, H, W) voxels.
        spacing: mm along D, H, W.
        diameters_mm: longest axis of each lesion; dents may take up to a tenth of it.
        seed: of everything random.

    Returns:
        image int16 (D, H, W) in HU, label uint8 (D, H, W), 1 in lesions.

    Raises:
        ConfigError: a diameter smaller than a voxel, or lesions that find no room in the body.
    """
    if any(d < max(spacing) for d in diameters_mm):
        raise ConfigError(f"phantom: lesions of {tuple(diameters_mm)} mm are smaller than a voxel of {spacing} mm")
    rng = np.random.default_rng((seed, 1))
    extent = [n * s for n, s in zip(shape, spacing, strict=True)]
    centres = _places(rng, extent, diameters_mm)
    lesions = [_lesion(rng, shape, spacing, c, d) for c, d in zip(centres, diameters_mm, strict=True)]
    image, truth = np.empty(shape, np.int16), np.zeros(shape, np.uint8)
    for lesion in lesions:
        truth[tuple(slice(f, f + n) for f, n in zip(lesion.first, lesion.mask.shape, strict=True))][lesion.mask] = 1
    fields = {scale: [_Field(rng, extent, scale) for _ in range(2)] for scale in (6.0, 14.0, 40.0)}
    levels = {"soft": rng.uniform(35, 60), "vessel": rng.uniform(70, 110), "noise": rng.uniform(12, 20)}
    axes = [np.arange(n) * s for n, s in zip(shape, spacing, strict=True)]
    for z in range(0, shape[0], SLAB):
        part = _tissue(axes[0][z : z + SLAB], axes[1], axes[2], extent, fields, levels)
        for lesion in lesions:
            _lay(part, z, lesion)
        part = gaussian_filter(part, (0, 0.6, 0.6))  # partial volume
        part += np.float32(levels["noise"]) * rng.standard_normal(part.shape, dtype=np.float32)
        image[z : z + SLAB] = np.clip(np.rint(part), -1024, 3071)
    return image, truth


def make_lesion_case(
    size: int, slices: tuple[int, int], seed: int, number: int, lesion_mm: tuple[float, float] = (5.0, 60.0)
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """A case of the embedded data set: 1 to 3 lesions, as far as they find room, at 1.5 to 2.5 mm.

    Args:
        size: height and width in voxels.
        slices: fewest and most.
        seed, number: of the data set, and of the case in it.
        lesion_mm: smallest and largest diameter; each doubling is as likely as another.

    Returns:
        image and label as of `make_lesions`, and spacing along D, H, W in mm.
    """
    rng = np.random.default_rng((seed, number))
    depth = int(rng.integers(slices[0], slices[1] + 1))
    pixel = float(np.round(rng.uniform(1.5, 2.5), 3))
    spacing = (float(np.round(rng.uniform(1.5, 2.5), 1)), pixel, pixel)
    room = min(depth * spacing[0], 2 * BODY[0] * size * pixel) - 2 * _gap((depth * spacing[0],))
    largest = min(lesion_mm[1], 0.7 * room)
    smallest = min(lesion_mm[0], largest)
    diameters = np.exp(rng.uniform(np.log(smallest), np.log(largest), rng.integers(1, 4)))
    diameters = np.maximum(diameters, max(spacing)).tolist()
    while True:
        try:
            return *make_lesions((depth, size, size), spacing, diameters, int(rng.integers(2**31))), spacing
        except ConfigError:  # in a small volume not all find room
            if len(diameters) == 1:
                raise
            diameters.remove(min(diameters))


def _gap(extent: Sequence[float]) -> float:
    return min(GAP_MM, 0.1 * min(extent))


def _places(rng: np.random.Generator, extent: Sequence[float], diameters: Sequence[float]) -> list[np.ndarray]:
    """Centres in mm from the corner, the largest lesion placed first. Raises ConfigError: no room."""
    radii = np.asarray(diameters, dtype=float) / 2
    half = np.array((extent[0] / 2, BODY[0] * extent[1], BODY[1] * extent[2]))
    gap, found = _gap(extent), {}
    for i in np.argsort(-radii):
        room = half - radii[i] - gap
        for _ in range(TRIES if (room > 0).all() else 0):
            offset = rng.uniform(-room, room)
            inside = ((offset[1:] / room[1:]) ** 2).sum() < 0.9
            if inside and all(np.linalg.norm(offset - o) > radii[i] + radii[j] + gap for j, o in found.items()):
                found[int(i)] = offset
                break
        else:
            body = " x ".join(f"{2 * h:.0f}" for h in half)
            raise ConfigError(
                f"phantom: a lesion of {2 * radii[i]:.0f} mm finds no room in a body of {body} mm beside "
                f"{len(found)} larger ones; make the volume larger, or the lesions fewer or smaller"
            )
    return [found[i] + np.asarray(extent) / 2 for i in range(len(radii))]


def _lesion(
    rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float], centre: np.ndarray, diameter: float
) -> _Lesion:
    radius = diameter / 2
    low = [max(int((c - radius) / s), 0) for c, s in zip(centre, spacing, strict=True)]
    high = [min(int((c + radius) / s) + 2, n) for c, s, n in zip(centre, spacing, shape, strict=True)]
    axes = [np.arange(a, b) * s for a, b, s in zip(low, high, spacing, strict=True)]
    offset = np.stack(np.meshgrid(*axes, indexing="ij"), -1).astype(np.float32) - centre.astype(np.float32)
    turned = offset @ Rotation.random(random_state=rng).as_matrix().astype(np.float32)
    along = turned / np.array((1, rng.uniform(0.75, 1), rng.uniform(0.65, 0.95)), np.float32)
    distance = np.linalg.norm(along, axis=-1) / np.float32(radius)

    local = [a - a[0] for a in axes]
    reach = [a[-1] + 1e-3 for a in local]
    dents = _Field(rng, reach, 0.45 * radius)(*local).clip(0, 2)
    # at the two ends of the longest axis there are none, so that the diameter is what it is said to be
    dents *= 1 - (turned[..., 0] / np.float32(radius)) ** 2
    mask = distance + 0.22 * dents.clip(0) < 1
    mask[tuple(np.unravel_index(np.argmin(distance), distance.shape))] = True
    parts, count = label(mask)
    if count > 1:
        mask = parts == np.bincount(parts[mask]).argmax()

    sign = rng.choice((-1, 1))
    fading = 0.5 + 0.5 * np.tanh(_Field(rng, reach, 0.6 * radius)(*local) + 0.8)
    contrast = sign * rng.uniform(45, 80) * fading + 10 * _Field(rng, reach, max(4.0, 0.2 * radius))(*local)
    if diameter > 30:
        contrast = np.where(distance + 0.2 * dents < rng.uniform(0.4, 0.6), -30, contrast)
    return _Lesion(tuple(low), mask, contrast.astype(np.float32))


def _tissue(
    z: np.ndarray, y: np.ndarray, x: np.ndarray, extent: Sequence[float], fields: dict, levels: dict
) -> np.ndarray:
    """(len(z), len(y), len(x)) float32 HU of a slab without lesions and noise; places in mm from the corner."""
    fine, texture = (f(z, y, x) for f in fields[6.0])
    vessels, other = (f(z, y, x) for f in fields[14.0])
    large, folds = (f(z, y, x) for f in fields[40.0])
    dy = ((y - extent[1] / 2) / (BODY[0] * extent[1])).astype(np.float32)[:, None]
    dx = ((x - extent[2] / 2) / (BODY[1] * extent[2])).astype(np.float32)
    radius = dy**2 + dx**2 + 0.03 * large
    inside = levels["soft"] + 8 * fine + 8 * large
    tubes = (np.abs(vessels) < 0.12) & (other > 0.3)  # between two surfaces a string, not a blob
    inside = np.where(tubes, levels["vessel"] + 6 * texture, inside)
    inside = np.where(other < -1.3, levels["soft"] + 35 + 10 * texture, inside)
    inside = np.where(folds > 1.4, -90 + 12 * texture, inside)
    spine = ((dy - 0.72) / 0.16) ** 2 + (dx / 0.13) ** 2 + 0.12 * vessels < 1
    inside = np.where(spine, 220 + 70 * texture, inside)
    body = np.where(radius < 1.05, inside, -100 + 10 * fine)
    return np.where(radius < 1.25, body, np.float32(-1000)).astype(np.float32)


def _lay(part: np.ndarray, z: int, lesion: _Lesion) -> None:
    """Add the slices of a lesion that lie in the slab that begins at slice z. Fat and bone below it become tissue."""
    low, high = max(lesion.first[0], z), min(lesion.first[0] + len(lesion.mask), z + len(part))
    if low >= high:
        return
    own = slice(low - lesion.first[0], high - lesion.first[0])
    plane = tuple(slice(f, f + n) for f, n in zip(lesion.first[1:], lesion.mask.shape[1:], strict=True))
    region = part[low - z : high - z, *plane]
    mask = lesion.mask[own]
    region[mask] = region[mask].clip(20, 110) + lesion.contrast[own][mask]
