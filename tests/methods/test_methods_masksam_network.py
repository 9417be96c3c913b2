"""MaskSAM's network: what its settings do to its answers and gradients, and which files it takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from samzoo.errors import ConfigError, WeightsError
from samzoo.methods.masksam.network import MaskSAMNetwork, semantic_scores
from samzoo.methods.masksam.settings import FIXED, Corrections, MaskSAMSettings
from samzoo.methods.masksam.targets import mask_boxes
from samzoo.methods.masksam.weights import load_args
from samzoo.sam import SamConfig, build_sam, load_weights

SAM = SamConfig(
    image_size=64,
    patch_size=8,
    embed_dim=16,
    depth=6,
    num_heads=2,
    global_attn_indexes=(2, 5),
    window_size=3,
    prompt_embed_dim=32,
    decoder_mlp_dim=32,
    decoder_num_heads=2,
    iou_head_hidden_dim=16,
)
"""As vit_tiny, in small: patches of 8, two global blocks; windows of 3 do not divide the grid of 4 tokens."""

DIRECT = MaskSAMSettings(patch=(3, 32, 32), num_classes=3, queries=5, widths=(8, 6, 4, 4), head_width=4)
UPSAMPLED = replace(DIRECT, design="upsampled", widths=(8, 4, 4, 4, 4))
EACH_DESIGN = pytest.mark.parametrize("settings", [DIRECT, UPSAMPLED], ids=["direct", "upsampled"])
FULLY_FIXED = replace(DIRECT, corrections=FIXED)


def build(settings, **changes) -> MaskSAMNetwork:
    """The same weights at each call, none of them zero."""
    torch.manual_seed(3)
    network = MaskSAMNetwork(SAM, replace(settings, **changes))
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return network


def slab(settings, batch=1):
    return torch.randn(batch, settings.in_channels, *settings.patch, generator=torch.Generator().manual_seed(5))


def summed(output):
    """Something that depends on every part of the output."""
    parts = (output.class_logits, output.mask_logits, output.aux_masks, output.aux_boxes)
    return sum((part * torch.linspace(-1, 1, part.numel()).view_as(part)).sum() for part in parts)


def gradients(network, x):
    network.zero_grad()
    output = network(x)
    summed(output).backward()
    return output, {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@EACH_DESIGN
@pytest.mark.parametrize("corrections", [Corrections(), FIXED], ids=["published", "fixed"])
def test_shapes_and_which_parameters_learn(settings, corrections):
    network = build(settings, corrections=corrections)
    output, grads = gradients(network, slab(settings, 2))
    assert output.class_logits.shape == (6, 5, 4) and output.aux_boxes.shape == (6, 5, 4)
    assert output.mask_logits.shape == output.aux_masks.shape == (6, 5, 32, 32)
    assert semantic_scores(output.class_logits, output.mask_logits, 3).shape == (2, 3, 3, 32, 32)

    new, plain = network.new_parameters(), network.sam_parameters()
    unused = {id(p) for p in network.unused_parameters()}
    names = {name for name, _ in build_sam(SAM).named_parameters()}
    assert {name for name, p in network.named_parameters() if any(p is q for q in plain)} == names
    assert len(new) + len(plain) == len(list(network.parameters()))
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert {id(network.get_parameter(name)) for name in without} == unused
    assert all(id(p) in {id(q) for q in plain} for p in network.unused_parameters())
    assert all(grads[name].isfinite().all() for name in grads)


@EACH_DESIGN
@pytest.mark.parametrize(
    "change",
    [
        {"conv_adapters": False},
        {"mlp_adapters": False},
        {"skip_levels": 0},
        {"skip_levels": 1},
        {"classifier_tokens": "global"},
        {"classifier_tokens": "auxiliary"},
        {"in_channels": 2},
    ],
    ids=str,
)
def test_what_is_left_out_is_not_there(settings, change):
    """Nothing new is without gradient, so that training on several devices does not wait for it."""
    settings = replace(settings, **change)
    network = build(settings)
    _, grads = gradients(network, slab(settings))
    trained = {id(p) for p in network.new_parameters()}
    assert all(name in grads for name, p in network.named_parameters() if id(p) in trained)
    whole = sum(p.numel() for p in build(DIRECT if settings.design == "direct" else UPSAMPLED).new_parameters())
    assert "in_channels" in change or sum(p.numel() for p in network.new_parameters()) < whole


@pytest.mark.parametrize("settings", [DIRECT, UPSAMPLED, FULLY_FIXED], ids=["direct", "upsampled", "fixed"])
def test_chunks_and_recomputation_change_nothing(settings):
    x = slab(settings)
    expected, wanted = gradients(build(settings), x)
    for change in ({"query_chunk": 2}, {"checkpointing": True}, {"query_chunk": 2, "checkpointing": True}):
        output, grads = gradients(build(settings, **change), x)
        torch.testing.assert_close(output.mask_logits, expected.mask_logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(output.class_logits, expected.class_logits, atol=1e-5, rtol=1e-5)
        assert grads.keys() == wanted.keys()
        most = max(gradient.abs().max() for gradient in wanted.values())
        for name in wanted:
            noise = 1e-4 * wanted[name].abs().max() + 5e-6 * most  # a bias before a norm has nothing else
            torch.testing.assert_close(grads[name], wanted[name], atol=float(noise), rtol=0, msg=name)


@torch.no_grad()
def test_only_the_mixing_head_depends_on_the_order_of_queries():
    order = torch.tensor([3, 0, 4, 2, 1])
    masks = torch.randn(3, 5, 16, 16, generator=torch.Generator().manual_seed(1))
    for settings, equivariant in ((DIRECT, False), (FULLY_FIXED, True)):
        network = build(settings)
        same = torch.allclose(network.refine(masks[:, order]), network.refine(masks)[:, order], atol=1e-5)
        assert same == equivariant


@pytest.mark.parametrize("norm_first", [False, True])
@torch.no_grad()
def test_merged_adapters_see_depth_and_windowed_ones_do_not(norm_first):
    """In a windowed block's attention part. 4 windows a slice: their windows reach from a slice into its neighbours."""
    for order in ("merged", "windows"):
        corrections = Corrections(adapter_order=order, norm_before_window=norm_first)
        block = build(DIRECT, patch=(2, 32, 32), corrections=corrections).image_encoder.blocks[0]
        block.MLP_Adapter = None
        x = torch.randn(4, 4, 4, 16, generator=torch.Generator().manual_seed(2))
        other = x.clone()
        other[1] = torch.randn(4, 4, 16)  # slice 1 of volume 0
        moved = (block(other) - block(x)).abs().amax((1, 2, 3)) > 1e-6
        assert moved.tolist() == [order == "merged", True, False, False]


