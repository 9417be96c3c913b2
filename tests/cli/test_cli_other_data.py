"""A run that is tested on other data than its own: what doesn't fit is refused or told, never scored in silence."""

import json
from pathlib import Path

import data_sets
import nibabel as nib
import numpy as np
import pytest
from cli_helpers import QUICK

from samzoo.cli import main

SMALL = [
    *QUICK,
    "--data.units_per_epoch=4",
    "--data.batch_size=2",
    "--trainer.max_epochs=1",
    "--trainer.limit_val_batches=0",
    "--protocol.regimes=[auto]",
]
SCORED = ["--protocol.surface_metrics=false", "--protocol.slices=0"]


def write_volumes(root: Path, low: int, high: int) -> Path:
    """Six cases of one channel, twice as large along each axis as the usual ones, with values from a range."""
    data_sets.write_nnunet(root, cases=6, channels=("CT",))
    rng = np.random.default_rng(low + 2000)
    for path in sorted((root / "labelsTr").iterdir()):
        label = np.kron(np.asarray(nib.load(path).dataobj), np.ones((2, 2, 2), np.uint8))
        data_sets.save_nifti(path, label)
        image = rng.integers(low, high, label.shape).astype(np.int16)
        data_sets.save_nifti(root / "imagesTr" / path.name.replace(".nii", "_0000.nii"), image)
    return root


def edit(root: Path, **changes: object) -> None:
    content = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(content | changes))


def known(path: str | Path, key: str) -> object:
    return json.loads(Path(path).read_text())[key]


@pytest.fixture
def ct(work):
    """A U-Net that was trained on CT of two classes, in the folder run."""
    write_volumes(work / "mine", -1000, 500)
    assert main(["fit", "--config", "unet_tiny.yaml", "--data.root", "mine", "--run", "run", *SMALL]) == 0
    return work


CT = ["--data.channels", "[CT]"]
REFUSED = {
    "more classes": (
        CT,
        {"background": 0, "organ": 1, "tumour": 2, "cyst": 3},
        "are organ, tumour, cyst: choose the same, as it calls and numbers them: "
        "--data.classes '{organ: [1], tumour: [2]}'",
    ),
    "the same classes under other numbers": (
        CT,
        {"background": 0, "tumour": 1, "organ": 2},
        "are tumour, organ: one would be taken for another; number them alike",
    ),
    "more channels": ([], {"background": 0, "organ": 1, "tumour": 2}, "--data.channels '[CT]'"),
}


def test_other_data(ct, capsys, recwarn):
    line = ["test", "--run", "run", "--data.root", "other", *SCORED]
    other = write_volumes(ct / "other", 100, 1500)
    for path in (other / "imagesTr").iterdir():
        data_sets.save_nifti(path.with_name(path.name.replace("_0000", "_0001")), nib.load(path).get_fdata())
    edit(other, channel_names={"0": "CT", "1": "PET"})
    for settings, labels, words in REFUSED.values():
        edit(other, labels=labels)
        assert main([*line, *settings]) == 1
        assert words in capsys.readouterr().err
    edit(other, labels={"background": 0, "liver": 1, "lesion": 2})
    assert main([*line, "--data.channels", "[PET]"]) == 0
    err = capsys.readouterr().err
    assert "run was trained on the channels CT; those of" in err and "are PET, and are taken for them" in err
    assert "run was trained on the classes organ, tumour; those of" in err and "are liver, lesion" in err
    (warning,) = [str(w.message) for w in recwarn if "intensities of" in str(w.message)]
    assert "none below 0, though the window is" in warning and "are they in HU" in warning


def test_cases_that_were_trained_on_are_told_and_marked(ct, capsys):
    trained = known("run/fingerprint.json", "trained_on")
    assert len(trained) == 4
    assert main(["test", "--run", "run", *SCORED]) == 0
    assert "was trained on" not in capsys.readouterr().err
    (first,) = Path("run").glob("test-*/run.json")
    assert known(first, "tested_on_trained") == 0
    Path("splits.json").write_text(json.dumps({"train": [trained[0]], "test": trained[1:3]}))
    assert main(["test", "--run", "run", "--data.splits_file", "splits.json", *SCORED]) == 0
    assert f"run was trained on 2 of the 2 cases ({trained[1]}, ...)" in capsys.readouterr().err
    (second,) = {*Path("run").glob("test-*/run.json")} - {first}
    assert known(second, "tested_on_trained") == 2


def test_what_can_not_be_trained_or_tested_makes_no_run(work, capsys):
    write_volumes(work / "mine", 0, 100)
    one = ["--data.root", "mine", "--data.include", "case_00"]
    for method in ("sam_med2d_tiny", "unet_tiny"):
        assert main(["fit", "--config", method, *one, *SMALL]) == 1
        assert "--data.test_fraction 0" in capsys.readouterr().err
    assert main(["test", "--config", "sam_tiny", "--zero-shot", *one, "--data.test_fraction", "0"]) == 1
    assert "has no test case" in capsys.readouterr().err
    data_sets.write_nnunet(work / "tiny", channels=("CT",))
    assert main(["fit", "--config", "unet_tiny", "--data.root", "tiny", *SMALL]) == 1
    assert "UNet needs 3 resolutions" in capsys.readouterr().err
    assert not (work / "runs").exists()


def test_predicting_where_the_training_data_are_not(work, capsys):
    for i in range(5):
        data_sets.save_nifti(work / f"mine/images/a{i}.nii.gz", np.random.default_rng(i).normal(size=(16, 18, 5, 3)))
        data_sets.save_nifti(work / f"mine/masks/a{i}.nii.gz", np.full((16, 18, 5), 40 * (i % 2 + 1), np.uint8))
    line = ["fit", "--config", "unet_tiny.yaml", "--data.root", "mine", "--data.channels", "[2, 0]", "--run", "run"]
    assert main([*line, *SMALL]) == 0
    predict = ["predict", "--run", "run", "--images", "new.nii.gz", "--out"]
    (work / "mine/images/a1.nii.gz").rename(work / "new.nii.gz")
    (work / "mine/masks/a1.nii.gz").unlink()
    assert main([*predict, "beside"]) == 0
    (work / "mine").rename(work / "elsewhere")
    capsys.readouterr()
    assert main([*predict, "without"]) == 0
    assert "mine is not here: classes and channels are those of run/fingerprint.json" in capsys.readouterr().out
    first, second = (np.asarray(nib.load(f"{out}/new.nii.gz").dataobj) for out in ("beside", "without"))
    np.testing.assert_array_equal(first, second)
    assert set(np.unique(first)) <= {0, 40, 80}
    assert main(["test", "--run", "run"]) == 1
    assert "where it lies elsewhere: --data.root PATH" in capsys.readouterr().err
    Path("run/fingerprint.json").write_text('{"all_channels": 3}')
    assert main([*predict, "third"]) == 1
    assert "does not tell the classes and channels" in capsys.readouterr().err
