"""ProMISe against the numbers of its reference code: all five modes, losses, gradients, scores, whatever the sizes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from samzoo.geometry import Grid, from_grid
from samzoo.methods.promise.ips import pooled
from samzoo.methods.promise.loss import Objective, reference_criterion, soft_targets
from samzoo.methods.promise.network import ProMISeNetwork, load_args
from samzoo.methods.promise.published import find_frame, open_masks, pad_to_square, prepare_frame, scores
from samzoo.sam import load_weights

MODES = {
    "apm_resnet": ("resnet", None),
    "apm_ips_resnet": ("resnet", "mlp"),
    "ips_gt": (None, "mlp"),
    "apm_cross": ("cross", None),
    "apm_ips_cross": ("cross", "mlp"),
}
"""Variants of a set, and the settings that they are here."""

TOLERANCE_OF = {
    "apm_queries": "encoder_atol",
    "apm_raw": "encoder_atol",
    "points": "points_atol_pixels",
    "sparse_embeddings": "encoder_atol",
    "ips_pooled": "ips_tokens_atol",
    "ips_tokens": "ips_tokens_atol",
    "all4_logits": "logits_atol",
    "low_res_logits": "logits_atol",
    "probs": "logits_atol",
    "all4_iou": "encoder_atol",
    "iou_predictions": "encoder_atol",
}


def close(golden, name, actual, tolerance):
    """Within the absolute tolerance of that name, with none relative."""
    golden.assert_close(name, actual, tolerance=golden.config["suggested_tolerance"][tolerance], rtol=0.0)


def build(golden, mode) -> ProMISeNetwork:
    """The network of one mode with the set's weights; parts of other modes in that file are left out, whole."""
    apm, ips = MODES[mode]
    sizes = golden.config["hyper_parameters"]
    network = ProMISeNetwork(
        golden.sam_config(),
        apm=apm,
        ips=ips,
        num_points=sizes["points"],
        positive_points=sum(sizes["labels"]),
        fusion_width=sizes["apm_resnet"]["fuse_channels"],
        stage_widths=sizes["apm_resnet"]["stage_widths"],
        cross_heads=sizes["apm_cross"]["num_heads"],
    ).eval()
    report = load_weights(network, golden.weights, **load_args(network))
    assert not report.new and not report.resized
    left_out = {key.split(".")[0] for key in report.ignored}
    there = {name for name, _ in network.named_children()}
    assert left_out == {"apm_feature_map", "apm_resnet", "apm_cross", "apm_cross_prompt", "ips_ffn"} - there
    return network


def answer(golden, network, mode):
    """`embed`'s tensors and what each picture's one prompt gets, all mask tokens."""
    embedded = network.embed(network.features(golden.io["input/image"]))
    index = torch.arange(len(embedded[0]))
    given = {}
    if network.apm is None:
        given = {"user_points": golden.io[f"{mode}/points"], "user_labels": golden.io[f"{mode}/labels"]}
    classes = torch.zeros_like(index)
    return embedded, network.answer(embedded, index, classes, tokens=range(network.num_tokens), **given)


