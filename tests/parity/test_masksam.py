"""MaskSAM's network against the numbers of the original: adapters, every stage, both designs, two corrections."""

from __future__ import annotations

import itertools

import pytest
import torch
from safetensors.torch import load_file

from samzoo.methods.masksam.adapters import DConvAdapter, DMLPAdapter
from samzoo.methods.masksam.loss import Criterion, LossSettings
from samzoo.methods.masksam.network import MaskSAMNetwork, semantic_scores
from samzoo.methods.masksam.settings import Corrections, MaskSAMSettings
from samzoo.methods.masksam.targets import slice_targets
from samzoo.methods.masksam.weights import load_args, renamed
from samzoo.sam import ARCHITECTURES, SamConfig, load_weights

OF_ADAPTERS = pytest.mark.golden(where=lambda golden: "adapters" in golden.config.get("what", ""))
OF_NETWORK = pytest.mark.golden(where=lambda golden: "MaskSAM network" in golden.config.get("what", ""))
OF_CORRECTIONS = pytest.mark.golden(where=lambda golden: (golden.folder / "io_fix_adapter_order.safetensors").exists())

STAGE_TOLERANCE = 1e-4
"""Of one stage on golden input. End to end it is what the set suggests."""

NO_INFLUENCE = 1e-4
"""Gradients below are of biases that a normalisation takes away: rounding alone."""

TERM_NAMES = {"loss_aux_bbox": "aux_box"}
"""Where the published name of a loss term says something else."""


def settings_of(golden, **corrections) -> tuple[SamConfig, MaskSAMSettings]:
    sizes = golden.config["hyper"]
    design = "direct" if "direct" in golden.config["what"] else "upsampled"
    # Lists are read from the end; of `upsampled` the last stages repeat the third.
    stages = range(1, sizes["patch"].bit_length() + 1) if design == "direct" else (1, 2, 3, 3, 3)
    config = SamConfig(
        image_size=sizes["canvas"],
        patch_size=sizes["patch"],
        embed_dim=sizes["embed"],
        depth=sizes["depth"],
        num_heads=sizes["heads"],
        global_attn_indexes=sizes["global_idx"],
        window_size=sizes["window"],
        prompt_embed_dim=sizes["prompt_dim"],
        decoder_num_heads=sizes["dec_heads"],
        decoder_mlp_dim=sizes["dec_mlp"],
        iou_head_hidden_dim=sizes["iou_hidden"],
    )
    return config, MaskSAMSettings(
        patch=(sizes["frames"], *sizes["hw"]),
        num_classes=sizes["classes"],
        in_channels=sizes["in_channels"],
        queries=sizes["queries"],
        design=design,
        widths=tuple(sizes["dec_feats"][-1 - i] for i in stages),
        kernels=tuple(tuple(sizes["kernel_sizes"][-1 - i]) for i in stages),
        corrections=Corrections(**corrections),
    )


def build(golden, **corrections) -> MaskSAMNetwork:
    """The set's network with its weights, read under the published names."""
    network = MaskSAMNetwork(*settings_of(golden, **corrections)).eval()
    report = load_weights(network, golden.weights, **load_args(network))
    assert not (report.new or report.resized or report.ignored)
    return network


@pytest.fixture
def network(masksam_set):
    return build(masksam_set)


def stage(golden, name, actual):
    golden.assert_close(name, actual, tolerance=STAGE_TOLERANCE)


def outputs_of(modules, run):
    """What these modules answer while `run` runs."""
    answers = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, output, name=name: answers.update({name: output}))
        for name, module in modules.items()
    ]
    result = run()
    for hook in hooks:
        hook.remove()
    return answers, result


@OF_ADAPTERS
@torch.no_grad()
def test_adapters(masksam_set):
    sizes, weights = masksam_set.config["hyper"], load_file(masksam_set.weights)
    for case in masksam_set.config["cases"]:
        state = {k.removeprefix(f"{case}/"): v for k, v in weights.items() if k.startswith(f"{case}/")}
        residual = "noskip" not in case
        convolves = case.startswith("dconv")
        adapter = DConvAdapter(sizes["D"], residual) if convolves else DMLPAdapter(sizes["D"], sizes["T"], residual)
        adapter.load_state_dict(state)
        x = masksam_set.io[f"{case}/input"]
        as_map = x.unflatten(1, (sizes["h"], sizes["w"])) if convolves and x.ndim == 3 else x
        queries = sizes["N"] if "queries" in case or not convolves else 1
        actual = adapter(as_map, sizes["T"], queries).reshape(x.shape)
        masksam_set.assert_close(f"{case}/output", actual, tolerance=masksam_set.config["suggested_tolerance"])


