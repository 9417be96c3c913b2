"""The embedded data set: abdominal-CT-like volumes made by a program, deterministic by seed.

A body with fat, muscle and spine, six organs of varying place, shape, texture and contrast, and a small lesion inside
the liver. Organs are bent, notched and dented, so that filling their boxes is no answer; contrasts overlap from case to
case, unlabelled bowel has the organs' intensities, and noise and a bias field lie over it, so that no threshold finds
an organ.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from samzoo.data import phantom_lesions, scenes
from samzoo.data.phantom_lesions import make_lesion_case
from samzoo.errors import ConfigError, DataError
from samzoo.locks import locked
from samzoo.paths import OTHER_HOME, samzoo_home
from samzoo.writing import disk_errors, sweep, whole_folder

VERSION = 2
"""Raise it when the same seed gives other volumes."""

CLASSES = ("liver", "spleen", "kidney_right", "kidney_left", "stomach", "aorta", "lesion")

SPLITS = "splits.json"
"""The data set's own split, for `data.splits_file`."""

FIELD_MM = 330.0
"""Width of the field of view."""


@dataclass(frozen=True)
class Organ:
    """How an organ is drawn; lengths are in units of the body's half axes, in the order z, y, x.

    Args:
        centre, axes: of an ellipsoid.
        contrast: range of the mean HU.
        bend: curves the organ in the plane; the middle is pushed along x by this many half axes.
        notch: (y, x, radius) in half axes, a cylinder that is cut out, as at the hilum of a kidney.
        rough: strength of random dents.
    """

    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    contrast: tuple[float, float]
    bend: float = 0.0
    notch: tuple[float, float, float] | None = None
    rough: float = 0.3


ORGANS = {
    "bowel_a": Organ((0.30, -0.25, 0.20), (0.60, 0.22, 0.30), (15, 110)),
    "bowel_b": Organ((0.55, -0.20, -0.25), (0.45, 0.20, 0.25), (15, 110)),
    "liver": Organ((-0.30, -0.10, -0.38), (0.75, 0.55, 0.48), (45, 110), notch=(0.65, 0.75, 0.9)),
    "stomach": Organ((-0.35, -0.30, 0.24), (0.50, 0.40, 0.17), (5, 80), bend=1.3),
    "spleen": Organ((-0.35, 0.16, 0.60), (0.45, 0.38, 0.20), (40, 125), bend=1.0, notch=(0.0, -1.0, 0.8)),
    "kidney_right": Organ((0.35, 0.38, -0.40), (0.50, 0.22, 0.19), (25, 150), notch=(0.0, 0.9, 0.7)),
    "kidney_left": Organ((0.25, 0.38, 0.42), (0.50, 0.22, 0.19), (25, 150), notch=(0.0, -0.9, 0.7)),
    "aorta": Organ((0.00, 0.22, 0.07), (9.0, 0.085, 0.07), (40, 180), rough=0.03),
}
"""In the order in which they are drawn: later ones lie over earlier ones."""