@torch.no_grad()
def test_the_four_windowed_forms_agree_where_they_must():
    """Without padding norm first or last is the same; without an adapter so is the order."""
    block = {}
    for order in ("merged", "windows"):
        for first in (False, True):
            corrections = Corrections(adapter_order=order, norm_before_window=first)
            block[order, first] = build(DIRECT, corrections=corrections).image_encoder.blocks[0].eval()
    x = torch.randn(3, 6, 6, 16, generator=torch.Generator().manual_seed(2))
    for order in ("merged", "windows"):
        torch.testing.assert_close(block[order, True](x), block[order, False](x))
    padded = x[:, :4, :4]
    assert not torch.allclose(block["merged", True](padded), block["merged", False](padded), atol=1e-4)
    for b in block.values():
        b.Space_Adapter = None
    for first in (False, True):
        torch.testing.assert_close(block["merged", first](padded), block["windows", first](padded))


@torch.no_grad()
def test_adapters_that_start_at_zero_leave_sam_as_it_is():
    network = build(DIRECT, corrections=FIXED)
    for parameter in network.new_parameters():
        parameter.zero_()
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    zeroed = network.image_encoder(x)
    started = MaskSAMNetwork(SAM, replace(FULLY_FIXED, zero_init_adapters=True))
    started.load_state_dict({k: v for k, v in network.state_dict().items() if k in network.sam_keys}, strict=False)
    torch.testing.assert_close(started.image_encoder(x)[1], zeroed[1])
    bare = MaskSAMNetwork(SAM, replace(FULLY_FIXED, conv_adapters=False))
    bare.load_state_dict({k: v for k, v in network.state_dict().items() if k in network.sam_keys}, strict=False)
    torch.testing.assert_close(bare.image_encoder(x)[1], zeroed[1])


@torch.no_grad()
@EACH_DESIGN
def test_one_slice(settings):
    network = build(settings, patch=(1, 32, 32), queries=1)
    output = network(slab(network.settings))
    assert output.mask_logits.shape == (1, 1, 32, 32) and output.mask_logits.isfinite().all()


def test_boxes_of_masks():
    masks = torch.zeros(2, 8, 4, dtype=torch.bool)
    masks[0, 2:5, 1] = True
    assert mask_boxes(masks, "inclusive").tolist() == [[0.25, 0.25, 0.25, 0.5], [0.0] * 4]
    assert mask_boxes(masks, "exclusive").tolist() == [[0.25, 0.25, 0.5, 0.625], [0.0] * 4]


@torch.no_grad()
def test_an_empty_mask_halves_the_published_box_alone():
    corners = torch.full((1, 5, 3, 2, 2), 0.5)
    nothing = torch.full((3, 5, 32, 32), -1.0)
    published, fixed = (build(s).generator._boxes(corners, nothing) for s in (DIRECT, FULLY_FIXED))
    assert torch.equal(fixed[0, 0], torch.tensor([0.5, 0.5, 0.75, 0.75]))
    assert torch.equal(published, fixed / 2)


