"""Procedural scenes: what can be seen is labelled, kinds for test are in no training, the same seed gives the same."""

from __future__ import annotations

import numpy as np
import pytest

from samzoo.data import SamzooDataModule
from samzoo.data.decode import Intensity
from samzoo.data.phantom import PhantomSettings
from samzoo.data.scenes import KNOWN, LOOKS, MOST_OBJECTS, SHAPES, UNSEEN, make_scene


def scene(kind, shape=(64, 64), seed=0):
    return make_scene(kind, shape, np.random.default_rng(seed))


@pytest.mark.parametrize("kind", KNOWN + UNSEEN)
def test_objects_differ_from_what_surrounds_them(kind):
    differences, noise = [], []
    for seed in range(6):
        image, label = scene(kind, seed=seed)
        assert image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1 and label.max() <= MOST_OBJECTS
        for number in range(1, label.max() + 1):
            inside = label == number
            assert inside.sum() >= 20
            near = np.zeros_like(inside)
            for axis in (0, 1):
                for step in (-3, 3):
                    near |= np.roll(inside, step, axis)
            near &= label == 0
            if near.any():
                differences.append(abs(image[inside].mean() - image[near].mean()))
                noise.append(image[inside].std() / np.sqrt(inside.sum()) + 1e-6)
    assert len(differences) > 6 and np.median(np.divide(differences, noise)) > 3


def test_unseen_kinds_have_shapes_or_looks_that_no_known_kind_has():
    known = {part for kind in KNOWN for part in kind.split("_")}
    assert all(set(kind.split("_")) - known for kind in UNSEEN)
    assert not {*KNOWN} & {*UNSEEN} and known | {p for k in UNSEEN for p in k.split("_")} == {*SHAPES, *LOOKS}


def test_volumes_and_the_same_seed():
    for a, b in zip(scene("blobs_ct", (20, 32, 24)), scene("blobs_ct", (20, 32, 24)), strict=True):
        assert a.shape == (20, 32, 24)
        np.testing.assert_array_equal(a, b)
    assert (scene("blobs_ct", seed=1)[0] != scene("blobs_ct")[0]).any()


@pytest.mark.parametrize(("kind", "depth"), [("scenes", 1), ("scenes_3d", 33)])
def test_as_a_data_set_with_its_own_split(tmp_path, monkeypatch, kind, depth):
    monkeypatch.setenv("SAMZOO_HOME", str(tmp_path))
    monkeypatch.setattr("samzoo.data.scenes.TEST_PER_KIND", {2: 1, 3: 1})
    monkeypatch.setattr("samzoo.data.scenes.VAL_PER_KIND", 1)
    phantom = PhantomSettings(kind=kind, cases=3, size=32, slices=(33, 33))
    dm = SamzooDataModule(
        layout="phantom", phantom=phantom, splits_file="splits.json", intensity=Intensity("window", 0, 1000)
    )
    kinds = {split: {"_".join(e.id.split("_")[:2]) for e in dm.entries(split)} for split in ("train", "val", "test")}
    assert kinds == {"train": {*KNOWN[:3]}, "val": {*KNOWN}, "test": {*UNSEEN}}
    assert dm.num_classes == MOST_OBJECTS
    dm.build_store(("train", "test"))
    assert dm.store.open(dm.entries("train")[0]).shape == (33, 32, 32)
    assert dm.store.open(dm.entries("test")[0]).shape == (depth, 32, 32)