@dataclass(frozen=True)
class PhantomSettings:
    """What decides the phantom's content.

    Args:
        cases: number of volumes.
        size: height and width in voxels.
        slices: fewest and most slices of a volume.
        seed: of everything random.
        kind: organs as described above, lesions (`samzoo.data.phantom_lesions`), or scenes to pretrain on
            (`samzoo.data.scenes`): pictures, whose cases are stacks, or volumes; cases are then those to train on.
        lesion_mm: smallest and largest diameter of lesions, as far as the volume has room for them.
    """

    cases: int = 24
    size: int = 96
    slices: tuple[int, int] = (16, 24)
    seed: int = 0
    kind: Literal["organs", "lesions", "scenes", "scenes_3d"] = "organs"
    lesion_mm: tuple[float, float] = (5.0, 60.0)

    def __post_init__(self) -> None:
        if self.cases < 1 or self.size < 32 or not 4 <= self.slices[0] <= self.slices[1]:
            raise ConfigError(f"phantom: needs cases >= 1, size >= 32 and 4 <= slices[0] <= slices[1], got {self}")
        if not 0 < self.lesion_mm[0] <= self.lesion_mm[1]:
            raise ConfigError(
                f"phantom: lesion_mm must be two positive numbers, the smaller first, got {self.lesion_mm}"
            )

    @property
    def scenes(self) -> bool:
        return self.kind.startswith("scenes")

    @property
    def dim(self) -> int:
        """2 if slices of a case have nothing to do with each other."""
        return 2 if self.kind == "scenes" else 3

    @property
    def classes(self) -> tuple[str, ...]:
        return {"organs": CLASSES, "lesions": phantom_lesions.CLASSES}.get(self.kind, scenes.CLASSES)

    @property
    def case_splits(self) -> list[tuple[str, str | None]]:
        """(case id, split) of every case; None leaves the split to whoever reads it."""
        if self.scenes:
            return scenes.scene_cases(self.cases, self.dim)
        return [(f"phantom_{number:03d}", None) for number in range(self.cases)]

    @property
    def signature(self) -> str:
        settings = asdict(self)
        if self.kind == "organs":  # older than the other kinds, and named without it
            del settings["kind"], settings["lesion_mm"]
        if self.scenes:
            settings["scenes"] = scenes.VERSION
        content = json.dumps({"version": VERSION} | settings, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


def make_volume(settings: PhantomSettings, number: int) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """One volume.

    Returns:
        image int16 (D, H, W) in HU (scenes: 0 to 1000), label uint8 (D, H, W) with the classes 1, 2, ... in the order
        of `settings.classes`, spacing along D, H, W in mm.
    """
    if settings.scenes:
        case_id, split = settings.case_splits[number]
        return scenes.make_scene_case(settings.dim, settings.size, settings.slices, settings.seed, case_id, split)
    if settings.kind == "lesions":
        return make_lesion_case(settings.size, settings.slices, settings.seed, number, settings.lesion_mm)
    rng = np.random.default_rng((settings.seed, number))
    depth = int(rng.integers(settings.slices[0], settings.slices[1] + 1))
    pixel = FIELD_MM / settings.size * rng.uniform(0.9, 1.1)
    spacing = (float(np.round(rng.uniform(4.0, 8.0), 1)), float(np.round(pixel, 3)), float(np.round(pixel, 3)))
    shape = (depth, settings.size, settings.size)
    # mm from the centre of the volume
    axes_mm = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    z, y, x = np.meshgrid(*axes_mm, indexing="ij")
    body = np.array((depth * spacing[0] / 2, rng.uniform(85, 110), rng.uniform(115, 140)))

    def smooth(scale_mm: float) -> np.ndarray:
        """Random field of unit variance and the given correlation length."""
        field = gaussian_filter(rng.standard_normal(shape), [scale_mm / s for s in spacing], mode="reflect")
        return field / max(field.std(), 1e-9)

    def blob(organ: Organ) -> np.ndarray:
        """The organ in this volume: moved, turned, bent and dented."""
        centre = np.array(organ.centre) + rng.normal(0, (0.08, 0.04, 0.04))
        axes = np.array(organ.axes) * rng.uniform(0.8, 1.2, 3)
        angle = rng.normal(0, 0.3)
        dz, dy, dx = z / body[0] - centre[0], y / body[1] - centre[1], x / body[2] - centre[2]
        dy, dx = np.cos(angle) * dy - np.sin(angle) * dx, np.sin(angle) * dy + np.cos(angle) * dx
        dz, dy, dx = dz / axes[0], dy / axes[1], dx / axes[2]
        dx = dx - organ.bend * rng.uniform(0.6, 1.2) * (0.5 - dy**2)
        region = dz**2 + dy**2 + dx**2 + organ.rough * smooth(14) < 1
        if organ.notch:
            at_y, at_x, wide = organ.notch
            region &= np.hypot(dy - at_y, dx - at_x) > wide * rng.uniform(0.8, 1.15)
        return region

    radius = (y / body[1]) ** 2 + (x / body[2]) ** 2 + 0.06 * smooth(40)
    image = np.full(shape, -1000.0)
    image[radius < 1.25] = -100 + 10 * smooth(15)[radius < 1.25]
    inside = radius < 1
    image[inside] = rng.uniform(35, 60) + 8 * smooth(10)[inside]
    cavity = radius < 0.8
    image[cavity] = -90 + 15 * smooth(12)[cavity]
    spine = ((y / body[1] - 0.52) / 0.2) ** 2 + ((x / body[2]) / 0.16) ** 2 + 0.15 * smooth(10) < 1
    image[spine] = 220 + 80 * smooth(6)[spine]

    label = np.zeros(shape, dtype=np.uint8)
    for name, organ in ORGANS.items():
        region = blob(organ) & (radius < 0.95) & ~spine
        texture = rng.uniform(3, 14) * smooth(rng.uniform(5, 14))
        image[region] = rng.uniform(*organ.contrast) + texture[region]
        if name == "stomach":  # air above the contents
            image[region & (y < np.quantile(y[region], 0.2) if region.any() else region)] = -700
        label[region] = CLASSES.index(name) + 1 if name in CLASSES else 0

    liver = np.argwhere(label == CLASSES.index("liver") + 1)
    if len(liver):
        middle = (liver[rng.integers(len(liver))] - (np.array(shape) - 1) / 2) * spacing
        size = rng.uniform(9, 18)
        distance = np.sqrt((z - middle[0]) ** 2 + (y - middle[1]) ** 2 + (x - middle[2]) ** 2)
        lesion = (distance + 2 * smooth(8) < size) & (label == CLASSES.index("liver") + 1)
        image[lesion] += rng.choice((-1, 1)) * rng.uniform(25, 50)
        label[lesion] = CLASSES.index("lesion") + 1

    image = gaussian_filter(image, (0, 0.6, 0.6))  # partial volume
    image = (image + 1000) * (1 + 0.02 * smooth(120)) - 1000
    image += rng.uniform(12, 24) * rng.standard_normal(shape) + 6 * smooth(5)
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16), label, spacing


