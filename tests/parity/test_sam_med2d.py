"""SAM-Med2D against the numbers of its reference implementation, whatever the sizes of the golden set."""

from __future__ import annotations

import pytest
import torch
from test_sam import prompt_of

from samzoo.geometry import from_grid, plan, to_grid
from samzoo.methods import SAMMed2D
from samzoo.methods.mask_loss import Objective
from samzoo.methods.promptable import best_mask
from samzoo.methods.sam_med2d.episode import Episode, Part
from samzoo.methods.sam_med2d.network import build_sam_med2d
from samzoo.metrics.overlap import overlap
from samzoo.prompts.batched import jitter_boxes, mask_boxes, random_error_clicks, random_foreground_click
from samzoo.sam import load_weights, prepare_pictures
from samzoo.types import Prompts


def build(golden, **settings):
    settings = {"adapters": golden.config["adapters"], "policy": "stretch", "keep_box": True} | settings
    return SAMMed2D(golden.sam_config(), image_size=None, weights=str(golden.weights), **settings).eval()


@pytest.fixture
def method(sam_med2d_set):
    return build(sam_med2d_set)


def prompts(count, points=None, labels=None, boxes=None, images=None):
    index = torch.arange(count) if images is None else images
    return Prompts(index, torch.ones(count, dtype=torch.long), points, labels, boxes)


# --- network ---------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_encoder(sam_med2d_set, method):
    io, encoder = sam_med2d_set.io, method.sam.image_encoder
    x = io["in.image_u8"].permute(0, 3, 1, 2).float() - method.sam.pixel_mean[:, None, None]
    sam_med2d_set.assert_close("in.image", x / method.sam.pixel_std[:, None, None])
    sam_med2d_set.assert_close("enc.patch_embed", encoder.patch_embed(io["in.image"]))
    blocks = [i for i in range(len(encoder.blocks)) if f"enc.block{i}" in io]
    assert blocks
    embedding, taps = encoder(io["in.image"], taps=blocks)
    for i, tap in zip(blocks, taps, strict=True):
        sam_med2d_set.assert_close(f"enc.block{i}", tap)
    sam_med2d_set.assert_close("enc.image_embedding", embedding)
    for i, block in enumerate(encoder.blocks):
        if f"enc.adapter{i}.in" in io:
            sam_med2d_set.assert_close(f"enc.adapter{i}.out", block.Adapter(io[f"enc.adapter{i}.in"]))


@torch.inference_mode()
def test_encoder_without_its_adapters(sam_med2d_set):
    off = build(sam_med2d_set, use_adapters=False)
    sam_med2d_set.assert_close("noadapter.image_embedding", off.encode(sam_med2d_set.io["in.image"]))
    absent = build(sam_med2d_set, adapters=False)  # the same file into a model that has none
    sam_med2d_set.assert_close("noadapter.image_embedding", absent.encode(sam_med2d_set.io["in.image"]))


@torch.inference_mode()
def test_prompts_masks_and_quality(sam_med2d_set, method):
    io, sam = sam_med2d_set.io, method.sam
    sam_med2d_set.assert_close("pe.dense", sam.prompt_encoder.get_dense_pe())
    embedding = io["enc.image_embedding"]
    names = sorted(k.removesuffix(".multi.low_res") for k in io if k.endswith(".multi.low_res"))
    assert len(names) > 5
    for name in names:
        sparse, dense = sam.encode_prompts(*prompt_of(sam_med2d_set, name))
        if f"{name}.sparse" in io:
            sam_med2d_set.assert_close(f"{name}.sparse", sparse)
        if f"{name}.dense" in io:
            sam_med2d_set.assert_close(f"{name}.dense", dense.expand_as(io[f"{name}.dense"]))
        several = len(sparse) == len(embedding)  # one prompt per picture, or else all on picture 0
        index = torch.arange(len(sparse)) if several else torch.zeros(len(sparse), dtype=torch.long)
        for kind, multimask in (("multi", True), ("single", False)):
            if f"{name}.{kind}.low_res" in io:
                logits, quality = sam.decode(embedding, index, sparse, dense, multimask)
                sam_med2d_set.assert_close(f"{name}.{kind}.low_res", logits)
                sam_med2d_set.assert_close(f"{name}.{kind}.iou", quality)
                if multimask and f"{name}.best.low_res" in io:
                    best, best_quality = best_mask(logits, quality)
                    assert torch.equal(quality.argmax(1), io[f"{name}.best.index"])
                    sam_med2d_set.assert_close(f"{name}.best.low_res", best)
                    sam_med2d_set.assert_close(f"{name}.best.iou", best_quality[:, None])
                    if f"{name}.best.full" in io:
                        side = sam.config.image_size
                        full = from_grid(best, plan((side, side), side, "stretch"))
                        sam_med2d_set.assert_close(f"{name}.best.full", full)


