"""Archives from elsewhere: whatever is in them, nothing lies outside the folder that they unpack to."""

import gzip
import io
import shutil
import tarfile
import zipfile

from fuzz_harness import Mutant, both, fuzz
from fuzz_mutants import byte_mutants
from hypothesis import strategies as st

from samzoo.data.archives import unpack

FOLDER = "Task06_Lung"
FILES = {"dataset.json": b"{}", "imagesTr/a.nii.gz": b"image", "labelsTr/a.nii.gz": b"label" * 200}
KINDS = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
KINDS += (tarfile.BLKTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, b"Z", b"x", b"g", b"L", b"K")
NAMES = (
    *(
        f"{FOLDER}/x",
        f"{FOLDER}/../x",
        "../x",
        "/tmp/fuzz_outside",
        "x",
        f"/{FOLDER}/x",
        f"{FOLDER}/../../x",
        "",
        ".",
        "..",
    ),
    *(f"{FOLDER}/dataset.json", f"{FOLDER}/dataset.json/x", f"{FOLDER}", f"{FOLDER}/{'y' * 300}", f"{FOLDER}/a\nb"),
    *(
        f"./{FOLDER}/x",
        f"{FOLDER}//x",
        f"{FOLDER}/./x",
        f"{FOLDER}\\..\\x",
        f"{FOLDER}/\udcff",
        f"{FOLDER}/" + "d/" * 90,
    ),
)


def packed(extra=()):
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w", errors="surrogateescape") as file:
            for name, content in FILES.items():
                info = tarfile.TarInfo(f"{FOLDER}/{name}")
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
            for info in extra:
                file.addfile(info, io.BytesIO(bytes(max(0, info.size))))
        return out.getvalue()


def with_member(drawn):
    name, kind, link, size, mode, time = drawn
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.mtime = kind, link, mode, time
    info.size = size if kind == tarfile.REGTYPE else 0
    try:
        return Mutant(f"{drawn}", packed([info]))
    except (OverflowError, ValueError):
        return Mutant("nothing added", packed())


def with_size(drawn):
    """A size in a header that is not that of the content, its checksum put right."""
    at, size = drawn
    raw = bytearray(packed())
    heads = [i for i in range(0, len(raw), 512) if raw[i + 257 : i + 262] == b"ustar"]
    head = heads[at % len(heads)]
    raw[head + 124 : head + 136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    raw[head + 148 : head + 156] = b" " * 8
    raw[head + 148 : head + 156] = f"{sum(raw[head : head + 512]):06o}\0 ".encode()
    # others may be those of a sound archive: tar has no checksum of contents, so a download's md5 is checked before
    return Mutant(f"size of member {at % len(heads)} = {size}", bytes(raw), size < 0 or size > len(raw))


@both
def test_archives(tmp_path, scale):
    inside = tmp_path / "inside"
    root, tar = inside / FOLDER, inside / f"{FOLDER}.tar"

    def read(content):
        shutil.rmtree(inside, ignore_errors=True)
        inside.mkdir()
        tar.write_bytes(content)
        try:
            unpack(tar, root)
            found = {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
            assert not any(p.is_symlink() for p in root.rglob("*"))
            return found
        finally:
            assert {p.name for p in inside.iterdir()} <= {FOLDER, tar.name}, "something lies beside"
            assert {p.name for p in tmp_path.iterdir()} <= {"inside", "home"}, "something lies outside"

    sound = read(packed())
    members = st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from(KINDS),
        st.sampled_from(("", "/etc/passwd", "../x", f"{FOLDER}/dataset.json", "dataset.json")),
        st.sampled_from((0, 1, 600)),
        st.sampled_from((0o644, 0o0, 0o7777, 0o4755)),
        st.sampled_from((0, 1, 2**33, 2**62)),
    ).map(with_member)
    fuzz("members of archives", members, read, sound, tar.name, int(600 * scale))
    sizes = st.sampled_from((-1, -512, -(2**40), 0, 1, 511, 512, 5000, 2**30, 2**40, 2**62))
    fuzz(
        "sizes in archives", st.tuples(st.integers(0, 2), sizes).map(with_size), read, sound, tar.name, int(60 * scale)
    )
    fuzz("bytes of archives", byte_mutants(packed()), read, sound, tar.name, int(600 * scale))
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("../x", "x")
    other = {
        "packed": gzip.compress(packed()),
        "zip": zipped.getvalue(),
        "bomb": gzip.compress(bytes(10**7)),
        "empty": b"",
    }
    other["another folder"] = packed().replace(FOLDER.encode(), b"Task07_Lung")
    fuzz("other kinds of archives", [Mutant(k, v, True) for k, v in other.items()], read, sound, tar.name)
