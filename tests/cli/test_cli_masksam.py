"""MaskSAM from the command line: missing data, two processes, resuming, prediction by sliding windows."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from cli_helpers import QUICK

from samzoo import run_folder
from samzoo.cli import main

SMALL = [
    "--model.init_args.patch=[3,32,32]",
    "--model.init_args.image_size=32",
    "--model.init_args.queries=9",
    "--model.init_args.loss.points=64",
    "--protocol.regimes=[auto]",
]
FIT = ["fit", "--config", "masksam_phantom", *QUICK, *SMALL, "--data.batch_size=2"]
FIT += ["--trainer.check_val_every_n_epoch=1", "--data.test_fraction=0.4"]


def newest():
    return run_folder.newest().path


def records(folder):
    rows = csv.DictReader((folder / "records.csv").open())
    return sorted(tuple(v for k, v in row.items() if not k.endswith("seconds")) for row in rows)


@pytest.mark.parametrize(
    "config, parts",
    [
        ("masksam_amos.yaml", ("amos22", "zenodo.org/records/7155725", "samzoo verify")),
        ("masksam_acdc.yaml", ("ACDC", "creatis", "samzoo verify")),
        ("masksam_synapse.yaml", ("BTCV", "synapse.org", "samzoo verify")),
    ],
)
def test_missing_data_end_with_what_to_fetch_where_to_put_it_and_how_to_check(work, capsys, config, parts):
    assert main(["fit", "--config", config]) != 0
    message = capsys.readouterr().err
    assert all(part in message for part in parts), message
    assert not Path("runs").exists()


@pytest.mark.slow
def test_two_processes_score_the_same_records_as_one(work):
    """test_evaluation_protocol.py has the same without command line and training."""
    assert main([*FIT, "--trainer.max_epochs=1"]) == 0
    whole = newest()
    assert main(["test", "--run", str(whole)]) == 0
    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    samzoo = [sys.executable, "-m", "samzoo.cli"]
    done = subprocess.run([*samzoo, "test", "--run", str(whole), *two], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    (second,) = whole.glob("test-*")
    assert records(whole) and records(whole) == records(second)
    assert json.loads((second / "run.json").read_text())["processes"] == 2


def test_prediction_lies_on_the_scans_own_grid(work):
    """Fewer slices than the slab, larger than the patch in the plane, mirrored on request."""
    assert main([*FIT, "--trainer.max_epochs=1"]) == 0
    volume = np.random.default_rng(0).normal(0, 300, (45, 36, 2)).astype(np.float32)
    affine = np.diag((1.0, -2.0, 4.0, 1.0))
    nib.save(nib.Nifti1Image(volume, affine), work / "scan.nii.gz")
    for out, more in (("plain", []), ("mirrored", ["--protocol.mirror_axes=[0,1,2]"])):
        assert main(["predict", "--images", "scan.nii.gz", "--out", out, "--overlays", *more]) == 0
        label = nib.load(work / out / "scan.nii.gz")
        assert label.shape == volume.shape and np.allclose(label.affine, affine)
        assert list(Path(out, "overlays").glob("*.png"))