# --- answering -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_clicks_accumulate_and_masks_are_fed_back(sam_med2d_set, method):
    io = sam_med2d_set.io
    points, labels = io["chain.clicks.coords"], io["chain.clicks.labels"]
    embedding, state = method.encode(io["in.image"]), None
    for step in range(points.shape[1]):
        asked = prompts(len(points), points[:, : step + 1], labels[:, : step + 1])
        logits, state = method.decode(embedding, asked, state)
        sam_med2d_set.assert_close(f"chain.step{step}.low_res", logits)
        sam_med2d_set.assert_close(f"chain.step{step}.iou", state["quality"][:, None])
    logits, state = method.decode(embedding, prompts(len(points)), state)
    sam_med2d_set.assert_close("chain.mask_only.low_res", logits)
    sam_med2d_set.assert_close("chain.mask_only.iou", state["quality"][:, None])


@torch.inference_mode()
def test_predictor_on_a_picture_of_another_shape(sam_med2d_set, method):
    io = sam_med2d_set.io
    image = io["predictor.image_u8"].permute(2, 0, 1)[None] / 255
    x, (grid,) = method.prepare(image, torch.tensor([image.shape[-2:]]), torch.ones(1, 2))
    embedding = method.encode(x)
    points = grid.points_to_grid(io["predictor.point.coords"])[None]
    labels = io["predictor.point.labels"][None]
    boxes = grid.boxes_to_grid(io["predictor.box"])[None]
    previous = {"low_res": io["predictor.box.low_res"][None]}
    for name, asked, state in (
        ("point", prompts(1, points, labels), None),
        ("box", prompts(1, boxes=boxes), None),
        ("point_mask", prompts(1, points, labels), previous),
    ):
        logits, state = method.decode(embedding, asked, state)
        sam_med2d_set.assert_close(f"predictor.{name}.low_res", logits[0])
        sam_med2d_set.assert_close(f"predictor.{name}.iou", state["quality"])
        sam_med2d_set.assert_close(f"predictor.{name}.logits", from_grid(logits, grid)[0])


