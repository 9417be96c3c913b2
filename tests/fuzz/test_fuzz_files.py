"""One file: NIfTI, pictures, arrays."""

import gzip
import hashlib
import io
import struct

import fuzz_harness
import h5py
import nibabel as nib
import numpy as np
import tifffile
from data_sets import SHAPE, label_array
from fuzz_harness import Mutant, both, fuzz
from fuzz_mutants import byte_mutants
from hypothesis import strategies as st
from PIL import Image

from samzoo.data.arrays import read_arrays
from samzoo.data.files import read_array
from samzoo.errors import DataError

AFFINE = np.diag((0.8, 0.9, 3.0, 1.0))
VOXELS = (np.arange(np.prod(SHAPE)).reshape(SHAPE) * 7 % 251).astype(np.int16)


def digest(array):
    """All that is read of a file, in a form that compares."""
    data = np.ascontiguousarray(array.data)
    content = hashlib.sha256(data).hexdigest()
    return data.shape, str(data.dtype), content, array.affine.tobytes(), array.spacing, array.full_range, array.flat


def reader(path, pictures="auto"):
    def read(content):
        path.write_bytes(content)
        return digest(read_array(path, pictures))

    return read


def nifti(data=VOXELS, affine=AFFINE, edit=lambda image: None):
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    edit(image)
    return image.to_bytes()


def encoded(array, kind, **options):
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind, **options)
    return out.getvalue()


def tiff(array, **options):
    out = io.BytesIO()
    tifffile.imwrite(out, array, **options)
    return out.getvalue()


@both
def test_bytes_of_nifti(tmp_path, scale):
    raw = nifti()
    for name, content, checksum in (("a.nii.gz", gzip.compress(raw), True), ("a.nii", raw, False)):
        read = reader(tmp_path / name)
        mutants = byte_mutants(content, checksum)
        fuzz(f"bytes of {name[1:]}", mutants, read, read(content), name, int(900 * scale))


FLOATS = st.sampled_from([0.0, -0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e38, -1e-38])
DIMS = st.sampled_from([0, -1, 1, 2, 5, 7, 100, 30000, 32767, -32768])
DATATYPES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 255, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, 9999, -1)
BITS = {2: 8, 4: 16, 8: 32, 16: 32, 64: 64, 256: 8, 512: 16, 768: 32, 1024: 64, 1280: 64}


def patched(raw, offset, form, value, bad, what):
    packed = struct.pack("<" + form, value)
    return Mutant(f"{what} = {value}", raw[:offset] + packed + raw[offset + len(packed) :], bad)


def header_mutants(raw):
    """Fields of the header, most of them bad whatever they are changed to."""
    return st.one_of(
        st.tuples(st.integers(0, 7), DIMS).map(
            lambda d: patched(raw, 40 + 2 * d[0], "h", d[1], d[0] in (1, 2, 3), f"dim[{d[0]}]")
        ),
        st.tuples(st.integers(1, 3), FLOATS).map(
            lambda d: patched(raw, 76 + 4 * d[0], "f", d[1], True, f"pixdim[{d[0]}]")
        ),
        st.tuples(st.integers(0, 11), FLOATS.filter(lambda f: not abs(f) < 1)).map(
            lambda d: patched(raw, 280 + 4 * d[0], "f", d[1], not np.isfinite(d[1]), f"srow[{d[0]}]")
        ),
        st.tuples(st.integers(0, 5), FLOATS).map(
            lambda d: patched(raw, 256 + 4 * d[0], "f", d[1], not np.isfinite(d[1]), f"quatern[{d[0]}]")
        ),
        st.sampled_from([float("inf"), -float("inf")]).map(lambda v: patched(raw, 112, "f", v, True, "scl_slope")),
        st.sampled_from([float("nan"), float("inf")]).map(lambda v: patched(raw, 116, "f", v, True, "scl_inter")),
        FLOATS.map(lambda v: patched(raw, 108, "f", v, False, "vox_offset")),
        st.sampled_from(DATATYPES).map(lambda v: patched(raw, 70, "h", v, BITS.get(v) != 16, "datatype")),
        st.sampled_from([0, 1, 8, 32, 64, -16]).map(lambda v: patched(raw, 72, "h", v, True, "bitpix")),
        st.tuples(st.sampled_from([252, 254]), st.integers(-2, 6)).map(
            lambda d: patched(raw, d[0], "h", d[1], False, "code")
        ),
        st.sampled_from([1, 3]).map(lambda v: patched(raw, 123, "B", v, True, "unit")),
        st.integers(0, 255).map(lambda v: patched(raw, 123, "B", v, False, "units")),
        st.sampled_from([0, 347, 349, 540, -1]).map(lambda v: patched(raw, 0, "i", v, False, "sizeof_hdr")),
        st.tuples(st.integers(0, 347), st.integers(0, 255)).map(
            lambda d: patched(raw, d[0], "B", d[1], False, f"byte {d[0]}")
        ),
    )


