"""SAM trained by its own recipe: what moves, what it learns, how it begins."""

from __future__ import annotations

import lightning.pytorch as L
import pytest
import torch
from tiny_methods import TINY, make_batch
from torch.utils.data import DataLoader

from samzoo.errors import ConfigError
from samzoo.methods import SAM
from samzoo.methods.baselines.sam import PromptTraining
from samzoo.sam import Sam3dConfig, build_sam, build_sam3d, start_matched

QUIET = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")


def fit(method, steps, batch=None):
    losses = []
    log = method.log_dict
    method.log_dict = lambda values, **kw: (losses.append(float(values["train/loss"])), log(values, **kw))
    batches = DataLoader([batch or make_batch(i % 3) for i in range(steps)], batch_size=None)
    L.Trainer(max_epochs=1, enable_checkpointing=False, **QUIET).fit(method, batches)
    return losses


@pytest.mark.parametrize("first", [{"box": 1.0, "points": 0.0}, {"box": 0.0, "points": 0.0}, {"box": 0, "points": 1.0}])
def test_every_first_prompt_teaches(first):
    torch.manual_seed(0)
    method = SAM(TINY, training=PromptTraining(lr=2e-3, **first))
    losses = fit(method, 24)
    assert max(losses[-6:]) < min(losses[:6])
    assert all(p.grad is not None for p in method.trainable_parameters()), "plain DDP waits for every parameter"


def test_trained_with_a_name_of_its_own_and_as_it_is_not_at_all():
    assert SAM(TINY, training=PromptTraining()).spec.name == "SAM-finetuned"
    plain = SAM(TINY)
    assert plain.spec.name == "SAM" and not plain.trainable_parameters()
    with pytest.raises(ConfigError, match="--zero-shot"):
        plain.configure_optimizers()


def test_a_batch_without_objects_changes_nothing_much():
    method = SAM(TINY, training=PromptTraining())
    (loss,) = fit(method, 1, make_batch(objects=False))
    assert loss == loss


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"box": 0.8, "points": 0.4}, "shares"),
        ({"corrections": -1}, "corrections"),
        ({"masks_per_picture": 0}, "masks"),
    ],
)
def test_recipes_that_make_no_sense(settings, words):
    with pytest.raises(ConfigError, match=words):
        PromptTraining(**settings)


def test_training_needs_the_multimask_rule_that_it_trains():
    with pytest.raises(ConfigError, match="one_click"):
        SAM(TINY, training=PromptTraining(), multimask="never")


TINY_3D = Sam3dConfig(
    image_size=32,
    patch_size=8,
    embed_dim=12,
    depth=2,
    num_heads=2,
    global_attn_indexes=(1,),
    window_size=2,
    prompt_embed_dim=96,
    decoder_mlp_dim=24,
    decoder_num_heads=2,
    iou_head_hidden_dim=12,
)


@pytest.mark.parametrize("positions", ["published", "intended"])
def test_a_click_looks_at_its_own_place_from_the_start_in_3d(positions):
    torch.manual_seed(0)
    sam = build_sam3d(TINY_3D, None, 1, positions)
    start_matched(sam)
    places = torch.tensor([[3.0, 12.0, 28.0], [30.0, 2.0, 12.0], [12.0, 30.0, 4.0]])
    code = sam.prompt_encoder._voxel_code(places)
    dense = sam.prompt_encoder.get_dense_pe()[0].flatten(1).T
    for layer in sam.mask_decoder.transformer.layers:
        attention = layer.cross_attn_token_to_image
        seen = attention.q_proj(code) @ attention.k_proj(dense).T
        own = [(int(x) // 8 * 4 + int(y) // 8) * 4 + int(z) // 8 for x, y, z in places]
        assert all(row[i] > row.mean() + row.std() for row, i in zip(seen, own, strict=True))


def test_a_click_looks_at_its_own_place_from_the_start_in_2d():
    sam = build_sam("vit_tiny", 128)
    start_matched(sam)
    code = sam.prompt_encoder.pe_layer.forward_with_coords(torch.tensor([[[20.5, 100.5]]]), (128, 128))[0]
    dense = sam.prompt_encoder.get_dense_pe()[0].flatten(1).T
    attention = sam.mask_decoder.transformer.layers[0].cross_attn_image_to_token
    assert (attention.k_proj(code) @ attention.q_proj(dense).T).argmax() == 12 * 16 + 2