def test_pictures_masks_and_logits_between_grids(sam_med2d_set):
    golden, facts = sam_med2d_set, sam_med2d_set.json("prompts.json")["preprocess"]
    side = facts["target_size"]
    mean, std = golden.config["pixel_mean"], golden.config["pixel_std"]
    for name, fact in facts.items():
        if name == "target_size":
            continue
        h, w = fact["height"], fact["width"]
        image = golden.io[f"pre.{name}.image_u8"].permute(2, 0, 1)[None] / 255
        x, (grid,) = prepare_pictures(image, torch.tensor([[h, w]]), side, "pad_or_stretch", "nearest", mean, std)
        golden.assert_close(f"pre.{name}.image", x[0])
        if fact["policy"] == "pad":
            assert list(grid.offset) == fact["pad_top_left"] and grid.content == (h, w)
        mask = to_grid(golden.io[f"pre.{name}.mask"][None, None].long(), grid, "nearest")
        golden.assert_close(f"pre.{name}.mask_out", mask[0, 0])
        golden.assert_close(f"post.{name}.logits", from_grid(golden.io[f"post.{name}.low_res"], grid))


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_boxes(sam_med2d_set):
    facts = sam_med2d_set.json("prompts.json")
    for name, box in facts["boxes_without_noise"].items():
        mask = sam_med2d_set.io[f"prompt.mask.{name}"].bool()[None]
        assert mask_boxes(mask, largest_part=True).tolist() == [box], name
    noise = facts["noisy_box"]
    clean = torch.tensor([facts["boxes_without_noise"][noise["mask"]]])
    shift = jitter_boxes(clean.repeat(noise["samples"], 1), torch.Generator().manual_seed(0)) - clean
    assert torch.equal(shift[:, :2], shift[:, 2:]) == noise["corners_move_together"]
    for axis, observed in enumerate((noise["observed_dx"], noise["observed_dy"])):
        assert [shift[:, axis].min(), shift[:, axis].max()] == observed


def test_clicks(sam_med2d_set):
    facts = sam_med2d_set.json("prompts.json")["clicks"]
    side = sam_med2d_set.sam_config().image_size
    for name, missed in (("missed_pixel", True), ("extra_pixel", False)):
        fact = facts[name]
        wrong = torch.zeros(1, side, side, dtype=torch.bool)
        wrong[(0, *fact["wrong_pixel_row_col"])] = True
        nothing = torch.zeros_like(wrong)
        prediction, target = (nothing, wrong) if missed else (wrong, nothing)
        points, labels = random_error_clicks(prediction, target, fact["count"])
        assert points.tolist() == [fact["coords"]] and labels.tolist() == [fact["labels"]]
    fact = facts["first_click_single_pixel_mask"]
    mask = torch.zeros(1, side, side, dtype=torch.bool)
    mask[(0, *fact["pixel_row_col"])] = True
    points, labels = random_foreground_click(mask)
    assert points.tolist() == [fact["coords"]] and labels.tolist() == [fact["labels"]]


# --- objective and metrics -------------------------------------------------------------------------------------------


def reference_objective(golden):
    weights = golden.json("loss.json")["weights"]
    return Objective(weights["focal"], weights["dice"], weights["quality"], pooled=True)


def test_objective_and_its_gradients(sam_med2d_set):
    golden, objective = sam_med2d_set, reference_objective(sam_med2d_set)
    for name, expected in golden.json("loss.json")["cases"].items():
        logits = golden.io[f"loss.{name}.logits"].requires_grad_()
        quality = golden.io[f"loss.{name}.pred_iou"].requires_grad_()
        terms = objective(logits, quality, golden.io[f"loss.{name}.target"].bool())
        for term in ("focal", "dice", "quality", "total"):
            golden.assert_close(f"{name}.{term}", getattr(terms, term), torch.tensor(expected[term]))
        terms.total.backward()
        golden.assert_close(f"loss.{name}.grad_logits", logits.grad)
        golden.assert_close(f"loss.{name}.grad_pred_iou", quality.grad)


