"""SAM-Med3D's network against the numbers of its official code, whatever the sizes of the golden set."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss
from torch import Tensor

from samzoo.sam import Sam3d, Sam3dConfig, build_sam3d, load_weights
from samzoo.sam.sam3d.attention import relative_bias

full_size = pytest.mark.golden(where=lambda golden: (golden.folder / "full_size.json").is_file())


@pytest.fixture
def sam(sam_med3d_set):
    sam = build_sam3d(sam_med3d_set.sam3d_config()).eval()
    report = load_weights(sam, sam_med3d_set.weights)
    assert not (report.new or report.ignored or report.resized)
    return sam


def step(sam, embedding, clicks=None, mask=None, multimask=False):
    """One refinement: what the prompt encoder and the decoder answer, with the names of the set."""
    sparse, dense = sam.encode_prompts(*(clicks or (None, None)), masks=mask)
    index = torch.arange(len(sparse)) if len(embedding) > 1 else torch.zeros(len(sparse), dtype=torch.long)
    low_res, quality = sam.decode(embedding, index, sparse, dense, multimask)
    return {"sparse": sparse, "dense": dense, "low_res": low_res, "iou": quality}


def full_res(sam: Sam3d, low_res: Tensor) -> Tensor:
    return F.interpolate(low_res, (sam.config.image_size,) * 3, mode="trilinear", align_corners=False)


@torch.inference_mode()
def test_encoder(sam_med3d_set, sam):
    io, encoder = sam_med3d_set.io, sam.image_encoder
    sam_med3d_set.assert_close("patch_tokens", encoder.patch_embed(io["volume"]))
    embedding, taps = encoder(io["volume"], taps=range(len(encoder.blocks)))
    for i, tap in enumerate(taps):
        sam_med3d_set.assert_close(f"block{i}_out", tap)
    sam_med3d_set.assert_close("image_embedding", embedding)
    assert f"block{len(taps)}_out" not in io


def test_relative_bias(sam_med3d_set):
    io = sam_med3d_set.io
    side = round(io["relpos_q"].shape[1] ** (1 / 3))
    q = io["relpos_q"].unflatten(1, (side,) * 3)
    bias = relative_bias(q, tuple(io[f"relpos_table_{axis}"] for axis in "dhw"), "published")
    sam_med3d_set.assert_close("relpos_bias", bias, tolerance=1e-5)


@torch.inference_mode()
def test_prompts_masks_and_quality(sam_med3d_set, sam):
    io, embedding = sam_med3d_set.io, sam_med3d_set.io["image_embedding"]
    sam_med3d_set.assert_close("dense_pe", sam.prompt_encoder.get_dense_pe())
    first, second, several = ((io[name], io[f"{name}_label"]) for name in ("click1", "click2", "clicks_acc"))
    nothing = torch.zeros_like(io["iter1_low_res"])
    cases = {
        "iter1": (embedding, first, nothing),
        "iter2": (embedding, second, io["iter1_low_res"]),
        "iter3_noclick": (embedding, None, io["iter2_low_res"]),
        "acc": (embedding, several, io["iter1_low_res"]),
        "nomask": (embedding, first),
        "multi": (embedding, first, nothing, True),
        "expand": (embedding[:1], first, nothing),
    }
    for name, arguments in cases.items():
        answer = step(sam, *arguments)
        given = [part for part in answer if f"{name}_{part}" in io]
        assert {"dense", "low_res", "iou"} <= set(given)
        for part in given:
            expected = io[f"{name}_{part}"]
            actual = answer[part].expand_as(expected) if part == "dense" else answer[part]
            sam_med3d_set.assert_close(f"{name}_{part}", actual)
        if f"{name}_full_res" in io:
            sam_med3d_set.assert_close(f"{name}_full_res", full_res(sam, answer["low_res"]))
    assert step(sam, *cases["iter3_noclick"])["sparse"].shape[1] == 0


def test_gradients_of_two_refinements(sam_med3d_set, sam):
    io, wanted = sam_med3d_set.io, sam_med3d_set.config["losses"]
    loss = DiceCELoss(sigmoid=True, squared_pred=True)
    embedding, mask, total = sam.encode(io["volume"]), torch.zeros_like(io["iter1_low_res"]), 0
    for name, clicks in (("iter1", "click1"), ("iter2", "click2")):
        mask = step(sam, embedding, (io[clicks], io[f"{clicks}_label"]), mask)["low_res"]
        one = loss(full_res(sam, mask), io["gt"].float())
        assert one.item() == pytest.approx(wanted[name]["dice_plus_bce"], abs=1e-5)
        total = total + one
    assert total.item() == pytest.approx(wanted["two_iteration_sum"]["dice_plus_bce"], abs=1e-5)
    total.backward()
    parameters = dict(sam.named_parameters())
    keys = [k for k in io if k.startswith("grad.")]
    assert keys
    for key in keys:
        sam_med3d_set.assert_close(key, parameters[key.removeprefix("grad.")].grad, tolerance=1e-5, rtol=1e-2)
    without = sorted(name for name, p in parameters.items() if p.grad is None)
    assert without == sorted(sam_med3d_set.config["parameters_without_gradient"])
    assert sum(p.numel() for p in parameters.values()) == sam_med3d_set.config["parameter_count"]


@full_size
@torch.inference_mode()
def test_real_size(sam_med3d_set):
    """The published architecture, its weights filled by a rule: names, shapes and answers."""
    with torch.device("meta"):
        sam = Sam3d(Sam3dConfig()).eval()
    assert {k: list(v.shape) for k, v in sam.state_dict().items()} == sam_med3d_set.json("full_size_keys.json")
    sam.load_state_dict(sam_med3d_set.full_size_weights(), assign=True)
    facts = sam_med3d_set.json("full_size.json")
    volume = sam_med3d_set.full_size_volume()
    assert volume.flatten()[:4].tolist() == pytest.approx(facts["check_hash"]["volume_first4"], abs=1e-7)

    expected = sam_med3d_set.full_size_io
    embedding = sam.encode(volume)
    actual = {"image_embedding_sub": embedding[:, ::16, ::2, ::2, ::2]}
    actual["dense_pe_sub"] = sam.prompt_encoder.get_dense_pe()[:, ::16, ::2, ::2, ::2]
    mask = torch.zeros(1, 1, *[4 * sam.config.grid] * 3)
    for i, click in enumerate(facts["clicks"], start=1):
        clicks = torch.tensor([[click["index"]]]), torch.tensor([[click["label"]]])
        answer = step(sam, embedding, clicks, mask)
        mask = answer["low_res"]
        actual |= {f"iter{i}_sparse": answer["sparse"], f"iter{i}_iou": answer["iou"]}
        actual[f"iter{i}_low_res_sub"] = mask[..., ::2, ::2, ::2]
        actual[f"iter{i}_stats"] = torch.stack([mask.mean(), mask.std(), mask.min(), mask.max()])
    assert actual.keys() == expected.keys()
    for name, tensor in actual.items():
        sam_med3d_set.assert_close(name, tensor, expected[name], tolerance=1e-4)
