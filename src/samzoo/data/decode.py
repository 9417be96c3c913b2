"""A case's files to the arrays that samzoo works with, and every check that needs more than one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from samzoo.data.arrays import holds_arrays, read_arrays
from samzoo.data.axes import PICTURE, Axes, file_axes
from samzoo.data.files import Array, read_array
from samzoo.data.index import CaseEntry, ClassTable, DatasetIndex
from samzoo.data.label_values import above_threshold, as_integers, map_values, noise_hint, present_values
from samzoo.errors import ConfigError, DataError

AFFINE_TOLERANCE = 0.05
"""How far apart two affines may put a voxel, as a share of the smallest spacing: headers are rounded in many ways."""

FAR_ABOVE = 500
"""HU above a window that CT without any value below 0 hardly has, unless with an offset."""

MOST_NOISE = 127
"""Difference of a grey mask's channels that JPEG may make; more is a colour."""

IntensityKind = Literal["auto", "window", "percentile", "range"]


@dataclass(frozen=True)
class Intensity:
    """How file values become [0, 1], per channel.

    Args:
        kind: "window" maps low..high (file units, e.g. HU); "percentile" maps the low-th to the high-th percentile of
            each volume; "range" divides by the largest value of the file's integer type (255 or 65535; pictures only);
            "auto" finds one of these for each channel, see `samzoo.data.found`. One kind, or one per channel.
        low: one value, or one per channel. Percentile's default is 0.5. With "auto", low and high are the window of CT
            in HU, instead of percentiles of its foreground.
        high: likewise. Percentile's default is 99.5.
    """

    kind: IntensityKind | list[IntensityKind] = "auto"
    low: float | list[float] | None = None
    high: float | list[float] | None = None

    @property
    def zero(self) -> float:
        """Where a file's 0 lies in [0, 1]: of a window, in its first channel; else 0, for it differs from case to case.

        Raises:
            ConfigError: a window that is empty, or without its ends.
        """
        values = (self.kind, self.low, self.high)
        kind, low, high = (next(iter(v), None) if isinstance(v, list | tuple) else v for v in values)
        if kind != "window":
            return 0.0
        if low is None or high is None or not high > low:
            raise ConfigError(f"data.intensity: window needs low < high, got {low} and {high}")
        return min(max(-low / (high - low), 0.0), 1.0)


@dataclass(frozen=True)
class DecodeSettings:
    """What of a data set's settings changes the decoded arrays."""

    intensity: Intensity = Intensity("percentile")
    channels: tuple[int, ...] = (0,)
    slice_axis: int = 2
    pictures: str = "auto"
    pixel_mm: float = 1.0
    max_side: int | None = None
    canonical: bool = False

    def axes(self, array: Array) -> Axes:
        """Of a file. Raises ConfigError: no such slice axis."""
        return PICTURE if array.flat else file_axes(array.affine, self.slice_axis, self.canonical)


@dataclass(frozen=True)
class Decoded:
    """One case in memory: the arrays of `types.Case` as numpy.

    Args:
        image: float32 (C, D, H, W) in [0, 1].
        label: uint8 (D, H, W) class ids, or None.
        spacing: (3,) mm along D, H, W.
        affine: float64 (4, 4) of the file's own axes.
        overlap: voxels claimed by objects of more than one class (one mask per object only).
        doubt: why the window may be none for this case; empty if there is no doubt.
    """

    image: np.ndarray
    label: np.ndarray | None
    spacing: tuple[float, float, float]
    affine: np.ndarray
    overlap: int = 0
    doubt: str = ""


@dataclass(frozen=True)
class Loaded:
    """A case's files, read and checked, in their own axes and units.

    Args:
        parts: one per image file.
        label: uint8 (i, j, k) class ids, or None.
        overlap: as in `Decoded`.
    """

    parts: tuple[Array, ...]
    label: np.ndarray | None
    overlap: int = 0