def test_metrics(sam_med2d_set):
    expected, io = sam_med2d_set.json("loss.json")["metrics"], sam_med2d_set.io
    target = io["metric.target"].bool().numpy()
    for tensor, metric, values in (
        ("metric.logits", "dice", expected["dice"]),
        ("metric.logits", "iou", expected["iou"]),
        ("metric.positive_logits", "dice", expected["correct_dice_on_positive_logits"]),
    ):
        for mask, truth, value in zip((io[tensor] > 0).numpy(), target, values, strict=True):
            ours = getattr(overlap(mask, truth), metric)
            if ours is None:  # both empty: undefined here, 1 there
                assert value == 1
            else:
                assert ours == pytest.approx(value, abs=sam_med2d_set.tolerance)


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["box", "point"])
def test_training_episode(sam_med2d_set, first):
    golden, expected = sam_med2d_set, sam_med2d_set.json("episode.json")[first]
    method = build(golden, train_prompt_encoder=False, train_point_embeddings=first != "point", loss="pooled").train()
    io, sam = golden.io, method.sam
    target = io["episode.lab"].bool()
    index = torch.arange(len(io["episode.img"])).repeat_interleave(len(target) // len(io["episode.img"]))
    part = Part(io["episode.img"], index, target)
    if first == "box":
        part.boxes = io["episode.box"][:, 0]
    else:
        part.points, part.labels = io["episode.pc"], torch.ones(len(target), 1, dtype=torch.long)

    def corrections(number, part):
        if f"episode.c{number}" not in io:
            return None
        return io[f"episode.c{number}"], io[f"episode.l{number}"]

    optimizer = torch.optim.Adam(method.trainable_parameters(), lr=1e-3)
    states = [snapshot(sam)]

    def step():
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        states.append(snapshot(sam))

    assert method.episode.objective == reference_objective(golden)
    episode = Episode(method.episode.objective, refinements=len(expected["losses"]) - 1)
    losses = episode.run(sam, [part], corrections, torch.Tensor.backward, step)

    total = torch.stack([loss.total for loss in losses])
    golden.assert_close(f"{first}.losses", total, torch.tensor(expected["losses"]), tolerance=1e-3)
    golden.assert_close(f"episode.{first}.final_low_res", part.low_res, tolerance=1e-2)
    golden.assert_close(f"episode.{first}.final_iou", part.quality[:, None], tolerance=1e-2)
    check_changes(states[0], states[1], expected["changed_by_first_step"])
    check_changes(states[1], states[-1], expected["changed_by_refinement"])


def snapshot(sam):
    return {k: v.detach().clone() for k, v in sam.state_dict().items()}


def check_changes(before, after, expected):
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    adapters = {k for k in before if ".Adapter." in k}
    assert f"{len(changed & adapters)} of {len(adapters)}" == expected["adapter_tensors"]
    others = {k for k in changed if k.startswith("image_encoder.")} - adapters
    assert len(others) == expected["other_image_encoder_tensors"]
    assert sorted(k for k in changed if k.startswith("prompt_encoder.")) == sorted(expected["prompt_encoder_tensors"])
    decoder = {k for k in before if k.startswith("mask_decoder.")}
    assert f"{len(changed & decoder)} of {len(decoder)}" == expected["mask_decoder_tensors"]
    assert sorted(decoder - changed) == sorted(expected["mask_decoder_unchanged"])


# --- weights ---------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_plain_sam_is_carried_into_a_model_with_adapters(sam_med2d_resize_set):
    golden = sam_med2d_resize_set
    keys = golden.config["keys"]
    sam = build_sam_med2d(golden.sam_config(), None, adapters=True).eval()
    report = load_weights(sam, golden.source, new=lambda key: ".Adapter." in key)
    assert sorted(report.resized) == sorted(keys["resized"])
    assert sorted(report.new) == sorted(keys["only_in_target_kept_as_is"])
    assert len(report.loaded) == keys["copied_unchanged_count"]

    reference = SAMMed2D(golden.sam_config(), image_size=None, weights=str(golden.weights)).eval()
    expected = reference.sam.state_dict()
    for key, tensor in sam.state_dict().items():
        if key not in report.new:
            golden.assert_close(key, tensor, expected[key])

    embedding = reference.encode(golden.io["in.image"])
    golden.assert_close("enc.image_embedding", embedding)
    for name in sorted(k.removesuffix(".multi.low_res") for k in golden.io if k.endswith(".multi.low_res")):
        sparse, dense = reference.sam.encode_prompts(*prompt_of(golden, name))
        logits, quality = reference.sam.decode(embedding, torch.arange(len(embedding)), sparse, dense, True)
        golden.assert_close(f"{name}.multi.low_res", logits)
        golden.assert_close(f"{name}.multi.iou", quality)
