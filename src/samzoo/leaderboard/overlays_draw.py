"""Draws slices with truth, answer and prompts as a PNG of few bytes. Knows nothing of runs."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

IGNORED = 255
WIDTH, GAP, LETTER = 720, 6, 15
MAX_BYTES = 60_000
COLORS = ("#56B4E9", "#E69F00", "#00C896", "#F0E442", "#FF6A2B", "#E58CC0", "#4C8DFF", "#B3B36B", "#FFFFFF")
"""Of classes, in turn; like those of Okabe and Ito (2008), lighter, to be seen on grey."""


@dataclass(frozen=True)
class Panel:
    """One slice with one answer.

    Args:
        title: written above it, shortened where it is too long; score: behind it, never shortened.
        image: uint8 (H, W) or (H, W, 3); truth, answer: uint8 (H, W) class ids, 255 in truth is ignored.
        aspect: height of a pixel over its width.
        boxes: x0, y0, x1, y1 in pixels, class id.
        clicks: x, y in pixels, whether it is on the structure, class id, step.
    """

    title: str
    image: np.ndarray
    truth: np.ndarray
    answer: np.ndarray
    aspect: float
    boxes: tuple[tuple[float, float, float, float, int], ...] = ()
    clicks: tuple[tuple[float, float, bool, int, int], ...] = ()
    score: str = ""


def draw_strip(panels: Sequence[Panel], classes: Mapping[int, str], heading: str) -> bytes:
    """PNG of panels side by side under a heading, with a legend of the classes that are seen."""
    for scale, colors in ((1.0, 96), (0.8, 64), (0.6, 64), (0.45, 32), (0.3, 16)):
        file = io.BytesIO()
        sheet = _sheet(panels, classes, heading, scale)
        sheet.quantize(colors, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(file, "PNG")
        if file.tell() <= MAX_BYTES:
            break
    return file.getvalue()


def _sheet(panels: Sequence[Panel], classes: Mapping[int, str], heading: str, scale: float) -> Image.Image:
    columns = {1: 1, 2: 2, 4: 2}.get(len(panels), 3 if len(panels) < 7 else 4)
    width = round((WIDTH / max(columns, 2) - GAP) * scale)
    heights = [round(width * min(max(p.aspect * p.truth.shape[0] / p.truth.shape[1], 0.1), 2)) for p in panels]
    lines = -(-len(panels) // columns)
    row = [max(heights[i * columns : (i + 1) * columns]) + LETTER + 9 for i in range(lines)]
    total = max(columns * (width + GAP), round(WIDTH * 0.6))
    head = _wrapped(heading, total)
    legend = _legend(panels, classes, total)
    sheet = Image.new("RGB", (total, (len(head) + len(legend)) * (LETTER + 5) + sum(row) + 6), "white")
    draw = ImageDraw.Draw(sheet)
    y = 0
    for line in head:
        draw.text((2, y), line, "black", _font())
        y += LETTER + 5
    for i, panel in enumerate(panels):
        x, top = (i % columns) * (width + GAP), y + sum(row[: i // columns])
        score = f"  {panel.score}" if panel.score else ""
        title = _shortened(panel.title, width - math.ceil(_font().getlength(score))) + score
        draw.text((x + 2, top + 2), title, "black", _font())
        sheet.paste(_picture(panel, width, heights[i]), (x, top + LETTER + 6))
    y += sum(row) + 4
    for line in legend:
        x = 2
        for text, color in line:
            if color:
                draw.rectangle((x, y + 2, x + LETTER - 3, y + LETTER - 1), fill=color, outline="black")
            draw.text((x + LETTER * bool(color) + 2, y), text, "black", _font())
            x += _entry_width(text, color)
        y += LETTER + 5
    return sheet


def _picture(panel: Panel, width: int, height: int) -> Image.Image:
    image = Image.fromarray(panel.image).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image).astype(np.float64)
    truth, answer = (_nearest(a, width, height) for a in (panel.truth, panel.answer))
    for k in _held(answer):
        pixels[answer == k] = 0.55 * pixels[answer == k] + 0.45 * _rgb(k)
    pixels[truth == IGNORED] *= 0.4
    for k in _held(truth):
        mask = truth == k
        pixels[mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=2)] = _rgb(k)
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    fx, fy = width / panel.truth.shape[1], height / panel.truth.shape[0]
    for x0, y0, x1, y1, k in panel.boxes:
        corners = np.clip((x0 * fx, y0 * fy, x1 * fx - 1, y1 * fy - 1), 0, (width - 1, height - 1) * 2)
        left, top, right, bottom = (float(v) for v in corners)
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline="white", width=3)
        draw.rectangle((left + 1, top + 1, max(left + 1, right - 1), max(top + 1, bottom - 1)), outline=_color(k))
    for x, y, positive, k, step in panel.clicks:
        x, y, r = (x + 0.5) * fx, (y + 0.5) * fy, 5
        if positive:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=_color(k), outline="black")
        else:
            for line in ((x - r, y - r, x + r, y + r), (x - r, y + r, x + r, y - r)):
                draw.line(line, fill="black", width=5)
                draw.line(line, fill=_color(k), width=3)
        place = (min(x + r + 1, width - LETTER), min(max(y - LETTER, 0), height - LETTER - 2))
        draw.text(place, str(step), "white", _font(13), stroke_width=2, stroke_fill="black")
    return picture


def _nearest(labels: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))


def _held(labels: np.ndarray) -> list[int]:
    return [k for k in np.unique(labels).tolist() if 0 < k < IGNORED]


def _legend(panels: Sequence[Panel], classes: Mapping[int, str], width: int) -> list[list[tuple[str, str]]]:
    """Lines of (text, colour)."""
    entries = [(classes.get(k, f"class {k}"), _color(k)) for k in _held(np.concatenate([
        np.unique(a) for p in panels for a in (p.truth, p.answer)]))]  # fmt: skip
    entries.append(("line: truth, tint: answer", ""))
    if any(p.boxes or p.clicks for p in panels):
        entries.append(("rectangle: box", ""))
    if any(p.clicks for p in panels):
        entries.append(("disc, cross: click on and off the class, with its step", ""))
    lines: list[list[tuple[str, str]]] = [[]]
    for text, color in entries:
        if lines[-1] and sum(_entry_width(*e) for e in lines[-1]) + _entry_width(text, color) > width:
            lines.append([])
        lines[-1].append((_shortened(text, width - 2 * LETTER), color))
    return lines


def _entry_width(text: str, color: str) -> int:
    return math.ceil(_font().getlength(text)) + LETTER * bool(color) + 16


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _font().getlength(longer) > width - 4:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_shortened(line, width) for line in lines]


def _shortened(text: str, width: int) -> str:
    if _font().getlength(text) <= width:
        return text
    while text and _font().getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _color(k: int) -> str:
    return COLORS[(k - 1) % len(COLORS)]


def _rgb(k: int) -> np.ndarray:
    return np.array([int(_color(k)[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float64)


@cache
def _font(size: int = LETTER - 2) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)
