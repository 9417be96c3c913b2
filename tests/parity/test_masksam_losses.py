"""MaskSAM's targets, matching and losses against the numbers of the original, whatever the sizes of a set."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from samzoo.methods.masksam.loss import TERMS, Criterion, LossSettings, mask_bce, mask_dice
from samzoo.methods.masksam.matcher import giou, match, pairwise_bce, pairwise_costs, pairwise_dice, total_cost
from samzoo.methods.masksam.targets import slice_targets

OF_LOSSES = pytest.mark.golden(where=lambda golden: "matching and loss" in golden.config.get("what", ""))
OF_TRAINING = pytest.mark.golden(where=lambda golden: (golden.folder / "io_train.safetensors").exists())
BOTH_WEIGHTINGS = pytest.mark.parametrize("weighting", ["amos", "acdc_synapse"])

COSTS = {
    "ce": "class",
    "mask": "mask",
    "dice": "dice",
    "aux_mask": "aux_mask",
    "aux_dice": "aux_dice",
    "aux_box": "aux_box_l1",
    "aux_giou": "aux_giou",
}
"""Names here, and those of the sets' costs and weights; one of the sets' losses differs."""
PREDICTIONS = {
    "pred_logits": "pred_logits",
    "pred_masks": "pred_masks",
    "pred_aux_masks": "pred_aux_masks",
    "pred_aux_boxes": "pred_aux_bboxes",
}
"""Names of the sets' predictions, and of their gradients."""


def close(golden, name, actual):
    golden.assert_close(name, actual, tolerance=golden.config["suggested_tolerance"])


def targets_of(golden):
    sizes = golden.config["hyper"]
    return slice_targets(golden.io["label_slices"].long(), sizes["classes"], sizes["queries"])


def matcher_points(golden):
    return torch.cat([golden.io[f"matcher_points_{s}"] for s in range(golden.config["hyper"]["slices"])])


def costs_of(golden):
    return pairwise_costs(*(golden.io[name] for name in PREDICTIONS), targets_of(golden), matcher_points(golden))


def weights_of(golden, weighting):
    return {here: golden.config["loss_and_cost_weights"][weighting][there] for here, there in COSTS.items()}


def assert_targets(targets, expected):
    """Whole numbers bit by bit."""
    torch.testing.assert_close(targets.labels, expected["target_labels"], rtol=0, atol=0)
    torch.testing.assert_close(targets.masks, expected["target_masks"].bool(), rtol=0, atol=0)
    torch.testing.assert_close(targets.counts, expected["target_counts"], rtol=0, atol=0)
    torch.testing.assert_close(targets.boxes, expected["target_boxes"], rtol=0, atol=1e-7)
    assert targets.valid is None


@OF_LOSSES
def test_targets(masksam_set):
    assert_targets(targets_of(masksam_set), masksam_set.io)


@OF_TRAINING
def test_targets_of_a_volume(masksam_set):
    """Slices are numbered (b, t), row by row."""
    expected = load_file(masksam_set.folder / "io_train.safetensors")
    sizes = masksam_set.config["hyper"]
    slices = expected["label_volume"][:, 0].flatten(0, 1).long()
    assert_targets(slice_targets(slices, sizes["classes"], sizes["queries"]), expected)


@OF_LOSSES
@pytest.mark.parametrize("cost", COSTS)
def test_pairwise_costs(masksam_set, cost):
    actual = costs_of(masksam_set)[cost]
    for s, count in enumerate(masksam_set.io["target_counts"].tolist()):
        close(masksam_set, f"cost_{COSTS[cost]}_{s}", actual[s, :, :count])


@OF_LOSSES
@BOTH_WEIGHTINGS
def test_assignment(masksam_set, weighting):
    costs, weights = costs_of(masksam_set), weights_of(masksam_set, weighting)
    total = total_cost(costs, weights)
    pairs = match(costs, weights, targets_of(masksam_set))
    for s, count in enumerate(masksam_set.io["target_counts"].tolist()):
        close(masksam_set, f"{weighting}/cost_total_{s}", total[s, :, :count])
        expected = masksam_set.io[f"{weighting}/matched_pairs"][s]
        actual = torch.stack([pairs.queries, pairs.targets], 1)[pairs.slices == s]
        assert torch.equal(actual, expected[expected[:, 0] >= 0])
    assert len(pairs.slices) == masksam_set.io["target_counts"].sum()


@OF_LOSSES
@BOTH_WEIGHTINGS
def test_losses_and_gradients(masksam_set, weighting):
    golden, sizes = masksam_set, masksam_set.config["hyper"]
    predictions = {name: golden.io[name].clone().requires_grad_() for name in PREDICTIONS}
    settings = LossSettings(
        **weights_of(golden, weighting),
        no_object=sizes["no_object_weight"],
        points=sizes["points"],
        oversample=sizes["oversample"],
        importance=sizes["importance"],
    )
    draws = ("mask_points_candidates", "mask_points_random", "aux_mask_points_candidates", "aux_mask_points_random")
    points = [matcher_points(golden), *(golden.io[name] for name in draws)]
    terms = Criterion(settings)(*predictions.values(), targets_of(golden), points=points)
    for term in TERMS:
        name = {"aux_box": "aux_bbox"}.get(term, term)
        close(golden, f"{weighting}/loss_{name}", getattr(terms, term)[None])
    close(golden, f"{weighting}/total", terms.total[None])
    terms.total.backward()
    for name, there in PREDICTIONS.items():
        expected = golden.io[f"{weighting}/grad_{there}"]
        scale = expected.abs().max()  # the tolerance itself is of the size of these gradients
        golden.assert_close(
            name, predictions[name].grad / scale, expected / scale, golden.config["suggested_tolerance"]
        )


@OF_LOSSES
def test_elementary_functions(masksam_set):
    logits, labels, boxes_a, boxes_b = (masksam_set.io[f"unit/{n}"] for n in ("logits", "labels", "boxes_a", "boxes_b"))
    close(masksam_set, "unit/ce", mask_bce(logits, labels).sum()[None] / 3)
    close(masksam_set, "unit/dice", mask_dice(logits, labels).sum()[None] / 3)
    close(masksam_set, "unit/pair_ce", pairwise_bce(logits, labels))
    close(masksam_set, "unit/pair_dice", pairwise_dice(logits, labels))
    close(masksam_set, "unit/giou", giou(boxes_a[:, None], boxes_b[None]))
