"""Image files that people have and samzoo doesn't read: what they are, and how they become what it reads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from samzoo.data.index import ENDINGS

DICOM = "DICOM"
MOST_LOOKED_AT = 20
"""Files without a known ending whose first bytes are looked at, and sub-folders that are looked into."""

FORMATS: dict[str, tuple[tuple[str, ...], str]] = {
    DICOM: ((".dcm", ".dicom", ".ima"), "make each series a NIfTI file, for example dcm2niix -z y -o OUT FOLDER"),
    "NRRD or MetaImage": (
        (".nrrd", ".nhdr", ".mha", ".mhd"),
        "convert to NIfTI, for example with SimpleITK: sitk.WriteImage(sitk.ReadImage('a.mha'), 'a.nii.gz')",
    ),
    "FreeSurfer's format": ((".mgz", ".mgh"), "convert to NIfTI, for example mri_convert a.mgz a.nii.gz"),
    "Analyze or a NIfTI pair": (
        (".hdr", ".img"),
        "convert to single NIfTI files, for example nibabel.load('a.hdr').to_filename('a.nii.gz')",
    ),
    "arrays without a spacing": (
        (".npy", ".npz", ".mat", ".h5"),
        "write NIfTI with its spacing: nibabel.Nifti1Image(array, numpy.diag([dx, dy, dz, 1])).to_filename('a.nii.gz')",
    ),
    "pictures of another format": (
        (".gif", ".webp", ".jp2", ".heic", ".ppm", ".pgm", ".avif"),
        "save them as PNG",
    ),
    "slides or stacks of a microscope": (
        (".svs", ".ndpi", ".mrxs", ".czi", ".lif", ".nd2", ".oib", ".vsi"),
        "export pictures as PNG or TIFF, stacks as NIfTI",
    ),
}
"""What it is -> its endings, and what to do."""


def kind_of(path: Path) -> str | None:
    """Which of `FORMATS` a file is by its ending, or by DICOM's mark; None: one that samzoo reads, or no image."""
    name = path.name.lower()
    if name.startswith(".") or name.endswith(ENDINGS):
        return None
    known = next((kind for kind, (endings, _) in FORMATS.items() if name.endswith(endings)), None)
    return known or (DICOM if _marked_as_dicom(path) else None)


def _marked_as_dicom(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def remedy(kind: str) -> str:
    return f"samzoo does not read {kind}: {FORMATS[kind][1]}"


def foreign_files(folder: Path, deep: bool = False) -> str:
    """A clause on a folder's images of other formats and what to do, for messages; empty if there are none.

    Args:
        deep: look into its sub-folders, too, two levels down.
    """
    found: dict[str, list[Path]] = {}
    looked = 0
    for path in _files(folder, 2 if deep else 0):
        if not path.name.lower().endswith(tuple(e for endings, _ in FORMATS.values() for e in endings)):
            looked += 1
            if looked > MOST_LOOKED_AT:
                continue
        if (kind := kind_of(path)) is not None:
            found.setdefault(kind, []).append(path)
    if not found:
        return ""
    kind, files = max(found.items(), key=lambda item: len(item[1]))
    more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
    return f"{files[0].relative_to(folder)}{more}: {remedy(kind)}"


def _files(folder: Path, levels: int) -> Iterator[Path]:
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return
    yield from (p for p in inside if p.is_file())
    if levels:
        for inner in itertools.islice((p for p in inside if p.is_dir()), MOST_LOOKED_AT):
            yield from _files(inner, levels - 1)
