"""Data that pretrained weights were trained on is known by whatever name people give it."""

import pytest

from samzoo.sam.weights import WEIGHTS, is_seen

SEEN = [("kits", "kits"), ("KiTS23", ""), ("kits19", ""), ("brats", "brats"), ("MICCAI_BraTS2020_TrainingData", "")]
SEEN += [("BraTS-GLI", "brats"), ("BRATS", "msd"), ("AMOS", "msd"), ("amos22", ""), ("LiTS", "lits"), ("kipa22", "")]
SEEN += [("Task10_Colon", "msd"), ("Colon", "msd"), ("LIVER", "msd"), ("Task01_BrainTumour", ""), ("PROSTATE", "msd")]
SEEN += [("Dataset008_HepaticVessel", "nnunet"), ("MSD_Task09_Spleen", ""), ("msd_spleen", ""), ("spleen", "nnunet")]
UNSEEN = [("hippocampus", ""), ("Hippocampus", "msd"), ("Dataset004_Hippocampus", "nnunet"), ("msd_lung", "msd")]
UNSEEN += [("Task06_Lung", "msd"), ("Colon", "nnunet"), ("Dataset110_Colon", "nnunet"), ("phantom", ""), ("", "msd")]


@pytest.mark.parametrize("weights", ["sam_med3d", "sam_med3d_turbo"])
def test_names_of_data_sets_that_were_seen(weights):
    seen = WEIGHTS[weights].seen
    assert [name for name in SEEN if not is_seen(seen, *name)] == []
    assert [name for name in UNSEEN if is_seen(seen, *name)] == []
    assert not is_seen(WEIGHTS["sam_vit_b"].seen, "kits23")