def decode(entry: CaseEntry, index: DatasetIndex, settings: DecodeSettings) -> Decoded:
    """Read, check and convert one case.

    Raises:
        DataError: whatever is wrong with its files, naming the file. ConfigError: settings that don't fit them.
    """
    loaded = load(entry, index, settings.pictures)
    first, label = loaded.parts[0], loaded.label
    axes = settings.axes(first)  # all files are on the same grid
    if label is not None:
        label = axes.to_case(label)
    stacked = [(part, channel) for part in loaded.parts for channel in part.data]
    chosen = [stacked[c] for c in settings.channels]
    image = np.empty((len(chosen), *axes.to_case(first.data[0]).shape), dtype=np.float32)
    doubt = ""
    for position, (part, channel) in enumerate(chosen):
        doubt = doubt or _doubt(channel, settings, position)
        scaled = _scale(channel, part, settings, position, entry)
        image[position] = axes.to_case(scaled)
    spacing = case_spacing(first, settings)
    if first.flat and settings.max_side is not None and max(image.shape[2:]) > settings.max_side:
        image, label, spacing = _reduce(image, label, spacing, settings.max_side)
    return Decoded(image, label, spacing, first.affine, loaded.overlap, doubt)


def _doubt(channel: np.ndarray, settings: DecodeSettings, position: int) -> str:
    """Why a channel's values may not be in the unit of its window, see `Decoded.doubt`."""
    if per_channel(settings.intensity.kind, position, "kind", len(settings.channels)) != "window":
        return ""
    low, high = (_end(settings, position, n) for n in ("low", "high"))
    lowest, highest = channel.min(), channel.max()
    if lowest >= high or highest <= low:
        return f"all values lie outside the window, {lowest:g} to {highest:g} and not {low:g} to {high:g}"
    if low < 0 <= lowest and highest > high + FAR_ABOVE:
        return (
            f"values are {lowest:g} to {highest:g}, none below 0, though the window is {low:g} to {high:g}: are they "
            "in HU, without an offset?"
        )
    return ""


def _reduce(
    image: np.ndarray, label: np.ndarray | None, spacing: tuple[float, float, float], side: int
) -> tuple[np.ndarray, np.ndarray | None, tuple[float, float, float]]:
    """A picture (C, 1, H, W) and its label whose longer side is `side`, with the spacing that it then has."""
    height, width = image.shape[2:]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    planes = [Image.fromarray(channel[0]).resize(size, Image.Resampling.BILINEAR) for channel in image]
    if label is not None:
        label = np.asarray(Image.fromarray(label[0]).resize(size, Image.Resampling.NEAREST))[None]
    spacing = spacing[0], spacing[1] * height / size[1], spacing[2] * width / size[0]
    return np.stack([np.asarray(p)[None] for p in planes]), label, spacing


def load(entry: CaseEntry, index: DatasetIndex, pictures: str = "auto") -> Loaded:
    """Read a case's files and check them against each other and the data set.

    Raises:
        DataError: whatever is wrong, naming the file.
    """
    if holds_arrays(entry.images[0]):
        parts = [read_arrays(entry.images, "image")]
    else:
        parts = [read_array(path, pictures) for path in entry.images]
    for path, part in zip(entry.images[1:], parts[1:], strict=False):
        check_same_grid(path, part, entry.images[0], parts[0])
    count = sum(len(p.data) for p in parts)
    if count != len(index.channels):
        hint = " (data.pictures: grey or rgb converts)" if parts[0].flat else ""
        raise DataError(
            f"{entry.images[0]}: case {entry.id!r} has {count} channels, the data set {len(index.channels)} "
            f"({', '.join(index.channels)}){hint}"
        )
    check_finite(entry.images, parts)
    label, overlap = read_label(entry, parts[0], index.table) if entry.labels else (None, 0)
    return Loaded(tuple(parts), label, overlap)


