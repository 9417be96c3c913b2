"""What surrounds SAM-Med3D's network, against its official code: crops, their normalisation, the loss, clicks."""

from __future__ import annotations

import pytest
import torch

from samzoo.geometry import corner_around, cut
from samzoo.methods import SAMMed3D
from samzoo.methods.crop import Refinement
from samzoo.methods.crop_inputs import draw_objects, error_or_foreground_click, normalised
from samzoo.methods.randomness import seeded_generator

AIR, BONE = -1000, 1000


def test_each_crop_is_normalised_by_its_own_voxels_above_zero(sam_med3d_set):
    clamped = sam_med3d_set.io["znorm_raw_hu"].clamp(AIR, BONE)
    sam_med3d_set.assert_close("znorm_clamped", clamped)
    sam_med3d_set.assert_close("znorm_per_sample", normalised(clamped, 0.0), tolerance=1e-5)
    as_read = (clamped - AIR) / (BONE - AIR)  # as the data module hands it over, 0 HU at 0.5
    sam_med3d_set.assert_close("znorm_per_sample", normalised(as_read, 0.5), tolerance=1e-4)


@pytest.mark.parametrize("name", ["a", "b"])
def test_an_oracles_crop_lies_around_the_middle_of_the_structure(sam_med3d_set, name):
    """The third case, a crop of a volume without the structure, is never asked for here."""
    image, label = (sam_med3d_set.io[f"crop_{name}_{kind}_in"] for kind in ("image", "label"))
    side = sam_med3d_set.config["hyper_parameters"]["crop_target"]
    voxels = label[0].nonzero()
    corner = corner_around(voxels.amin(0).tolist(), (voxels.amax(0) + 1).tolist(), (side,) * 3)
    sam_med3d_set.assert_close(f"crop_{name}_image_out", cut(image, corner, (side,) * 3))
    sam_med3d_set.assert_close(f"crop_{name}_label_out", cut(label, corner, (side,) * 3))


@pytest.mark.parametrize(("loss", "expected"), [("dice", "official_as_pinned"), ("dice_ce", "dice_plus_bce")])
def test_loss(sam_med3d_set, loss, expected):
    io, losses = sam_med3d_set.io, sam_med3d_set.config["losses"]
    method = SAMMed3D("vit_tiny_3d", refinement=Refinement(loss=loss))
    for step in ("iter1", "iter2"):
        target = io["gt"] > 0
        value = method.loss(io[f"{step}_full_res"], target, torch.ones_like(target), method._weights(target))
        assert float(value) == pytest.approx(losses[step][expected], abs=1e-5)
    target = io["loss_target"] > 0  # one of them empty, which would not count in training
    value = method.loss(io["loss_logits"], target, torch.ones_like(target), torch.full((len(target),), 1 / len(target)))
    assert float(value) == pytest.approx(losses["fixed_case"][expected], abs=1e-5)


def test_training_clicks_lie_in_the_error_region(sam_med3d_set):
    io = sam_med3d_set.io
    target, _ = draw_objects((io["gt"] > 0).long()[:, 0], seeded_generator(0))
    prediction = io["iter1_full_res"] > Refinement().click_threshold
    region = io["error_region_after_iter1"] > 0
    assert torch.equal(prediction != target, region)
    for seed in range(20):
        points, labels = error_or_foreground_click(prediction, target, torch.ones_like(target), seeded_generator(seed))
        for i, (x, y, z) in enumerate(points[:, 0].long().tolist()):
            assert region[i, 0, z, y, x] and bool(labels[i, 0]) == bool(target[i, 0, z, y, x])
