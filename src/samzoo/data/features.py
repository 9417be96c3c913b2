"""The feature cache: what a wholly frozen encoder says of every slice, computed once.

It lies in `$SAMZOO_HOME/features`, a folder per data set, method, weights and number format; in it a folder per case,
whose name holds a signature of the case's source files; in it a folder per view: `view_0` is the plain slice,
`view_<v>-<signature>` an augmented one with its label. A view's folder appears by a rename, so it is whole or absent: a
build that was stopped goes on where it ended, and more views later cost only those. Nothing is removed but the views of
source files that have changed: delete a folder that is no longer needed, it is built again on demand.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from samzoo.data.augment import Augment, view_key
from samzoo.data.index import CaseEntry
from samzoo.data.store import Store, StoredCase, digest, slug
from samzoo.errors import ConfigError, DataError
from samzoo.locks import locked
from samzoo.paths import OTHER_HOME, samzoo_home
from samzoo.writing import discard, disk_errors, sweep, whole_folder

FORMAT = 1
"""Raise it when the arrays change their meaning."""

CHUNK = 8
"""Slices to a call of the encoder."""


@dataclass(frozen=True)
class FeatureCacheSettings:
    """Training from cached features; for methods whose encoder is frozen.

    Args:
        views: Augmented views of each training slice beside the plain one, drawn once by data.augment; each training
            unit takes one of them.
        limit_gb: A larger cache is refused before it is begun.
        dtype: Number format; float16 halves the size and rounds.
    """

    views: int = 0
    limit_gb: float = 50.0
    dtype: Literal["float32", "float16"] = "float32"

    def check(self, augment: object | None) -> None:
        """Raises ConfigError: out of range, views without augmentation, or augmentation that would never be used."""
        if self.views < 0 or self.limit_gb <= 0:
            raise ConfigError(f"data.features: needs views >= 0 and limit_gb > 0, got {self}")
        if self.views and augment is None:
            raise ConfigError("data.features.views needs data.augment, which makes the views; set it to {}")
        if augment is not None and not self.views:
            raise ConfigError(
                "training from cached features sees data.augment in cached views only: set data.features.views to 1 or "
                "more, or data.augment to null"
            )


class FeatureSource(Protocol):
    """What the cache asks of a method, see `samzoo.methods.base.Method`."""

    spec: Any
    device: torch.device

    def features_signature(self) -> str | None: ...

    def prepare(self, image: Tensor, size: Tensor, spacing: Tensor) -> tuple[Tensor, Any]: ...

    def features(self, x: Tensor) -> tuple[Tensor, ...]: ...


class FeatureCache:
    """Features of one data set under one method.

    Args:
        store: its cases.
        settings: views, limit and number format.
        method: only asked for its name and signature.
        augment: makes the views; None if there are none.
        precision: under which the features are computed, the trainer's name for it.
        home: folder of caches; default `$SAMZOO_HOME/features`.

    Raises:
        ConfigError: the method trains its encoder, or views and augmentation contradict each other.
    """

    def __init__(
        self,
        store: Store,
        settings: FeatureCacheSettings,
        method: FeatureSource,
        augment: Augment | None = None,
        precision: str = "32-true",
        home: Path | None = None,
    ) -> None:
        signature = method.features_signature()
        if signature is None:
            raise ConfigError(
                f"{method.spec.name} trains its encoder, so that nothing of it can be cached; set data.features to null"
            )
        settings.check(augment)
        self.store, self.settings, self.augment = store, settings, augment
        self.method_name = method.spec.name
        content = {
            "format": FORMAT,
            "store": store.signature,
            "method": signature,
            "precision": precision,
            "dtype": settings.dtype,
        }
        self.folder = (home or samzoo_home() / "features") / f"{slug(store.index.name)}-{digest(content)}"

    def open(self, entry: CaseEntry) -> CachedCase:
        """One case; nothing is read before it is asked for."""
        return CachedCase(entry.id, [self._view_folder(entry, view) for view in range(self.settings.views + 1)])

    def _case_folder(self, entry: CaseEntry) -> Path:
        return self.folder / self.store.case_folder(entry).name

    def _view_folder(self, entry: CaseEntry, view: int) -> Path:
        return self._case_folder(entry) / (f"view_{view}-{self.augment.signature}" if view else "view_0")

    def build(
        self,
        method: FeatureSource,
        train: Sequence[CaseEntry],
        val: Sequence[CaseEntry] = (),
        precision: Callable[[], AbstractContextManager] = nullcontext,
        rank: int = 0,
        ranks: int = 1,
        barrier: Callable[[], Any] = lambda: None,
        progress: bool = True,
    ) -> None:
        """Compute what is not there yet. Several runs may call it at once: a case is built by one of them.

        Args:
            method: on its device.
            train: cases with all views.
            val: cases of which the plain view will do.
            precision: a context for the encoder, the trainer's.
            rank, ranks: this process takes cases rank, rank + ranks, ...
            barrier: waits for all ranks.
            progress: whether to show the estimate and a progress bar.

        Raises:
            ConfigError: more than `limit_gb`.
            DataError: no space, no permission, or a feature that the number format can't hold. What was built before
                stays valid.
        """
        wanted = [(e, range(self.settings.views + 1)) for e in train] + [(e, range(1)) for e in val]
        missing = {e.id: [v for v in views if not self._view_folder(e, v).is_dir()] for e, views in wanted}
        if any(missing.values()):
            self._check_size(method, wanted, missing, precision, progress)
        barrier()  # no rank counts what is missing while another one builds
        own = [(e, missing[e.id]) for e, _ in wanted[rank::ranks] if missing[e.id]]
        units = sum(self.store.open(e).shape[0] * len(views) for e, views in own)
        with tqdm(total=units, desc="encoding", unit="slice", disable=not progress or not units) as bar:
            for entry, views in own:
                self._build_case(method, entry, views, precision, bar)
        barrier()

    def _check_size(
        self,
        method: FeatureSource,
        wanted: Sequence[tuple[CaseEntry, Sequence[int]]],
        missing: dict[str, list[int]],
        precision: Callable[[], AbstractContextManager],
        progress: bool,
    ) -> None:
        """By the features of one slice."""
        entry = next(e for e, _ in wanted if missing[e.id])
        with precision():
            sample = self._features(method, entry, self.store.open(entry), range(1), 0)[0]
        per_slice = sum(a.nbytes for a in sample)
        slices = total = needed = 0
        for entry, views in wanted:
            depth, height, width = self.store.open(entry).shape
            sizes = {v: depth * (per_slice + (height * width if v else 0)) for v in views}
            slices += depth * len(views)
            total += sum(sizes.values())
            needed += sum(sizes[v] for v in missing[entry.id])
        what = f"{slices} slices and views of {per_slice / 1e6:.3g} MB: {total / 1e9:.3g} GB"
        less = "set fewer data.features.views, data.features.dtype=float16 or a smaller image_size of the model"
        if total > self.settings.limit_gb * 1e9:
            raise ConfigError(
                f"the feature cache would hold {what}, more than data.features.limit_gb ({self.settings.limit_gb:g}); "
                f"{less}, or raise the limit"
            )
        existing = next(p for p in (self.folder, *self.folder.parents) if p.is_dir())
        free = shutil.disk_usage(existing).free
        if needed > free:
            raise DataError(
                f"the feature cache needs {needed / 1e9:.3g} GB more in {self.folder}, where {free / 1e9:.3g} GB are "
                f"free; free some, {less}, or {OTHER_HOME}"
            )
        if progress:
            print(
                f"feature cache of {self.store.index.name} for {self.method_name}: {what}, of which "
                f"{needed / 1e9:.3g} GB are still to be made, in {self.folder}",
                flush=True,
            )

    def _build_case(
        self,
        method: FeatureSource,
        entry: CaseEntry,
        views: Sequence[int],
        precision: Callable[[], AbstractContextManager],
        bar: tqdm,
    ) -> None:
        folder = self._case_folder(entry)
        case = self.store.open(entry)
        with disk_errors(self.folder, OTHER_HOME), locked(folder / "lock"), precision():
            sweep(folder, live_seconds=0)
            for view in views:
                if self._view_folder(entry, view).is_dir():  # another run was quicker
                    bar.update(case.shape[0])
                else:
                    self._build_view(method, entry, case, view, bar)
        for old in self.folder.glob(f"{folder.name.rpartition('-')[0]}-*"):
            if old != folder:
                discard(old)

    def _build_view(self, method: FeatureSource, entry: CaseEntry, case: StoredCase, view: int, bar: tqdm) -> None:
        depth = case.shape[0]
        with whole_folder(self._view_folder(entry, view)) as building, ExitStack() as files:
            writers: dict[str, IO[bytes]] = {}
            for start in range(0, depth, CHUNK):
                slices = range(start, min(depth, start + CHUNK))
                features, label = self._features(method, entry, case, slices, view)
                arrays = {f"feature_{i:02d}": a for i, a in enumerate(features)}
                for name, array in (arrays | ({"label": label} if view else {})).items():
                    if name not in writers:
                        writers[name] = files.enter_context(open(building / f"{name}.npy", "wb"))
                        _write_header(writers[name], array.dtype, (depth, *array.shape[1:]))
                    writers[name].write(memoryview(array).cast("B"))
                bar.update(len(slices))

    @torch.no_grad()
    def _features(
        self, method: FeatureSource, entry: CaseEntry, case: StoredCase, slices: range, view: int
    ) -> tuple[list[np.ndarray], np.ndarray | None]:
        """Features of some slices, arrays (B, ...), and in an augmented view their labels, uint8 (B, H, W)."""
        rows = slice(slices.start, slices.stop)
        images = torch.from_numpy(case.image()[:, rows].astype(np.float32)).transpose(0, 1)
        label = None
        if view:
            labels = torch.from_numpy(np.array(case.label()[rows]))
            pairs = [
                self.augment(image, of_slice, *view_key(entry.id, z, view))
                for z, image, of_slice in zip(slices, images, labels, strict=True)
            ]
            images, label = (torch.stack(column) for column in zip(*pairs, strict=True))
            label = label.numpy()
        device, count = method.device, len(images)
        size = torch.tensor([images.shape[2:]] * count, device=device)
        spacing = torch.tensor([case.spacing[1:]] * count, device=device)
        x, _ = method.prepare(images.to(device), size, spacing)
        arrays = []
        for number, tensor in enumerate(method.features(x)):
            tensor = tensor.to(getattr(torch, self.settings.dtype))
            if not torch.isfinite(tensor).all():
                remedy = "; set data.features.dtype=float32" if self.settings.dtype == "float16" else ""
                raise DataError(
                    f"case {entry.id!r}, slices {slices[0]} to {slices[-1]}: tensor {number} of the features of "
                    f"{self.method_name} holds values that {self.settings.dtype} can't hold{remedy}"
                )
            arrays.append(np.ascontiguousarray(tensor.cpu().numpy()))
        return arrays, label


def _write_header(file: IO[bytes], dtype: np.dtype, shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


class CachedCase:
    """Cached features of one case. Files are opened on access and not held, their headers are read once.

    Args:
        case_id: its id.
        views: the folder of each view, the plain one first.
    """

    def __init__(self, case_id: str, views: Sequence[Path]) -> None:
        self.case_id, self._views = case_id, views
        self._arrays: dict[int, dict[str, _Array]] = {}

    def features(self, view: int, slice_index: int) -> tuple[Tensor, ...]:
        """Of one slice, in the stored number format. Raises DataError: the cache was tampered with."""
        arrays = self._of_view(view)
        return tuple(arrays[name].read(slice_index) for name in sorted(arrays) if name != "label")

    def label(self, view: int, slice_index: int) -> Tensor:
        """uint8 (H, W), of an augmented view. Raises DataError: as above."""
        return self._of_view(view)["label"].read(slice_index)

    def volumes(self) -> tuple[np.ndarray, ...]:
        """Of all slices of the plain view: arrays (D, ...), memory-mapped, read-only. Raises DataError: as above."""
        arrays = self._of_view(0)
        return tuple(open_volume(arrays[name].path) for name in sorted(arrays))

    def _of_view(self, view: int) -> dict[str, _Array]:
        if view not in self._arrays:
            folder = self._views[view]
            try:
                found = {path.stem: _Array.of(path) for path in folder.glob("*.npy")}
            except (OSError, ValueError) as error:
                raise _damaged(folder, error) from None
            if "feature_00" not in found:
                raise _damaged(folder, "no features in it")
            self._arrays[view] = found
        return self._arrays[view]


@dataclass(frozen=True)
class _Array:
    """A .npy file of (D, *shape) whose header is known."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, path: Path) -> _Array:
        mapped = np.load(path, mmap_mode="r")
        return cls(path, mapped.dtype, mapped.shape[1:], mapped.offset)

    def read(self, index: int) -> Tensor:
        """One of the D, as a tensor of its own."""
        count = math.prod(self.shape)
        start = self.offset + index * count * self.dtype.itemsize
        try:
            values = np.fromfile(self.path, self.dtype, count, offset=start)
            return torch.from_numpy(values.reshape(self.shape))
        except (OSError, ValueError) as error:
            raise _damaged(self.path.parent, error) from None


def _damaged(folder: Path, reason: object) -> DataError:
    return DataError(f"{folder}: cached features can't be read ({reason}); delete this folder, it is built again")


class _Volume(np.memmap):
    """Goes from a data loader's worker to the main process as a file name."""

    path: Path | None = None
    """None in its slices."""

    def __reduce__(self) -> Any:
        return (open_volume, (self.path,)) if self.path else super().__reduce__()


def open_volume(path: Path) -> np.ndarray:
    """A .npy file, memory-mapped, read-only."""
    volume = np.load(path, mmap_mode="r").view(_Volume)
    volume.path = path
    return volume