def case_spacing(array: Array, settings: DecodeSettings) -> tuple[float, float, float]:
    """mm along D, H, W."""
    if array.flat:
        return (1.0, settings.pixel_mm, settings.pixel_mm)
    return tuple(array.spacing[a] for a in settings.axes(array).order)


def check_same_grid(path: Path, array: Array, reference_path: Path, reference: Array) -> None:
    """Raises DataError: another shape, or an affine that puts a voxel elsewhere, beyond rounding."""
    shape, wanted = array.data.shape[1:], reference.data.shape[1:]
    if shape != wanted and shape == (*wanted[1:], len(reference.data)):
        raise DataError(
            f"{reference_path}: its channels seem to be the first axis, as {path} has the shape {shape}; samzoo "
            "expects them last, move them: numpy.moveaxis(data, 0, -1)"
        )
    if shape != wanted:
        raise DataError(
            f"{path}: shape {shape} differs from {wanted} of {reference_path}: does it belong to another image? "
            "Replace it, resample it onto the image's grid, or leave the case out (data.include)"
        )
    if array.flat != reference.flat:
        raise DataError(f"{path}: one of it and {reference_path} is a picture, the other a volume")
    if array.flat:
        return
    corners = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in shape))])
    difference = np.abs(corners @ (array.affine - reference.affine).T).max()
    if not difference <= AFFINE_TOLERANCE * min(reference.spacing):
        raise DataError(
            f"{path}: affine differs from that of {reference_path}, which puts voxels up to {difference:.4g} mm apart; "
            "they are not on the same grid: resample one onto the other, or, where the voxels do belong together and "
            "only the header was lost, write it with the other's affine (nibabel.Nifti1Image(data, other.affine))"
        )


def check_finite(paths: Sequence[Path], parts: Sequence[Array]) -> None:
    """Raises DataError: NaN or infinity in an image."""
    for path, part in zip(paths, parts, strict=False):  # slices of one volume are one part
        if part.data.dtype.kind == "f" and (bad := int((~np.isfinite(part.data)).sum())):
            raise DataError(
                f"{path}: {bad} voxels are NaN or infinite; repair the image, for example with numpy.nan_to_num"
            )


def read_label(entry: CaseEntry, image: Array, table: ClassTable) -> tuple[np.ndarray, int]:
    """Label of a case in the file's axes: uint8 (i, j, k) class ids, and the voxels claimed by two classes.

    Raises:
        DataError: unreadable, on another grid, not integer, a value outside the class table, not binary.
    """
    if holds_arrays(first := entry.labels[0].path):
        array = read_arrays([file.path for file in entry.labels], "label")
        check_same_grid(first, array, entry.images[0], image)
        where = first if len(entry.labels) == 1 else first.with_name(f"{entry.id}_*{first.suffix}")
        return map_values(as_integers(array.data[0], where), table, where), 0
    objects: list[tuple[np.ndarray, int]] = []
    for file in entry.labels:
        array = read_array(file.path, "mask")
        check_same_grid(file.path, array, entry.images[0], image)
        if file.class_id is None and table.threshold is not None:
            return above_threshold(array.data, table.threshold, file.path), 0
        if len(array.data) > 1 and (not array.flat or (array.data != array.data[:1]).any()):
            colours = not array.flat or float(np.ptp(array.data.astype(np.float32), axis=0).max()) > MOST_NOISE
            raise DataError(
                f"{file.path}: a label must have one channel, this has {len(array.data)} that differ"
                + ("; save it as one map, a number for each class" if colours else noise_hint(table, file.path))
            )
        values = as_integers(array.data[0], file.path)
        if file.class_id is None:
            return map_values(values, table, file.path), 0
        if not set(present := present_values(values)) <= {0, 1, 255} or {1, 255} <= set(present):
            raise DataError(f"{file.path}: an object's mask must be binary (0/1 or 0/255), it holds {present[:8]}")
        objects.append((values != 0, file.class_id))
    label = np.zeros(image.data.shape[1:], dtype=np.uint8)
    claimed = np.zeros(label.shape, dtype=bool)
    # Large objects first, so that a small one on top of a large one is kept; ties by class.
    for mask, class_id in sorted(objects, key=lambda o: (-int(o[0].sum()), o[1])):
        claimed |= mask & (label != 0) & (label != class_id)
        label[mask] = class_id
    return label, int(claimed.sum())


