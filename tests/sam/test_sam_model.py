"""The network: equal to segment-anything's where it is written anew, and batched, compiled and adapted."""

import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from samzoo.errors import ConfigError
from samzoo.sam import ARCHITECTURES, SamConfig, attention, build_sam, modeling


def official_encoder(c: SamConfig):
    return modeling.ImageEncoderViT(
        img_size=c.image_size,
        patch_size=c.patch_size,
        embed_dim=c.embed_dim,
        depth=c.depth,
        num_heads=c.num_heads,
        mlp_ratio=c.mlp_ratio,
        out_chans=c.prompt_embed_dim,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=c.window_size,
        global_attn_indexes=c.global_attn_indexes,
    )


def randomize(module):
    for p in module.parameters():
        nn.init.normal_(p, std=0.2)


def test_segment_anything_itself_is_left_alone():
    code = "import sys, samzoo.sam; assert not [m for m in sys.modules if m.split('.')[0] == 'segment_anything']"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("form", ["bias", "augmented"])
@pytest.mark.parametrize(("size", "window"), [(80, 3), (64, 4), (48, 14), (112, 5), (80, 1)])
def test_encoder_and_its_gradients_are_segment_anythings(small, size, window, form, monkeypatch):
    monkeypatch.setitem(attention.AUGMENT_FROM, "cpu", 0 if form == "augmented" else 10**9)
    config = replace(small, image_size=size, window_size=window)
    theirs, ours = official_encoder(config), build_sam(config).image_encoder
    randomize(theirs)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, size, size)
    expected, actual = theirs(x), ours(x)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    expected.square().mean().backward()
    actual.square().mean().backward()
    ours = dict(ours.named_parameters())
    for name, p in theirs.named_parameters():
        torch.testing.assert_close(ours[name].grad, p.grad, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@torch.inference_mode()
def test_prompts_of_a_batch_are_answered_as_one_by_one(small):
    sam = build_sam(small).eval()
    embedding = sam.encode(torch.randn(3, 3, 80, 80))
    index = torch.tensor([2, 0, 2, 1, 0])
    points, labels = torch.rand(5, 2, 2) * 80, torch.tensor([[1, 0], [1, -1], [0, 1], [-1, -1], [1, 1]])
    sparse, dense = sam.encode_prompts(points, labels)
    assert dense.shape[0] == 1
    logits, quality = sam.decode(embedding, index, sparse, dense, True)
    assert logits.shape == (5, 3, 20, 20) and quality.shape == (5, 3)
    for i in range(5):
        own = sam.encode_prompts(points[i : i + 1], labels[i : i + 1])
        image = embedding[index[i : i + 1]]
        one, one_quality = sam.decode(image, torch.tensor([0]), *own, True)
        torch.testing.assert_close(logits[i : i + 1], one, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(quality[i : i + 1], one_quality, atol=1e-5, rtol=1e-5)
    # what segment-anything makes of one picture
    theirs, _ = modeling.MaskDecoder.forward(
        sam.mask_decoder, embedding[2:3], sam.prompt_encoder.get_dense_pe(), sparse[[0, 2]], dense, True
    )
    torch.testing.assert_close(logits[[0, 2]], theirs, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_labels_are_embedded_as_segment_anything_does(small):
    sam = build_sam(small)
    randomize(sam.prompt_encoder)
    points, labels = torch.rand(4, 3, 2) * 80, torch.tensor([[1, 0, -1], [-1, -1, -1], [0, 0, 0], [1, 1, 1]])
    boxes = torch.rand(4, 4) * 80
    for box in (None, boxes):
        expected, _ = modeling.PromptEncoder.forward(sam.prompt_encoder, (points.clone(), labels), box, None)
        torch.testing.assert_close(sam.encode_prompts(points, labels, box)[0], expected)


def test_decoder_trains_through_prompts_and_images(small):
    sam = build_sam(small)
    embedding = sam.encode(torch.randn(2, 3, 80, 80))
    masks = torch.rand(2, 1, 20, 20)
    sparse, dense = sam.encode_prompts(torch.rand(2, 1, 2) * 80, torch.ones(2, 1), torch.rand(2, 4) * 80, masks)
    logits, quality = sam.decode(embedding, torch.arange(2), sparse, dense, True)
    (logits.square().mean() + quality.square().mean()).backward()
    # background points, the missing mask and the single mask's head took no part
    idle = ("point_embeddings.0", "no_mask_embed", "not_a_point_embed", "output_hypernetworks_mlps.0")
    for name, p in sam.named_parameters():
        assert (p.grad is not None and p.grad.abs().sum() > 0) or any(i in name for i in idle), name


class Doubling(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.gain = nn.Parameter(torch.full((dim,), 2.0))

    def forward(self, n):
        return n * self.gain


@torch.inference_mode()
def test_adapters_stand_beside_the_mlp_and_can_be_left_out(small):
    plain, adapted = build_sam(small).eval(), build_sam(small, adapter=Doubling).eval()
    missing, unexpected = adapted.load_state_dict(plain.state_dict(), strict=False)
    assert missing == [f"image_encoder.blocks.{i}.Adapter.gain" for i in range(3)] and not unexpected
    x = torch.randn(1, 3, 80, 80)
    block, tokens = adapted.image_encoder.blocks[0], torch.randn(1, 5, 5, 32)
    n = block.norm2(tokens + block.attn(block.norm1(tokens)))
    torch.testing.assert_close(block(tokens), block(tokens, use_adapter=False) + 2 * n)
    assert not torch.allclose(adapted.encode(x), plain.encode(x))
    adapted.image_encoder.use_adapters = False
    torch.testing.assert_close(adapted.encode(x), plain.encode(x))


@torch.inference_mode()
def test_compiling_keeps_names_and_numbers(small):
    sam = build_sam(small).eval()
    keys, x = list(sam.state_dict()), torch.randn(1, 3, 80, 80)
    expected = sam.encode(x)
    sam.image_encoder.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(sam.encode(x), expected, atol=1e-5, rtol=1e-5)
    assert list(sam.state_dict()) == keys


@torch.inference_mode()
def test_half_precision_keeps_the_place_of_prompts(small):
    sam = build_sam(small).eval()
    points, labels = torch.tensor([[[40.0, 41.0]]]), torch.ones(1, 1)
    exact = sam.encode_prompts(points, labels)[0]
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(sam.encode_prompts(points, labels)[0].float(), exact)
        embedding = sam.encode(torch.randn(1, 3, 80, 80))
        logits, _ = sam.decode(embedding, torch.tensor([0]), *sam.encode_prompts(points, labels), False)
    assert logits.shape == (1, 1, 20, 20) and torch.isfinite(logits.float()).all()


def test_pictures_of_another_size_are_refused(small):
    with pytest.raises(ConfigError, match="80 x 80, got \\(64, 64\\)"):
        build_sam(small).encode(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(("name", "encoder"), [("vit_b", 89_670_912), ("vit_l", 308_278_272), ("vit_h", 637_026_048)])
def test_published_architectures(name, encoder):
    with torch.device("meta"):
        sam = build_sam(name)
        theirs = official_encoder(ARCHITECTURES[name]).state_dict()
    assert sum(p.numel() for p in sam.image_encoder.parameters()) == encoder
    assert sum(p.numel() for p in sam.prompt_encoder.parameters()) == 6_220
    assert sum(p.numel() for p in sam.mask_decoder.parameters()) == 4_058_340
    assert {k: v.shape for k, v in sam.image_encoder.state_dict().items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 100}, "image_size 100 must be a multiple of patch_size 16"),
        ({"num_heads": 5}, "embed_dim 32 must be a multiple of num_heads 5"),
        ({"global_attn_indexes": (1, 9)}, r"\[9\] name no block"),
        ({"depth": 0}, "depth must be a positive number, got 0"),
        ({"mask_in_chans": 6}, "mask_in_chans 6 must be a multiple of 4"),
        ({"prompt_embed_dim": 36}, "prompt_embed_dim 36 must be a multiple of"),
        ({"window_size": "7"}, "window_size must be a positive number, got '7'"),
    ],
)
def test_sizes_that_do_not_fit(small, change, message):
    with pytest.raises(ConfigError, match=message):
        replace(small, **change)


def test_unknown_architecture():
    with pytest.raises(ConfigError, match="unknown SAM architecture 'vit_tyni'; did you mean vit_tiny"):
        build_sam("vit_tyni")