@torch.no_grad()
def test_auxiliary_masks_are_probabilities_or_logits():
    x = slab(DIRECT)
    published, logit = (build(DIRECT, corrections=Corrections(aux_mask_space=s))(x) for s in ("probability", "logit"))
    torch.testing.assert_close(published.aux_masks, logit.aux_masks.sigmoid())
    assert torch.equal(published.mask_logits, logit.mask_logits)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch": (3, 36, 36)}, "multiple of SAM's patch 8"),
        ({"patch": (3, 128, 128)}, "up to its image size 64"),
        ({"widths": (8, 4)}, "4 stages"),
        ({"kernels": ((3, 3, 3),)}, "4 stages"),
        ({"kernels": ((3, 2, 3),) * 4}, "odd"),
        ({"skip_levels": 4}, "skip_levels must be 0 to 3"),
        ({"design": "upsampled", "widths": (8,) * 5, "patch": (3, 64, 64)}, "must be 32 pixels wide"),
        ({"design": "upsampled", "widths": (8, 4, 4, 4, 2)}, "share_skips"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit(changes, words):
    with pytest.raises(ConfigError, match=words):
        build(DIRECT, **changes)


def test_patches_of_another_size_are_told():
    with pytest.raises(ConfigError, match=r"\(1, 3, 32, 32\), got \(1, 3, 40, 40\)"):
        build(DIRECT)(torch.zeros(1, 1, 3, 40, 40))
    with pytest.raises(ConfigError, match="square"):
        replace(DIRECT, patch=(3, 32, 24))


# --- weights -------------------------------------------------------------------------------------------------------


def published(network, path, **changes):
    """A file as nnU-Net writes it: published names, each convolution block twice, figures as numpy scalars."""
    state = {}
    for key, tensor in network.state_dict().items():
        if key in network.sam_keys or key.startswith(("image_encoder.", "prompt_encoder.", "mask_decoder.")):
            key = f"sam_model.{key}"
        key = key.removeprefix("generator.")
        state[key] = tensor
        for name, index in ((".conv.", 0), (".norm.", 1)):
            if ".convs." in key and name in key:
                state[key.replace(name, f".all_modules.{index}.")] = tensor
        if network.settings.design == "upsampled" and key.startswith("image_decoder_skips.1."):
            for which in ("first", "second"):
                state[key.replace("image_decoder_skips.1.", f"image_decoder_skips_{which}.0.")] = tensor
    optimizer = torch.optim.AdamW(network.new_parameters())
    content = {
        "network_weights": state | changes,
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": {"scale": 65536.0},
        "logging": {"mean_fg_dice": [np.float64(0.5)], "dice_per_class": [np.zeros(2)], "lrs": [np.float32(1e-3)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 7,
        "init_args": {"fold": 0, "device": torch.device("cuda")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(content, path)
    return str(path)


@EACH_DESIGN
def test_published_checkpoints_load_whole(settings, tmp_path):
    trained = build(settings)
    path = published(trained, tmp_path / "checkpoint_final.pth")
    torch.manual_seed(9)
    network = MaskSAMNetwork(SAM, settings)
    report = load_weights(network, path, **load_args(network))
    assert not report.new and not report.resized
    assert all(torch.equal(tensor, trained.state_dict()[key]) for key, tensor in network.state_dict().items())


def test_published_shared_skips_start_three_of_their_own(tmp_path):
    trained = build(UPSAMPLED)
    path = published(trained, tmp_path / "checkpoint_final.pth")
    network = MaskSAMNetwork(SAM, replace(UPSAMPLED, corrections=Corrections(share_skips=False)))
    assert not load_weights(network, path, **load_args(network)).new
    x = slab(UPSAMPLED)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x).mask_logits, trained.eval()(x).mask_logits)


def test_plain_sam_leaves_the_new_modules_new(tmp_path):
    torch.save(build_sam(SAM).state_dict(), tmp_path / "sam.pth")
    network = build(DIRECT)
    report = load_weights(network, str(tmp_path / "sam.pth"), **load_args(network))
    new = {id(p) for p in network.new_parameters()}
    assert set(report.new) == {name for name, p in network.named_parameters() if id(p) in new}
    assert set(report.loaded) == network.sam_keys


def test_files_that_do_not_fit_are_told(tmp_path):
    path = published(build(DIRECT), tmp_path / "checkpoint_final.pth")
    for change, words in (
        ({"patch": (4, 32, 32)}, "slabs of 3 slices, the model is built for slabs of 4 slices.*init_args.patch"),
        ({"patch": (3, 40, 40)}, "patches of 4 tokens a side"),
        ({"queries": 6}, "5 queries, the model is built for 6 queries; change model.init_args.queries"),
        ({"num_classes": 4}, "4 classes with background and no object"),
        ({"in_channels": 2}, "1 channels"),
    ):
        network = build(DIRECT, **change)
        with pytest.raises(WeightsError, match=words):
            load_weights(network, path, **load_args(network))
    network = build(DIRECT)
    partial = {key: tensor for key, tensor in network.state_dict().items() if not key.startswith("final_conv")}
    torch.save(partial, tmp_path / "partial.pth")
    with pytest.raises(WeightsError, match="only a part of MaskSAM's modules"):
        load_weights(network, str(tmp_path / "partial.pth"), **load_args(network))
    with pytest.raises(WeightsError, match="load it into the method MaskSAM"):
        load_weights(build_sam(SAM), path)