@OF_NETWORK
@torch.no_grad()
def test_stem_and_encoder(masksam_set, network):
    io, encoder = masksam_set.io, network.image_encoder
    stem = network.first_conv(io["input"])
    if "stem_out" in io:
        stage(masksam_set, "stem_out", stem[:1])
    else:
        stage(masksam_set, "stem_out_stride4", stem[..., ::4, ::4])
    tokens = []
    hook = encoder.blocks[0].register_forward_pre_hook(lambda _m, inputs: tokens.append(inputs[0]))
    levels, neck = network.encode(io["input"])
    hook.remove()
    stage(masksam_set, "encoder_tokens_in", tokens[0])
    for i, level in enumerate(levels):
        stage(masksam_set, f"encoder_level_{i}", level)
    stage(masksam_set, "encoder_neck", neck)
    before = io["encoder_tokens_in"]
    for i, block in enumerate(encoder.blocks):
        if f"encoder_block_{i}" in io:
            stage(masksam_set, f"encoder_block_{i}", block(before))
            before = io[f"encoder_block_{i}"]


@OF_NETWORK
@torch.no_grad()
def test_prompt_generator(masksam_set, network):
    io = masksam_set.io
    levels = [io[f"encoder_level_{i}"] for i in range(len(network.image_encoder.levels))]
    boxes = {"bbox_net_raw": network.generator.bbox_conv}
    raw, auxiliary = outputs_of(boxes, lambda: network.generate(levels, io["encoder_neck"]))
    depth = network.settings.patch[0]
    stage(masksam_set, "bbox_net_raw", raw["bbox_net_raw"])
    stage(masksam_set, "aux_mask_logits", auxiliary.mask_logits[:depth].transpose(0, 1)[None])
    stage(masksam_set, "aux_boxes", auxiliary.boxes)
    stage(masksam_set, "aux_tokens", auxiliary.tokens.flatten(0, 1)[:, None])
    assert torch.equal(auxiliary.masks, auxiliary.mask_logits.sigmoid())

    masks, boxes = network.prompts(auxiliary.mask_logits, io["aux_boxes"])
    assert torch.equal(masks.to(torch.uint8), io["prompt_masks"])
    assert torch.equal(boxes, io["prompt_boxes_px"])


