"""One file to one array: NIfTI and pictures, and everything that can be wrong with a file by itself."""

from __future__ import annotations

import gzip
import math
import os
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

from samzoo.data.foreign import kind_of, remedy
from samzoo.data.index import ENDINGS, PICTURE_ENDINGS, VOLUME_ENDINGS
from samzoo.errors import DataError

READ_ERRORS = (
    *(OSError, EOFError, zlib.error, struct.error, ValueError, ArithmeticError, MemoryError),
    *(ImageFileError, HeaderDataError),
)

PICTURE_ERRORS = (
    *(*READ_ERRORS, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, LookupError),
    *(TypeError, AttributeError, RuntimeError, NotImplementedError, AssertionError),
)
"""What readers of pictures raise on damaged ones."""

MAX_RATIO = 1100
"""Bytes out of one, at most: deflate reaches 1032."""

HEADERS = {348: ("hfB", (40, 76, 112, 70, 123)), 540: ("qdi", (16, 104, 176, 12, 500))}
"""By the size of a NIfTI-1 and -2 header: types of dim, of pixdim and of xyzt_units, and where dim, pixdim, scl_slope,
datatype and xyzt_units are. Source: nifti1.h and nifti2.h."""

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
"""Pillow knows many more, and runs another program on some."""

ORIENTATION = 274
"""Number of the tag of EXIF and TIFF."""

MIN_IS_WHITE = 0
"""TIFF's photometric interpretation of pictures that are shown inverted."""

SPACING_TOLERANCE = 0.01
"""Share by which two spacings in one header may differ, as by rounding."""

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
    if not exists(path):
        raise DataError(f"{path}: file is missing; put it there, or leave its case out (data.include)")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: no permission to read it; change its permissions (chmod), or work on a copy of yours")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: file is empty (0 bytes); fetch it again")
    name = path.name.lower()
    if name.endswith(VOLUME_ENDINGS):
        return _read_nifti(path)
    if name.endswith(PICTURE_ENDINGS):
        return _read_picture(path, pictures)
    known = kind_of(path)
    raise DataError(f"{path}: " + (remedy(known) if known else f"samzoo reads {', '.join(ENDINGS)}"))


def exists(path: Path) -> bool:
    """Whether there is such a file; False for what can't be a name of one (too long, say)."""
    try:
        return path.is_file()
    except OSError:
        return False


def _read_nifti(path: Path) -> Array:
    try:
        image = nib.load(path)
        header = image.header
        if not isinstance(image, nib.Nifti1Image):
            raise DataError(f"{path}: not a NIfTI file but {type(image).__name__}")
        _check_raw_header(path)
        kind = image.get_data_dtype()
        if kind.fields is not None or kind.kind == "c":
            raise DataError(f"{path}: voxels are {kind}; samzoo reads real numbers only")
        shape = image.shape
        if not shape or min(shape) < 1:
            raise DataError(f"{path}: image is empty, its shape is {shape}")
        check_size(path, math.prod(shape) * kind.itemsize)
        data = _voxels(path, image)
        affine = np.asarray(image.affine, dtype=np.float64)
        spacing = np.sqrt((affine[:3, :3] ** 2).sum(0))
        if not np.isfinite(affine).all() or not (spacing > 0).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise DataError(
                f"{path}: affine has a spacing of {tuple(spacing.tolist())} mm; every axis needs a positive one"
            )
        _check_orientation(path, header)
    except DataError:
        raise
    except READ_ERRORS as error:
        _check_packed(path)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: can't be read as NIfTI ({reason}); the file is damaged or cut short, fetch it again"
        ) from None
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim > 4 or data.ndim < 2:
        raise DataError(f"{path}: {data.ndim}D image of shape {shape}; samzoo reads 2D, 3D, or 3D with channels last")
    if data.ndim == 2:
        data = data[..., None]
    data = np.moveaxis(data, -1, 0) if data.ndim == 4 else data[None]
    return Array(data, affine, tuple(round(float(s), 6) for s in spacing))


def _check_packed(path: Path) -> None:
    """Raises DataError: packed by gzip without saying so in its name, or the other way round."""
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError:
        return
    says = path.name.lower().endswith(".gz")
    if start[:2] == b"\x1f\x8b" and not says:
        raise DataError(f"{path}: is packed by gzip, so its name must end in .nii.gz; rename it, or unpack it")
    if says and struct.unpack("<i", start.ljust(4))[0] in HEADERS:
        raise DataError(f"{path}: is not packed by gzip, so its name must end in .nii; rename it, or pack it")