@both
def test_headers_of_nifti(tmp_path, scale):
    def both_codes(image):
        image.set_sform(AFFINE, 1)
        image.set_qform(AFFINE, 1)

    raw = nifti(edit=both_codes)
    read = reader(tmp_path / "a.nii")
    fuzz("header of .nii", header_mutants(raw), read, read(raw), "a.nii", int(900 * scale))
    packed = header_mutants(raw).map(lambda m: Mutant(m.what, gzip.compress(m.content, 1), m.bad))
    read = reader(tmp_path / "a.nii.gz")
    fuzz("header of .nii.gz", packed, read, read(gzip.compress(raw)), "a.nii.gz", int(600 * scale))


def test_nifti_of_other_kinds(tmp_path):
    colours = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    huge = patched(patched(nifti(), 42, "h", 32000, True, "").content, 44, "h", 32000, True, "")
    kinds = {
        "complex": nifti(VOXELS.astype(np.complex64)),
        "RGB": nifti(colours),
        "5D": nifti(np.zeros((3, 3, 3, 2, 2), np.int16)),
        "huge": huge.content,
        "mgh": nib.MGHImage(VOXELS.astype(np.float32), AFFINE).to_bytes(),
        "two members, one of junk": gzip.compress(nifti()) + b"junk" * 9,
    }
    read = reader(tmp_path / "a.nii")
    packed = reader(tmp_path / "a.nii.gz")
    sound = read(nifti())
    plain = [Mutant(k, v, True) for k, v in kinds.items()]
    fuzz("other kinds of .nii", plain, read, sound, "a.nii")
    fuzz("other kinds of .nii.gz", [Mutant(m.what, gzip.compress(m.content), True) for m in plain], packed, sound, "a.")
    junk = [Mutant("junk after the end", gzip.compress(nifti()) + b"junk" * 9, True)]
    fuzz("other kinds of .nii.gz", junk, packed, sound, "a.nii.gz")


RNG = np.random.default_rng(0)
GREY = (RNG.integers(0, 40, (20, 24)) * 6).astype(np.uint8)
RGB = RNG.integers(0, 255, (20, 24, 3)).astype(np.uint8)


@both
def test_bytes_of_pictures(tmp_path, scale):
    kinds = {
        "a.png": (encoded(RGB, "png"), True, 700),
        "a.jpg": (encoded(RGB, "jpeg", quality=95), False, 400),
        "a.bmp": (encoded(RGB, "bmp"), False, 250),
        "a.tif": (tiff(RGB), False, 500),
        "b.tif": (tiff(GREY, compression="zlib", rowsperstrip=4), False, 400),
        "c.tif": (encoded(GREY, "tiff", compression="tiff_lzw"), False, 300),
    }
    for name, (content, checksum, number) in kinds.items():
        read = reader(tmp_path / name)
        fuzz(f"bytes of {name}", byte_mutants(content, checksum), read, read(content), name, int(number * scale))


def chunk(kind, data):
    import zlib

    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb():
    import zlib

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9999)) + chunk(b"IEND", b"")
    )


def tiff_bomb():
    """Says that it is 40000 pixels high, in one part."""
    raw = tiff(np.zeros((40, 40000), np.uint8), compression="zlib")
    with tifffile.TiffFile(io.BytesIO(raw)) as file:
        for name in ("ImageLength", "RowsPerStrip"):
            tag = file.pages[0].tags[name]
            raw = patched(raw, tag.valueoffset, "H" if tag.dtype == 3 else "I", 40000, True, "").content
    return raw