@OF_NETWORK
@torch.no_grad()
def test_prompt_encoder_and_mask_decoder(masksam_set, network):
    io, decoder = masksam_set.io, network.mask_decoder
    depth, queries = network.settings.patch[0], network.settings.queries
    sparse, dense = network.prompt_encoder(boxes=io["prompt_boxes_px"], masks=io["prompt_masks"].float())
    kept = len(io["dense_embeddings"])  # of some samples alone
    stage(masksam_set, "sparse_embeddings", sparse)
    stage(masksam_set, "dense_embeddings", dense[:kept])
    image_pe = network.prompt_encoder.dense_code()
    stage(masksam_set, "image_pe", image_pe.repeat(len(io["image_pe"]) // depth, 1, 1, 1))

    def decode():
        return decoder(
            io["encoder_neck"][: kept // queries],
            io["image_pe"][:depth],
            io["sparse_embeddings"][:kept],
            io["dense_embeddings"],
            io["aux_tokens"][:kept, 0],
        )

    parts = {f"decoder_layer_{i}_tokens": layer.norm3 for i, layer in enumerate(decoder.transformer.layers)}
    answers, (masks, classes) = outputs_of(parts | {"final": decoder.transformer.norm_final_attn}, decode)
    for name in parts:
        masksam_set.assert_close(name, answers[name], io[name][:kept], STAGE_TOLERANCE)
    quality = decoder.iou_prediction_head(answers["final"][:, 0])[:, :1]
    masksam_set.assert_close("decoder_iou", quality, io["decoder_iou"][:kept], STAGE_TOLERANCE)
    stage(masksam_set, "decoder_low_res_masks", masks[:, None])
    expected = io["class_logits"][: kept // queries]
    masksam_set.assert_close("class_logits", classes.unflatten(0, (-1, queries)), expected, STAGE_TOLERANCE)

    refined = network.refine(io["decoder_low_res_masks"].unflatten(0, (-1, queries))[:, :, 0])
    masksam_set.assert_close("mask_logits", refined, io["mask_logits"][: len(refined)], 10 * STAGE_TOLERANCE)
    stage(masksam_set, "semantic_scores", semantic_scores(io["class_logits"], io["mask_logits"], depth))


@OF_NETWORK
@torch.no_grad()
def test_end_to_end(masksam_set, network):
    levels, neck = network.encode(masksam_set.io["input"])
    auxiliary = network.generate(levels, neck)
    output = network(masksam_set.io["input"])
    depth = network.settings.patch[0]
    actual = {
        "encoder_neck": neck,
        "aux_mask_logits": auxiliary.mask_logits[:depth].transpose(0, 1)[None],
        "aux_boxes": output.aux_boxes,
        "aux_tokens": auxiliary.tokens.flatten(0, 1)[:, None],
        "class_logits": output.class_logits,
        "mask_logits": output.mask_logits,
        "semantic_scores": semantic_scores(output.class_logits, output.mask_logits, depth),
    }
    tolerances = masksam_set.config["suggested_tolerance"]
    assert actual.keys() == tolerances.keys()
    for name, tolerance in tolerances.items():
        masksam_set.assert_close(name, actual[name], tolerance=tolerance)


@pytest.mark.golden(where=lambda golden: "semantic_scores_tta" in golden.io)
@torch.no_grad()
def test_scores_averaged_over_mirrors(masksam_set, network):
    x = masksam_set.io["input"][:1]
    total = 0
    for count in range(4):
        for axes in itertools.combinations((2, 3, 4), count):
            output = network(x.flip(axes))
            total = total + semantic_scores(output.class_logits, output.mask_logits, x.shape[2]).flip(axes)
    tolerance = masksam_set.config["suggested_tolerance"]["semantic_scores"]
    masksam_set.assert_close("semantic_scores_tta", total[:, :, :1] / 8, tolerance=tolerance)


@OF_CORRECTIONS
@pytest.mark.parametrize("norm_first", [False, True])
@torch.no_grad()
def test_corrections(masksam_set, norm_first):
    """T1 alone, and with T2."""
    name = "io_fix_adapter_order_and_padding" if norm_first else "io_fix_adapter_order"
    expected = load_file(masksam_set.folder / f"{name}.safetensors")
    network = build(masksam_set, adapter_order="merged", norm_before_window=norm_first)
    x = masksam_set.io["input"]
    levels, neck = network.encode(x)
    output = network(x)
    scores = semantic_scores(output.class_logits, output.mask_logits, x.shape[2])
    actual = {f"encoder_level_{i}": level for i, level in enumerate(levels)} | {
        "encoder_neck": neck,
        "aux_boxes": output.aux_boxes,
        "class_logits": output.class_logits,
        "semantic_scores": scores[:1, :, 1:2],
    }
    assert actual.keys() == expected.keys()
    for key, tensor in actual.items():
        tolerance = masksam_set.config["suggested_tolerance"].get(key, STAGE_TOLERANCE)
        masksam_set.assert_close(key, tensor, expected[key], tolerance)


AMOS = {"patch": (9, 512, 512), "num_classes": 16, "queries": 24}
SYNAPSE = {"patch": (26, 256, 256), "num_classes": 9, "queries": 24}
ACDC = {"patch": (4, 256, 256), "num_classes": 4, "queries": 8, "design": "upsampled", "widths": (256,) + (128,) * 4}


@pytest.mark.parametrize(
    ("architecture", "settings", "total", "trained", "encoder", "prompts", "decoder", "rest"),
    [
        ("vit_h", AMOS, 707684573, 66593965, (690183168, 53157120), 2359296, (4369448, 311108), 10766441),
        ("vit_h", SYNAPSE, 707083089, 65992481, (690204928, 53178880), 1703936, (4401564, 343224), 10766441),
        ("vit_b", ACDC, 115141706, 21406234, (96913152, 7242240), 4194304, (4362549, 304209), 9665481),
        ("vit_b", AMOS, 113631965, 19896493, (96916992, 7246080), 2359296, (4369448, 311108), 9980009),
        ("vit_l", AMOS, 350991581, 38648749, (333883392, 25605120), 2359296, (4369448, 311108), 10373225),
        (
            "vit_b",
            AMOS | {"kernels": ((1, 3, 3),) * 5},
            108397277,
            14661805,
            (96916992, 7246080),
            2359296,
            (4369448, 311108),
            None,
        ),
    ],
)
def test_parameter_counts(architecture, settings, total, trained, encoder, prompts, decoder, rest):
    """Of the networks in the paper, as counted on the original's modules."""
    with torch.device("meta"):
        network = MaskSAMNetwork(ARCHITECTURES[architecture], MaskSAMSettings(**settings))
    new = {id(p) for p in network.new_parameters()}

    def count(module):
        return sum(p.numel() for p in module.parameters()), sum(p.numel() for p in module.parameters() if id(p) in new)

    assert count(network) == (total, trained)
    assert count(network.image_encoder) == encoder
    assert count(network.prompt_encoder)[1] == prompts
    assert count(network.mask_decoder) == decoder
    around = sum(p.numel() for p in network.new_parameters()) - encoder[1] - prompts - decoder[1]
    assert rest is None or around == rest


@pytest.mark.golden(where=lambda golden: (golden.folder / "io_train.safetensors").exists())
def test_training_step(masksam_set):
    """Targets, matching, seven loss terms and gradients of one step with the recorded random points."""
    expected = load_file(masksam_set.folder / "io_train.safetensors")
    step = masksam_set.config["training_step"]
    network = build(masksam_set)
    for parameter in network.sam_parameters():
        parameter.requires_grad_(False)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    norms = step["gradient_l2_norm_per_trainable_parameter"]
    ours = {renamed(name): name for name in norms}
    assert ours.keys() == trained

    weights = {TERM_NAMES.get(k, k.removeprefix("loss_")): v for k, v in step["loss_weights"].items()}
    settings = LossSettings(
        **weights,
        no_object=step["no_object_weight"],
        points=step["points"],
        oversample=step["oversample"],
        importance=step["importance"],
    )
    slices = expected["label_volume"][:, 0].flatten(0, 1).long()
    targets = slice_targets(slices, network.settings.num_classes, network.settings.queries)
    output = network(masksam_set.io["input"])
    in_matching = [expected[f"matcher_points_{i}"] for i in range(len(slices))]
    in_losses = [
        expected[f"{prefix}mask_points_{kind}"] for prefix in ("", "aux_") for kind in ("candidates", "random")
    ]
    terms = Criterion(settings)(
        output.class_logits,
        output.mask_logits,
        output.aux_masks,
        output.aux_boxes,
        targets,
        points=[torch.cat(in_matching), *in_losses],
    )
    pairs = [p[p[:, 0] >= 0].tolist() for p in expected["matched_pairs"]]
    found = torch.stack([terms.matching.slices, terms.matching.queries, terms.matching.targets], 1).tolist()
    assert sorted(found) == sorted([s, q, t] for s, of_slice in enumerate(pairs) for q, t in of_slice)
    for theirs in step["loss_weights"]:
        name = TERM_NAMES.get(theirs, theirs.removeprefix("loss_"))
        masksam_set.assert_close(theirs, getattr(terms, name)[None], expected[theirs], STAGE_TOLERANCE)
    masksam_set.assert_close("total", terms.total[None], expected["total"], STAGE_TOLERANCE)

    terms.total.backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    for name, norm in norms.items():
        if norm > NO_INFLUENCE:
            assert float(gradients[renamed(name)].norm()) == pytest.approx(norm, rel=2e-3), name
    for name, gradient in expected.items():
        if name.startswith("grad/"):
            actual = gradients[renamed(name.removeprefix("grad/"))]
            assert (actual - gradient).norm() <= 2e-3 * gradient.norm(), name
