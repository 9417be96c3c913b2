"""M-SAM's network against the numbers of its official code, whatever the sizes of the golden set."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss, DiceLoss

from samzoo.methods import MSAM
from samzoo.methods.m_sam.network import MSamNetwork
from samzoo.methods.m_sam.weights import OFFICIAL, load_args
from samzoo.metrics.overlap import overlap
from samzoo.sam import ARCHITECTURES_3D, Sam3dConfig, load_weights

STEPS = ("iter1", "iter2", "acc", "nomask", "multi", "expand")
LOSS_TOLERANCE = 1e-5
SETTINGS = {"sigmoid": True, "squared_pred": True}

full_size = pytest.mark.golden(where=lambda golden: (golden.folder / "full_size.json").is_file())


def official(key):
    return key if key.startswith("bidatt.") else OFFICIAL + key


@pytest.fixture
def network(m_sam_set):
    network = MSamNetwork(m_sam_set.sam3d_config(), **settings(m_sam_set.config["hyper_parameters"])).eval()
    report = load_weights(network, str(m_sam_set.weights), **load_args(network))
    assert not (report.new or report.ignored or report.resized)
    return network


def settings(numbers):
    names = {"lora_rank": "lora_rank", "mea_blocks": "mea_num_blocks", "mea_heads": "mea_num_heads"}
    return {ours: numbers[theirs] for ours, theirs in names.items()} | {
        "mea_mlp_ratio": numbers.get("mea_mlp_ratio", 4)
    }


def answer(network, embedding, points, labels, mask, index=None, masks=False):
    """One step, with what the adapter's hooks see."""
    seen = {}
    hooks = [network.bidatt.register_forward_hook(lambda module, inputs, out: seen.update(mea_out=out))]
    for i, block in enumerate(network.bidatt.bidirectional_attentions):

        def keep(module, inputs, out, i=i):
            seen.update({f"mfeb{i}_{name}": x.movedim(-1, 1) for name, x in zip(("image", "mask"), out, strict=True)})

        hooks.append(block.register_forward_hook(keep))
    sparse, dense = network.encode_prompts(points, labels, None, mask)
    index = torch.arange(len(points)) if index is None else index
    low_res, quality = network.decode(network.image_branch(embedding), index, sparse, dense, masks)
    for hook in hooks:
        hook.remove()
    side = network.config.image_size
    full_res = F.interpolate(low_res, (side,) * 3, mode="trilinear", align_corners=False)
    return SimpleNamespace(**seen, sparse=sparse, dense=dense, low_res=low_res, iou=quality, full_res=full_res)


def first_two(network, io):
    """The refinement as it is trained: a click each, the mask fed back as it is."""
    embedding = network.encode(io["volume"])
    start = torch.zeros_like(io["iter1_low_res"])
    one = answer(network, embedding, io["click1"], io["click1_label"], start)
    return one, answer(network, embedding, io["click2"], io["click2_label"], one.low_res)


# --- forward ---------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_encoder_with_lora(m_sam_set, network):
    io, encoder, seen = m_sam_set.io, network.image_encoder, {}
    encoder.patch_embed.register_forward_hook(lambda module, inputs, out: seen.update(patch_tokens=out))
    for i, block in enumerate(encoder.blocks):
        block.register_forward_hook(lambda module, inputs, out, i=i: seen.update({f"block{i}_out": out}))
    embedding = network.encode(io["volume"])
    blocks = [name for name in io if name.startswith("block")]
    assert blocks
    for name in ("patch_tokens", *blocks):
        m_sam_set.assert_close(name, seen[name])
    m_sam_set.assert_close("image_embedding", embedding)
    m_sam_set.assert_close("dense_pe", network.prompt_encoder.get_dense_pe())


