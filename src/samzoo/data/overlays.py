"""A picture of a case with its label, to see at a glance whether the two belong together."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from samzoo.data.axes import Axes
from samzoo.data.decode import Loaded
from samzoo.writing import write_atomically

SIDE = 448
LEGEND = 160
GOLDEN_RATIO = 0.618034


def save_overlay(path: Path, loaded: Loaded, names: Sequence[str], axes: Axes) -> None:
    """Write a PNG: the middle slice of the foreground as it is, and again with the label in colours and a legend.

    Voxel axes are shown as they are in the case (a NIfTI's second axis points down), pixels in their true proportion.
    """
    first = loaded.parts[0]
    label = axes.to_case(loaded.label)
    held = np.flatnonzero(((label > 0) & (label < 255)).any((1, 2)))
    z = int(held[len(held) // 2]) if len(held) else len(label) // 2
    plane = label[z]
    channels = first.data if first.flat and len(first.data) == 3 else [first.data[0]] * 3
    rgb = np.stack([_shade(axes.to_case(c)[z], first.full_range) for c in channels], axis=-1)
    present = [k for k in np.unique(plane).tolist() if k]
    tinted = rgb.copy()
    for k in present:
        tinted[plane == k] = 0.55 * rgb[plane == k] + 0.45 * np.array(_colour(k))

    spacing = (1.0, 1.0) if first.flat else tuple(first.spacing[a] for a in axes.order[1:])
    extent = np.array(plane.shape) * spacing
    height, width = (int(max(1, round(v))) for v in extent * SIDE / extent.max())
    sheet = Image.new("RGB", (2 * width + LEGEND, max(height, 14 * (len(present) + 2))))
    for place, picture in ((0, rgb), (width, tinted)):
        pixels = Image.fromarray(np.rint(picture * 255).astype(np.uint8))
        sheet.paste(pixels.resize((width, height), Image.Resampling.NEAREST), (place, 0))
    draw = ImageDraw.Draw(sheet)
    draw.text((2 * width + 6, 2), f"slice {z} of {len(label)}", fill="white")
    for row, k in enumerate(present, start=1):
        colour = tuple(round(255 * c) for c in _colour(k))
        name = "ignored" if k == 255 else names[k - 1]
        draw.text((2 * width + 6, 2 + 14 * row), f"{name[:22]}", fill=colour)
    write_atomically(path, lambda file: sheet.save(file, format="PNG"), "wb")


def _shade(plane: np.ndarray, full_range: int | None) -> np.ndarray:
    """To [0, 1]: 8- and 16-bit pictures as they are, others between their 1st and 99th percentile."""
    low, high = (0, full_range) if full_range is not None else np.percentile(plane, (1, 99))
    return np.clip((plane.astype(np.float64) - low) / max(high - low, 1e-9), 0, 1)


def _colour(k: int) -> tuple[float, float, float]:
    return colorsys.hsv_to_rgb(k * GOLDEN_RATIO % 1, 0.85, 1.0)
