"""Pictures of a result: the image in grey, the prediction tinted, the truth outlined, the method's own points on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from scipy import ndimage

from samzoo.types import IGNORE, Case
from samzoo.writing import write_atomically

MIN_SIDE = 384


def save_overlay(
    path: str | Path,
    case: Case,
    prediction: np.ndarray,
    own_points: Mapping[int, np.ndarray] | None = None,
    mark: str = "",
) -> None:
    """Write a PNG of the slice with most foreground (of the truth, else of the prediction).

    Args:
        prediction: uint8 (D, H, W) of class ids.
        own_points: slice -> (num_classes, N, 3), see `CaseSession.own_points`: discs for foreground, crosses for
            background, in the colour of their class.
        mark: kept in the file, see `samzoo.data.restore.read_mark`.

    Raises:
        DataError: the file can't be written.
    """
    truth = None if case.label is None else case.label.numpy()
    foreground = prediction > 0
    if truth is not None and ((truth > 0) & (truth != IGNORE)).any():
        foreground = (truth > 0) & (truth != IGNORE)
    z = int(foreground.sum(axis=(1, 2)).argmax()) if foreground.any() else case.shape[0] // 2
    image = case.image[:, z].numpy()
    grey = image[:3].transpose(1, 2, 0) if image.shape[0] == 3 else np.repeat(image[0][..., None], 3, axis=2)
    colours = np.array([colormaps["tab10"](k % 10)[:3] for k in range(256)])
    factor = max(1, round(MIN_SIDE / max(grey.shape[:2])))
    grey, tint = (np.kron(a, np.ones((factor, factor, 1))) for a in (grey, prediction[z][..., None]))
    tint = tint[..., 0].astype(np.uint8)
    picture = np.where(tint[..., None] > 0, 0.6 * grey + 0.4 * colours[tint], grey)
    if truth is not None:
        outline = np.kron(truth[z], np.ones((factor, factor), dtype=np.uint8))
        for k in np.unique(outline[(outline > 0) & (outline != IGNORE)]):
            mask = outline == k
            picture[mask & ~ndimage.binary_erosion(mask)] = colours[k]
    pixels = Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))
    for k, points in enumerate((own_points or {}).get(z, ()), start=1):
        _draw_points(ImageDraw.Draw(pixels), points, factor, tuple((colours[k] * 255).astype(int).tolist()))
    text = PngInfo()
    text.add_text("samzoo", mark)
    write_atomically(path, lambda file: pixels.save(file, format="PNG", pnginfo=text), "wb")


def _draw_points(draw: ImageDraw.ImageDraw, points: np.ndarray, factor: int, colour: tuple[int, int, int]) -> None:
    """(N, 3) x, y, label in pixels of the case."""
    for x, y, label in points:
        x, y, r = (x + 0.5) * factor, (y + 0.5) * factor, 5
        if label:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=colour, outline="white")
        else:
            for shape in ((x - r, y - r, x + r, y + r), (x - r, y + r, x + r, y - r)):
                draw.line(shape, fill="white", width=4)
                draw.line(shape, fill=colour, width=2)
