"""Slabs: cut where they say, of the size that a method asks for, whatever the volume, and always the same."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from data_sets import save_nifti, write_pictures
from lightning.pytorch import LightningModule, Trainer

from samzoo.data import SamzooDataModule
from samzoo.data.augment import AugmentSettings
from samzoo.data.features import FeatureCacheSettings
from samzoo.data.sampling import SliceKey, SliceSampler
from samzoo.data.views import SlabView, collate
from samzoo.data.volume_augment import VolumeAugment, VolumeAugmentSettings
from samzoo.errors import ConfigError, DataError
from samzoo.methods.slab import SlabMethod
from samzoo.types import IGNORE, Batch, MethodSpec

SHAPES = [(12, 20, 16), (3, 20, 16), (1, 9, 40), (8, 6, 7)]
"""(D, H, W) of the cases: deeper than a slab, thinner, a picture, and small in the plane."""
SLAB = (5, 8, 10)


class Slabs(SlabMethod):
    """Notes which units it was given; its weight follows what is in them."""

    spec = MethodSpec("Slabs", dim=3, unit="slab", prompts=frozenset({"auto"}), multiclass=True, frozen="nothing")

    def __init__(self, **args) -> None:
        super().__init__(**{"patch": SLAB} | args)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches: list[Batch] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.batches.append(batch)
        x, labels = self.patches(batch)
        return (self.weight - x.mean() - labels.float().mean()).square().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def encode(self, x):
        return x

    def decode(self, embedding, prompts, state=None):
        return embedding, {}


class Slices(LightningModule):
    spec = MethodSpec("Slices", dim=2, unit="slice", prompts=frozenset({"box"}), multiclass=False, frozen="nothing")


@pytest.fixture
def volumes(tmp_path):
    """A data set of the shapes above, with a rare class, and one case of another spacing."""
    root, rng = tmp_path / "volumes", np.random.default_rng(0)
    for i, (depth, height, width) in enumerate(SHAPES):
        label = np.zeros((depth, height, width), np.uint8)
        label[:, 2:5, 3:6] = 1
        label[-1, -1, -2] = 2
        image = rng.normal(100, 20, label.shape).astype(np.float32)
        affine = np.diag((0.8, 0.9, 1.5 if i == 3 else 3.0, 1.0))
        save_nifti(root / "imagesTr" / f"case_{i}_0000.nii.gz", image.T, affine)
        save_nifti(root / "labelsTr" / f"case_{i}.nii.gz", label.T, affine)
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1, "tumour": 2}}
    content |= {"numTraining": len(SHAPES), "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def module(root, method=None, **settings) -> SamzooDataModule:
    dm = SamzooDataModule(root=str(root), **{"val_fraction": 0.0, "test_fraction": 0.0} | settings)
    if method is not None:
        dm.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        dm.trainer.strategy.connect(method)
    return dm


@pytest.fixture
def stored(volumes):
    """Entries and stored cases, in the order of `SHAPES`."""
    dm = module(volumes)
    dm.setup("fit")
    entries = sorted(dm.entries("train"), key=lambda e: e.id)
    cases = [dm.store.open(e) for e in entries]
    assert [c.shape for c in cases] == SHAPES
    return entries, cases


def units(stored, number: int = 60, augment=None, seed: int = 3):
    entries, cases = stored
    sampler = SliceSampler([c.counts() for c in cases], number, 0.7, seed)
    view = SlabView(entries, cases, [SLAB] * len(cases), seed, augment)
    return [(key, view[key]) for key in sampler]


def test_content_is_that_of_the_volume(stored):
    """Every slab is found in its volume at the slice that it names; what sticks out is background."""
    _, cases = stored
    places = set()
    for key, unit in units(stored, 120):
        assert unit.image.shape == (1, *SLAB) and unit.label.shape == SLAB and unit.label.dtype == torch.int64
        assert unit.image.dtype == torch.float32 and unit.spacing == cases[key.case].spacing
        image = torch.from_numpy(cases[key.case].image()[0].astype(np.float32))
        label = torch.from_numpy(np.array(cases[key.case].label())).long()
        pad = [max(0, n - of) for n, of in zip(SLAB, image.shape, strict=True)]
        before = [p // 2 for p in pad]
        around = [p for b, n in zip(reversed(before), reversed(pad), strict=True) for p in (b, n - b)]
        image, label = (torch.nn.functional.pad(v, around) for v in (image, label))
        windows = image.unfold(0, SLAB[0], 1).unfold(1, SLAB[1], 1).unfold(2, SLAB[2], 1)
        found = (windows == unit.image[0]).flatten(3).all(-1).nonzero()
        assert len(found) == 1
        z, y, x = found[0].tolist()
        assert unit.slice_index == z, "of a padded volume 0"
        assert torch.equal(label[z : z + SLAB[0], y : y + SLAB[1], x : x + SLAB[2]], unit.label)
        assert z <= key.slice < z + SLAB[0] or pad[0], "the drawn slice is inside"
        places.add((key.case, z, y, x))
    ends = {z for case, z, _, _ in places if case == 0}
    assert min(ends) == 0 and max(ends) == SHAPES[0][0] - SLAB[0], "both ends are seen"
    assert len(places) > 25 and {case for case, *_ in places} == {0, 1, 2, 3}


def test_drawn_class_is_inside_and_its_voxel_the_centre_where_it_fits(stored):
    drawn = [(key, unit) for key, unit in units(stored, 200) if key.class_id]
    assert 0.6 < len(drawn) / 200 < 0.8 and {key.class_id for key, _ in drawn} == {1, 2}
    assert all((unit.label == key.class_id).any() for key, unit in drawn)
    assert all((unit.label[key.slice - unit.slice_index] == key.class_id).any() for key, unit in drawn if not key.case)
    entries, cases = stored
    view = SlabView(entries, cases, [(3, 3, 3)] * 4, 0)
    for position in range(20):
        unit = view[SliceKey(0, position, 0, 6, class_id=1)]
        assert unit.slice_index == 5 and unit.label[1, 1, 1] == 1, "a voxel of the class in the middle"


def test_crops_take_what_the_method_wants_around_a_small_volume(volumes):
    class Crops(Slabs):
        spec = MethodSpec("Crops", dim=3, unit="crop", prompts=frozenset({"click"}), multiclass=False, frozen="nothing")
        fill = 0.5

    method = Crops(patch=(8, 8, 8))
    brighter = VolumeAugmentSettings(**{n: 0.0 for n in asdict(VolumeAugmentSettings()) if n.endswith("_p")})
    brighter = replace(brighter, brightness_p=1.0)
    dm = module(volumes, method, batch_size=4, units_per_epoch=12, foreground_fraction=1.0, volume_augment=brighter)
    dm.setup("fit")
    batches = list(dm.train_dataloader())
    assert all(b.image.shape[2:] == method.unit_shape(b.spacing[0].tolist()) for b in batches)
    thin = [(i, case) for b in batches for i, case in zip(b.image[:, 0], b.case_id, strict=True) if case == "case_2"]
    assert thin and all((image[0] == 0.5).all() and (image[-1] == 0.5).all() for image, _ in thin)


def test_any_place_is_seen_without_a_class(stored):
    entries, cases = stored
    view = SlabView(entries, cases, [(3, 4, 4)] * 4, 0)
    full = torch.from_numpy(cases[0].image()[0].astype(np.float32))
    seen = torch.zeros(full.shape, dtype=torch.bool)
    for position in range(300):
        unit = view[SliceKey(0, position, 0, 6)]
        assert unit.slice_index == 5
        seen |= torch.isin(full, unit.image)
    assert seen[5:8].float().mean() > 0.99


@pytest.mark.parametrize("augment", [None, VolumeAugment(VolumeAugmentSettings(), 1)])
def test_units_are_a_function_of_seed_epoch_and_position(stored, augment):
    entries, cases = stored
    view = SlabView(entries, cases, [SLAB] * 4, 3, augment)
    for key, one in reversed(units(stored, 20, augment)):
        again = view[key]
        assert torch.equal(one.image, again.image) and torch.equal(one.label, again.label)
    images = [SlabView(entries, cases, [SLAB] * 4, seed)[SliceKey(0, 5, 0, 6)].image for seed in range(6)]
    assert len({i.numpy().tobytes() for i in images}) > 3, "the seed moves the place"


def test_collate_pads_units_of_several_sizes(stored):
    entries, cases = stored
    shapes = [(5, 8, 10), (2, 20, 10), (5, 8, 12), (5, 6, 10)]
    view = SlabView(entries, cases, shapes, 0)
    parts = [view[SliceKey(0, i, i, 0)] for i in range(4)]
    batch = collate(parts)
    assert batch.image.shape == (4, 1, 5, 20, 12) and batch.label.shape == (4, 5, 20, 12)
    assert batch.size.tolist() == [list(s) for s in shapes] and batch.spacing.shape == (4, 3)
    for image, label, (d, h, w), part in zip(batch.image, batch.label, batch.size.tolist(), parts, strict=True):
        assert torch.equal(image[:, :d, :h, :w], part.image) and torch.equal(label[:d, :h, :w], part.label)
        label[:d, :h, :w], image[:, :d, :h, :w] = IGNORE, 0
        assert (label == IGNORE).all() and (image == 0).all(), "padding at the far end"


def test_data_module_cuts_what_the_method_asks_for(volumes):
    """Anisotropic spacing: the unit covers one patch at the method's spacing, in voxels of each case."""
    method = Slabs(spacing=(3.0, 0.9, 0.8))
    dm = module(volumes, method, batch_size=16)
    dm.setup("fit")
    loader = dm.train_dataloader()
    assert len(loader.sampler) == 3 + 1 + 1 + 1, "slabs that cover 12, 3, 1 and 8 slices; 10 deep is one of 8"
    sizes = {}
    for epoch in range(4):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            sizes |= dict(zip(batch.case_id, batch.size.tolist(), strict=True))
            x, labels = method.patches(batch)
            assert x.shape == (len(batch), 1, *SLAB) and labels.shape == (len(batch), *SLAB)
            assert labels.max() <= 2, "no padding is left"
    assert sizes["case_3"] == [10, 8, 10] and {tuple(v) for k, v in sizes.items() if k != "case_3"} == {SLAB}