def _scale(channel: np.ndarray, part: Array, settings: DecodeSettings, position: int, entry: CaseEntry) -> np.ndarray:
    """One channel's file values -> float32 in [0, 1]."""
    kind = per_channel(settings.intensity.kind, position, "kind", len(settings.channels))
    if kind == "range":
        if part.full_range is None:
            raise ConfigError(
                f"{entry.images[0]}: intensity kind 'range' needs 8- or 16-bit pictures, this holds "
                f"{channel.dtype}; set data.intensity to a window or a percentile"
            )
        if channel.min() < 0 or channel.max() > part.full_range:
            raise ConfigError(
                f"{entry.images[0]}: values reach {channel.max()}, beyond the 16-bit range; set data.intensity to a "
                "window or a percentile"
            )
        return channel.astype(np.float32) / part.full_range
    if kind == "window":
        low, high = (_end(settings, position, n) for n in ("low", "high"))
        if not high > low:
            raise ConfigError(f"data.intensity: window needs low < high, got {low} and {high}")
    elif kind == "percentile":
        lower, upper = _end(settings, position, "low", 0.5), _end(settings, position, "high", 99.5)
        if not 0 <= lower < upper <= 100:
            raise ConfigError(f"data.intensity: percentiles need 0 <= low < high <= 100, got {lower} and {upper}")
        low, high = (float(v) for v in np.percentile(channel, (lower, upper)))
        if high <= low:  # nearly all voxels are equal, as in a sparse image
            low, high = float(channel.min()), float(channel.max())
    else:
        raise ConfigError(f"data.intensity.kind {kind!r} is unknown; known are window, percentile, range")
    if high <= low:
        return np.zeros(channel.shape, dtype=np.float32)
    scaled = (channel.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(scaled, 0, 1, out=scaled)


def _end(settings: DecodeSettings, position: int, name: str, default: float | None = None) -> float:
    """`low` or `high` of a channel."""
    value = per_channel(getattr(settings.intensity, name), position, name, len(settings.channels))
    value = default if value is None else value
    if value is None:
        raise ConfigError(f"data.intensity: kind 'window' needs a value for {name!r}")
    return float(value)


def per_channel(value: Any, position: int, name: str, channels: int) -> Any:
    """What a setting of `Intensity` says of one of so many channels.

    Raises:
        ConfigError: a list that is not of as many.
    """
    if not isinstance(value, list | tuple):
        return value
    if len(value) != channels:
        raise ConfigError(f"data.intensity.{name} has {len(value)} values for {channels} channels; give one or all")
    return value[position]


def choose_channels(names: Sequence[str], wanted: Sequence[str | int] | None) -> tuple[int, ...]:
    """Positions of the wanted channels (names or numbers) among the data set's; None is all.

    Raises:
        ConfigError: no such channel.
    """
    if wanted is None:
        return tuple(range(len(names)))
    positions = []
    for channel in wanted:
        number = int(channel) if str(channel).isdigit() and channel not in names else None
        if number is None and channel in names:
            number = list(names).index(channel)
        if number is None or not 0 <= number < len(names):
            listed = ", ".join(f"{i}: {n}" for i, n in enumerate(names))
            raise ConfigError(f"data.channels: no channel {channel!r}; the data set has {listed}")
        positions.append(number)
    if not positions:
        raise ConfigError("data.channels must name at least one channel")
    return tuple(positions)