def check_size(path: Path, size: int) -> None:
    """Before memory is asked for: whether a file can hold an array of `size` bytes, were it packed as well as can be.

    Raises:
        DataError: it can't: the file is cut short, or made to fill the memory.
    """
    held = path.stat().st_size
    if size > MAX_RATIO * held + 2**20:
        raise DataError(
            f"{path}: says that it holds {size / 2**20:.0f} MiB, but has {held} bytes; the file is damaged or cut short"
        )


def _voxels(path: Path, image: nib.Nifti1Image) -> np.ndarray:
    """Scaled values as float32 rather than nibabel's float64; unscaled ones as they are.

    A packed file is read to its end, where its checksum is.
    """
    stream = (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb")
    with stream as file:
        data = type(image).from_stream(file).dataobj
        voxels = np.asanyarray(data) if (data.slope, data.inter) == (1, 0) else np.asarray(data, dtype=np.float32)
        size, more = math.prod(data.shape) * data.dtype.itemsize, 0
        file.seek(data.offset + size)
        while part := file.read(2**20):
            more += len(part)
            if more >= size / max(data.shape):  # a few bytes are padding
                raise DataError(f"{path}: holds more voxels than the shape {data.shape} of its header; correct it")
    return voxels


def _check_raw_header(path: Path) -> None:
    """What nibabel takes in silence: it makes a negative pixdim positive, and passes over bitpix, units and slopes."""
    with nib.openers.ImageOpener(path) as file:
        raw = file.read(540)
    for order in "<>":
        size = struct.unpack(order + "i", raw[:4])[0]
        if size in HEADERS:
            form, at = HEADERS[size]
            break
    else:
        raise DataError(f"{path}: can't be read as NIfTI (its header has an unknown size); the file is damaged")
    dims = struct.unpack_from(f"{order}8{form[0]}", raw, at[0])
    pixdim = struct.unpack_from(f"{order}8{form[1]}", raw, at[1])[1 : 1 + min(3, dims[0])]
    if not all(np.isfinite(p) and p > 0 for p in pixdim):
        raise DataError(f"{path}: header has a spacing (pixdim) of {pixdim} mm; every axis needs a positive one")
    slope, inter = struct.unpack_from(f"{order}2{form[1]}", raw, at[2])
    # a slope of 0 or NaN means none, and then nobody looks at the intercept
    if np.isinf(slope) or (slope and np.isfinite(slope) and not np.isfinite(inter)):
        raise DataError(f"{path}: header scales the voxels by {slope} and {inter} (scl_slope, scl_inter); correct it")
    kind, bits = struct.unpack_from(f"{order}2h", raw, at[3])
    if kind in nib.nifti1.data_type_codes and bits != 8 * nib.nifti1.data_type_codes.dtype[kind].itemsize:
        raise DataError(f"{path}: header says {bits} bits a voxel (bitpix), its datatype {kind} has others; correct it")
    unit = struct.unpack_from(f"{order}{form[2]}", raw, at[4])[0] & 7
    if unit in (1, 3):
        name = {1: "metres", 3: "micrometres"}[unit]
        raise DataError(f"{path}: header gives the spacing in {name} (xyzt_units); samzoo needs mm, convert it")


def _check_orientation(path: Path, header: nib.Nifti1Header) -> None:
    """Two orientations in one header that point an axis different ways leave the order of slices open, as two spacings
    leave all distances open: samzoo and nibabel take sform's, ITK pixdim's.
    """
    if int(header["sform_code"]):
        zooms = np.array(header.get_zooms()[:3])
        spacing = np.sqrt((header.get_sform()[:3, : len(zooms)] ** 2).sum(0))
        if (np.abs(spacing - zooms) > SPACING_TOLERANCE * zooms).any():
            given = " and ".join(" x ".join(f"{v:.4g}" for v in values) for values in (spacing, zooms))
            raise DataError(
                f"{path}: sform and pixdim give two spacings, {given} mm, so that distances are open; correct the "
                "header: in nibabel image.set_sform(image.get_qform(), 1) keeps pixdim's, "
                "image.set_qform(image.get_sform(), 1) sform's"
            )
    if not (int(header["sform_code"]) and int(header["qform_code"])):
        return
    sform, qform = header.get_sform()[:3, :3], header.get_qform()[:3, :3]
    if not np.isfinite(qform).all() or ((sform * qform).sum(0) < 0).any():
        raise DataError(
            f"{path}: sform and qform point an axis in opposite directions, so the order of slices is ambiguous; "
            "correct the header"
        )


def _read_picture(path: Path, pictures: str) -> Array:
    try:
        data = _read_tiff(path, pictures) if path.suffix.lower() in (".tif", ".tiff") else None
        if data is None:
            with Image.open(path, formats=FORMATS) as image:
                if image.format == "PNG":
                    _check_png(path)
                if getattr(image, "n_frames", 1) > 1:
                    raise DataError(
                        f"{path}: holds {image.n_frames} pictures; a case is one picture, or a NIfTI volume: save the "
                        "pages as pictures of their own, or the stack as NIfTI with its spacing"
                    )
                _check_upright(path, image.getexif().get(ORIENTATION, 1))
                # A palette is an encoding of colours, except in masks, where its indices are the values.
                if image.mode in ("P", "PA"):
                    palette = image.convert("RGBA" if "transparency" in image.info else "RGB")
                    if pictures == "mask":
                        _check_palette(path, image, np.asarray(palette))
                    return _from_palette(path, np.asarray(image), np.asarray(palette), pictures)
                if image.mode == "1":
                    image = image.convert("L")
                if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
                    image = image.convert("RGB")
                data = np.asarray(image)
    except DataError:
        raise
    except PICTURE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: unreadable picture ({reason}); the file is damaged or not what its ending says"
        ) from None
    return _picture(path, data, pictures)