@pytest.mark.parametrize("workers", [0, 2])
def test_training_is_the_same_for_any_number_of_workers(volumes, tmp_path, workers):
    def fit(workers: int) -> Slabs:
        method = Slabs()
        settings = {"batch_size": 2, "units_per_epoch": 6, "volume_augment": VolumeAugmentSettings()}
        trainer = Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            limit_val_batches=0,
        )
        trainer.fit(method, datamodule=module(volumes, num_workers=workers, **settings))
        return method

    one, two = fit(0), fit(workers)
    assert len(one.batches) == 6 and torch.equal(one.weight, two.weight) and one.weight != 0
    for a, b in zip(one.batches, two.batches, strict=True):
        assert torch.equal(a.image, b.image) and torch.equal(a.label, b.label)
    assert not torch.equal(one.batches[0].image, one.batches[3].image), "epochs differ"


def test_ranks_share_the_units_of_one_process(volumes, monkeypatch):
    def parts(rank: int, ranks: int) -> list[bytes]:
        dm = module(volumes, Slabs(), batch_size=1, units_per_epoch=8)
        monkeypatch.setattr(dm, "_rank_and_ranks", lambda: (rank, ranks))
        dm.setup("fit")
        return [batch.image.numpy().tobytes() for batch in dm.train_dataloader()]

    whole, first, second = parts(0, 1), parts(0, 2), parts(1, 2)
    assert [*whole[::2]] == first and [*whole[1::2]] == second


