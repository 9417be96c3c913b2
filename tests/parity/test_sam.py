"""SAM against the numbers of segment-anything itself, whatever the sizes of the golden set."""

from __future__ import annotations

import pytest
import torch

from samzoo.geometry import Grid, from_grid
from samzoo.sam import build_sam, load_weights, prepare_pictures


@pytest.fixture
def sam(sam_set):
    model = build_sam(sam_set.sam_config()).eval()
    report = load_weights(model, sam_set.weights)
    assert not report.new and not report.ignored and not report.resized
    return model


def prompt_of(golden, name):
    """(points, labels, boxes, masks) of the case `name`, whose parts (point, box, mask ...) name the inputs."""
    points = labels = boxes = masks = None
    parts = [name] if f"in.{name}" in golden.io else name.split("_")
    for part in parts:
        if part == "none":
            continue
        if f"in.{part}.coords" in golden.io:
            points, labels = golden.io[f"in.{part}.coords"], golden.io[f"in.{part}.labels"]
        elif part == "mask":
            masks = golden.io["in.mask"]
        else:
            boxes = golden.io[f"in.{part}"]
    return points, labels, boxes, masks


def cases(golden):
    return sorted({k.split(".")[0] for k in golden.io if k.endswith((".low_res", ".dense"))} - {"pe", "whole"})


@torch.inference_mode()
def test_encoder(sam_set, sam):
    x = sam_set.io["in.image"]
    blocks = [i for i in range(sam.config.depth) if f"enc.block{i}" in sam_set.io]
    sam_set.assert_close("enc.patch_embed", sam.image_encoder.patch_embed(x))
    embedding, taps = sam.image_encoder(x, taps=blocks)
    for i, tap in zip(blocks, taps, strict=True):
        sam_set.assert_close(f"enc.block{i}", tap)
    sam_set.assert_close("enc.image_embedding", embedding)
    sam_set.assert_close("enc.image_embedding", sam.encode(x))


@torch.inference_mode()
def test_prompts(sam_set, sam):
    sam_set.assert_close("pe.dense", sam.prompt_encoder.get_dense_pe())
    compared = 0
    for name in cases(sam_set):
        sparse, dense = sam.encode_prompts(*prompt_of(sam_set, name))
        if f"{name}.sparse" in sam_set.io:
            sam_set.assert_close(f"{name}.sparse", sparse)
            compared += 1
        if f"{name}.dense" in sam_set.io:
            expected = sam_set.io[f"{name}.dense"]
            sam_set.assert_close(f"{name}.dense", dense.expand(len(expected), -1, -1, -1))
            compared += 1
    assert compared


@torch.inference_mode()
def test_masks_and_quality(sam_set, sam):
    embedding = sam_set.io["enc.image_embedding"]
    compared = 0
    for name in cases(sam_set):
        sparse, dense = sam.encode_prompts(*prompt_of(sam_set, name))
        # one prompt per picture, or else all of them on picture 0
        index = (
            torch.arange(len(sparse)) if len(sparse) == len(embedding) else torch.zeros(len(sparse), dtype=torch.long)
        )
        for kind, multimask in (("multi", True), ("single", False)):
            if f"{name}.{kind}.low_res" in sam_set.io:
                logits, quality = sam.decode(embedding, index, sparse, dense, multimask)
                sam_set.assert_close(f"{name}.{kind}.low_res", logits)
                sam_set.assert_close(f"{name}.{kind}.iou", quality)
                compared += 1
    assert compared


@torch.inference_mode()
def test_whole_model_on_pictures_of_other_shapes(sam_set, sam):
    pictures = sam_set.config.get("whole", {})
    if not pictures:
        pytest.skip("the set has no pictures of other shapes")
    mean, std, side = sam_set.config["pixel_mean"], sam_set.config["pixel_std"], sam.config.image_size
    for key, facts in pictures.items():
        whole = f"whole.{key.removeprefix('picture')}"
        raw = sam_set.io[f"{whole}.raw"][None] / 255
        size = torch.tensor([facts["input_size"]])
        x, (grid,) = prepare_pictures(raw, size, side, "longest_side", "bilinear", mean, std)
        sam_set.assert_close(f"{whole}.preprocessed", x[0])

        points, labels = sam_set.io.get(f"{whole}.point.coords"), sam_set.io.get(f"{whole}.point.labels")
        boxes = sam_set.io.get(f"{whole}.box")
        sparse, dense = sam.encode_prompts(points, labels, boxes, sam_set.io.get(f"{whole}.mask"))
        logits, quality = sam.decode(sam.encode(x), torch.zeros(len(sparse), dtype=torch.long), sparse, dense, True)
        sam_set.assert_close(f"{whole}.low_res", logits)
        sam_set.assert_close(f"{whole}.iou", quality)

        # the raw picture is already scaled; its masks are wanted at the size before that
        native = from_grid(logits, Grid(tuple(facts["original_size"]), side, grid.content, grid.offset))
        expected = sam_set.io[f"{whole}.masks"].bool()
        assert native.shape == expected.shape
        assert not ((native > 0) != expected)[native.abs() > sam_set.tolerance].any(), f"{whole}.masks"


@torch.inference_mode()
def test_weights_are_carried_to_another_image_size(sam_resize_set):
    golden = sam_resize_set
    sam = build_sam(golden.sam_config()).eval()
    report = load_weights(sam, golden.source)
    assert sorted(report.resized) == sorted(golden.config["keys"]["resized"])
    assert len(report.loaded) == golden.config["keys"]["copied_unchanged_count"]

    direct = build_sam(golden.sam_config())
    load_weights(direct, golden.weights)
    for (key, actual), expected in zip(sam.state_dict().items(), direct.state_dict().values(), strict=True):
        golden.assert_close(key, actual, expected)

    embedding = sam.encode(golden.io["in.image"])
    golden.assert_close("enc.image_embedding", embedding)
    for name in cases(golden):
        sparse, dense = sam.encode_prompts(*prompt_of(golden, name))
        logits, quality = sam.decode(embedding, torch.arange(len(embedding)), sparse, dense, True)
        golden.assert_close(f"{name}.multi.low_res", logits)
        golden.assert_close(f"{name}.multi.iou", quality)