def _check_png(path: Path) -> None:
    """The checksums, which Pillow passes over in pixels, and the depth, of which it drops half in colours.

    Raises:
        DataError: 16 bit in colours or beside alpha. SyntaxError, OSError: a checksum is broken.
    """
    with Image.open(path, formats=("PNG",)) as image:
        image.verify()
    with open(path, "rb") as file:
        depth, colours = file.read(26)[24:]
    if depth == 16 and colours:
        raise DataError(
            f"{path}: a PNG of 16 bit in colours or with alpha, of which 8 would be read; save it in 8 bit or as TIFF"
        )


def _check_upright(path: Path, orientation: int) -> None:
    """Raises DataError: a viewer turns or mirrors the picture, so that a mask drawn on it may lie another way."""
    if orientation not in (0, 1):
        raise DataError(
            f"{path}: EXIF orientation {orientation} makes viewers turn the picture, so that it is open how its mask "
            "lies on it; save it upright, without that tag"
        )


def _check_palette(path: Path, image: Image.Image, colours: np.ndarray) -> None:
    """Raises DataError: a mask in which black is not 0, but another number, so that background may be either."""
    black = (colours[..., :3] == 0).all(-1)
    if any(image.getpalette()[:3]) and black.any() and np.asarray(image)[black].all():
        raise DataError(
            f"{path}: 0 is not black in the mask's palette, but another number is, so that it is open which is "
            "background; save the mask in grey, background as 0"
        )


def _from_palette(path: Path, indices: np.ndarray, colours: np.ndarray, pictures: str) -> Array:
    return _picture(path, indices if pictures == "mask" else colours, pictures)


def _read_tiff(path: Path, pictures: str) -> np.ndarray | None:
    """None: better left to Pillow."""
    with tifffile.TiffFile(path) as file:
        if len(file.pages) > 1:
            raise DataError(
                f"{path}: holds {len(file.pages)} pages; a case is one picture, or a NIfTI volume: save the pages as "
                "pictures of their own, or the stack as NIfTI with its spacing"
            )
        page = file.pages[0]
        if pictures == "mask" and page.photometric == MIN_IS_WHITE and page.bitspersample > 1:
            raise DataError(
                f"{path}: a mask that is shown inverted (photometric interpretation WhiteIsZero), so that it is open "
                "which is background; save it as others are (ImageJ: Image > Lookup Tables > Invert LUT) or as PNG"
            )
        if ORIENTATION in page.tags:
            _check_upright(path, page.tags[ORIENTATION].value)
        if page.compression in PILLOW_COMPRESSIONS:
            return None
        check_size(path, page.nbytes)
        # tifffile fills what is not there with zeros
        ends = [at + n for at, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if not all(page.databytecounts) or max(ends, default=0) > path.stat().st_size:
            raise DataError(f"{path}: unreadable picture (a part of its pixels is missing); the file is cut short")
        if page.compression == 1 and sum(page.databytecounts) < page.nbytes:
            raise DataError(f"{path}: unreadable picture (holds fewer pixels than its size); the file is damaged")
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
    """Channel names of a folder of pictures or volumes, judged by its first: grey, or red, green, blue, or numbers."""
    if path.name.lower().endswith(VOLUME_ENDINGS):
        count = len(read_array(path).data)
        return ("grey",) if count == 1 else tuple(f"channel_{i}" for i in range(count))
    if pictures == "grey":
        return ("grey",)
    if pictures == "rgb":
        return RGB
    count = len(read_array(path).data)
    return {1: ("grey",), 3: RGB}.get(count, tuple(f"channel_{i}" for i in range(count)))
