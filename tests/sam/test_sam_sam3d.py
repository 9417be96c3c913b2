"""SAM in three dimensions: attention against its definition, prompts, files into networks of other sizes."""

import argparse
import os
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from samzoo.errors import ConfigError, WeightsError
from samzoo.sam import (
    ARCHITECTURES,
    ARCHITECTURES_3D,
    WEIGHTS,
    Sam3d,
    Sam3dConfig,
    build_sam,
    build_sam3d,
    load_weights,
)
from samzoo.sam.sam3d import Attention3d

TINY = Sam3dConfig(
    image_size=24,
    patch_size=8,
    embed_dim=24,
    depth=2,
    num_heads=2,
    global_attn_indexes=(1,),
    window_size=2,
    prompt_embed_dim=48,
    decoder_mlp_dim=32,
    decoder_num_heads=4,
    iou_head_hidden_dim=16,
)


def randomised(module):
    for p in module.parameters():
        nn.init.normal_(p, std=0.3)
    return module


def by_definition(attention, x):
    """Zero tokens up to whole windows, then every query against every key of its window, all written out."""
    batch, grid, dim = len(x), x.shape[1], x.shape[-1]
    s, heads = attention.window or grid, attention.num_heads
    count = -(-grid // s)
    x = F.pad(x, (0, 0, *[0, count * s - grid] * 3))
    windows = x.view(batch, count, s, count, s, count, s, dim).permute(0, 1, 3, 5, 2, 4, 6, 7)
    qkv = attention.qkv(windows.reshape(-1, s, s, s, dim)).unflatten(-1, (3, heads, -1)).movedim((4, 5), (0, 2))
    q, k, v = qkv  # (n, heads, s, s, s, d)
    o = torch.arange(s)
    offset = o[:, None] - o + s - 1
    d, h, w = (t[offset] for t in (attention.rel_pos_d, attention.rel_pos_h, attention.rel_pos_w))
    if attention.positions == "published":
        bias = (
            torch.einsum("nhxyzc,xkc->nhxyzk", q, d)[..., None, None, :]
            + torch.einsum("nhxyic,ykc->nhxyik", q, h)[:, :, :, :, None, :, None, :]
            + torch.einsum("nhxyjc,jkc->nhxyjk", q, w)[:, :, :, :, None, None]
        )
    else:
        bias = (
            torch.einsum("nhxyzc,xic->nhxyzi", q, d)[..., None, None]
            + torch.einsum("nhxyzc,yjc->nhxyzj", q, h)[..., None, :, None]
            + torch.einsum("nhxyzc,zkc->nhxyzk", q, w)[..., None, None, :]
        )
    q, k, v = (t.flatten(2, 4) for t in (q, k, v))
    logits = q @ k.mT / q.shape[-1] ** 0.5 + bias.reshape(*q.shape[:2], s**3, s**3)
    out = (logits.softmax(-1) @ v).transpose(1, 2).reshape(batch, count, count, count, s, s, s, dim)
    out = attention.proj(out.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(batch, *[count * s] * 3, dim))
    return out[:, :grid, :grid, :grid]


@pytest.mark.parametrize("positions", ["published", "intended"])
@pytest.mark.parametrize(("grid", "window"), [(3, 2), (4, 0), (5, 3), (6, 3), (8, 14)])
def test_attention_is_that_of_its_definition(grid, window, positions):
    attention = randomised(Attention3d(8, 2, grid, window, positions)).double()
    x = torch.randn(1 if grid == 8 else 2, grid, grid, grid, 8, dtype=torch.float64)
    torch.testing.assert_close(attention(x), by_definition(attention, x), atol=1e-10, rtol=1e-10)


def test_gradients_of_padded_windows_are_those_of_the_definition():
    attention = randomised(Attention3d(8, 2, 5, 3)).double()
    x = torch.randn(1, 5, 5, 5, 8, dtype=torch.float64)
    parameters = list(attention.parameters())
    ours = torch.autograd.grad(attention(x).square().sum(), parameters)
    theirs = torch.autograd.grad(by_definition(attention, x).square().sum(), parameters)
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


def test_attention_in_half_precision():
    attention = randomised(Attention3d(32, 2, 5, 7))
    x = torch.randn(2, 5, 5, 5, 32)
    exact = attention(x)
    with torch.autocast("cpu", torch.bfloat16):
        half = attention(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.05 * exact.abs().max().item(), rtol=0)
    half.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in attention.parameters())


def test_global_attention_on_another_grid_resamples_its_tables():
    attention, larger = randomised(Attention3d(8, 2, 3)), Attention3d(8, 2, 4)
    state = attention.state_dict()
    for key in ("rel_pos_d", "rel_pos_h", "rel_pos_w"):
        state[key] = F.interpolate(state[key].T[None], 7, mode="linear")[0].T
    larger.load_state_dict(state)
    x = torch.randn(1, 4, 4, 4, 8)
    torch.testing.assert_close(attention(x), larger(x))