@torch.inference_mode()
def test_every_step(m_sam_set, network):
    io, embedding = m_sam_set.io, m_sam_set.io["image_embedding"]
    start = torch.zeros_like(io["iter1_low_res"])
    click1, click2 = ((io[name], io[f"{name}_label"]) for name in ("click1", "click2"))
    accumulated = io["clicks_acc"], io["clicks_acc_label"]
    shared = torch.zeros(len(start), dtype=torch.long)
    answers = {
        "iter1": answer(network, embedding, *click1, start),
        "iter2": answer(network, embedding, *click2, io["iter1_low_res"]),
        "acc": answer(network, embedding, *accumulated, io["iter1_low_res"]),
        "nomask": answer(network, embedding, *click1, None),
        "multi": answer(network, embedding, *click1, start, masks=True),
        "expand": answer(network, embedding[:1], *click1, start, index=shared),
    }
    assert answers.keys() == set(STEPS)
    compared = 0
    for step, result in answers.items():
        for name in (key.removeprefix(f"{step}_") for key in io if key.startswith(f"{step}_")):
            actual, expected = getattr(result, name), io[f"{step}_{name}"]
            if name == "dense" or name.endswith("_mask"):  # without masks one row serves all
                actual = actual.expand_as(expected)
            m_sam_set.assert_close(f"{step}_{name}", actual)
            compared += 1
    assert compared >= len(STEPS) * 6


@torch.inference_mode()
def test_refinement_errors_and_scores(m_sam_set, network):
    io, config = m_sam_set.io, m_sam_set.config
    target = io["gt"] > 0
    for i, result in enumerate(first_two(network, io), start=1):
        m_sam_set.assert_close(f"iter{i}_full_res", result.full_res)
        found = result.full_res > 0.5
        scores = [overlap(p, t).dice for p, t in zip(found.numpy(), target.numpy(), strict=True)]
        assert scores == pytest.approx(config["metrics"][f"dice_logit_gt_half_iter{i}"], abs=1e-4)
        if i == 1:
            wrong = target != found
            assert (wrong != io["error_region_after_iter1"].bool()).sum() <= 1e-5 * wrong.numel()
            assert wrong.sum((1, 2, 3, 4)).tolist() == pytest.approx(config["error_region_voxels"], abs=2)


# --- losses, gradients, what is trained ------------------------------------------------------------------------------


@torch.inference_mode()
def test_losses(m_sam_set, network):
    io, wanted = m_sam_set.io, m_sam_set.config["losses"]
    logits, target = io["loss_logits"], io["loss_target"].float()
    each = DiceLoss(**SETTINGS, reduction="none")(logits, target).flatten()
    assert each.tolist() == pytest.approx(wanted["fixed_case"]["dice_term_per_sample"], abs=LOSS_TOLERANCE)
    cases = {"fixed_case": (logits, target)}
    cases |= {f"iter{i}": (r.full_res, io["gt"].float()) for i, r in enumerate(first_two(network, io), start=1)}
    for name, (logits, target) in cases.items():
        dice, both = DiceLoss(**SETTINGS)(logits, target), DiceCELoss(**SETTINGS)(logits, target)
        assert float(dice) == pytest.approx(wanted[name]["dice_term"], abs=LOSS_TOLERANCE)
        assert float(dice) == pytest.approx(wanted[name]["official_as_pinned"], abs=LOSS_TOLERANCE)
        assert float(both) == pytest.approx(wanted[name]["dice_plus_bce"], abs=LOSS_TOLERANCE)


def test_gradients_through_the_mask_that_is_fed_back(m_sam_set, network):
    io, config = m_sam_set.io, m_sam_set.config
    for parameter in network.encoder_parameters():
        parameter.requires_grad_(False)
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in network.parameters()) == config["parameter_count"]
    assert sum(p.numel() for p in trained.values()) == config["trainable_parameter_count"]
    assert sum(p.numel() for p in network.bidatt.parameters()) == config["adapter_parameter_count"]
    assert len(network.state_dict()) == config["weight_keys"]

    target = io["gt"].float()
    loss = sum(DiceCELoss(**SETTINGS)(result.full_res, target) for result in first_two(network, io))
    assert float(loss.detach()) == pytest.approx(config["losses"]["two_iteration_sum"]["dice_plus_bce"], abs=1e-5)
    loss.backward()
    without = {official(name) for name, p in trained.items() if p.grad is None}
    assert without == set(config["trainable_without_gradient"])
    gradients = {official(name): p.grad for name, p in trained.items()}
    named = [key.removeprefix("grad.") for key in io if key.startswith("grad.")]
    assert named
    for key in named:
        m_sam_set.assert_close(f"grad.{key}", gradients[key], tolerance=1e-5, rtol=1e-2)


