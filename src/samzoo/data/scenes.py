"""Procedural scenes of many kinds, to pretrain a small SAM on: made by a program, deterministic by seed, no data of
others.

A kind is a family of shapes with a family of looks. Some shapes and looks belong to unseen kinds alone, which are for
test only: what a SAM scores there is how it does on shapes and looks that it was never trained on. In 2D a case for
training is a stack of unrelated pictures of one kind, in 3D a volume; a case for test is always one picture or volume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

VERSION = 1
"""Raise it when the same seed gives other scenes."""

MOST_OBJECTS = 7
CLASSES = tuple(f"object_{i}" for i in range(1, MOST_OBJECTS + 1))
LEVELS = 1000
"""File value of 1.0; 0 lies outside of bodies, where there are any."""

VAL_PER_KIND = 2
TEST_PER_KIND = {2: 40, 3: 8}
"""For pictures and for volumes."""

Array = np.ndarray
Coordinates = list[Array]
"""One array for each axis, in [-1, 1] along the scene's sides."""


# --- shapes: where an object is ------------------------------------------------------------------------------------


def _turned(grid: Coordinates, centre: Array, radii: Array, rng: np.random.Generator) -> Coordinates:
    """Coordinates of an object: moved, turned at random, in units of its radii."""
    rotation, _ = np.linalg.qr(rng.standard_normal((len(grid), len(grid))))
    moved = [g - c for g, c in zip(grid, centre, strict=True)]
    return [
        sum(r * m for r, m in zip(row, moved, strict=True)) / radius
        for row, radius in zip(rotation, radii, strict=True)
    ]


def _ellipse(own: Coordinates, smooth: Smooth, rng: np.random.Generator) -> Array:
    return sum(a * a for a in own) < 1


def _box(own: Coordinates, smooth: Smooth, rng: np.random.Generator) -> Array:
    power = rng.choice((4, 8, 16))
    return sum((1.15 * a) ** int(power) for a in own) < 1


def _polygon(own: Coordinates, smooth: Smooth, rng: np.random.Generator) -> Array:
    """The common part of some half planes (half spaces in 3D)."""
    inside = np.ones(own[0].shape, dtype=bool)
    for _ in range(int(rng.integers(4, 8)) * (len(own) - 1)):
        normal = rng.standard_normal(len(own))
        normal /= np.linalg.norm(normal)
        inside &= sum(n * a for n, a in zip(normal, own, strict=True)) < rng.uniform(0.55, 1.0)
    return inside & (sum(a * a for a in own) < 2)


def _blob(own: Coordinates, smooth: Smooth, rng: np.random.Generator) -> Array:
    return sum(a * a for a in own) + rng.uniform(0.2, 0.45) * smooth(rng.uniform(0.08, 0.2)) < 1


def _tube(own: Coordinates, smooth: Smooth, rng: np.random.Generator) -> Array:
    """A bent tube of changing width."""
    ends = rng.uniform(-1.2, 1.2, (3, len(own)))
    wide = rng.uniform(0.12, 0.35)
    nearest = np.full(own[0].shape, np.inf)
    for t in np.linspace(0, 1, 20):
        point = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
        distance = sum((a - p) ** 2 for a, p in zip(own, point, strict=True))
        nearest = np.minimum(nearest, distance / (wide * (1 + 0.3 * np.sin(5 * t + ends[0, 0]))) ** 2)
    return nearest < 1


def _shell(own: Coordinates, smooth: Smooth, rng: np.random.Generator) -> Array:
    radius = sum(a * a for a in own) + 0.1 * smooth(0.15)
    return (radius < 1) & (radius > rng.uniform(0.2, 0.5))


def _bean(own: Coordinates, smooth: Smooth, rng: np.random.Generator) -> Array:
    """Bent around a notch, as a kidney."""
    bent = [own[0] - rng.uniform(0.5, 1.1) * (0.5 - own[1] ** 2), *own[1:]]
    notch = np.hypot(own[0] + rng.uniform(0.9, 1.2), own[1]) < rng.uniform(0.4, 0.7)
    return (sum(a * a for a in bent) < 1) & ~notch


def _lobes(own: Coordinates, smooth: Smooth, rng: np.random.Generator) -> Array:
    """A radius that waves with the direction, as a leaf or a star."""
    angle = np.arctan2(own[0], own[1])
    wave = 1 + rng.uniform(0.25, 0.5) * np.cos(int(rng.integers(3, 7)) * angle + rng.uniform(0, 6))
    return sum(a * a for a in own) < (0.75 * wave) ** 2


