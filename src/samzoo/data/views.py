"""What the data loaders read from: slices, slabs and whole cases as torch tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from samzoo import whereabouts
from samzoo.data.augment import Augment, place_key, unit_key
from samzoo.data.decode import DecodeSettings, decode
from samzoo.data.features import CachedCase
from samzoo.data.index import CaseEntry, DatasetIndex
from samzoo.data.sampling import SliceKey
from samzoo.data.store import StoredCase
from samzoo.data.volume_augment import VolumeAugment
from samzoo.types import IGNORE, Batch, Case


@dataclass(frozen=True)
class TrainingUnit:
    """One slice, S = (H, W), or one slab or crop, S = (D, H, W).

    Args:
        image: float32 (C, *S) in [0, 1]; None where `features` stand for it.
        label: int64 (*S).
        spacing: mm in the axis order of S.
        slice_index: the (first) slice in its case.
        features: of a slice, from a cache.
    """

    image: Tensor | None
    label: Tensor
    spacing: tuple[float, ...]
    case_id: str
    patient: str
    slice_index: int
    features: tuple[Tensor, ...] | None = None


def noted(read: Callable) -> Callable:
    """Have a data set's `__getitem__` note which case it is at."""

    @wraps(read)
    def noting(self: Any, key: SliceKey | int) -> Any:
        with whereabouts.at(f"reading case {self.entries[key.case if isinstance(key, SliceKey) else key].id}"):
            return read(self, key)

    return noting


class SliceView(Dataset):
    """Slices of stored cases, asked for by `SliceKey`.

    Args:
        entries, cases: of the same cases.
        augment: applied to each unit anew; None leaves it as it is. Not used with a cache, whose views are augmented.
        cached: features that stand for the images; one per case, or None.
    """

    def __init__(
        self,
        entries: Sequence[CaseEntry],
        cases: Sequence[StoredCase],
        augment: Augment | None = None,
        cached: Sequence[CachedCase] | None = None,
    ) -> None:
        self.entries, self.cases, self.augment, self.cached = entries, cases, augment, cached

    @noted
    def __getitem__(self, key: SliceKey) -> TrainingUnit:
        """Raises DataError: cached features were tampered with."""
        entry, case = self.entries[key.case], self.cases[key.case]
        image = features = None
        if self.cached is not None and key.view:
            label = self.cached[key.case].label(key.view, key.slice)
        else:
            label = torch.from_numpy(np.array(case.label()[key.slice]))
        if self.cached is not None:
            features = self.cached[key.case].features(key.view, key.slice)
        else:
            image = torch.from_numpy(case.image()[:, key.slice].astype(np.float32))
            if self.augment is not None:
                image, label = self.augment(image, label, *unit_key(key.epoch, key.position))
        return TrainingUnit(
            image=image,
            label=label.long(),
            spacing=case.spacing[1:],
            case_id=entry.id,
            patient=entry.patient,
            slice_index=key.slice,
            features=features,
        )

    def __len__(self) -> int:
        return sum(c.shape[0] for c in self.cases)


