"""One file to one array: NIfTI and pictures, and everything that can be wrong with a file by itself."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import tifffile
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from PIL import Image, UnidentifiedImageError

from samzoo.data.index import PICTURE_ENDINGS, VOLUME_ENDINGS
from samzoo.errors import DataError

READ_ERRORS = (OSError, EOFError, zlib.error, struct.error, ValueError, MemoryError, ImageFileError, HeaderDataError)

RGB = ("red", "green", "blue")

PILLOW_COMPRESSIONS = (2, 3, 4, 5, 6, 7)
"""TIFF's numbers of what Pillow reads by itself, but tifffile only with a further package: CCITT, LZW and JPEG."""


@dataclass(frozen=True)
class Array:
    """A file's content.

    Args:
        data: (C, i, j, k) in the file's own axis order (a picture is (C, 1, H, W)), in the file's dtype after its
            own scaling.
        affine: float64 (4, 4), voxel index of i, j, k to mm; identity for pictures.
        spacing: (3,) mm along i, j, k; ones for pictures.
        full_range: largest value of the file's integer dtype, or None for floats and volumes.
        flat: whether it is a picture.
    """

    data: np.ndarray
    affine: np.ndarray
    spacing: tuple[float, float, float]
    full_range: int | None = None
    flat: bool = False


def read_array(path: Path, pictures: str = "auto") -> Array:
    """Read one file.

    Args:
        pictures: "auto" leaves a picture's channels as they are, "grey" and "rgb" convert.

    Raises:
        DataError: missing, unreadable, cut short, empty, or of a kind that samzoo doesn't read; names the file.
    """
    if not path.is_file():
        raise DataError(f"{path}: file is missing")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: file is empty (0 bytes); fetch it again")
    name = path.name.lower()
    if name.endswith(VOLUME_ENDINGS):
        return _read_nifti(path)
    if name.endswith(PICTURE_ENDINGS):
        return _read_picture(path, pictures)
    raise DataError(f"{path}: samzoo reads {', '.join(VOLUME_ENDINGS + PICTURE_ENDINGS)}")


def _read_nifti(path: Path) -> Array:
    try:
        image = nib.load(path)
        header = image.header
        if not isinstance(image, nib.Nifti1Image):
            raise DataError(f"{path}: not a NIfTI file but {type(image).__name__}")
        _check_raw_spacing(path)
        if image.get_data_dtype().fields is not None or image.get_data_dtype().kind == "c":
            raise DataError(f"{path}: voxels are {image.get_data_dtype()}; samzoo reads real numbers only")
        shape = image.shape
        if not shape or min(shape) < 1:
            raise DataError(f"{path}: image is empty, its shape is {shape}")
        data = image.dataobj
        # Scaled values as float32 rather than nibabel's float64; unscaled ones as they are.
        data = np.asanyarray(data) if (data.slope, data.inter) == (1, 0) else np.asarray(data, dtype=np.float32)
    except DataError:
        raise
    except READ_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: can't be read as NIfTI ({reason}); the file is damaged or cut short") from None
    affine = np.asarray(image.affine, dtype=np.float64)
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(0))
    if not np.isfinite(affine).all() or not (spacing > 0).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise DataError(
            f"{path}: affine has a spacing of {tuple(spacing.tolist())} mm; every axis needs a positive one"
        )
    _check_orientation(path, header)
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim > 4 or data.ndim < 2:
        raise DataError(f"{path}: {data.ndim}D image of shape {shape}; samzoo reads 2D, 3D, or 3D with channels last")
    if data.ndim == 2:
        data = data[..., None]
    data = np.moveaxis(data, -1, 0) if data.ndim == 4 else data[None]
    return Array(data, affine, tuple(round(float(s), 6) for s in spacing))


def _check_raw_spacing(path: Path) -> None:
    """nibabel takes the absolute value of a negative pixdim in silence, so the raw header is looked at."""
    opener = nib.openers.ImageOpener(path)
    with opener as file:
        raw = file.read(348)
    order = "<" if struct.unpack("<i", raw[:4])[0] == 348 else ">"
    if struct.unpack(order + "i", raw[:4])[0] != 348:
        return  # NIfTI-2, whose header is laid out otherwise; the affine is checked below
    dims = struct.unpack(order + "8h", raw[40:56])
    pixdim = struct.unpack(order + "8f", raw[76:108])[1 : 1 + min(3, dims[0])]
    if not all(np.isfinite(p) and p > 0 for p in pixdim):
        raise DataError(f"{path}: header has a spacing (pixdim) of {pixdim} mm; every axis needs a positive one")