def write_phantom(out: Path, settings: PhantomSettings | None = None, progress: bool = True) -> Path:
    """Write the phantom as an nnU-Net v2 data set, whole or not at all; nothing is done if it is there already.

    Raises:
        DataError: `out` exists already and holds something else, or the disk is full.
    """
    settings = settings or PhantomSettings()
    if _is_in(out, settings):
        return out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists already and is not an empty folder; name another place, or remove it first")
    with disk_errors(out.parent), whole_folder(out) as building:
        _write(building, settings, progress)
    return out


def _is_in(out: Path, settings: PhantomSettings) -> bool:
    try:
        return json.loads((out / "dataset.json").read_text(encoding="utf-8"))["reference"] == _reference(settings)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _reference(settings: PhantomSettings) -> str:
    return f"made by samzoo, phantom {settings.signature}, {settings}"


def _write(folder: Path, settings: PhantomSettings, progress: bool) -> None:
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    cases = settings.case_splits
    for number, (case_id, _) in enumerate(tqdm(cases, "making the phantom", unit="case", disable=not progress)):
        image, label, spacing = make_volume(settings, number)
        affine = np.diag((*spacing[::-1], 1.0))
        for array, file in (
            (image, f"imagesTr/{case_id}_0000.nii.gz"),
            (label, f"labelsTr/{case_id}.nii.gz"),
        ):
            nifti = nib.Nifti1Image(np.ascontiguousarray(array.transpose(2, 1, 0)), affine)
            nifti.header.set_xyzt_units("mm")
            nib.save(nifti, folder / file)
    content = {
        "name": "phantom",
        "channel_names": {"0": "CT"},
        "labels": {"background": 0} | {name: i for i, name in enumerate(settings.classes, start=1)},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        "licence": "CC0-1.0",
        "reference": _reference(settings),
    }
    splits = {split: [case for case, own in cases if own == split] for split in ("train", "val", "test")}
    if any(splits.values()):
        (folder / SPLITS).write_text(json.dumps(splits, indent=1), encoding="utf-8")
    (folder / "dataset.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def ensure_phantom(settings: PhantomSettings, progress: bool = True) -> Path:
    """The phantom's folder under `$SAMZOO_HOME`, written on first use; safe when two processes start together."""
    out = samzoo_home() / f"phantom-{settings.signature}"
    if (out / "dataset.json").is_file():
        return out
    with disk_errors(out.parent, OTHER_HOME), locked(Path(f"{out}.lock")):
        sweep(out.parent, live_seconds=0)
        if not (out / "dataset.json").is_file():
            with whole_folder(out) as building:
                _write(building, settings, progress)
    return out
