"""Label maps back onto the geometry, axes and label values of the file that a case came from."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import nibabel as nib
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from samzoo.data.axes import file_axes
from samzoo.data.index import VOLUME_ENDINGS
from samzoo.errors import DataError
from samzoo.writing import write_atomically

MARK = "samzoo"
"""Key of a PNG's text; NIfTI keeps it as the description in its header."""


def is_volume(source: str | Path) -> bool:
    """Whether a case's source file is NIfTI (else it is a picture)."""
    return str(source).lower().endswith(VOLUME_ENDINGS)


def source_label(label: np.ndarray, source_values: Sequence[int]) -> np.ndarray:
    """Class ids (0..K) -> the data set's own label values, in the smallest unsigned type that holds them.

    Args:
        source_values: (K + 1,), `SamzooDataModule.source_values`.
    """
    table = np.asarray(source_values)
    if table.min() < 0:
        return table.astype(np.int16)[label]
    return table.astype(np.min_scalar_type(int(table.max())))[label]


def write_label(
    label: np.ndarray,
    source: str | Path,
    target: Path,
    source_values: Sequence[int],
    slice_axis: int,
    canonical: bool = False,
    mark: str = "",
) -> None:
    """Write a predicted label map, whole or not at all: NIfTI with the source's exact affine and axes, or PNG.

    Args:
        label: (D, H, W) class ids 0..K.
        source: the case's image file.
        target: file to write; .nii or .nii.gz for volumes, .png for pictures.
        source_values: (K + 1,), `SamzooDataModule.source_values`.
        slice_axis, canonical: of the same names of `SamzooDataModule.decoding`.
        mark: a short text that is kept in the file, see `read_mark`.

    Raises:
        DataError: the label doesn't have the source's shape, or the file can't be written.
    """
    values = source_label(label, source_values)
    if not is_volume(source):
        picture, text = _picture(values, source), PngInfo()
        text.add_text(MARK, mark)
        return write_atomically(target, lambda file: picture.save(file, format="PNG", pnginfo=text), "wb")
    image = nib.load(source)
    values = file_axes(image.affine, slice_axis, canonical).to_file(values)
    if values.shape != (*image.shape, 1, 1)[:3]:
        raise DataError(f"{source}: has shape {image.shape}, the prediction {values.shape}")
    values = np.ascontiguousarray(values).reshape((*image.shape, 1, 1)[: max(2, min(image.ndim, 3))])
    written = _like(values, image)
    written.header["descrip"] = mark

    def write(file: IO[bytes]) -> None:
        if target.suffix == ".gz":
            with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed:
                written.to_stream(packed)
        else:
            written.to_stream(file)

    write_atomically(target, write, "wb")


def read_mark(path: Path) -> str:
    """The mark of a label map or of another PNG of ours; "" where there is none, or no such file."""
    try:
        if is_volume(path):
            return nib.load(path).header["descrip"].item().decode()
        with Image.open(path) as picture:
            return str(picture.info.get(MARK, ""))
    except Exception:  # whatever it is, it is none of ours
        return ""


def _picture(values: np.ndarray, source: str | Path) -> Image.Image:
    """Of the source's size: it was reduced on decoding (data.max_side), both sides alike but for rounding."""
    with Image.open(source) as picture:
        size = picture.size
    label = Image.fromarray(values[0])
    if label.size == size:
        return label
    if abs(size[0] * label.height - size[1] * label.width) > sum(size):
        raise DataError(f"{source}: is {size[0]} x {size[1]}, the prediction {label.width} x {label.height}")
    return label.resize(size, Image.Resampling.NEAREST)


def _like(values: np.ndarray, image: nib.Nifti1Image) -> nib.Nifti1Image:
    """A label image with the codes and matrices of its source, to the last bit."""
    written = type(image)(values, None)
    header, source = written.header, image.header
    header.set_xyzt_units(*source.get_xyzt_units())
    header["pixdim"] = source["pixdim"]
    for key in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"):
        header[key] = source[key]
    for key in ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"):
        header[key] = source[key]
    return type(image)(values, None, header)