def test_pictures_are_volumes_of_one_slice(tmp_path):
    dm = module(write_pictures(tmp_path / "cells"), Slabs(in_channels=3), batch_size=4)
    dm.setup("fit")
    batch = next(iter(dm.train_dataloader()))
    assert batch.image.shape == (4, 3, *SLAB)
    assert (batch.image[:, :, 2] > 0).any() and (batch.image[:, :, [0, 1, 3, 4]] == 0).all(), "in the middle"
    assert (batch.label[:, [0, 1, 3, 4]] == 0).all() and batch.slice_index.tolist() == [0] * 4


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        (Slabs, {"augment": AugmentSettings()}, r"data\.augment is for slices.*use data\.volume_augment"),
        (Slabs, {"features": FeatureCacheSettings()}, r"Slabs is trained on slabs: set data\.features to null"),
        (Slices, {"volume_augment": VolumeAugmentSettings()}, r"data\.volume_augment is for.*use data\.augment"),
    ],
)
def test_settings_for_other_units_are_refused_before_decoding(volumes, method, settings, said):
    dm = module(volumes, method(), **settings)
    with pytest.raises(ConfigError, match=said):
        dm.setup("fit")
    assert not any(dm.store.case_folder(e).is_dir() for e in dm.entries("train"))


def test_volumes_without_label_are_refused(volumes):
    dm = module(volumes, Slabs())
    dm.setup("fit")
    entry = dm.entries("train")[0]
    (dm.store.case_folder(entry) / "label.npy").unlink()
    meta = dm.store.case_folder(entry) / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"labelled": False}))
    with pytest.raises(DataError, match="has no label"):
        dm.train_dataloader()
