"""M-SAM's network: how it starts, which files it takes, and what its answers depend on."""

from __future__ import annotations

import argparse

import pytest
import torch

from samzoo.errors import ConfigError, WeightsError
from samzoo.methods import MSAM
from samzoo.methods.m_sam.network import MSamNetwork, part_of
from samzoo.methods.m_sam.weights import OFFICIAL, load_args
from samzoo.sam import Sam3d, Sam3dConfig, build_sam, load_weights

SIZES = Sam3dConfig(
    image_size=24,
    patch_size=8,
    embed_dim=24,
    depth=2,
    num_heads=2,
    global_attn_indexes=(1,),
    window_size=2,
    prompt_embed_dim=24,
    decoder_mlp_dim=32,
    decoder_num_heads=2,
    iou_head_hidden_dim=16,
)
SIDE = 4 * SIZES.grid


def build(config=SIZES, **settings) -> MSamNetwork:
    """The same weights at each call, none of them zero."""
    torch.manual_seed(3)
    network = MSamNetwork(config, **settings)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return network


def crops(count=2):
    return torch.randn(count, 1, *(SIZES.image_size,) * 3, generator=torch.Generator().manual_seed(5))


def prompts(count=3, masks=True):
    """A click each, and a mask each."""
    generator = torch.Generator().manual_seed(6)
    points = torch.randint(SIZES.image_size, (count, 1, 3), generator=generator)
    labels = torch.arange(count)[:, None] % 2
    fed_back = torch.randn(count, 1, SIDE, SIDE, SIDE, generator=generator)
    return points, labels, None, fed_back if masks else None


def sam_med3d_file(sam, path, **changes):
    """As its training writes it: the state beside other things, an argparse.Namespace among them."""
    args = argparse.Namespace(task_name="union_train", lr=8e-4)
    torch.save({"epoch": 3, "model_state_dict": sam.state_dict() | changes, "args": args, "used_datas": ["ct"]}, path)
    return str(path)


def m_sam_file(network, path):
    state = {key if key.startswith("bidatt.") else OFFICIAL + key: t for key, t in network.state_dict().items()}
    torch.save({"epoch": 3, "model_state_dict": state, "args": argparse.Namespace(rank=4)}, path)
    return str(path)


@torch.no_grad()
def test_a_fresh_lora_changes_nothing_and_a_trained_one_does():
    torch.manual_seed(4)
    plain, fresh = Sam3d(SIZES), MSamNetwork(SIZES)
    own = fresh.state_dict()
    state = {k if k in own else k.replace(".attn.qkv.", ".attn.qkv.qkv."): t for k, t in plain.state_dict().items()}
    assert not fresh.load_state_dict(state, strict=False).unexpected_keys
    x = crops()
    torch.testing.assert_close(fresh.encode(x), plain.encode(x))
    for block in fresh.image_encoder.blocks:
        block.attn.qkv.linear_b_v.weight.fill_(0.1)
    assert (fresh.encode(x) - plain.encode(x)).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("masks", [True, False], ids=["masks", "no masks"])