def test_what_the_method_freezes(m_sam_set):
    """The encoder's own, and of what the original lists for training all that never gets a gradient."""
    config = m_sam_set.config
    numbers = settings(config["hyper_parameters"])
    numbers.pop("mea_mlp_ratio")
    with pytest.warns(UserWarning, match="image encoder is random"):
        network = MSAM(m_sam_set.sam3d_config(), **numbers).sam
    own = {id(p) for p in network.encoder_parameters()}
    assert not any(p.requires_grad for p in network.encoder_parameters())
    others = {official(name): p for name, p in network.named_parameters() if id(p) not in own}
    frozen = {name for name, p in others.items() if not p.requires_grad}
    assert frozen == set(config["trainable_without_gradient"])


# --- the real size ---------------------------------------------------------------------------------------------------


@full_size
def test_names_and_numbers_of_the_real_size(m_sam_set):
    with torch.device("meta"):
        network = MSamNetwork(Sam3dConfig())
    shapes = {official(key): list(tensor.shape) for key, tensor in network.state_dict().items()}
    assert shapes == m_sam_set.json("full_size_keys.json")
    assert len(shapes) == 461

    def count(parameters):
        return sum(p.numel() for p in parameters)

    bidatt, total = network.bidatt, count(network.parameters())
    encoder = count(network.encoder_parameters())
    assert (total, encoder, total - encoder) == (117_801_712, 92_924_928, 24_876_784)
    assert count(bidatt.parameters()) == 17_145_024
    assert count(network.new_parameters()) == 17_145_024 + 147_456
    assert count(bidatt.bidirectional_attentions.parameters()) == 14_183_040
    assert count(bidatt.multi_head_self_attention.parameters()) == 1_777_344
    assert count(bidatt.mlp.parameters()) == 1_181_568


@full_size
@torch.inference_mode()
def test_answers_of_the_real_size(m_sam_set):
    """Weights filled by a rule, two refinements."""
    facts, expected = m_sam_set.json("full_size.json"), m_sam_set.full_size_io
    numbers = {
        "lora_rank": facts["lora_rank"],
        "mea_blocks": facts["mea_num_blocks"],
        "mea_heads": facts["mea_num_heads"],
    }
    with torch.device("meta"):
        network = MSamNetwork(ARCHITECTURES_3D[facts["variant"]], **numbers).eval()
    weights = {key.removeprefix(OFFICIAL): tensor for key, tensor in m_sam_set.full_size_weights().items()}
    network.load_state_dict(weights, assign=True)
    embedding = network.encode(m_sam_set.full_size_volume())
    actual = {"image_embedding_sub": embedding, "dense_pe_sub": network.prompt_encoder.get_dense_pe()}
    mask = torch.zeros(1, 1, *[4 * network.config.grid] * 3)
    for i, click in enumerate(facts["clicks"], start=1):
        step = answer(network, embedding, torch.tensor([[click["index"]]]), torch.tensor([[click["label"]]]), mask)
        mask = step.low_res
        actual |= {f"iter{i}_mea_out_sub": step.mea_out, f"iter{i}_sparse": step.sparse, f"iter{i}_iou": step.iou}
        actual |= {f"iter{i}_low_res_sub": mask[..., ::2, ::2, ::2]}
        actual |= {f"iter{i}_stats": torch.stack([mask.mean(), mask.std(), mask.min(), mask.max()])}
    assert actual.keys() == expected.keys()
    for name, tensor in actual.items():
        part = "low_res" not in name and name.endswith("_sub")
        tensor = tensor[:, ::16, ::2, ::2, ::2] if part else tensor
        m_sam_set.assert_close(name, tensor, expected[name], tolerance=1e-4)