class SlabView(Dataset):
    """Slabs and crops of stored cases, asked for by the `SliceKey` of the slice that they are cut around.

    If a class was drawn, the centre is a random voxel of it on that slice; else any place on it. A slab that would
    stick out is moved inside, and lies around the middle of a smaller volume; a crop stays where it is, so that the
    class is in its middle. What lies outside of the volume is `fill` in the image (nnU-Net has 0) and background in the
    label.

    Args:
        entries, cases: of the same cases.
        shapes: per case, (d, h, w) voxels of its units.
        seed: of the places.
        augment: applied to each unit anew; None leaves it as it is.
        fill: what lies around a volume, in [0, 1].
        moved_inside: see above; False for crops.
    """

    def __init__(
        self,
        entries: Sequence[CaseEntry],
        cases: Sequence[StoredCase],
        shapes: Sequence[tuple[int, int, int]],
        seed: int,
        augment: VolumeAugment | None = None,
        fill: float = 0.0,
        moved_inside: bool = True,
    ) -> None:
        self.entries, self.cases, self.shapes, self.seed, self.augment = entries, cases, shapes, seed, augment
        self.fill, self.moved_inside = fill, moved_inside

    def __len__(self) -> int:
        return sum(c.shape[0] for c in self.cases)

    @noted
    def __getitem__(self, key: SliceKey) -> TrainingUnit:
        entry, case = self.entries[key.case], self.cases[key.case]
        stored = case.label()
        shape, first = self.shapes[key.case], self._first(key, stored)
        spans = [(max(f, 0), min(f + n, full)) for f, n, full in zip(first, shape, case.shape, strict=True)]
        inside = tuple(slice(*span) for span in spans)
        place = tuple(slice(low - f, high - f) for (low, high), f in zip(spans, first, strict=True))
        label = torch.zeros(shape, dtype=torch.uint8)
        label[place] = torch.from_numpy(np.array(stored[inside]))
        values = torch.from_numpy(case.image()[:, *inside].astype(np.float32))
        image = torch.full((len(values), *shape), self.fill)
        image[:, *place] = values
        if self.augment is not None:
            image, label = self.augment(image, label, *unit_key(key.epoch, key.position), fill=self.fill)
        return TrainingUnit(
            image=image,
            label=label.long(),
            spacing=case.spacing,
            case_id=entry.id,
            patient=entry.patient,
            slice_index=spans[0][0],
        )

    def _first(self, key: SliceKey, label: np.ndarray) -> list[int]:
        """(3,) the unit's first voxel in the case, negative where the unit is larger than the volume."""
        rng = np.random.default_rng((self.seed, *place_key(key.epoch, key.position)))
        room = [full - n for full, n in zip(label.shape, self.shapes[key.case], strict=True)]
        if key.class_id or not self.moved_inside:
            plane = label[key.slice]
            voxels = np.argwhere(plane == key.class_id) if key.class_id else np.argwhere(np.ones_like(plane))
            y, x = voxels[rng.integers(len(voxels))]
            wanted = [int(c) - n // 2 for c, n in zip((key.slice, y, x), self.shapes[key.case], strict=True)]
        else:
            depth = key.slice - self.shapes[key.case][0] // 2
            wanted = [depth, *(rng.integers(max(r, 0) + 1) for r in room[1:])]
        if not self.moved_inside:
            return wanted
        return [int(min(max(w, 0), r)) if r >= 0 else -(-r // 2) for w, r in zip(wanted, room, strict=True)]


class CaseView(Dataset):
    """Whole cases: from the store (`cases`) and the feature cache (`cached`), or decoded from their files (`index`)."""

    def __init__(
        self,
        entries: Sequence[CaseEntry],
        cases: Sequence[StoredCase] | None = None,
        index: DatasetIndex | None = None,
        settings: DecodeSettings | None = None,
        cached: Sequence[CachedCase] | None = None,
    ) -> None:
        self.entries, self.cases, self.index, self.settings, self.cached = entries, cases, index, settings, cached

    def __len__(self) -> int:
        return len(self.entries)

    @noted
    def __getitem__(self, position: int) -> Case:
        """Raises DataError: a case decoded on the fly is broken, or cached features were tampered with."""
        entry = self.entries[position]
        if self.cases is not None:
            stored = self.cases[position]
            image, label = stored.image().astype(np.float32), stored.label()
            spacing, affine = stored.spacing, stored.affine
        else:
            decoded = decode(entry, self.index, self.settings)
            if decoded.doubt:
                warnings.warn(f"{entry.images[0]}: {decoded.doubt}", stacklevel=2)
            image, label, spacing, affine = decoded.image, decoded.label, decoded.spacing, decoded.affine
        return Case(
            id=entry.id,
            patient=entry.patient,
            image=torch.from_numpy(np.ascontiguousarray(image)),
            label=None if label is None else torch.from_numpy(np.array(label)),
            spacing=spacing,
            affine=affine,
            source=str(entry.images[0]),
            features=None if self.cached is None else self.cached[position].volumes(),
        )


def collate(units: Sequence[TrainingUnit]) -> Batch:
    """Stack units, padded at the far end to the largest: image with 0, label with 255. Features are stacked."""
    sizes = torch.tensor([u.label.shape for u in units])
    largest = sizes.amax(0).tolist()

    def pad(tensor: Tensor, value: float) -> Tensor:
        missing = [n - of for n, of in zip(largest, tensor.shape[-len(largest) :], strict=True)]
        return F.pad(tensor, [p for n in reversed(missing) for p in (0, n)], value=value)

    cached = units[0].features is not None
    return Batch(
        image=None if cached else torch.stack([pad(u.image, 0) for u in units]),
        label=torch.stack([pad(u.label, IGNORE) for u in units]),
        size=sizes,
        spacing=torch.tensor([u.spacing for u in units], dtype=torch.float32),
        case_id=tuple(u.case_id for u in units),
        patient=tuple(u.patient for u in units),
        slice_index=torch.tensor([u.slice_index for u in units]),
        features=tuple(map(torch.stack, zip(*(u.features for u in units), strict=True))) if cached else None,
    )


def only(items: Sequence[Case]) -> Case:
    """A batch of one, as it is."""
    return items[0]