def test_crops_must_be_cubes_of_the_right_size():
    with pytest.raises(ConfigError, match="got 3 x 3 x 4"):
        Attention3d(8, 2, 3)(torch.zeros(1, 3, 3, 4, 8))
    with pytest.raises(ConfigError, match="1 x 24 x 24 x 24, got 2 x 24 x 24 x 24"):
        build_sam3d(TINY).encode(torch.zeros(1, 2, 24, 24, 24))


@pytest.mark.parametrize(
    ("name", "count"),
    [("vit_b_ori", 100_509_232), ("vit_b", 36_186_928), ("vit_l", 322_786_864), ("vit_h", 652_434_992)],
)
def test_parameters_of_the_published_variants(name, count):
    with torch.device("meta"):
        sam = build_sam3d(name)
    buffers = sum(b.numel() for b in sam.buffers())  # the frequencies of position codes, which are not trained
    assert sum(p.numel() for p in sam.parameters()) == count
    assert buffers == 3 * 128


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"positions": "right"}, "'published' or 'intended', not 'right'"),
        ({"prompt_embed_dim": 64}, "multiple of 3"),
        ({"image_size": 25}, "image_size 25 must be a multiple of patch_size 8"),
        ({"in_channels": 0}, "in_channels must be a positive number"),
    ],
)
def test_numbers_that_do_not_fit(changes, words):
    with pytest.raises(ConfigError, match=words):
        replace(TINY, **changes)
    with pytest.raises(ConfigError, match=r"did you mean vit_b_ori\?"):
        build_sam3d("vit_b_orig")


# --- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["published", "intended"])
def test_a_click_at_a_token_has_the_code_of_that_token(positions):
    prompts = build_sam3d(TINY, positions=positions).prompt_encoder
    dense = prompts.get_dense_pe()
    token = torch.tensor([0, 1, 2])
    click = (token + 0.5) * TINY.patch_size - 0.5
    i, j, k = token if positions == "intended" else token[[1, 0, 2]]  # SAM-Med3D exchanges the grid's first two axes
    code = prompts.forward((click[None, None], torch.tensor([[1]])))[0][:, 0] - prompts.point_embeddings[1].weight
    torch.testing.assert_close(code[0], dense[0, :, i, j, k], atol=1e-5, rtol=1e-5)


def test_tokens_of_clicks_and_boxes():
    sam, points, labels = (
        build_sam3d(TINY, boxes=True),
        torch.tensor([[[3.0, 5, 7], [9, 1, 2]]]),
        torch.tensor([[1, 0]]),
    )
    box = torch.tensor([[3.0, 5, 7, 9, 1, 2]])
    clicks, _ = sam.encode_prompts(points, labels)
    both, _ = sam.encode_prompts(points, labels, box)
    alone, dense = sam.encode_prompts(boxes=box)
    assert clicks.shape == (1, 3, 48) and both.shape == (1, 4, 48)  # no box: padded by one "no point"
    assert torch.equal(clicks[:, 2], sam.prompt_encoder.not_a_point_embed.weight)
    assert torch.equal(both[:, :2], clicks[:, :2]) and torch.equal(both[:, 2:], alone)
    first, second = (sam.prompt_encoder.point_embeddings[i].weight for i in (1, 2))
    torch.testing.assert_close(alone[:, 0] - second, clicks[:, 0] - first)  # the corner is a place as a click is
    assert dense.shape == (1, 48, 3, 3, 3)
    none, _ = sam.encode_prompts(masks=torch.zeros(2, 1, 12, 12, 12))
    empty, _ = sam.encode_prompts(points[:, :0], labels[:, :0])
    assert none.shape == (2, 0, 48) and empty.shape == (1, 0, 48)
    with pytest.raises(ConfigError, match="without box prompts"):
        build_sam3d(TINY).encode_prompts(boxes=box)


@torch.inference_mode()
def test_prompts_on_several_crops_at_once():
    sam = randomised(build_sam3d(TINY)).eval()
    embedding = sam.encode(torch.randn(2, 1, 24, 24, 24))
    index = torch.tensor([1, 0, 1])
    points, labels = torch.randint(24, (3, 2, 3)), torch.randint(2, (3, 2))
    sparse, dense = sam.encode_prompts(points, labels)
    together, quality = sam.decode(embedding, index, sparse, dense, [0, 2])
    shared, _ = sam.decode(embedding, index, sparse, dense[..., :1, :1, :1], [0, 2])  # broadcast over the grid
    torch.testing.assert_close(shared, together)
    assert together.shape == (3, 2, 12, 12, 12) and quality.shape == (3, 2)
    for i in range(3):
        one, _ = sam.decode(embedding[index[i]][None], torch.zeros(1).long(), sparse[i : i + 1], dense, [0, 2])
        torch.testing.assert_close(one, together[i : i + 1], atol=1e-4, rtol=1e-4)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained():
    return randomised(build_sam3d(TINY))


