"""From NIfTI to mm: the spacing of a file goes with its axes, whatever axis is depth."""

import json

import nibabel as nib
import numpy as np
import pytest

from samzoo.data import SamzooDataModule
from samzoo.data.views import CaseView
from samzoo.metrics import surface

SPACING = (0.5, 0.8, 5.0)
"""Of the file's axes i, j, k, in mm."""


@pytest.mark.parametrize("slice_axis", range(3))
@pytest.mark.parametrize("shifted", range(3))
def test_a_known_shift_in_a_file_is_known_in_mm(tmp_path, monkeypatch, slice_axis, shifted):
    """A rod, one voxel thick across the shift, moved by two voxels along one of the file's axes."""
    monkeypatch.setenv("SAMZOO_HOME", str(tmp_path / "home"))
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    rod = np.zeros((12, 13, 14), dtype=np.uint8)
    along = (shifted + 1) % 3
    place = [slice(5, 6)] * 3
    place[along] = slice(1, -1)
    rod[tuple(place)] = 1
    for case, label in (("a", rod), ("b", np.roll(rod, 2, shifted)), ("c", rod)):
        for folder, array in ((f"imagesTr/{case}_0000", rod.astype(np.int16)), (f"labelsTr/{case}", label)):
            nib.save(nib.Nifti1Image(array, np.diag((*SPACING, 1.0))), tmp_path / "data" / f"{folder}.nii.gz")
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "rod": 1}, "numTraining": 3}
    (tmp_path / "data/dataset.json").write_text(json.dumps(content | {"file_ending": ".nii.gz"}))
    data = SamzooDataModule(root=str(tmp_path / "data"), layout="nnunet", slice_axis=slice_axis)
    data.build_store()
    entries = sorted((e for split in ("train", "val", "test") for e in data.entries(split)), key=lambda e: e.id)
    view = CaseView(entries, cases=[data.store.open(e) for e in entries])
    truth, moved, same = (view[i] for i in range(3))
    masks = [case.label.numpy() == 1 for case in (truth, moved, same)]
    mm = 2 * SPACING[shifted]
    assert truth.spacing[0] == pytest.approx(SPACING[slice_axis])
    assert surface(masks[1], masks[0], truth.spacing).hd95 == pytest.approx(mm, rel=1e-5)
    assert surface(masks[1], masks[0], truth.spacing, tolerances=(mm + 0.01,)).nsd == (pytest.approx(1.0),)
    assert surface(masks[1], masks[0], truth.spacing, tolerances=(mm / 2 - 0.01,)).nsd[0] < 0.5
    assert surface(masks[2], masks[0], truth.spacing).hd95 == 0
