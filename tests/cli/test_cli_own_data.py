"""Data of one's own in two commands: each method on each layout, with no YAML written."""

import csv
import json
from pathlib import Path

import data_sets
import numpy as np
import pytest
import yaml
from PIL import Image

from samzoo.cli import main

QUICK = [
    "--data.val_fraction=0.2",
    "--data.test_fraction=0.2",
    "--data.units_per_epoch=4",
    "--data.batch_size=2",
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--protocol.surface_metrics=false",
    "--protocol.click_steps=1",
]


def write_split_folders(root):
    """train/, val/ and test/, each with images and indexed masks of two classes."""
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        data_sets.write_pictures(root / split, cases=count)
        for mask in (root / split / "masks").iterdir():
            values = np.asarray(Image.open(mask)).copy()
            values[values > 0] = 1
            values[14:18, 2:9] = 2
            Image.fromarray(values).save(mask)
            mask.rename(mask.with_name(f"{split}_{mask.name}"))
        for image in (root / split / "images").iterdir():
            pixels = np.asarray(Image.open(image)).copy()
            pixels[0, 0] = count  # or the same picture would be in two splits
            Image.fromarray(pixels).save(image)
            image.rename(image.with_name(f"{split}_{image.name}"))


LAYOUTS = {
    "nnunet": lambda root: data_sets.write_nnunet(root, cases=5),
    "msd": lambda root: data_sets.write_msd(root, ("liver", "tumour"), cases=5),
    "folder": data_sets.write_pictures,
    "split_folders": write_split_folders,
    "sam_med2d": data_sets.write_sam_med2d,
}
CLASSES = {
    "nnunet": ["organ", "tumour"],
    "msd": ["liver", "tumour"],
    "folder": ["foreground"],
    "split_folders": ["class_1", "class_2"],
    "sam_med2d": ["liver", "spleen"],
}
METHODS = {
    "sam_med2d_tiny": ["box_per_slice"],
    "promise_tiny": ["auto"],
    "masksam_tiny": ["auto"],
    "m_sam_tiny": ["clicks_3d"],
}
FURTHER = {
    "sam_finetuned_tiny": ["box_per_slice"],
    "masksam_fixed_tiny": ["auto"],
    "m_sam_fixed_tiny": ["box_3d"],
    "sam_med3d_tiny": ["clicks_3d"],
    "unet_tiny": ["auto"],
}
UNTRAINED = {"sam_tiny": ["box_per_slice"], "box_ellipse": ["box_3d"]}


def dice_of(folder):
    rows = list(csv.DictReader((folder / "records.csv").open()))
    assert rows and all(0 <= float(row["dice"]) <= 1 for row in rows if row["dice"])
    return rows


def data_of(run):
    return yaml.safe_load((run / "config.yaml").read_text())["data"]


def two_commands(root, method, regimes, capsys):
    """Verify and fit, then test; returns what the fit said, and the run."""
    assert main(["verify", str(root)]) == 0
    regimes = [f"--protocol.regimes=[{','.join(regimes)}]"]
    capsys.readouterr()
    if method in UNTRAINED:
        line = ["test", "--zero-shot"]
    else:
        line = ["fit"]
    assert main([*line, "--config", f"{method}.yaml", "--data.root", str(root), *QUICK, *regimes]) == 0
    said = capsys.readouterr().out
    (run,) = Path("runs").glob("*/*")
    if method not in UNTRAINED:
        assert main(["test", "--run", str(run)]) == 0
    return said, run


QUICKEST = {
    ("sam_med2d_tiny", "split_folders"),
    ("sam_med2d_tiny", "nnunet"),
    ("promise_tiny", "sam_med2d"),
    ("masksam_tiny", "folder"),
    ("m_sam_tiny", "msd"),
}
"""Of each method and each layout one; the others are slow together."""
PAIRS = [
    pytest.param(method, layout, marks=() if (method, layout) in QUICKEST else pytest.mark.slow)
    for method in METHODS
    for layout in LAYOUTS
]


@pytest.mark.parametrize(("method", "layout"), PAIRS)
def test_the_four_methods_on_each_layout(work, capsys, method, layout):
    LAYOUTS[layout](work / "mine")
    said, run = two_commands(work / "mine", method, METHODS[method], capsys)
    dice_of(run)
    assert ", ".join(CLASSES[layout]) in said
    found = json.loads((run / "fingerprint.json").read_text())
    assert list(found["classes"]) == CLASSES[layout] and len(found["spacing_mm"]) == 3
    kind = {"msd": "window", "nnunet": "percentile"}.get(layout, "range")
    assert found["intensity"]["kind"] == kind == data_of(run)["intensity"]["kind"]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", FURTHER | UNTRAINED)
def test_all_methods_on_each_layout(work, capsys, method, layout):
    LAYOUTS[layout](work / "mine")
    _, run = two_commands(work / "mine", method, (FURTHER | UNTRAINED)[method], capsys)
    dice_of(run)


def test_a_test_on_other_data_takes_what_the_training_found(work, capsys):
    data_sets.write_msd(work / "here", ("liver", "tumour"), cases=5)
    data_sets.write_msd(work / "there", ("liver", "tumour"), cases=6)
    _, run = two_commands(work / "here", "sam_med2d_tiny", ["box_per_slice"], capsys)
    assert main(["test", "--run", str(run), "--data.root", str(work / "there")]) == 0
    (other,) = run.glob("test-*")
    here, there = data_of(run), data_of(other)
    assert here["intensity"] == there["intensity"] and here["intensity"]["kind"] == "window"
    assert there["root"].endswith("there")
    dice_of(other)


def test_what_is_found_can_be_overridden(work, capsys):
    data_sets.write_msd(work / "mine", ("liver", "tumour"), cases=5)
    line = ["fit", "--config", "m_sam_tiny.yaml", "--data.root", "mine", *QUICK]
    given = [
        "--data.intensity={kind: window, low: -100, high: 300}",
        "--data.classes={liver: [1, 2]}",
        "--model.init_args.spacing=4",
    ]
    assert main([*line, *given]) == 0
    (run,) = Path("runs").glob("*/*")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["intensity"] == {"kind": "window", "low": -100, "high": 300}
    assert config["data"]["classes"] == {"liver": [1, 2]} and config["model"]["init_args"]["spacing"] == 4
    assert "found in" not in capsys.readouterr().out


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["nuclei_2d", "Dataset004_Hippocampus", "sam_med2d_demo", "SCT_spinalcord_3"])
def test_real_data(work, realdata, method, name):
    few = ["--data.max_cases=4"] if name != "sam_med2d_demo" else []
    line = ["fit", "--config", f"{method}.yaml", "--data.root", str(realdata / name), *QUICK[2:], *few]
    assert main([*line, f"--protocol.regimes=[{METHODS[method][0]}]"]) == 0
    assert main(["test"]) == 0
    (run,) = Path("runs").glob("*/*")
    dice_of(run)
