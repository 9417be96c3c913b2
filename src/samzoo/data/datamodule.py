"""The one data module: any data set of a known layout, described by plain arguments (a YAML in configs/datasets)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from samzoo import whereabouts
from samzoo.data import archives
from samzoo.data.augment import Augment, AugmentSettings
from samzoo.data.decode import DecodeSettings, Intensity, choose_channels
from samzoo.data.features import FeatureCache, FeatureCacheSettings
from samzoo.data.found import find_intensity
from samzoo.data.index import CaseEntry, DatasetIndex, ReadSettings, Split, check_range
from samzoo.data.phantom import PhantomSettings, ensure_phantom
from samzoo.data.readers import Layout, read_index
from samzoo.data.readers.unlabelled import read_unlabelled
from samzoo.data.sampling import CaseSampler, SliceSampler
from samzoo.data.splits import NO_TRAINING, assign_splits, limit_cases, look_alike
from samzoo.data.store import Store, digest, source_signature
from samzoo.data.units import trains_on_slices
from samzoo.data.views import CaseView, SlabView, SliceView, collate, only
from samzoo.data.volume_augment import VolumeAugment, VolumeAugmentSettings
from samzoo.errors import ConfigError, DataError
from samzoo.paths import find_root
from samzoo.reading import some


class SamzooDataModule(LightningDataModule):
    """Cases of one data set: slices, slabs or crops for training, and whole cases for validation, test and prediction.

    Args:
        root: Folder of the data set; relative to the working folder, or to $SAMZOO_DATA. Not needed for the phantom.
        layout: How its files are laid out: auto, nnunet, msd, folder, sam_med2d, polyps, isic, acdc, synapse, kits,
            lits, brats, phantom (the embedded data set), or run (a run's folder, for prediction without its data set).
        name: Name in records and of the store; default is what the data set calls itself.
        source: Where to get the data set and under which licence; shown if the root is missing.
        channels: Names or numbers of the channels to use, in this order; default all.
        intensity: How file values become [0, 1]: window (low, high), percentile (low, high), range (of 8- or 16-bit
            pictures), or auto, which finds one of them for each channel.
        classes: Class name to label value(s), to name an indexed mask's values, to select or to merge classes; the
            names background and ignore are special. Values left out become background. Default is the data set's own
            table.
        slice_axis: File axis (0, 1, 2) whose slices 2D methods see; default the last.
        canonical: Turn volumes so that W, H, D are x, y, z (to the right, to the front, upwards), whatever order and
            direction of axes in the file; the closest ones, where it lies oblique. slice_axis then counts x, y, z.
            SAM-Med3D and M-SAM expect it. Prompts are in voxels of the turned volume; predictions are turned back.
        pictures: Convert pictures to grey or rgb; auto takes the first picture's channels for all.
        pixel_mm: Size of a picture's pixel in mm; with the default 1, distances of pictures are in pixels.
        max_side: Pictures with a longer side are reduced to it on decoding, which makes store and training smaller;
            scores then refer to the reduced picture, distances still to pixels of the original. Default: as they are.
        mask_suffix: What a mask's name has after its picture's stem (folder layout), for example _segmentation.
        mask_threshold: Mask values above it are foreground, for masks of one class with noise, as JPEG and
            interpolation make it (folder, polyps and isic layouts); mostly 127. Default: values must be exact.
        class_pattern: Regular expression whose group is the class in a mask's name (sam_med2d layout).
        patient_pattern: Regular expression whose group is the patient in a case id; default is one patient per case.
        include: Regular expression that whole case ids must match to be used; default all.
        fold: Which fold of a splits_final.json, or of `folds`.
        folds: Validate on one of so many folds of the training patients instead of val_fraction of them: nnU-Net's
            default split, shuffled K-fold over the sorted names with seed 12345. Default none.
        splits_file: JSON with a split of your own: {train: [ids], val: [ids], test: [ids]}, ids of cases or patients,
            or a list of folds; in the working folder, the data set's, or by its name among the configs' splits.
        validation_as: What the data set's own validation list is used for (msd and isic layouts): val or test.
        val_fraction: Share of the training patients drawn for validation, if the data set has no validation set.
        test_fraction: Share of the training patients drawn for test, if the data set has no labelled test set.
        max_cases: At most this many cases of each split.
        batch_size: Training units per step and process; auto lets `samzoo fit` find how many fit into memory.
        num_workers: Processes that load data.
        units_per_epoch: Training units per epoch over all processes; default the number of training slices, or of slabs
            that cover them.
        foreground_fraction: Share of training units for which a class is drawn first, then a slice that holds it (and
            a voxel of it as the centre of a slab or crop).
        seed: Of the split and of the data order.
        store_dtype: Number format of images in the store.
        predict_root: Folder or file with images to predict; default the data set's own unlabelled images.
        phantom: Size and seed of the embedded data set.
        augment: Augmentation of training slices, {} for its defaults; default none. Drawn anew for each training unit.
        volume_augment: Augmentation of training slabs and crops, for methods in 3D, {} for nnU-Net's defaults; default
            none. Drawn anew for each training unit.
        features: Train and validate from cached features of a frozen encoder, {} for its defaults; default off. The
            cache is made before the first epoch and kept in $SAMZOO_HOME/features.

    Raises:
        DataError: the root is missing or can't be read as its layout. ConfigError: a setting that doesn't fit.
    """

    def __init__(
        self,
        root: str | None = None,
        layout: Layout = "auto",
        name: str | None = None,
        source: str | None = None,
        channels: list[str | int] | None = None,
        intensity: Intensity = Intensity(),  # noqa: B008 frozen
        classes: dict[str, int | list[int]] | None = None,
        slice_axis: int = 2,
        canonical: bool = False,
        pictures: Literal["auto", "grey", "rgb"] = "auto",
        pixel_mm: float = 1.0,
        max_side: int | None = None,
        mask_suffix: str = "",
        mask_threshold: int | None = None,
        class_pattern: str | None = None,
        patient_pattern: str | None = None,
        include: str | None = None,
        fold: int = 0,
        folds: int | None = None,
        splits_file: str | None = None,
        validation_as: Literal["val", "test"] = "val",
        val_fraction: float = 0.15,
        test_fraction: float = 0.2,
        max_cases: int | None = None,
        batch_size: int | Literal["auto"] = 8,
        num_workers: int = 0,
        units_per_epoch: int | None = None,
        foreground_fraction: float = 0.8,
        seed: int = 0,
        store_dtype: Literal["float16", "float32"] = "float16",
        predict_root: str | list[str] | None = None,
        phantom: PhantomSettings = PhantomSettings(),  # noqa: B008 frozen
        augment: AugmentSettings | None = None,
        volume_augment: VolumeAugmentSettings | None = None,
        features: FeatureCacheSettings | None = None,
    ) -> None:
        super().__init__()
        if batch_size != "auto":
            check_range("batch_size", batch_size, 1)
        check_range("num_workers", num_workers, 0)
        check_range("foreground_fraction", foreground_fraction, 0, 1)
        check_range("pixel_mm", pixel_mm, 1e-9)
        for key, value in (("max_cases", max_cases), ("units_per_epoch", units_per_epoch), ("max_side", max_side)):
            if value is not None:
                check_range(key, value, 1)
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.units_per_epoch, self.foreground_fraction = units_per_epoch, foreground_fraction
        self.predict_root = predict_root
        self._classes_given = classes is not None
        self.augment = None if augment is None else Augment(augment, seed)
        self.volume_augment = None if volume_augment is None else VolumeAugment(volume_augment, seed)
        self.features = features
        if features is not None:
            features.check(augment)

        if layout == "phantom":
            folder, layout = ensure_phantom(phantom), "nnunet"
        else:
            folder = find_root(root, source, archives.command(root))
        settings = ReadSettings(
            layout=layout,
            name=name,
            classes=classes,
            patient_pattern=patient_pattern,
            include=include,
            fold=fold,
            splits_file=splits_file,
            validation_as=validation_as,
            pictures=pictures,
            mask_suffix=mask_suffix,
            mask_threshold=mask_threshold,
            class_pattern=class_pattern,
        )
        index = assign_splits(read_index(folder, settings), val_fraction, test_fraction, seed, folds, fold)
        self.index: DatasetIndex = limit_cases(index, max_cases, seed)
        for note in (*self.index.notes, *filter(None, [look_alike(self.index)])):
            warnings.warn(f"{self.index.root}: {note}", stacklevel=2)
        decoding = DecodeSettings(
            intensity=intensity,
            channels=choose_channels(self.index.channels, channels),
            slice_axis=slice_axis,
            pictures=pictures,
            pixel_mm=pixel_mm,
            max_side=max_side,
            canonical=canonical,
        )
        self.found = find_intensity(self.index, decoding, progress=self._rank_and_ranks()[0] == 0)
        self.decoding = replace(decoding, intensity=self.found.intensity)
        self.store = Store(self.index, self.decoding, store_dtype)

    # --- what others ask of a data set; no case is decoded for it ---------------------------------------------------

    @property
    def dataset_name(self) -> str:
        return self.index.name

    @property
    def layout(self) -> str:
        """As given, or as recognised."""
        return self.index.layout

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names; class id k is class_names[k - 1]."""
        return self.index.table.names

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def num_channels(self) -> int:
        return len(self.decoding.channels)

    @property
    def source_values(self) -> tuple[int, ...]:
        """(K + 1,) label value of the data set's files for each class id, background first."""
        return self.index.table.source_values

    @property
    def slice_axis(self) -> int:
        """File axis that is D of a case; see `samzoo.data.restore`."""
        return self.decoding.slice_axis

    @property
    def file_zero(self) -> float:
        """Where the files' value 0 (of CT, water) lies on the scale [0, 1] of images; see `Intensity.zero`."""
        return self.decoding.intensity.zero

    @property
    def found_settings(self) -> dict[str, Any]:
        """Arguments of the data module that were found in the files, as plain values."""
        settings = {"intensity": asdict(self.decoding.intensity)} if self.found.reasons else {}
        if self.layout == "folder" and not self._classes_given and self.index.table.names[0].startswith("class_"):
            settings["classes"] = {name: list(values) for name, values in self.index.table.values.items()}
        return settings

    @property
    def signature(self) -> str:
        """Hash of data, decoding settings and splits: equal signatures mean equal cases.

        Raises:
            DataError: a file of the data set is missing.
        """
        cases = [(e.id, e.split, source_signature(e)) for e in self.index.entries if e.split != "predict"]
        return digest([self.store.signature, cases])

    @property
    def test_signature(self) -> str:
        """`Store.truth_signature` of the test cases, which must have been decoded."""
        return self.store.truth_signature(self.entries("test"))

    def entries(self, split: Split) -> tuple[CaseEntry, ...]:
        return self.index.of(split)

    # --- Lightning ----------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Decode what the stage needs, in one process per machine."""
        trainer = self.trainer
        stage = str(getattr(trainer.state.fn, "value", trainer.state.fn)) if trainer is not None else "fit"
        self.setup(stage)

    def setup(self, stage: str) -> None:
        """Fill the store for a stage (fit, validate, test, predict); nothing happens if it is filled."""
        if stage == "fit" and self._method is not None:
            self._trains_on_slices()  # what is wrong is said before anything is decoded
        splits: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
        self.build_store(splits.get(stage, ()))

    def build_store(self, splits: Sequence[Split] = ("train", "val", "test")) -> None:
        """Decode the cases of these splits that the store lacks.

        Raises:
            DataError: a broken case, or no space.
        """
        entries = [e for split in splits for e in self.entries(split)]
        self.store.build(entries, progress=self._rank_and_ranks()[0] == 0)

    def train_dataloader(self) -> DataLoader:
        """Batches (`types.Batch`) of training units. What the feature cache lacks is made first.

        Raises:
            DataError: no training case, or one without a label. ConfigError: settings for another kind of unit.
        """
        if self.batch_size == "auto":
            raise ConfigError("data.batch_size auto is found by `samzoo fit`; set a number before training otherwise")
        slices = self._trains_on_slices()
        entries = self.needed("train")
        cases = [self.store.open(e) for e in entries]
        if unlabelled := [e.id for e, c in zip(entries, cases, strict=True) if not c.labelled]:
            raise DataError(f"training case {unlabelled[0]!r} has no label")
        rank, ranks = self._rank_and_ranks()
        views = self.features.views if self.features is not None else None
        shapes = [] if slices else [self._method.unit_shape(c.spacing) for c in cases]
        units = self.units_per_epoch
        if units is None and shapes:
            units = sum(math.ceil(c.shape[0] / depth) for c, (depth, *_) in zip(cases, shapes, strict=True))
        counts = [c.counts() for c in cases]
        present = np.sum([c.sum(0) for c in counts], axis=0) > 0
        if absent := [name for name, there in zip(self.class_names, present, strict=True) if not there]:
            warnings.warn(
                f"{self.index.root}: {len(absent)} of {self.num_classes} classes are in no training case, so that "
                f"nothing is learned of them: {some(absent, 8)}",
                stacklevel=2,
            )
        sampler = SliceSampler(counts, units, self.foreground_fraction, self.seed, rank, ranks, views)
        if len(sampler) == 0:
            raise ConfigError(f"data.units_per_epoch {sampler.units} is less than the number of processes ({ranks})")
        cached = None
        if self.features is not None:
            validates = self.trainer is not None and self.trainer.limit_val_batches > 0
            cache = self._feature_cache(entries, self.entries("val") if validates else ())
            cached = [cache.open(e) for e in entries]
        view = SliceView(entries, cases, self.augment, cached)
        if not slices:
            slabs = self._method.spec.unit == "slab"
            view = SlabView(entries, cases, shapes, self.seed, self.volume_augment, self._method.fill, slabs)
        return self._loader(view, sampler, self.batch_size, collate, torch.cuda.is_available())

    def val_dataloader(self) -> DataLoader | list:
        """Whole cases (`types.Case`), one at a time. An empty list if the data set has no validation case."""
        return self._cases("val", self.features is not None) if self.entries("val") else []

    def test_dataloader(self) -> DataLoader:
        """Whole cases, one at a time. Raises DataError: there is no test case."""
        return self._cases("test")

    def predict_dataloader(self, done: Container[str] = ()) -> DataLoader:
        """Whole cases without label, one at a time, decoded on the fly.

        Args:
            done: ids of cases to leave out.

        Raises:
            DataError: nothing to predict.
        """
        if self.predict_root is not None:
            given = [self.predict_root] if isinstance(self.predict_root, str) else self.predict_root
            index = read_unlabelled([Path(p).expanduser() for p in given], self.index)
        else:
            index = replace(self.index, entries=self.entries("predict"))
        if not index.entries:
            raise DataError(
                f"data set {self.dataset_name} has no unlabelled images; name some with --images PATH, a folder "
                "or an image (data.predict_root)"
            )
        rank, ranks = self._rank_and_ranks()
        view = CaseView([e for e in index.entries if e.id not in done], index=index, settings=self.decoding)
        return self._loader(view, CaseSampler(len(view), rank, ranks), 1, only)

    def _cases(self, split: Split, with_features: bool = False) -> DataLoader:
        entries = self.needed(split)
        rank, ranks = self._rank_and_ranks()
        if ranks > len(entries):
            raise ConfigError(f"{len(entries)} {split} cases can't be shared by {ranks} processes; start fewer")
        cached = None
        if with_features:
            cache = self._feature_cache((), entries)
            cached = [cache.open(e) for e in entries]
        view = CaseView(entries, cases=[self.store.open(e) for e in entries], cached=cached)
        return self._loader(view, CaseSampler(len(view), rank, ranks), 1, only)

    @property
    def _method(self) -> Any:
        return None if self.trainer is None else self.trainer.lightning_module

    def _trains_on_slices(self) -> bool:
        """Raises ConfigError: settings for another kind of training unit."""
        return trains_on_slices(self._method, self.augment, self.volume_augment, self.features)

    def _feature_cache(self, train: Sequence[CaseEntry], val: Sequence[CaseEntry]) -> FeatureCache:
        """With all that these cases need; every process calls it."""
        if self._method is None:
            raise ConfigError("data.features are what a method makes of the data: they need a trainer and its method")
        trainer, method = self.trainer, self._method
        cache = FeatureCache(self.store, self.features, method, self.augment, str(trainer.precision))
        rank, ranks = self._rank_and_ranks()
        precision, barrier = trainer.precision_plugin.forward_context, trainer.strategy.barrier
        cache.build(method, train, val, precision, rank, ranks, barrier, progress=rank == 0)
        return cache

    def needed(self, split: Split) -> tuple[CaseEntry, ...]:
        """Raises DataError: no case of this split; says what to do."""
        entries = self.entries(split)
        if not entries:
            counts = ", ".join(f"{s} {len(self.entries(s))}" for s in ("train", "val", "test"))
            remedy = NO_TRAINING if split == "train" else "change data.val_fraction or data.test_fraction, or add cases"
            raise DataError(f"data set {self.dataset_name} has no {split} case ({counts}): {remedy}")
        return entries

    def _loader(
        self, view: Any, sampler: Any, batch_size: int, collate_fn: Callable[[Sequence], Any], pin: bool = False
    ) -> DataLoader:
        return DataLoader(
            view,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            worker_init_fn=whereabouts.Loader(),
            collate_fn=collate_fn,
            pin_memory=pin,
            persistent_workers=self.num_workers > 0,
        )

    def _rank_and_ranks(self) -> tuple[int, int]:
        if self.trainer is not None:
            return self.trainer.global_rank, self.trainer.world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1
