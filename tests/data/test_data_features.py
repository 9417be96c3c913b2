"""The feature cache: exact, whole or absent, resumed, refused when too large."""

from __future__ import annotations

import pickle
import shutil
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from data_sets import write_nnunet, write_pictures
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from samzoo.data import SamzooDataModule
from samzoo.data import features as features_module
from samzoo.data.augment import Augment, AugmentSettings, view_key
from samzoo.data.features import FeatureCache, FeatureCacheSettings
from samzoo.errors import ConfigError, DataError
from samzoo.types import Batch

SIDE = 12
AUGMENT = AugmentSettings(crop_p=0.7, flip_horizontal_p=0.7, affine_p=0.7, blur_p=0.7, noise_or_sharpen_p=0.7)


class Frozen(LightningModule):
    """A frozen encoder with two outputs of different shapes, and a trained head.

    Args:
        fail_at: raises at this call of `features`.
        gain: of the first output.
    """

    def __init__(self, fail_at: int | None = None, gain: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.kernel = nn.Parameter(torch.randn(4, 1, 3, 3, generator=generator), requires_grad=False)
        self.head = nn.Parameter(torch.full((4,), 0.3))
        self.spec = type("Spec", (), {"unit": "slice", "name": "Frozen"})
        self.fail_at, self.gain = fail_at, gain
        self.calls, self.encoded = 0, 0
        self.losses: list[float] = []
        self.batches: list[Batch] = []
        self.cases: list = []

    def features_signature(self) -> str | None:
        return "frozen-0"

    def prepare(self, image, size, spacing):
        rows = [F.interpolate(i[None, :, :h, :w], (SIDE, SIDE)) for i, (h, w) in zip(image, size.tolist(), strict=True)]
        return torch.cat(rows).mean(1, keepdim=True), None

    def features(self, x):
        assert not torch.is_grad_enabled() and x.device == self.device
        if self.calls == self.fail_at:
            raise RuntimeError("the machine went down")
        self.calls += 1
        self.encoded += len(x)
        maps = F.conv2d(x, self.kernel, padding=1)
        return maps * self.gain, maps.mean((2, 3))

    def training_step(self, batch, index):
        self.batches.append(batch)
        features = batch.features
        if features is None:
            with torch.no_grad():
                features = self.features(self.prepare(batch.image, batch.size, batch.spacing)[0])
        maps, pooled = features
        logits = (maps * self.head[:, None, None]).sum(1) + pooled.sum(1)[:, None, None]
        target = torch.stack(
            [
                F.interpolate((row[None, None, :h, :w] == 1).float(), (SIDE, SIDE))[0, 0]
                for row, (h, w) in zip(batch.label, batch.size.tolist(), strict=True)
            ]
        )
        loss = F.binary_cross_entropy_with_logits(logits, target)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, case, index):
        self.cases.append(case)

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD([self.head], lr=0.1)


@pytest.fixture
def volumes(tmp_path):
    return write_nnunet(tmp_path / "d", cases=6, channels=("CT",))


def data(root, workers: int = 0, **settings) -> SamzooDataModule:
    return SamzooDataModule(root=str(root), units_per_epoch=12, batch_size=4, num_workers=workers, **settings)


def trainer(tmp_path, epochs: int = 2, **settings) -> Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=tmp_path, num_sanity_val_steps=0, **quiet, **settings
    )


def fit(tmp_path, root, model=None, epochs: int = 2, workers: int = 0, **settings) -> Frozen:
    model = model or Frozen()
    trainer(tmp_path, epochs).fit(model, datamodule=data(root, workers, **settings))
    return model


def cache_of(dm: SamzooDataModule, **settings) -> FeatureCache:
    return FeatureCache(dm.store, FeatureCacheSettings(**settings), Frozen(), dm.augment)


def prepared(root, **settings) -> SamzooDataModule:
    dm = data(root, **settings)
    dm.setup("fit")
    return dm


def files(folder):
    return {p.relative_to(folder): p.stat().st_mtime_ns for p in folder.rglob("*.npy")}