# --- looks: what image it gives ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """How a scene of tissues becomes an image; intensities are in units of the full scale.

    Args:
        contrast: range of an object's difference to what lies around it.
        noise: range of the white noise's standard deviation, in units of the scene's least contrast.
        texture: range of the strength of textures within tissues, in the same units.
        bias: strength of a smooth field over the whole scene that multiplies it.
        shading: strength of a linear course within each object, in units of its contrast.
        blur: range of the final blur, in pixels.
        stripes: textures are stripes instead of clouds.
        speckle: noise multiplies, and is correlated over some pixels.
        body: objects lie in a body, around which there is nothing.
    """

    contrast: tuple[float, float] = (0.12, 0.5)
    noise: tuple[float, float] = (0.1, 0.6)
    texture: tuple[float, float] = (0.0, 0.3)
    bias: float = 0.0
    shading: float = 0.0
    blur: tuple[float, float] = (0.3, 0.9)
    stripes: bool = False
    speckle: bool = False
    body: bool = False


LOOKS = {
    "flat": Look(),
    "texture": Look(contrast=(0.08, 0.25), texture=(0.5, 1.0), noise=(0.1, 0.4)),
    "shading": Look(shading=0.8, contrast=(0.15, 0.45)),
    "ct": Look(contrast=(0.06, 0.3), noise=(0.2, 0.8), texture=(0.1, 0.4), body=True, blur=(0.5, 1.0)),
    "mr": Look(contrast=(0.1, 0.4), noise=(0.1, 0.4), texture=(0.2, 0.6), bias=0.3, body=True, blur=(0.4, 1.0)),
    "stripes": Look(contrast=(0.15, 0.4), texture=(0.4, 0.8), stripes=True),
    "speckle": Look(contrast=(0.2, 0.5), noise=(0.3, 0.7), texture=(0.0, 0.3), speckle=True, body=True),
}

SHAPES: dict[str, Callable[[Coordinates, Smooth, np.random.Generator], Array]] = {
    "ellipses": _ellipse,
    "boxes": _box,
    "polygons": _polygon,
    "blobs": _blob,
    "tubes": _tube,
    "shells": _shell,
    "beans": _bean,
    "lobes": _lobes,
}

KNOWN = (
    *("ellipses_flat", "ellipses_mr", "ellipses_texture", "boxes_texture", "boxes_stripes", "polygons_shading"),
    *("polygons_flat", "blobs_ct", "blobs_mr", "blobs_flat", "blobs_texture", "tubes_mr", "tubes_ct", "tubes_shading"),
    *("shells_flat", "shells_ct", "shells_mr", "polygons_ct"),
)
"""Kinds for training and validation: shape, look."""

UNSEEN = ("lobes_flat", "lobes_speckle", "beans_mr", "beans_ct", "beans_speckle", "blobs_speckle")
"""Kinds for test alone; lobes, beans and speckle are in no known kind."""


# --- scenes ---------------------------------------------------------------------------------------------------------


class Smooth:
    """Random fields of unit variance on the scene's grid."""

    def __init__(self, shape: Sequence[int], rng: np.random.Generator) -> None:
        self.shape, self.rng = tuple(shape), rng

    def __call__(self, scale: float) -> Array:
        """A field whose correlation length is this share of half a side."""
        coarse = [max(4, round(2 / scale)) for _ in self.shape]
        noise = self.rng.standard_normal(coarse).astype(np.float32)
        field = zoom(noise, [n / c for n, c in zip(self.shape, coarse, strict=True)], order=2, mode="reflect")
        return field / max(float(field.std()), 1e-6)


def make_scene(kind: str, shape: Sequence[int], rng: np.random.Generator) -> tuple[Array, Array]:
    """One picture (H, W) or volume (D, H, W).

    Args:
        kind: of `KNOWN` or `UNSEEN`.

    Returns:
        image float32 in [0, 1], label uint8 of the same shape: 0, and 1 to at most `MOST_OBJECTS` for the objects; some
        things are not labelled.
    """
    form, look = SHAPES[kind.split("_")[0]], LOOKS[kind.split("_")[1]]
    smooth = Smooth(shape, rng)
    grid = [
        np.linspace(-1, 1, n, dtype=np.float32).reshape([-1 if i == a else 1 for i in range(len(shape))])
        for a, n in enumerate(shape)
    ]
    image, body = _background(grid, look, smooth, rng)
    least = rng.uniform(*look.contrast)
    drawn = np.zeros(shape, dtype=np.uint8)  # number of the object that lies uppermost
    count = int(rng.integers(2, 10))
    for number in range(1, count + 1):
        size = np.exp(rng.uniform(np.log(0.07), np.log(0.5)))
        radii = size * rng.uniform(0.6, 1.4, len(shape))
        centre = rng.uniform(-0.8, 0.8, len(shape))
        region = form(_turned(grid, centre, radii, rng), smooth, rng) & body
        if not region.any():
            continue
        around = float(image[region].mean())
        step = least * rng.uniform(1, 2.5)
        value = around + step * rng.choice((-1, 1))
        if not 0.02 < value < 0.98:
            value = around - (value - around)
        inside = np.float32(value) + _texture(grid, least * rng.uniform(*look.texture), look, smooth, rng)
        if look.shading:
            course = sum(g * d for g, d in zip(grid, rng.standard_normal(len(shape)), strict=True))
            inside = inside + look.shading * step * (course - course[region].mean())
        image = np.where(region, inside, image)
        drawn[region] = number
    return _seen(image, body, least, look, smooth, rng), _labelled(drawn, rng)