def _check_orientation(path: Path, header: nib.Nifti1Header) -> None:
    """Two orientations in one header that point an axis different ways leave the order of slices open."""
    if not (int(header["sform_code"]) and int(header["qform_code"])):
        return
    sform, qform = header.get_sform()[:3, :3], header.get_qform()[:3, :3]
    if ((sform * qform).sum(0) < 0).any():
        raise DataError(
            f"{path}: sform and qform point an axis in opposite directions, so the order of slices is ambiguous; "
            "correct the header"
        )


def _read_picture(path: Path, pictures: str) -> Array:
    try:
        data = _read_tiff(path) if path.suffix.lower() in (".tif", ".tiff") else None
        if data is None:
            with Image.open(path) as image:
                if getattr(image, "n_frames", 1) > 1:
                    raise DataError(
                        f"{path}: holds {image.n_frames} pictures; a case is one picture, or a NIfTI volume"
                    )
                # A palette is an encoding of colours, except in masks, where its indices are the values.
                if image.mode in ("P", "PA"):
                    palette = image.convert("RGBA" if "transparency" in image.info else "RGB")
                    return _from_palette(path, np.asarray(image), np.asarray(palette), pictures)
                if image.mode == "1":
                    image = image.convert("L")
                if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
                    image = image.convert("RGB")
                data = np.asarray(image)
    except DataError:
        raise
    except (*READ_ERRORS, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, KeyError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: unreadable picture ({reason}); the file is damaged or not what its ending says"
        ) from None
    return _picture(path, data, pictures)


def _from_palette(path: Path, indices: np.ndarray, colours: np.ndarray, pictures: str) -> Array:
    return _picture(path, indices if pictures == "mask" else colours, pictures)


def _read_tiff(path: Path) -> np.ndarray | None:
    """None: better left to Pillow."""
    with tifffile.TiffFile(path) as file:
        if len(file.pages) > 1:
            raise DataError(f"{path}: holds {len(file.pages)} pages; a case is one picture, or a NIfTI volume")
        page = file.pages[0]
        if page.compression in PILLOW_COMPRESSIONS:
            return None
        data = page.asarray()
        if data.ndim == 3 and page.axes.startswith("S"):
            data = np.moveaxis(data, 0, -1)
    return data


def _picture(path: Path, data: np.ndarray, pictures: str) -> Array:
    """(H, W) or (H, W, C) -> Array, without alpha, with the channels asked for."""
    if data.ndim not in (2, 3) or min(data.shape) < 1:
        raise DataError(f"{path}: a picture must be (height, width) or (height, width, channels), got {data.shape}")
    if data.dtype.kind not in "uifb":
        raise DataError(f"{path}: pixels are {data.dtype}; samzoo reads real numbers only")
    if data.dtype.kind == "b":
        data = data.astype(np.uint8)
    data = data[None] if data.ndim == 2 else np.moveaxis(data, -1, 0)
    if len(data) in (2, 4):
        if (data[-1] != data[-1].flat[0]).any():
            raise DataError(
                f"{path}: has an alpha channel that is not constant, so its colours are ambiguous; flatten the "
                "picture on a background and save it without alpha"
            )
        data = data[:-1]
    if pictures == "grey" and len(data) == 3:
        weights = np.array((0.299, 0.587, 0.114), dtype=np.float32)  # ITU-R BT.601, as PIL
        grey = np.tensordot(weights, data.astype(np.float32), 1)
        data = (np.rint(grey) if data.dtype.kind in "ui" else grey).astype(data.dtype)[None]
    elif pictures == "rgb" and len(data) == 1:
        data = np.repeat(data, 3, axis=0)
    full_range = _full_range(data) if data.dtype.kind in "ui" else None
    return Array(data[:, None], np.eye(4), (1.0, 1.0, 1.0), full_range, flat=True)


def _full_range(data: np.ndarray) -> int:
    """255 or 65535; PIL widens 16-bit grey to 32 bit in some modes, so wide integers count as 16 bit."""
    return 255 if data.dtype.itemsize == 1 else 65535


def picture_channels(path: Path, pictures: str) -> tuple[str, ...]:
    """Channel names of a folder of pictures, judged by its first: grey or red, green, blue."""
    if pictures == "grey" or path.name.lower().endswith(VOLUME_ENDINGS):
        return ("grey",)
    if pictures == "rgb":
        return RGB
    count = len(read_array(path).data)
    return {1: ("grey",), 3: RGB}.get(count, tuple(f"channel_{i}" for i in range(count)))