@pytest.mark.parametrize("make", [write_pictures, write_nnunet])
def test_losses_with_and_without_cache_agree(tmp_path, make):
    root = make(tmp_path / "d")
    plain = fit(tmp_path, root)
    cached = fit(tmp_path, root, features=FeatureCacheSettings())
    assert cached.losses == pytest.approx(plain.losses, rel=1e-6) and len(plain.losses) == 6
    assert cached.head.tolist() == pytest.approx(plain.head.tolist(), rel=1e-6)
    for one, two in zip(plain.batches, cached.batches, strict=True):
        assert two.image is None and one.features is None
        assert one.case_id == two.case_id and torch.equal(one.label, two.label) and torch.equal(one.size, two.size)
    slices = sum(case.shape[0] for case in cached.cases[: len(cached.cases) // 2])
    entries = data(root).entries("train")
    assert cached.encoded <= slices + 1 + sum(prepared(root).store.open(e).shape[0] for e in entries), "each slice once"


def test_cached_views_are_those_of_the_augmented_slices(volumes):
    dm = prepared(volumes, augment=AUGMENT)
    cache, model = cache_of(dm, views=2), Frozen()
    train = dm.entries("train")
    cache.build(model, train, dm.entries("val"), progress=False)
    augment = Augment(AUGMENT, dm.seed)
    changed = 0
    for entry in train:
        case, cached = dm.store.open(entry), cache.open(entry)
        for z in range(case.shape[0]):
            image = torch.from_numpy(case.image()[:, z].astype(np.float32))
            label = torch.from_numpy(np.array(case.label()[z]))
            for view in range(3):
                seen, truth = augment(image, label, *view_key(entry.id, z, view)) if view else (image, label)
                with torch.no_grad():
                    expected = model.features(model.prepare(seen[None], torch.tensor([label.shape]), None)[0])
                for got, wanted in zip(cached.features(view, z), expected, strict=True):
                    torch.testing.assert_close(got, wanted[0])
                if view:
                    assert torch.equal(cached.label(view, z), truth)
                    changed += not torch.equal(truth, label)
    assert changed
    (val,) = dm.entries("val")
    assert len(list((cache.folder / dm.store.case_folder(val).name).glob("view_*"))) == 1, "the plain view will do"


def test_units_draw_their_view(tmp_path, volumes):
    model = fit(tmp_path, volumes, augment=AUGMENT, features=FeatureCacheSettings(views=2), epochs=4)
    without = fit(tmp_path, volumes, epochs=4)
    dm = data(volumes, augment=AUGMENT, features=FeatureCacheSettings(views=2))
    dm.trainer = trainer(tmp_path)
    dm.trainer.strategy.connect(Frozen())
    sampler = dm.train_dataloader().sampler
    keys = [sampler.key(epoch, i) for epoch in range(4) for i in range(12)]
    assert {k.view for k in keys} == {0, 1, 2}
    cache, entries = cache_of(dm, views=2), dm.entries("train")
    units = [(f, s) for b in model.batches for f, s in zip(b.features[0], b.case_id, strict=True)]
    for (features, case_id), key in zip(units, keys, strict=True):
        assert case_id == entries[key.case].id
        assert torch.equal(features, cache.open(entries[key.case]).features(key.view, key.slice)[0])
    for one, two in zip(model.batches, without.batches, strict=True):
        assert one.case_id == two.case_id and torch.equal(one.slice_index, two.slice_index), "the same slices"


def test_a_stopped_build_goes_on_where_it_ended(tmp_path, volumes):
    settings = {"augment": AUGMENT, "features": FeatureCacheSettings(views=1)}
    with pytest.raises(RuntimeError, match="went down"):
        fit(tmp_path, volumes, Frozen(fail_at=4), **settings)
    (folder,) = (tmp_path / "home/features").iterdir()
    before = files(folder)
    assert len(list(folder.glob("*/view_*"))) == 3, "one call of the estimate, three that were whole"
    assert not list(folder.rglob(".*.unfinished"))
    (half,) = [case for case in folder.iterdir() if len(list(case.glob("view_*"))) == 1]
    shutil.copytree(half / "view_0", half / ".view_0.killed.unfinished")
    model = fit(tmp_path, volumes, **settings)
    after = files(folder)
    assert before.items() <= after.items(), "what was whole is not made again"
    assert not list(folder.rglob(".*.unfinished"))
    reference = fit(tmp_path, volumes, **settings)
    assert reference.encoded == 0, "nothing is left to do"
    assert model.losses == reference.losses


def test_more_views_cost_only_those(volumes):
    dm = prepared(volumes, augment=AUGMENT)
    train, first, second = dm.entries("train"), Frozen(), Frozen()
    cache_of(dm, views=1).build(first, train, progress=False)
    cache = cache_of(dm, views=3)
    cache.build(second, train, progress=False)
    assert first.encoded - 1 == second.encoded - 1 == 2 * sum(dm.store.open(e).shape[0] for e in train)
    other = FeatureCache(dm.store, FeatureCacheSettings(views=1), Frozen(), Augment(AUGMENT, seed=9))
    assert other.folder == cache.folder, "the plain view serves any augmentation"
    third = Frozen()
    other.build(third, train, progress=False)
    assert third.encoded - 1 == sum(dm.store.open(e).shape[0] for e in train)


def test_what_decides_the_features_is_in_the_folder_name(volumes):
    dm = prepared(volumes)
    other_weights = Frozen()
    other_weights.features_signature = lambda: "frozen-1"
    caches = [
        cache_of(dm),
        cache_of(dm, dtype="float16"),
        FeatureCache(dm.store, FeatureCacheSettings(), other_weights),
        FeatureCache(dm.store, FeatureCacheSettings(), Frozen(), precision="bf16-mixed"),
        cache_of(prepared(volumes, store_dtype="float32")),
    ]
    assert len({c.folder for c in caches}) == len(caches)


def test_changed_source_files_cost_their_case(volumes):
    dm = prepared(volumes)
    cache_of(dm).build(Frozen(), dm.entries("train"), progress=False)
    image = dm.entries("train")[0].images[0]
    write_nnunet(volumes.parent / "other", cases=1, channels=("CT",))
    shutil.copy(volumes.parent / "other/imagesTr/case_00_0000.nii.gz", image)
    dm = prepared(volumes)
    model = Frozen()
    cache = cache_of(dm)
    cache.build(model, dm.entries("train"), progress=False)
    assert model.encoded - 1 == dm.store.open(dm.entries("train")[0]).shape[0]
    assert len(list(cache.folder.iterdir())) == len(dm.entries("train")), "the old features are gone"


def test_float16_halves_and_refuses_what_it_cannot_hold(tmp_path, volumes):
    model = fit(tmp_path, volumes, features=FeatureCacheSettings(dtype="float16"), epochs=1)
    assert {t.dtype for t in model.batches[0].features} == {torch.float16}
    shutil.rmtree(tmp_path / "home/features")
    with pytest.raises(DataError, match=r"case 'case_0\d'.*tensor 0 .*Frozen.*float16.*dtype=float32"):
        fit(tmp_path, volumes, Frozen(gain=1e6), features=FeatureCacheSettings(dtype="float16"))


def test_size_is_told_and_a_limit_kept(volumes, capsys, monkeypatch):
    dm = prepared(volumes, augment=AUGMENT)
    train, val = dm.entries("train"), dm.entries("val")
    cache, model = cache_of(dm, views=4), Frozen()
    cache.build(model, train, val)
    said = capsys.readouterr().out
    slices = [dm.store.open(e).shape[0] for e in train]
    written = sum(p.stat().st_size for p in cache.folder.rglob("*.npy"))
    assert f"{5 * sum(slices) + 6} slices and views" in said and str(cache.folder) in said
    told = float(said.split(" GB")[0].rsplit(" ", 1)[1]) * 1e9
    assert told == pytest.approx(written, rel=0.1), "headers of these tiny files aside"
    shutil.rmtree(cache.folder)
    model = Frozen()
    with pytest.raises(ConfigError, match=r"limit_gb.*fewer data\.features\.views.*float16.*image_size"):
        cache_of(dm, views=4, limit_gb=told / 2e9).build(model, train, val, progress=False)
    assert model.encoded == 1 and not cache.folder.exists()
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(features_module.shutil, "disk_usage", lambda _: usage._replace(free=int(told / 2)))
    with pytest.raises(DataError, match=r"GB more.*SAMZOO_HOME"):
        cache.build(model, train, val, progress=False)
    cache.build(model, train[:2], progress=False)
    cache.build(model, train[:3], progress=False)  # what is there already is not counted against the free space


def test_a_method_that_trains_its_encoder_is_refused(tmp_path, volumes):
    model = Frozen()
    model.features_signature = lambda: None
    with pytest.raises(ConfigError, match="Frozen trains its encoder"):
        fit(tmp_path, volumes, model, features=FeatureCacheSettings())


def test_settings_that_contradict_each_other(volumes):
    with pytest.raises(ConfigError, match=r"views needs data\.augment"):
        data(volumes, features=FeatureCacheSettings(views=2))
    with pytest.raises(ConfigError, match=r"data\.augment to null"):
        data(volumes, augment=AUGMENT, features=FeatureCacheSettings())
    with pytest.raises(ConfigError, match="views >= 0"):
        data(volumes, features=FeatureCacheSettings(views=-1))
    with pytest.raises(ConfigError, match="need a trainer"):
        prepared(volumes, features=FeatureCacheSettings()).train_dataloader()


@pytest.mark.parametrize("workers", [0, 1])
def test_validation_gets_features_and_test_does_not(tmp_path, volumes, workers):
    settings = {"features": FeatureCacheSettings(), "workers": workers}
    model = fit(tmp_path, volumes, epochs=1, **settings)
    (case,) = model.cases
    with torch.no_grad():
        x, _ = model.prepare(case.image.transpose(0, 1), torch.tensor([case.shape[1:]] * case.shape[0]), None)
        expected = model.features(x)
    for got, wanted in zip(case.features, expected, strict=True):
        assert isinstance(got, np.memmap) and not got.flags.writeable
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    assert len(pickle.dumps(case.features)) < 1000, "workers hand over names, not arrays"
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(case.features[0][2:4])), case.features[0][2:4])
    encoded = model.encoded
    trainer(tmp_path).test(model, datamodule=data(volumes, **settings))
    assert model.cases[-1].features is None and model.encoded == encoded