def _background(grid: Coordinates, look: Look, smooth: Smooth, rng: np.random.Generator) -> tuple[Array, Array]:
    """Image float32 and where objects may lie: some large tissues, in a body or all over."""
    image = np.full(smooth.shape, rng.uniform(0.1, 0.9), dtype=np.float32)
    for _ in range(int(rng.integers(0, 4))):
        tissue = smooth(rng.uniform(0.3, 0.9)) > rng.uniform(0.0, 1.0)
        image[tissue] = np.clip(image.mean() + rng.uniform(-0.3, 0.3), 0.05, 0.95)
    image += _texture(grid, 0.1 * rng.uniform(*look.texture), look, smooth, rng)
    body = np.ones(smooth.shape, dtype=bool)
    if look.body and rng.random() < 0.8:
        radii = rng.uniform(0.75, 1.1, len(grid))
        body = sum((g / r) ** 2 for g, r in zip(grid, radii, strict=True)) + 0.1 * smooth(0.4) < 1
    return image, body


def _texture(grid: Coordinates, strength: float, look: Look, smooth: Smooth, rng: np.random.Generator) -> Array:
    if look.stripes:
        direction = rng.standard_normal(len(grid)) * rng.uniform(4, 14)
        return np.float32(strength) * np.sin(sum(g * d for g, d in zip(grid, direction, strict=True)))
    return np.float32(strength) * smooth(rng.uniform(0.05, 0.3))


def _seen(image: Array, body: Array, least: float, look: Look, smooth: Smooth, rng: np.random.Generator) -> Array:
    """What a scanner makes of the scene."""
    if look.bias:
        image = image * np.exp(look.bias * rng.uniform(0.3, 1) * smooth(0.8))
    image = np.where(body, image, 0)
    image = gaussian_filter(image, rng.uniform(*look.blur))
    noise = least * rng.uniform(*look.noise)
    white = rng.standard_normal(smooth.shape).astype(np.float32)
    if look.speckle:
        grain = gaussian_filter(white, 0.8)
        image = image * (1 + noise * 2 * grain / max(float(grain.std()), 1e-6))
    else:
        image = image + noise * white
    if rng.random() < 0.3:
        image = np.clip(image, 0, None) ** rng.uniform(0.7, 1.4)
    return np.clip(image, 0, 1).astype(np.float32)


def _labelled(drawn: Array, rng: np.random.Generator) -> Array:
    """Objects of which enough can be seen, numbered at random; one in eight stays without a label."""
    counts = np.bincount(drawn.ravel(), minlength=2)[1:]
    enough = 20 if drawn.ndim == 2 else 100
    visible = [i + 1 for i, n in enumerate(counts) if n >= enough]
    kept = [i for i in visible if rng.random() > 0.125] or visible
    table = np.zeros(len(counts) + 1, dtype=np.uint8)
    for label, number in enumerate(rng.permutation(kept)[:MOST_OBJECTS], start=1):
        table[number] = label
    return table[drawn]


# --- as cases of the embedded data set -------------------------------------------------------------------------------


def scene_cases(cases: int, dim: int) -> list[tuple[str, str]]:
    """(case id, split) of a data set with so many cases for training; beside them some of each kind for the others."""
    train = [(f"{KNOWN[i % len(KNOWN)]}_{i:04d}", "train") for i in range(cases)]
    others = [
        (f"{kind}_{split}_{i:02d}", split)
        for split, kinds, count in (("val", KNOWN, VAL_PER_KIND), ("test", UNSEEN, TEST_PER_KIND[dim]))
        for kind in kinds
        for i in range(count)
    ]
    return train + others


def make_scene_case(
    dim: int, size: int, slices: tuple[int, int], seed: int, case_id: str, split: str
) -> tuple[Array, Array, tuple[float, float, float]]:
    """image int16 (D, H, W), label uint8 (D, H, W), spacing in mm; see the top of this file for what D is."""
    kind = "_".join(case_id.split("_")[:2])
    rng = np.random.default_rng((seed, VERSION, *case_id.encode()))
    depth = int(rng.integers(slices[0], slices[1] + 1))
    if dim == 3:
        scenes = [make_scene(kind, (depth, size, size), rng)]
        image, label = scenes[0]
    else:
        scenes = [make_scene(kind, (size, size), rng) for _ in range(depth if split == "train" else 1)]
        image, label = (np.stack(part) for part in zip(*scenes, strict=True))
    return np.rint(image * LEVELS).astype(np.int16), label, (1.0, 1.0, 1.0)