def test_without_adapter_the_decoder_is_that_of_sam_med3d(masks):
    ablated, whole = build(lora_rank=0, adapter=False), build()
    plain = Sam3d(SIZES)
    plain.load_state_dict(ablated.state_dict())
    embedding, index = plain.encode(crops()), torch.tensor([0, 1, 0])
    torch.testing.assert_close(ablated.encode(crops()), embedding)
    asked = prompts(masks=masks)
    seen = ((plain, embedding), (ablated, ablated.image_branch(embedding)), (whole, whole.image_branch(embedding)))
    answers = [n.decode(e, index, *n.encode_prompts(*asked), False)[0] for n, e in seen]
    assert torch.equal(answers[0], answers[1])
    assert (answers[2] - answers[0]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("masks", [True, False], ids=["masks", "no masks"])
def test_many_prompts_at_once_are_as_one_by_one(masks):
    network = build(mea_blocks=2)
    embedding, index = network.image_branch(network.encode(crops())), torch.tensor([1, 0, 1])
    sparse, dense = network.encode_prompts(*prompts(masks=masks))
    dense_of = (lambda i: dense[i : i + 1]) if masks else (lambda i: dense)
    for tokens in (False, True):
        logits, quality = network.decode(embedding, index, sparse, dense, tokens)
        assert logits.shape == (3, 3 if tokens else 1, SIDE, SIDE, SIDE)
        for i in range(3):
            alone = network.decode(embedding, index[i : i + 1], sparse[i : i + 1], dense_of(i), tokens)
            torch.testing.assert_close(logits[i : i + 1], alone[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(quality[i : i + 1], alone[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("positions", ["published", "intended"])
def test_gradients_reach_lora_through_two_steps(positions):
    network = build(Sam3dConfig(**vars(SIZES) | {"positions": positions}), mea_blocks=2)
    index = torch.arange(2)
    points, labels, _, _ = prompts(2)

    def step(embedding, mask):
        told = network.encode_prompts(points, labels, None, mask)
        return network.decode(network.image_branch(embedding), index, *told, False)[0]

    first = step(network.encode(crops()), torch.zeros(2, 1, SIDE, SIDE, SIDE))
    second = step(network.encode(crops()).detach(), first)  # what arrives now came through the mask
    second.square().sum().backward()
    for name, parameter in network.named_parameters():
        if part_of(name) == "M-SAM's LoRA":
            assert parameter.grad.abs().max() > 0, name
    without = {name for name, p in network.named_parameters() if p.grad is None}
    method = MSAM(SIZES, positions=positions, mea_blocks=2, freeze_encoder=False)
    assert without == {name for name, p in method.sam.named_parameters() if not p.requires_grad}


@torch.no_grad()
def test_both_readings_of_positions_reach_the_adapter():
    published, intended = build(), build(Sam3dConfig(**vars(SIZES) | {"positions": "intended"}))
    generator = torch.Generator().manual_seed(1)
    image, mask = torch.randn(2, 1, SIZES.prompt_embed_dim, *(SIZES.grid,) * 3, generator=generator)
    answers = [n.bidatt(n.bidatt.image_branch(image), mask) for n in (published, intended)]
    assert (answers[0] - answers[1]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lora_rank": -1}, "lora_rank must be 0"),
        ({"mea_blocks": 0}, "mea_blocks must be at least 1, got 0"),
        ({"mea_heads": 7}, "mea_heads 7 must divide .* 24"),
    ],
    ids=str,
)
def test_numbers_that_do_not_fit(settings, words):
    with pytest.raises(ConfigError, match=words):
        MSamNetwork(SIZES, **settings)


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 4])
def test_sam_med3d_leaves_what_is_new_as_it_was(tmp_path, rank):
    torch.manual_seed(8)
    path = sam_med3d_file(plain := Sam3d(SIZES), tmp_path / "sam_med3d.pth")
    network = build(lora_rank=rank)
    before = {name: p.clone() for name, p in network.named_parameters()}
    report = load_weights(network, path, **load_args(network))
    new = {name for name in before if part_of(name) is not None}
    assert set(report.new) == new and not report.ignored
    assert all(torch.equal(network.get_parameter(name), before[name]) for name in new)
    loaded = network.image_encoder.blocks[1].attn.qkv
    assert torch.equal((loaded.qkv if rank else loaded).weight, plain.image_encoder.blocks[1].attn.qkv.weight)


def test_official_files_and_runs_of_samzoo_load_whole(tmp_path):
    trained = build()
    run = {"state_dict": {f"sam.{key}": tensor for key, tensor in trained.state_dict().items()}}
    torch.save(run, tmp_path / "last.ckpt")
    for path in (m_sam_file(trained, tmp_path / "m_sam.pth"), str(tmp_path / "last.ckpt")):
        network = MSamNetwork(SIZES)
        report = load_weights(network, path, **load_args(network))
        assert not (report.new or report.resized or report.ignored)
        assert all(torch.equal(tensor, trained.state_dict()[key]) for key, tensor in network.state_dict().items())


def test_another_crop_resizes_the_tables_of_the_adapter_too(tmp_path):
    path = m_sam_file(trained := build(), tmp_path / "m_sam.pth")
    larger = build(Sam3dConfig(**vars(SIZES) | {"image_size": 40}), boxes=True)
    report = load_weights(larger, path, **load_args(larger))
    assert set(report.new) == {f"prompt_encoder.point_embeddings.{i}.weight" for i in (2, 3)}
    cells = [
        "multi_head_self_attention",
        *(f"bidirectional_attentions.0.{b}_multiheadattn" for b in ("image", "prompt")),
    ]
    tables = {f"bidatt.{cell}.rel_pos_{axis}" for cell in cells for axis in "dhw"}
    assert {key for key in report.resized if key.startswith("bidatt.")} == tables
    key = "bidatt.multi_head_self_attention.rel_pos_w"
    ends = [network.state_dict()[key][[0, -1]] for network in (larger, trained)]
    torch.testing.assert_close(*ends)


def test_files_that_do_not_fit_are_told(tmp_path):
    path = m_sam_file(build(), tmp_path / "m_sam.pth")
    wide = Sam3dConfig(**vars(SIZES) | {"embed_dim": 48})
    for network, words in (
        (build(lora_rank=8), "LoRA rank is 4, the model's is 8; change model.init_args.lora_rank"),
        (build(lora_rank=0), "LoRA rank is 4, the model's is 0; change model.init_args.lora_rank"),
        (build(mea_blocks=2), "number of MFEBs is 1, the model's is 2; change model.init_args.mea_blocks"),
        (build(adapter=False), "number of MFEBs is 1, the model's is 0; change model.init_args.adapter"),
        (build(mea_heads=4), "head width is 4, the model's is 6; change model.init_args.mea_heads"),
        (build(wide), "encoder width is 24, the model's is 48; change model.init_args.architecture"),
    ):
        before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
        with pytest.raises(WeightsError, match=words):
            load_weights(network, path, **load_args(network))
        assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())

    torch.save(build_sam("vit_tiny").state_dict(), tmp_path / "sam.pth")
    with pytest.raises(WeightsError, match="2D"):
        load_weights(network := build(), str(tmp_path / "sam.pth"), **load_args(network))
    torn = {key: t for key, t in build().state_dict().items() if not key.startswith("bidatt.mlp.")}
    torch.save(torn, tmp_path / "torn.pth")
    with pytest.raises(WeightsError, match="only a part of M-SAM's adapter"):
        load_weights(network := build(), str(tmp_path / "torn.pth"), **load_args(network))