@torch.no_grad()
def test_features(promise_set):
    golden = promise_set
    network = build(golden, "apm_resnet")
    blocks = golden.config["hyper_parameters"]["apm_resnet"]["concat_order"]
    assert [i + 1 for i in network.taps] == blocks
    embedding, *taps = network.features(golden.io["input/image"])
    close(golden, "encoder/image_embedding", embedding, "encoder_atol")
    for number, tap in zip(blocks, taps, strict=True):
        close(golden, f"encoder/features_block{number}", tap, "encoder_atol")
    # blocks that nothing here reads
    numbers = golden.config["hyper_parameters"]["encoder"]["tap_blocks_1_based"]
    _, tapped = network.image_encoder(golden.io["input/image"], taps=[i - 1 for i in numbers])
    for number, tap in zip(numbers, tapped, strict=True):
        close(golden, f"encoder/features_block{number}", tap.permute(0, 3, 1, 2), "encoder_atol")

    close(golden, "common/dense_pe", network.prompt_encoder.get_dense_pe(), "encoder_atol")
    _, dense = network.encode_prompts(golden.io["apm_resnet/points"], golden.io["apm_resnet/labels"])
    close(golden, "common/dense_embeddings", dense.expand(len(embedding), -1, -1, -1), "encoder_atol")
    assert torch.equal(network.point_labels, golden.io["input/labels"].long())


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_every_tensor_of_a_mode(promise_set, mode):
    golden = promise_set
    network = build(golden, mode)
    (embedding, points, shift), (logits, quality) = answer(golden, network, mode)
    taps = network.features(golden.io["input/image"])[1:]
    found = {
        "all4_logits": logits,
        "all4_iou": quality,
        "low_res_logits": logits[:, 1:],
        "iou_predictions": quality[:, 1:],
        "probs": logits[:, 1:].sigmoid(),
    }
    if network.apm:
        found["points"] = points[:, 0]
        labels = network.point_labels.expand(len(points), -1)
        found["labels"] = labels
        found["apm_raw"] = network.regress(taps)[:, 0].view(golden.io[f"{mode}/apm_raw"].shape)
        found["sparse_embeddings"], _ = network.encode_prompts(points[:, 0], labels)
    else:
        given = golden.io[f"{mode}/points"], golden.io[f"{mode}/labels"]
        found |= {"points": given[0], "labels": given[1], "sparse_embeddings": network.encode_prompts(*given)[0]}
    if network.ips:
        found |= {"ips_tokens": shift[:, 0], "ips_pooled": pooled(embedding)}
    if network.apm == "resnet":
        fused = network.apm_feature_map(taps)
        found["apm_fused"] = fused
        found["apm_unused_head"] = network.apm_resnet.fc2(network.apm_resnet.pooled(fused))
    if network.apm == "cross":
        found["apm_queries"] = network.apm_cross(taps)

    expected = {key.split("/")[1] for key in golden.io if key.startswith(f"{mode}/")}
    assert expected <= set(found)
    for name in sorted(expected):
        close(golden, f"{mode}/{name}", found[name], TOLERANCE_OF.get(name, "encoder_atol"))


def test_gradients_of_the_reference_objective(promise_set):
    golden = promise_set
    tolerance = golden.config["suggested_tolerance"]
    assert golden.config["gradient_norms"]
    for mode, facts in golden.config["gradient_norms"].items():
        network = build(golden, mode)
        _, (logits, _) = answer(golden, network, mode)
        loss = Objective(double_sigmoid=True)(logits[:, 1:2], golden.io["input/gt_low"]).total
        loss.backward()
        assert loss.item() == pytest.approx(facts["loss"], abs=tolerance["losses_atol"])
        close(golden, f"grad/{mode}/loss", loss[None], "losses_atol")

        parameters = dict(network.named_parameters())
        assert {name for name, p in parameters.items() if p.requires_grad} == set(facts["grad_norm"])
        assert all(p.grad is None for p in parameters.values() if not p.requires_grad)
        for name, norm in facts["grad_norm"].items():
            gradient = parameters[name].grad
            if norm is None:
                assert gradient is None, f"{mode}: {name}"
            else:
                assert gradient.norm().item() == pytest.approx(norm, rel=tolerance["gradients_rtol"]), f"{mode}: {name}"
        for key, expected in golden.io.items():
            if key.startswith(f"grad/{mode}/") and not key.endswith("/loss"):
                difference = parameters[key.split("/")[2]].grad - expected
                assert difference.norm() <= tolerance["gradients_rtol"] * expected.norm(), key


