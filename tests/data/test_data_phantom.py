"""The phantom: the same for a seed, varied over cases, and not to be had by a threshold."""

from __future__ import annotations

import numpy as np
import pytest

from samzoo.cli import main
from samzoo.data import SamzooDataModule, phantom
from samzoo.data.phantom import CLASSES, PhantomSettings, ensure_phantom, make_volume, write_phantom
from samzoo.data.verify import verify
from samzoo.errors import ConfigError, DataError
from samzoo.termination import Terminated

SMALL = PhantomSettings(cases=5, size=48, slices=(8, 10))


def best_threshold_dice(image: np.ndarray, mask: np.ndarray) -> float:
    """Largest Dice of low <= image < high over all pairs of 30 quantiles of the mask's values, either end open."""
    edges = [-np.inf, *np.quantile(image[mask], np.linspace(0, 1, 30)), np.inf]
    body = np.searchsorted(np.sort(image[image > -300]).astype(float), edges)
    inside = np.searchsorted(np.sort(image[mask]).astype(float), edges)
    low, high = np.triu_indices(len(edges), 1)
    return float((2 * (inside[high] - inside[low]) / (body[high] - body[low] + mask.sum())).max())


def test_same_seed_same_volume():
    for a, b in zip(make_volume(SMALL, 3), make_volume(SMALL, 3), strict=True):
        np.testing.assert_array_equal(a, b)
    other = PhantomSettings(5, 48, (8, 10), seed=1)
    assert not np.array_equal(make_volume(SMALL, 3)[0][:8], make_volume(other, 3)[0][:8])


def test_terminated_while_it_is_made(tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise Terminated

    with monkeypatch.context() as patch:
        patch.setattr(phantom, "make_volume", stop)
        assert main(["prepare", "phantom", str(tmp_path / "out")]) == 143
    assert "samzoo prepare: terminated; nothing of it is kept: give the same command again" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_made_twice(tmp_path, capsys):
    args = ["prepare", "phantom", str(tmp_path / "out"), "--size", "32", "--cases"]
    assert main([*args, "1"]) == 0
    written = (tmp_path / "out/dataset.json").stat().st_mtime_ns
    assert main([*args, "1"]) == 0, "it may have been killed before its last word"
    assert (tmp_path / "out/dataset.json").stat().st_mtime_ns == written
    assert f"the phantom is in {tmp_path / 'out'}" in capsys.readouterr().out
    assert main([*args, "2"]) == 1
    assert "exists already and is not an empty folder" in capsys.readouterr().err


def test_volumes_look_like_ct_and_hold_every_class():
    settings = PhantomSettings()
    spacings, held = set(), np.zeros(len(CLASSES), int)
    for number in range(6):
        image, label, spacing = make_volume(settings, number)
        spacings.add(spacing)
        assert 16 <= image.shape[0] <= 24 and image.shape[1:] == (96, 96) and image.dtype == np.int16
        assert image.min() >= -1024 and np.median(image[:, :4, :4]) < -900, "air around the body"
        liver = image[label == 1].mean()
        assert 0 < liver < 200
        assert spacing[0] > spacing[1] == spacing[2]
        held += [(label == k).any() for k in range(1, len(CLASSES) + 1)]
    assert len(spacings) == 6 and (held >= 5).all()


def test_no_single_threshold_finds_an_organ():
    """The best pair of thresholds, chosen for each case with the truth at hand, over the body."""
    scores = {name: [] for name in CLASSES}
    for number in range(4):
        image, label, _ = make_volume(PhantomSettings(), number)
        for k, name in enumerate(CLASSES, start=1):
            scores[name].append(best_threshold_dice(image, label == k))
    means = {name: float(np.mean(v)) for name, v in scores.items()}
    assert max(means.values()) < 0.6, means
    assert np.mean(list(means.values())) < 0.35, means


def test_written_phantom_is_an_nnunet_data_set(tmp_path):
    root = write_phantom(tmp_path / "Dataset900_Phantom", SMALL, progress=False)
    report = verify(root, progress=False)
    assert report.ok and report.layout == "nnunet" and len(report.cases) == 5
    assert tuple(report.classes) == CLASSES


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="not an empty folder"):
        write_phantom(tmp_path / "mine", SMALL)
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"


def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    from samzoo.data import phantom

    def stop(settings, number):
        raise KeyboardInterrupt

    monkeypatch.setattr(phantom, "make_volume", stop)
    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "p", SMALL, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_phantom_is_made_once_and_read_like_any_data_set(home):
    dm = SamzooDataModule(layout="phantom", phantom=SMALL)
    assert dm.class_names == CLASSES and dm.dataset_name == "phantom"
    made = ensure_phantom(SMALL) / "dataset.json"
    before = made.stat().st_mtime_ns
    assert SamzooDataModule(layout="phantom", phantom=SMALL).signature == dm.signature
    assert made.stat().st_mtime_ns == before and str(made).startswith(str(home))


def test_senseless_sizes_are_refused():
    with pytest.raises(ConfigError, match="size >= 32"):
        PhantomSettings(size=8)