@pytest.fixture
def official(trained, tmp_path):
    """A function that writes a file as SAM-Med3D's training does, with `args` in it."""

    def write(**args):
        trained.zero_grad()
        optimizer = torch.optim.AdamW(trained.parameters())
        sum(p.sum() for p in trained.parameters()).backward()
        before = {k: v.clone() for k, v in trained.state_dict().items()}
        optimizer.step()
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [120, 180])
        path = tmp_path / "sam_med3d_turbo.pth"
        torch.save(
            {
                "epoch": 3,
                "model_state_dict": before,
                "optimizer_state_dict": optimizer.state_dict(),
                "lr_scheduler_state_dict": scheduler.state_dict(),
                "losses": [0.5, 0.25],
                "best_dice": 0.75,
                "args": argparse.Namespace(task_name="union", gpu_ids=[0, 1], lr=8e-5, **args),
                "used_datas": ["data/train/liver/ct_WORD"],
            },
            path,
        )
        return path, before

    return write


def assert_same(sam, state):
    for key, tensor in sam.state_dict().items():
        assert torch.equal(tensor, state[key]), key


def test_files_of_the_official_training(official, capsys):
    path, state = official()
    sam = build_sam3d(TINY)
    report = load_weights(sam, path)
    assert_same(sam, state)
    assert len(report.loaded) == len(state) and not (report.new or report.ignored or report.resized)
    # the file's name tells what it has seen, and the user is told
    assert {"msd_colon", "kits21", "brats2021"} <= set(report.seen) and "msd_lung" not in report.seen
    assert "trained on amos_ct" in capsys.readouterr().out
    assert load_weights(sam, path.rename(path.with_name("mine.pth"))).seen == ()


class Bait:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_among_the_arguments_of_a_training_never_runs(official, tmp_path):
    path, _ = official(bait=Bait(str(tmp_path / "proof")))
    with pytest.raises(WeightsError, match="mkdir"):
        load_weights(build_sam3d(TINY), path)
    assert not (tmp_path / "proof").exists()


def test_another_crop_size(trained, tmp_path):
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    larger = build_sam3d(TINY, image_size=40)
    report = load_weights(larger, tmp_path / "w.safetensors")
    block = "image_encoder.blocks.1.attn"
    assert report.resized == {
        "image_encoder.pos_embed": ((1, 3, 3, 3, 24), (1, 5, 5, 5, 24)),
        **{f"{block}.rel_pos_{axis}": ((5, 12), (9, 12)) for axis in "dhw"},
    }
    old, new = (sam.image_encoder.pos_embed.detach().movedim(-1, 1) for sam in (trained, larger))
    torch.testing.assert_close(new, F.interpolate(old, (5, 5, 5), mode="trilinear"))
    # by shape: windows of another width are no larger grid
    with pytest.raises(WeightsError, match=r"rel_pos_d is 3 x 12 in the file and 5 x 12 in the model"):
        load_weights(build_sam3d(replace(TINY, window_size=3)), tmp_path / "w.safetensors")


@torch.inference_mode()
def test_several_channels_that_show_the_same_are_as_good_as_one(trained, tmp_path):
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    four = build_sam3d(TINY, in_channels=4)
    report = load_weights(four, tmp_path / "w.safetensors")
    assert list(report.resized) == ["image_encoder.patch_embed.proj.weight"]
    x = torch.randn(1, 1, 24, 24, 24)
    torch.testing.assert_close(four.encode(x.expand(-1, 4, -1, -1, -1)), trained.encode(x), atol=1e-4, rtol=1e-4)


def test_vectors_of_boxes_are_optional(trained, tmp_path):
    with_boxes = Sam3d(TINY, boxes=True)
    vectors = tuple(f"prompt_encoder.point_embeddings.{i}.weight" for i in (2, 3))
    save_file(trained.state_dict(), tmp_path / "without.safetensors")
    save_file(with_boxes.state_dict(), tmp_path / "with.safetensors")
    assert load_weights(Sam3d(TINY, boxes=True), tmp_path / "without.safetensors").new == vectors
    assert load_weights(build_sam3d(TINY), tmp_path / "with.safetensors").ignored == vectors
    fresh = Sam3d(TINY, boxes=True)
    assert not load_weights(fresh, tmp_path / "with.safetensors").new
    assert_same(fresh, with_boxes.state_dict())


def test_2d_and_3d_do_not_mix(trained, small, tmp_path):
    save_file(trained.state_dict(), tmp_path / "3d.safetensors")
    save_file(build_sam(small).state_dict(), tmp_path / "2d.safetensors")
    three = r"\(width 24, 2 blocks, patches of 8, 24 voxels, 3D\)"
    two = r"\(width 32, 3 blocks, patches of 16, 80 px\)"
    both = "2D SAM do not fit a 3D one.*the file looks like .*{}, the model like .*{}"
    with pytest.raises(WeightsError, match=both.format(two, three)):
        load_weights(build_sam3d(TINY), tmp_path / "2d.safetensors")
    with pytest.raises(WeightsError, match=both.format(three, two)):
        load_weights(build_sam(small), tmp_path / "3d.safetensors")


def test_architectures_of_the_weights_table():
    for name, entry in WEIGHTS.items():
        config = {2: ARCHITECTURES, 3: ARCHITECTURES_3D}[entry.dim][entry.architecture]
        assert config.image_size == entry.image_size or entry.dim == 2, name
