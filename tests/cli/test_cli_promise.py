"""ProMISe from the command line: cached features, resuming, published scores, prediction without prompts."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from cli_helpers import QUICK

from samzoo import run_folder
from samzoo.cli import main

SMALL = ["--model.init_args.image_size=64", "--model.init_args.stage_widths=[8,8,8,8]"]
FIT = ["fit", "--config", "promise_phantom", *QUICK, *SMALL]


def losses(run):
    return [row["train/loss"] for row in csv.DictReader((run / "metrics.csv").open())]


def weights(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def newest():
    return run_folder.newest().path


def test_a_cache_changes_nothing_but_the_time(work):
    assert main([*FIT, "--data.features=null"]) == 0
    plain = newest()
    assert main(FIT) == 0
    cached = newest()
    assert cached != plain and len(losses(plain)) == 2
    assert [float(v) for v in losses(cached)] == pytest.approx([float(v) for v in losses(plain)], abs=1e-5)
    torch.testing.assert_close(weights(cached), weights(plain), atol=1e-4, rtol=1e-4)


def test_a_crash_with_cached_augmented_views_is_resumed_to_the_same_weights(work):
    views = ["--data.features.views=2", "--data.augment={}"]
    assert main([*FIT, *views]) == 0
    whole = newest()
    callback = {"class_path": "cli_helpers.StopAt", "init_args": {"batch": 3, "kind": "crash"}}
    with pytest.raises(OSError, match="went down"):
        main([*FIT, *views, f"--trainer.callbacks=[{json.dumps(callback)}]"])
    crashed = newest()
    assert main(["fit", "--resume", "--trainer.callbacks=null"]) == 0
    torch.testing.assert_close(weights(crashed), weights(whole), atol=0, rtol=0)


def test_published_scores_and_prediction_without_prompts(work):
    assert main([*FIT, "--trainer.max_epochs=1"]) == 0
    run = newest()
    assert main(["test", "--protocol.regimes=[auto, auto_clicks_3d]", "--protocol.published=true"]) == 0
    (folder,) = run.glob("test-*")
    records = list(csv.DictReader((folder / "records.csv").open()))
    published = list(csv.DictReader((folder / "published.csv").open()))
    assert {r["regime"] for r in records} == {r["regime"] for r in published} == {"auto", "auto_clicks_3d"}
    assert {"dice", "iou", "s_measure"} <= set(published[0])
    means = json.loads((folder / "run.json").read_text())["published"]
    assert set(means) == {"auto", "auto_clicks_3d"}

    volume = np.random.default_rng(0).normal(0, 300, (40, 36, 5)).astype(np.float32)
    nib.save(nib.Nifti1Image(volume, np.diag((1.0, 1.0, 4.0, 1.0))), work / "scan.nii.gz")
    assert main(["predict", "--images", "scan.nii.gz", "--out", "out", "--overlays"]) == 0
    label = nib.load(work / "out/scan.nii.gz")
    assert label.shape == volume.shape and np.allclose(label.affine, np.diag((1.0, 1.0, 4.0, 1.0)))
    assert list(Path("out/overlays").glob("*.png"))
