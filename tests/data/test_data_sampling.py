"""Training order: a pure function of (seed, epoch, position), fair to small classes, sharded without repetition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data_sets import write_nnunet
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from samzoo.data import SamzooDataModule
from samzoo.data.sampling import CaseSampler, SliceSampler
from samzoo.errors import ConfigError
from samzoo.types import IGNORE, Batch

COUNTS = [np.zeros((50, 3), np.int32) for _ in range(4)]
for counts in COUNTS:
    counts[5:45, 0] = 100
COUNTS[2][7, 1] = 4  # a class on a single slice of 200; class 3 is nowhere


def sampler(rank: int = 0, ranks: int = 1, units: int = 400, fraction: float = 0.8, seed: int = 3) -> SliceSampler:
    return SliceSampler(COUNTS, units, fraction, seed, rank, ranks)


def test_order_is_a_function_of_seed_epoch_and_position():
    first, again = sampler(), sampler()
    assert list(first) == list(again) == list(first)
    first.set_epoch(4)
    later = list(first)
    assert later != list(again) and later[17] == again.key(4, 17)
    assert list(sampler(seed=4)) != list(again)


def test_small_classes_are_seen():
    keys = list(sampler(units=4000))
    rare = sum((k.case, k.slice) == (2, 7) for k in keys) / len(keys)
    assert 0.35 < rare < 0.46, "two classes are drawn evenly in 0.8 of the units"
    empty = sum(not COUNTS[k.case][k.slice].any() for k in keys) / len(keys)
    assert 0.02 < empty < 0.06, "0.2 of the units are any slice, of which 0.2 are empty"
    assert all(COUNTS[k.case][k.slice].any() for k in sampler(fraction=1.0))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_share_the_units(ranks):
    parts = [list(sampler(rank, ranks)) for rank in range(ranks)]
    assert {len(p) for p in parts} == {400 // ranks}, "ranks stay in step"
    positions = [k.position for p in parts for k in p]
    assert len(set(positions)) == len(positions)
    whole = {k.position: k for k in sampler()}
    assert all(whole[k.position] == k for p in parts for k in p), "unit n is the same for any number of ranks"


@pytest.mark.parametrize(("count", "ranks"), [(7, 2), (7, 3), (4, 4)])
def test_no_case_twice_over_ranks(count, ranks):
    parts = [CaseSampler(count, rank, ranks) for rank in range(ranks)]
    assert sorted(i for p in parts for i in p) == list(range(count))
    assert [len(p) for p in parts] == [len(list(p)) for p in parts]


def test_more_processes_than_cases_is_refused(nnunet, monkeypatch):
    dm = SamzooDataModule(root=str(nnunet))
    dm.setup("test")
    monkeypatch.setattr(dm, "_rank_and_ranks", lambda: (0, 8))
    with pytest.raises(ConfigError, match="can't be shared by 8 processes"):
        dm.test_dataloader()


def test_batches_pad_slices_of_different_sizes(pictures):
    dm = SamzooDataModule(root=str(pictures), batch_size=64, units_per_epoch=64)
    dm.setup("fit")
    (batch,) = dm.train_dataloader()
    height = int(batch.size[:, 0].max())
    assert batch.image.shape == (64, 3, height, 24) and batch.label.shape == (64, height, 24)
    assert batch.image.dtype == torch.float32 and batch.label.dtype == torch.int64
    assert type(batch.image) is torch.Tensor and len(set(batch.size[:, 0].tolist())) > 1
    for image, label, (h, _) in zip(batch.image, batch.label, batch.size.tolist(), strict=True):
        assert (image[:, h:] == 0).all() and (label[h:] == IGNORE).all() and (label[:h] != IGNORE).all()


def test_slices_match_their_case(nnunet):
    dm = SamzooDataModule(root=str(nnunet), val_fraction=0.25, test_fraction=0.5)
    dm.setup("fit")
    dm.setup("test")
    batch = next(iter(dm.train_dataloader()))
    entry = next(e for e in dm.index.entries if e.id == batch.case_id[0])
    stored, z = dm.store.open(entry), int(batch.slice_index[0])
    np.testing.assert_array_equal(batch.image[0], stored.image()[:, z].astype(np.float32))
    np.testing.assert_array_equal(batch.label[0], stored.label()[z])
    assert batch.spacing[0].tolist() == pytest.approx([0.9, 0.8])


class Recorder(LightningModule):
    """Notes which units it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.units: list[tuple[int, str, int]] = []
        self.cases: list[str] = []
        self.spec = type("Spec", (), {"unit": "slice"})

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        slices = zip(batch.case_id, batch.slice_index.tolist(), strict=True)
        self.units += [(self.current_epoch, *unit) for unit in slices]
        return self.layer(batch.image.mean().reshape(1, 1)).sum()

    def validation_step(self, case, index: int) -> None:
        self.cases.append(case.id)

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("workers", [0, 1])
def test_lightning_sets_the_epoch_and_leaves_cases_whole(tmp_path, workers):
    root = write_nnunet(tmp_path / "d", cases=6)
    dm = SamzooDataModule(root=str(root), units_per_epoch=10, batch_size=4, num_workers=workers)
    model = Recorder()
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, datamodule=dm)
    epochs = [[u[1:] for u in model.units if u[0] == e] for e in (0, 1)]
    assert len(epochs[0]) == len(epochs[1]) == 10 and epochs[0] != epochs[1]
    entries = dm.entries("train")
    reference = dm.train_dataloader().sampler
    expected = [(entries[k.case].id, k.slice) for k in (reference.key(1, p) for p in range(10))]
    assert epochs[1] == expected
    assert model.cases == [e.id for e in dm.entries("val")] * 2
    model.cases.clear()
    trainer.test(model, datamodule=dm)
    assert model.cases == [e.id for e in dm.entries("test")]
