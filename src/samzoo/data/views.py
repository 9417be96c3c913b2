"""What the data loaders read from: slices and whole cases as torch tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from samzoo.data.augment import Augment, unit_key
from samzoo.data.decode import DecodeSettings, decode
from samzoo.data.features import CachedCase
from samzoo.data.index import CaseEntry, DatasetIndex
from samzoo.data.sampling import SliceKey
from samzoo.data.store import StoredCase
from samzoo.types import IGNORE, Batch, Case


@dataclass(frozen=True)
class SliceUnit:
    """One training slice: image float32 (C, H, W) or its cached features, label int64 (H, W), spacing (H, W) mm."""

    image: Tensor | None
    label: Tensor
    spacing: tuple[float, float]
    case_id: str
    patient: str
    slice_index: int
    features: tuple[Tensor, ...] | None = None


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

    def __getitem__(self, key: SliceKey) -> SliceUnit:
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
        return SliceUnit(
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

    def __getitem__(self, position: int) -> Case:
        """Raises DataError: a case decoded on the fly is broken, or cached features were tampered with."""
        entry = self.entries[position]
        if self.cases is not None:
            stored = self.cases[position]
            image, label = stored.image().astype(np.float32), stored.label()
            spacing, affine = stored.spacing, stored.affine
        else:
            decoded = decode(entry, self.index, self.settings)
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


def collate(units: Sequence[SliceUnit]) -> Batch:
    """Stack slices, padded at the far end to the largest: image with 0, label with 255. Features are stacked."""
    sizes = torch.tensor([u.label.shape for u in units])
    height, width = sizes.amax(0).tolist()

    def pad(tensor: Tensor, value: float) -> Tensor:
        return F.pad(tensor, (0, width - tensor.shape[-1], 0, height - tensor.shape[-2]), value=value)

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