def test_ranks_share_the_cases(volumes):
    dm = prepared(volumes)
    train, models = dm.entries("train"), [Frozen(), Frozen()]
    barrier = threading.Barrier(2)
    caches = [cache_of(dm) for _ in models]
    threads = [
        threading.Thread(
            target=c.build,
            args=(m, train),
            kwargs={"rank": r, "ranks": 2, "barrier": barrier.wait, "progress": False},
        )
        for r, (c, m) in enumerate(zip(caches, models, strict=True))
    ]
    [t.start() for t in threads]
    [t.join() for t in threads]
    depths = [dm.store.open(e).shape[0] for e in train]
    assert [m.encoded - 1 for m in models] == [sum(depths[0::2]), sum(depths[1::2])]
    for entry in train:
        assert caches[0].open(entry).features(0, 0)[0].shape == (4, SIDE, SIDE)


def test_two_runs_at_once_end_in_one_whole_cache(volumes):
    dm = prepared(volumes)
    train, models = dm.entries("train"), [Frozen(), Frozen()]
    threads = [threading.Thread(target=cache_of(dm).build, args=(m, train), kwargs={"progress": False}) for m in models]
    [t.start() for t in threads]
    [t.join() for t in threads]
    wanted = sum(dm.store.open(e).shape[0] for e in train)
    assert wanted <= sum(m.encoded for m in models) <= wanted + 2, "no slice is encoded twice, the estimates aside"
    cache = cache_of(dm)
    assert not list(cache.folder.rglob(".*.unfinished"))
    assert all(cache.open(e).features(0, 5)[1].shape == (4,) for e in train)


def test_a_damaged_cache_says_what_to_do(volumes):
    dm = prepared(volumes)
    entry = dm.entries("train")[0]
    cache = cache_of(dm)
    cache.build(Frozen(), [entry], progress=False)
    file = next(cache.folder.rglob("feature_00.npy"))
    opened = cache.open(entry)
    opened.features(0, 0)
    with file.open("r+b") as content:
        content.truncate(file.stat().st_size - 8)
    with pytest.raises(DataError, match="delete this folder"):
        opened.features(0, 5)
    with pytest.raises(DataError, match="delete this folder"):
        cache.open(entry).features(0, 0)
    file.unlink()
    with pytest.raises(DataError, match="delete this folder"):
        cache.open(entry).volumes()


def test_a_batch_of_cached_features_can_be_moved(tmp_path, volumes):
    model = fit(tmp_path, volumes, features=FeatureCacheSettings(), epochs=1)
    moved = model.batches[0].to(torch.float64)
    assert moved.image is None and {t.dtype for t in moved.features} == {torch.float64}
    assert len(model.batches[0]) == 4