def rgb16():
    import zlib

    rows = b"".join(b"\0" + struct.pack(">72H", *([1, 0, 257] * 24)) for _ in range(20))
    head = struct.pack(">IIBBBBB", 24, 20, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def turned(kind, orientation, array=RGB):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(array, kind, exif=exif)


def test_pictures_of_other_kinds(tmp_path):
    pages = io.BytesIO()
    page = Image.fromarray(GREY)
    page.save(pages, "png", save_all=True, append_images=[Image.fromarray(255 - GREY)])
    gif = encoded(GREY, "gif")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 20\n%%EndComments\nshowpage\n"
    alpha = np.dstack([RGB, GREY])
    kinds = {
        "a.png": {
            "bomb": png_bomb(),
            "animation": pages.getvalue(),
            "a GIF": gif,
            "an EPS": eps,
            "16 bit in colours": rgb16(),
            "alpha": encoded(alpha, "png"),
            **{f"turned {o}": turned("png", o) for o in range(2, 9)},
        },
        "a.jpg": {f"turned {o}": turned("jpeg", o) for o in range(2, 9)},
        "a.tif": {
            "pages": tiff(np.stack([GREY, GREY]), photometric="minisblack"),
            "bomb": tiff_bomb(),
            "complex": tiff(GREY.astype(np.complex64)),
            **{f"turned {o}": tiff(RGB, extratags=[(274, 3, 1, o, True)]) for o in range(2, 9)},
        },
    }
    for name, own in kinds.items():
        read = reader(tmp_path / name)
        fuzz("other kinds of pictures", [Mutant(f"{name}: {k}", v, True) for k, v in own.items()], read, None, name)


@both
def test_bytes_of_arrays(tmp_path, scale):
    image, label = GREY.astype(np.float32) / 255, (GREY > 100).astype(np.float32)
    out = io.BytesIO()
    np.savez(out, image=image, label=label)
    packed = io.BytesIO()
    np.savez_compressed(packed, image=image, label=label)
    with h5py.File(tmp_path / "sound.h5", "w") as file:
        file["image"], file["label"] = np.stack([image] * 3), np.stack([label] * 3)
    kinds = {
        "stored.npz": (out.getvalue(), True, 400),
        "packed.npz": (packed.getvalue(), True, 400),
        "a.h5": ((tmp_path / "sound.h5").read_bytes(), False, 500),
    }
    for name, (content, checksum, number) in kinds.items():
        path = tmp_path / name

        def read(content, path=path):
            path.write_bytes(content)
            return digest(read_arrays([path], "image")), digest(read_arrays([path], "label"))

        fuzz(f"bytes of {name}", byte_mutants(content, checksum), read, read(content), name, int(number * scale))


def test_arrays_of_other_kinds(tmp_path):
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["image"] = np.zeros((3, 4, 5), np.float32)
    (tmp_path / "raw.bin").write_bytes(bytes(400))
    virtual = h5py.VirtualLayout((3, 4, 5), np.float32)
    virtual[:] = h5py.VirtualSource(other, "image", (3, 4, 5))
    kinds = {
        "group": lambda f: f.create_group("image"),
        "soft link": lambda f: f.__setitem__("image", h5py.SoftLink("/x")),
        "link to a file": lambda f: f.__setitem__("image", h5py.ExternalLink(str(other), "image")),
        "data in another file": lambda f: f.create_dataset(
            "image", (3, 4, 5), np.float32, external=[(str(tmp_path / "raw.bin"), 0, 240)]
        ),
        "virtual": lambda f: f.create_virtual_dataset("image", virtual),
        "bomb": lambda f: f.create_dataset("image", (2000, 4000, 4000), np.float32, chunks=(1, 64, 64), fillvalue=1.5),
        "packed bomb": lambda f: f.create_dataset(
            "image", (20000, 400, 4000), np.uint8, chunks=(1, 64, 64), compression="gzip"
        ),
        "text": lambda f: f.__setitem__("image", "hello"),
        "complex": lambda f: f.__setitem__("image", np.zeros((3, 4, 5), np.complex64)),
        "4D": lambda f: f.__setitem__("image", np.zeros((3, 4, 5, 2))),
        "scalar": lambda f: f.__setitem__("image", 3),
        "nothing in it": lambda f: f.__setitem__("image", h5py.Empty("f")),
        "no slices": lambda f: f.__setitem__("image", np.zeros((0, 4, 5))),
    }
    for what, fill in kinds.items():
        path = tmp_path / "a.h5"
        path.unlink(missing_ok=True)
        with h5py.File(path, "w") as file:
            fill(file)
        mutant = [Mutant(what, None, True)]
        fuzz("other kinds of .h5", mutant, lambda _: digest(read_arrays([path], "image")), None, "a.h5")  # noqa: B023
    path = tmp_path / "a.npz"
    for what, array in {
        "objects": np.array([{"a": 1}], dtype=object),
        "text": np.array(["a"]),
        "dates": np.zeros((3, 4), "M8[s]"),
        "fields": np.zeros((3, 4), [("a", "f4")]),
        "complex": np.zeros((3, 4), complex),
        "3D": np.zeros((3, 4, 5)),
        "empty": np.zeros((0, 4)),
    }.items():
        np.savez(path, image=array)
        mutant = [Mutant(what, None, True)]
        fuzz("other kinds of .npz", mutant, lambda _: digest(read_arrays([path], "image")), None, "a.npz")


def test_the_harness_sees_what_is_wrong(monkeypatch):
    """A number out of a bad input, another exception, a message without the input's name."""
    monkeypatch.setattr(fuzz_harness, "TABLE", {})
    monkeypatch.setattr(fuzz_harness, "SECONDS", 0.2)

    def read(content):
        if content == "hang":
            while True:
                pass
        if isinstance(content, Exception):
            raise content
        return content

    tried = [Mutant(str(c), c, True) for c in (1, 2, KeyError("a"), DataError("a.nii: bad"), DataError("bad"), "hang")]
    fuzz("self", tried, read, 1, "a.nii")
    count = fuzz_harness.TABLE["self"]
    assert (count.equal, count.errors, len(count.defects), count.inputs) == (1, 1, 4, 6)
    assert len(fuzz_harness.DEFECTS) == 4
    fuzz_harness.DEFECTS.clear()


@both
def test_labels_beside_their_image(tmp_path, scale):
    """What a run reads of a case, its label damaged in ways that only the image or the class table can tell."""
    from samzoo.data.decode import DecodeSettings, decode
    from samzoo.data.index import CaseEntry, ClassTable, DatasetIndex, LabelFile

    image, label = tmp_path / "image.nii.gz", tmp_path / "label.nii.gz"
    image.write_bytes(gzip.compress(nifti(), 1))
    entry = CaseEntry("case", "case", (image,), (LabelFile(label),))
    index = DatasetIndex("d", tmp_path, "nnunet", ClassTable({"organ": (1,), "tumour": (2,)}), ("CT",), (entry,))
    truth = label_array(0)

    def read(content):
        label.write_bytes(gzip.compress(content, 1))
        decoded = decode(entry, index, DecodeSettings())
        return decoded.image.tobytes(), decoded.label.tobytes(), decoded.label.shape, decoded.spacing

    place = st.tuples(*(st.integers(0, n - 1) for n in SHAPE))
    odd = st.sampled_from([np.nan, np.inf, -np.inf, 0.5, 1.5, -1, 3, 4, 254, 255, 256, 1e30, -1e30, 2**53, 0.01, 1.01])

    def with_value(drawn):
        at, value = drawn
        array = truth.astype(np.float64)
        array[at] = value
        return Mutant(f"{value} at {at}", nifti(array), True)

    def with_affine(drawn):
        i, j, by = drawn
        affine = AFFINE.copy()
        affine[i, j] += by
        if abs(np.linalg.det(affine)) < 1e-3:
            affine[i, j] += by
        return Mutant(f"affine[{i}, {j}] + {by}", nifti(truth, affine), True)

    axes = st.permutations(range(3)).filter(lambda p: p != [0, 1, 2])
    mutants = st.one_of(
        st.tuples(place, odd).map(with_value),
        st.tuples(st.integers(0, 2), st.integers(0, 3), st.sampled_from([0.01, -0.01, 0.5, -3, 100])).map(with_affine),
        st.lists(st.sampled_from([-1, 1]), min_size=3, max_size=3)
        .filter(lambda s: -1 in s)
        .map(lambda s: Mutant(f"turned by {s}", nifti(truth, AFFINE @ np.diag((*s, 1))), True)),
        axes.map(lambda p: Mutant(f"axes {p}", nifti(np.ascontiguousarray(truth.transpose(p))), True)),
        st.tuples(st.integers(0, 2), st.integers(1, 5)).map(
            lambda d: Mutant(f"cropped {d}", nifti(np.take(truth, range(SHAPE[d[0]] - d[1]), d[0])), True)
        ),
        st.sampled_from([np.complex64, np.float16]).map(lambda k: Mutant(f"{k}", _of(truth, k), True)),
        st.integers(2, 4).map(lambda n: Mutant(f"{n} channels", nifti(np.stack([truth] * n, -1)), True)),
    )
    fuzz("label beside its image", mutants, read, read(nifti(truth)), "label.nii.gz", int(700 * scale))


def _of(array, kind):
    raw = nifti(array.astype(np.complex64))
    if kind is np.complex64:
        return raw
    return patched(patched(nifti(array), 70, "h", 16, True, "").content, 72, "h", 16, True, "").content  # half floats
