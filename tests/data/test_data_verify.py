"""`verify`: what it reports, what it writes, and that every real data set passes in its own layout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from data_sets import SHAPE, label_array, save_nifti
from PIL import Image

from samzoo.data import SamzooDataModule
from samzoo.data.decode import Intensity
from samzoo.data.verify import verify

DATASETS = Path(__file__).parents[2] / "configs" / "datasets"


def test_report_and_overlays(nnunet, tmp_path):
    report = verify(nnunet, overlays=tmp_path / "o", report=tmp_path / "r" / "report.json", progress=False)
    assert report.ok and report.layout == "nnunet"
    content = json.loads((tmp_path / "r/report.json").read_text())
    assert content["ok"] is True and content["layout"] == "nnunet" and len(content["cases"]) == 4
    assert content["cases"][0]["voxels"] == {"organ": 48, "tumour": 1}
    assert content["presence"]["train"]["tumour"] == len([c for c in report.cases if c.split == "train"])
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [f"case_{i:02d}.png" for i in range(4)]
    overlay = np.asarray(Image.open(tmp_path / "o/case_00.png")).astype(int)
    assert (overlay.max(-1) - overlay.min(-1) > 60).any(), "the label is drawn in colour"
    assert "layout nnunet" in report.text() and "0 errors" in report.text()


def test_errors_and_warnings_are_both_in_the_report(nnunet, tmp_path):
    (nnunet / "labelsTr/case_03.nii.gz").unlink()
    save_nifti(nnunet / "labelsTr/case_01.nii.gz", np.zeros(SHAPE, np.uint8))
    report = verify(nnunet, report=tmp_path / "report.json", progress=False)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["ok"] is False
    assert {(f["level"], f["case"]) for f in content["findings"] if f["case"]} == {
        ("error", "case_03"),
        ("warning", "case_01"),
    }
    assert len(report.cases) == 3, "the other cases are read all the same"


def test_oddities_are_warnings(nnunet):
    save_nifti(nnunet / "labelsTr/orphan.nii.gz", label_array(0))
    content = json.loads((nnunet / "dataset.json").read_text()) | {"numTraining": 9}
    content["labels"]["bone"] = 3
    (nnunet / "dataset.json").write_text(json.dumps(content))
    for c in range(2):
        save_nifti(nnunet / f"imagesTr/case_02_{c:04d}.nii.gz", np.full(SHAPE, 4, np.float32))
    report = verify(nnunet, {"slice_axis": 0}, progress=False)
    assert report.ok
    text = report.text()
    for expected in (
        "1 labels have no image, first 'orphan'",
        "numTraining 9, found 4",
        "1 of 3 classes are in no case: bone",
        "case case_02: image is constant (4 everywhere)",
        "consider data.slice_axis: 2",
    ):
        assert expected in text


def test_overlapping_objects_are_counted(sam_med2d):
    report = verify(sam_med2d, progress=False)
    assert report.ok
    overlaps = [f for f in report.warnings if "overlap on 12 pixels" in f.message]
    assert len(overlaps) == 4


def test_verify_needs_no_torch():
    code = "import sys, samzoo.data.verify; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


REAL = {
    "Dataset004_Hippocampus": ("nnunet", "hippocampus", 200, 2),
    "Dataset091_MSLesion": ("nnunet", "mslesion", 2, 1),
    "MSD_Task09_Spleen_crop1": ("nnunet", "spleen", 1, 1),
    "SCT_spinalcord_3": ("nnunet", "spinalcord", 3, 2),
    "TotalSegmentator_examples_pseudo": ("nnunet", "totalseg_examples", 2, 117),
    "nuclei_2d": ("folder", "nuclei_2d", 151, 1),
    "sam_med2d_demo": ("sam_med2d", "sam_med2d_demo", 4, 24),
}


@pytest.mark.realdata
@pytest.mark.parametrize("name", REAL)
def test_real_data_set_verifies_in_its_own_layout(realdata, name):
    layout, _, cases, classes = REAL[name]
    report = verify(realdata / name, progress=False)
    assert report.ok, report.text()
    assert report.layout == layout and len(report.classes) == classes and len(report.cases) >= cases


@pytest.mark.realdata
@pytest.mark.parametrize("name", REAL)
def test_real_data_set_is_read_by_its_configuration(realdata, monkeypatch, name):
    _, config, _, classes = REAL[name]
    monkeypatch.setenv("SAMZOO_DATA", str(realdata))
    settings = yaml.safe_load((DATASETS / f"{config}.yaml").read_text())
    settings["intensity"] = Intensity(**settings["intensity"])
    dm = SamzooDataModule(**settings | {"max_cases": 2})
    dm.setup("test")
    assert dm.num_classes == classes
    case = next(iter(dm.test_dataloader()))
    assert case.label is not None and (case.label > 0).any() and 0 <= case.image.min() < case.image.max() <= 1


@pytest.mark.parametrize("config", sorted(p.stem for p in DATASETS.glob("*.yaml")))
def test_configuration_says_what_to_fetch(config):
    settings = yaml.safe_load((DATASETS / f"{config}.yaml").read_text())
    settings["intensity"] = Intensity(**settings["intensity"])
    if settings["layout"] == "phantom":
        return
    with pytest.raises(Exception, match="what to fetch") as caught:
        SamzooDataModule(**settings | {"root": "nowhere_at_all"})
    assert settings["source"].split(";")[0][:40] in str(caught.value)


def test_root_is_looked_for_under_samzoo_data(nnunet, monkeypatch):
    monkeypatch.setenv("SAMZOO_DATA", str(nnunet.parent))
    assert verify(nnunet.name, progress=False).ok
    missing = verify("elsewhere", {"source": "example.org"}, progress=False)
    assert "what to fetch: example.org" in missing.errors[0].message
