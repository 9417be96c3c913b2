"""MaskSAM's inference against the numbers of its reference code: windows, their weights, scores from queries."""

from __future__ import annotations

import re

import pytest
import torch

from samzoo.evaluation.windows import importance_map, window_starts

pytestmark = pytest.mark.golden(where=lambda golden: "window_starts" in golden.config)


def test_window_starts(masksam_set):
    assert masksam_set.config["window_starts"]
    for known in masksam_set.config["window_starts"]:
        assert window_starts(known["image"], known["tile"], known["step"]) == known["starts"]


def test_importance_maps(masksam_set):
    maps = {name: m for name, m in masksam_set.io.items() if name.startswith("gaussian_")}
    assert maps
    for name, expected in maps.items():
        window = [int(side) for side in re.findall(r"\d+", name)]
        assert torch.equal(importance_map(window, expected.dtype), expected)
        ours = importance_map(window)
        assert ours.dtype == torch.float32 and ours.min() > 0
        smallest = torch.finfo(expected.dtype).smallest_normal * torch.finfo(expected.dtype).eps
        torch.testing.assert_close(ours.to(expected.dtype), expected, rtol=0, atol=smallest)


def test_semantic_scores(masksam_set):
    from samzoo.methods.masksam.network import semantic_scores

    io, tolerance = masksam_set.io, masksam_set.config["suggested_tolerance"]
    actual = semantic_scores(io["class_logits"], io["mask_logits"], io["semantic_scores"].shape[2])
    masksam_set.assert_close("semantic_scores", actual, tolerance=tolerance)
