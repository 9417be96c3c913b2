"""The polyp benchmark with PraNet's split: TrainDataset (one folder of two sets) beside TestDataset (five sets).

TrainDataset holds 900 pictures of Kvasir-SEG and, with numbers as names, 550 of CVC-ClinicDB; its folders are called
image and mask or images and masks. Case ids are set/name. The frames of ClinicDB come from 29 videos, and neighbours
look alike: a video is one patient here, so that validation pictures are of other videos than the training pictures.
The benchmark's own test frames of ClinicDB are of the same videos as its training frames; they count as other patients,
or there would be no benchmark.
Source: the archives of DengPingFan/PraNet; the videos' first frames from the metadata.csv of ClinicDB's PNG edition.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from pathlib import Path

from samzoo.data.files import picture_channels
from samzoo.data.index import Collector, DatasetIndex, LabelFile, ReadSettings, Split, list_files, repeated, stem
from samzoo.data.readers.folder import find_pair
from samzoo.data.readers.masks import mask_table, note_counts
from samzoo.errors import DataError

TRAIN, TEST = "TrainDataset", "TestDataset"
KVASIR, CLINIC = "Kvasir", "CVC-ClinicDB"
TEST_SETS = ("CVC-300", CLINIC, "CVC-ColonDB", "ETIS-LaribPolypDB", KVASIR)
USUAL = {f"{TRAIN}/{KVASIR}": 900, f"{TRAIN}/{CLINIC}": 550} | {
    f"{TEST}/{part}": count for part, count in zip(TEST_SETS, (60, 62, 380, 196, 100), strict=True)
}
VIDEO_STARTS = (
    *(1, 26, 51, 68, 79, 104, 127, 152, 178, 200, 206, 228, 253, 278, 298),
    *(318, 343, 364, 384, 409, 429, 448, 467, 479, 504, 529, 547, 572, 592),
)
"""First frame of each of ClinicDB's videos, whose 612 frames are numbered through."""


def recognise(root: Path) -> bool:
    return find_pair(root / TRAIN)[0] is not None or any(find_pair(root / TEST / n)[0] is not None for n in TEST_SETS)


def read(root: Path, settings: ReadSettings) -> DatasetIndex:
    """Raises DataError: no pictures, a set without masks, a name twice in a set or in training and test."""
    table = mask_table(settings, "polyp")
    found = Collector(settings)
    counted: Counter[str] = Counter()
    for image, label in _pictures(root / TRAIN):
        part = CLINIC if stem(image).isdigit() else KVASIR
        counted[f"{TRAIN}/{part}"] += 1
        _add(found, part, image, label, "train")
    for part in TEST_SETS:
        for image, label in _pictures(root / TEST / part):
            counted[f"{TEST}/{part}"] += 1
            _add(found, part, image, label, "test")
    note_counts(found, USUAL, counted)
    first = next(iter(found.entries.values()), None)
    channels = picture_channels(first.images[0], settings.pictures) if first is not None else ()
    return found.finish("polyps", root, "polyps", table, channels)


def _pictures(folder: Path) -> list[tuple[Path, LabelFile]]:
    """Pictures of a set with their masks; nothing if the set is not there."""
    images, masks = find_pair(folder)
    pictures = list_files(images) if images is not None else []
    if pictures and masks is None:
        raise DataError(f"{folder}: there is {images.name}, but no folder of masks beside it")
    if doubled := repeated(stem(p) for p in pictures):
        raise DataError(f"duplicate case id {doubled[0]!r}: {images} holds two files of that stem")
    by_stem = {stem(p): p for p in list_files(masks)} if pictures else {}
    # A mask that is not there is reported like any other missing file, when the case is read.
    return [(p, LabelFile(by_stem.get(stem(p), masks / f"{stem(p)}.png"))) for p in pictures]


def _add(found: Collector, part: str, image: Path, label: LabelFile, split: Split) -> None:
    case_id = f"{part}/{stem(image)}"
    frame = part == CLINIC and stem(image).isdigit()
    patient = f"{part}/{split} video {bisect_right(VIDEO_STARTS, int(stem(image)))}" if frame else None
    found.add(case_id, [image], [label], split, patient)