def test_losses(promise_set):
    """Values are named after what the criterion is fed with, and which masks: all, the nonempty or the empty ones."""
    golden = promise_set
    tolerance = golden.config["suggested_tolerance"]
    logits, target = golden.io["loss/logits"], golden.io["loss/target"]
    empty = target.flatten(1).sum(1) == 0
    gradients = {}
    for name, facts in golden.config["loss_values"].items():
        rows = ~empty if "nonempty" in name else empty if "empty" in name else torch.ones_like(empty)
        # this one was made far from any foreground, as its Dice score of 2 and its gradient tell
        fed = logits - 20 if name == "logits_empty_only" else logits
        values = (fed.sigmoid() if name.startswith("probabilities") else fed)[rows].requires_grad_()
        terms = reference_criterion(values, target[rows])
        close(golden, f"loss/values/{name}", torch.stack([terms.bce, terms.dice, terms.total]), "losses_atol")
        for term in ("bce", "dice", "total"):
            assert getattr(terms, term).item() == pytest.approx(facts[term], abs=tolerance["losses_atol"]), name
        assert len(values) == len(facts["dice_score_per_sample_unclamped"])
        for i, score in enumerate(facts["dice_score_per_sample_unclamped"]):
            alone = reference_criterion(values[i : i + 1], target[rows][i : i + 1]).dice.item()
            assert alone == pytest.approx(max(1 - score, 0), abs=tolerance["losses_atol"]), name
        (gradients[name],) = torch.autograd.grad(terms.total, values)
        norm = gradients[name].norm().item()
        assert norm == pytest.approx(facts["grad_l2"], rel=tolerance["gradients_rtol"], abs=1e-9), name
    rtol = tolerance["gradients_rtol"]
    for key, name in (("probabilities", "probabilities_as_in_training"), ("logits", "logits")):
        golden.assert_close(f"loss/grad_wrt_{key}", gradients[name], tolerance=1e-9, rtol=rtol)

    as_trained = Objective(double_sigmoid=True)(logits, target)
    close(
        golden, "loss/values/probabilities_as_in_training", torch.stack(list(vars(as_trained).values())), "losses_atol"
    )


def test_targets(promise_set):
    golden = promise_set
    label, expected = golden.io["input/gt_full"], golden.io["input/gt_low"]
    target, valid = soft_targets(label[:, 0].long(), 1, expected.shape[-1])
    close(golden, "input/gt_low", target, "metrics_atol")
    assert valid.all()


@pytest.mark.parametrize("opened", [True, False], ids=["opened", "raw"])
def test_published_scores(promise_set, opened):
    golden = promise_set
    probability = golden.io["metrics/prob"][:, 0]
    for truth in ("gt_full", "gt_low"):
        found = scores(probability, golden.io[f"metrics/{truth}"][:, 0], opening=5 if opened else 0)
        assert list(found) == golden.config["metric_columns"]
        table = torch.stack(list(found.values()), dim=1)
        close(golden, f"metrics/values_{'opened' if opened else 'raw'}", table, "metrics_atol")
    assert torch.equal(open_masks(probability >= 0.5, 5), golden.io["metrics/binary_opened"][:, 0].bool())


def test_masks_on_the_original_grid(promise_set):
    golden = promise_set
    expected = golden.io["postprocess/logits"]
    meaning = golden.config["tensors"]["postprocess/logits"]["meaning"]
    content = tuple(map(int, re.search(r"input size \((\d+), (\d+)\)", meaning).groups()))
    grid = Grid(tuple(expected.shape[-2:]), golden.config["hyper_parameters"]["image_size"], content)
    close(golden, "postprocess/logits", from_grid(golden.io["apm_ips_resnet/low_res_logits"], grid), "logits_atol")


def test_preparation_of_frames(promise_set):
    golden = promise_set
    numbers = {key.split("/")[1] for key in golden.io if key.startswith("preprocess/")}
    assert numbers
    for number in numbers:
        given = {k.split("/")[2]: v.numpy() for k, v in golden.io.items() if k.startswith(f"preprocess/{number}/")}
        image, mask, expected = given["image"], given["mask"], given["resized_image"]
        x0, x1, y0, y1 = box = find_frame(image)
        assert list(box) == given["box"].tolist()
        assert np.array_equal(pad_to_square(image[y0:y1, x0:x1]), given["padded_image"])
        assert np.array_equal(pad_to_square(mask[y0:y1, x0:x1]), given["padded_mask"])
        same_box, resized, resized_mask = prepare_frame(image, mask, len(expected))
        assert same_box == box
        assert np.abs(resized.astype(int) - expected.astype(int)).max() <= 1  # grey level, as the set says
        assert np.array_equal(resized_mask, given["resized_mask"])
