"""Methods on crops: a promptable 3D SAM, alone and as M-SAM."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from tiny_slabs import slabs
from torch.utils.data import DataLoader

from samzoo.errors import ConfigError
from samzoo.methods import METHODS, MSAM, SAMMed3D
from samzoo.methods.base import select_rows
from samzoo.methods.crop import Refinement
from samzoo.methods.crop_inputs import draw_objects, error_or_foreground_click, normalised
from samzoo.methods.randomness import seeded_generator
from samzoo.sam import Sam3dConfig
from samzoo.types import Prompts

CROPS = [m for m in METHODS if m.spec.unit == "crop"]
TINY = Sam3dConfig(
    image_size=32,
    patch_size=8,
    embed_dim=24,
    depth=2,
    num_heads=2,
    global_attn_indexes=(1,),
    window_size=3,
    prompt_embed_dim=24,
    decoder_mlp_dim=32,
    decoder_num_heads=2,
    iou_head_hidden_dim=16,
)


def make(method, seed=0, **settings):
    torch.manual_seed(seed)
    refinement = Refinement(**({"steps": 3} | settings.pop("refinement", {})))
    return method(TINY, spacing=None, freeze_encoder=False, num_classes=2, refinement=refinement, **settings)


def crops(**settings):
    return slabs(depth=32, **settings)


def click(index, *points, label=1):
    xyz = torch.tensor([points], dtype=torch.float32).transpose(0, 1).expand(len(index), -1, -1)
    labels = torch.full(xyz.shape[:2], label)
    return Prompts(torch.tensor(index), torch.ones(len(index), dtype=torch.long), xyz, labels)


def fit(method, batch, steps):
    trainer = Trainer(
        max_epochs=1,
        gradient_clip_val=1,
        limit_train_batches=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(method, DataLoader([batch] * steps, batch_size=None))
    return trainer


@pytest.mark.parametrize("method", CROPS, ids=lambda m: m.__name__)
def test_it_learns_to_segment_from_clicks(method):
    method = make(method, lr=1e-2, lr_decoder=1e-2)
    batch = crops()
    target, valid = draw_objects(batch.label, seeded_generator(0))
    generators = lambda: (seeded_generator(1), seeded_generator(2))  # noqa: E731

    def loss():
        with torch.no_grad():
            return float(method.refine(method.encode(batch.image), target, valid, *generators())[-1])

    before = loss()
    fit(method, batch, 14)
    assert loss() < 0.8 * before


@pytest.mark.parametrize("method", CROPS, ids=lambda m: m.__name__)
@pytest.mark.parametrize(
    "settings", [{}, {"refinement": {"box_fraction": 0.3}, "boxes": "corners"}], ids=["clicks", "boxes"]
)
def test_every_trained_parameter_gets_a_gradient(method, settings):
    """Plain DDP waits for the gradient of every one of them."""
    method = make(method, **settings)
    batch = crops()
    target, valid = draw_objects(batch.label, seeded_generator(0))
    losses = method.refine(method.encode(batch.image), target, valid, seeded_generator(1), seeded_generator(2))
    losses.sum().backward()
    assert not [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]


def test_a_frozen_encoder_learns_by_lora_alone():
    with pytest.warns(UserWarning, match="frozen image encoder is random"):
        method = MSAM(TINY, spacing=None, refinement=Refinement(steps=2))
    encoder = {n for n, p in method.sam.image_encoder.named_parameters() if p.requires_grad}
    assert encoder and all(".linear_" in name for name in encoder)
    before = {n: p.clone() for n, p in method.named_parameters()}
    fit(method, crops(), 2)
    moved = {n for n, p in method.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n, p in method.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("method", CROPS, ids=lambda m: m.__name__)
@torch.inference_mode()
def test_many_prompts_at_once_are_answered_as_one_by_one(method):
    method = make(method).eval()
    batch = crops()
    embedding = method.encode(batch.image)
    asked = click([1, 0, 1], (10.0, 8, 4), (20.0, 24, 2), (5.0, 6, 20))
    together, state = method.decode(embedding, asked)
    assert together.shape == (3, 1, 16, 16, 16)
    for row, image in enumerate([1, 0, 1]):
        one = click([0], tuple(asked.points[row, 0].tolist()))
        alone, _ = method.decode(select_rows(embedding, slice(image, image + 1)), one)
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-4)
    again, _ = method.decode(embedding, asked, state)
    assert not torch.allclose(again, together), "the previous mask is fed back"


@torch.inference_mode()
def test_clicks_and_logits_have_the_axes_of_the_volume():
    """A click far along depth answers there: with everything mirrored along the axes, so is the answer."""
    method = make(SAMMed3D, seed=1).eval()
    image = torch.rand(1, 1, 32, 32, 32)
    x, y, z = 3.0, 9.0, 20.0
    sparse = method.sam.encode_prompts(
        torch.tensor([[[x, y, z]]]), torch.ones(1, 1), None, torch.zeros(1, 1, 16, 16, 16)
    )
    network = method.sam.encode(normalised(image, 0).permute(0, 1, 4, 3, 2))
    expected, _ = method.sam.decode(network, torch.tensor([0]), *sparse, False)
    answered, _ = method.decode(method.encode(image), click([0], (x, y, z)))
    torch.testing.assert_close(answered, expected.permute(0, 1, 4, 3, 2))


@torch.inference_mode()
def test_newest_and_all_clicks():
    embedding = make(SAMMed3D).eval().encode(crops().image)
    two = Prompts(*click([0], (4.0, 4, 4)).__dict__.values())
    two = replace(two, points=torch.tensor([[[4.0, 4, 4], [20, 9, 7]]]), point_labels=torch.tensor([[1, 0]]))
    last = replace(two, points=two.points[:, 1:], point_labels=two.point_labels[:, 1:])
    for clicks, same in (("newest", True), ("all", False)):
        method = make(SAMMed3D, refinement={"clicks": clicks}).eval()
        _, state = method.decode(embedding, click([0], (4.0, 4, 4)))
        assert torch.equal(method.decode(embedding, two, state)[0], method.decode(embedding, last, state)[0]) == same, (
            clicks
        )


@torch.inference_mode()
def test_a_box_is_a_click_in_its_middle_or_two_corners():
    index, classes = torch.tensor([0]), torch.tensor([1])
    box = Prompts(index, classes, boxes=torch.tensor([[2.0, 4, 6, 13, 9, 8]]))
    method = make(SAMMed3D).eval()
    embedding = method.encode(crops().image)
    assert torch.equal(method.decode(embedding, box)[0], method.decode(embedding, click([0], (7.0, 6, 7)))[0])
    method = make(SAMMed3D, boxes="corners", refinement={"box_fraction": 1.0}).eval()
    other = Prompts(index, classes, boxes=torch.tensor([[3.0, 5, 7, 12, 8, 7]]))
    assert not torch.equal(method.decode(embedding, box)[0], method.decode(embedding, other)[0])


@torch.inference_mode()
def test_without_feedback_the_mask_depends_on_the_clicks_alone():
    method = make(MSAM, refinement={"feedback": False, "clicks": "all"}).eval()
    assert method.spec.name == "M-SAM-no-refinement"
    embedding = method.encode(crops().image)
    first, state = method.decode(embedding, click([0], (4.0, 4, 4)))
    assert torch.equal(first, method.decode(embedding, click([0], (4.0, 4, 4)), state)[0])
    with pytest.raises(ConfigError, match=r"refinement\.clicks to all"):
        Refinement(feedback=False)


def test_detached_steps_send_no_gradient_back():
    grads = {}
    for detach in (False, True):
        method = make(SAMMed3D, refinement={"detach": detach, "steps": 2})
        embedding = method.encode(crops().image).detach()
        seen = []
        answer = method.answer

        def spied(*args, answer=answer, seen=seen):
            seen.append(answer(*args))
            seen[-1].retain_grad()
            return seen[-1]

        method.answer = spied
        target, valid = draw_objects(crops().label, seeded_generator(0))
        method.refine(embedding, target, valid, seeded_generator(1), seeded_generator(2))[1].backward()
        grads[detach] = seen[0].grad
    assert grads[True].abs().sum() == 0 < grads[False].abs().sum()


@torch.inference_mode()
def test_each_crop_is_normalised_by_itself():
    x = torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    both = normalised(x * torch.tensor([1.0, 0.3]).view(2, 1, 1, 1, 1), 0.0)
    torch.testing.assert_close(both[1:], normalised(x[1:], 0.0), atol=1e-4, rtol=1e-4)
    half = normalised(x, 0.5)[x > 0.5]
    assert normalised(torch.full((1, 1, 8, 8, 8), 0.7), 0.0).abs().max() == 0, "a constant crop is no NaN"
    assert abs(float(half.mean())) < 0.05 and torch.isfinite(normalised(torch.zeros(1, 1, 8, 8, 8), 0.0)).all()


def test_clicks_are_found_where_there_is_no_error_and_no_object():
    target = torch.zeros(3, 1, 8, 8, 8, dtype=torch.bool)
    target[:2, :, 2:4, 3:5, 4:6] = True
    prediction = target.clone()
    prediction[0, :, 7, 0, 1] = True
    points, labels = error_or_foreground_click(prediction, target, torch.ones_like(target), seeded_generator(0))
    assert labels.flatten().tolist() == [0, 1, -1]
    x, y, z = points[0, 0].tolist()
    assert (x, y, z) == (1, 0, 7)
    x, y, z = (int(v) for v in points[1, 0])
    assert target[1, 0, z, y, x]


def test_crops_without_object_teach_nothing_and_ignored_voxels_count_for_nothing():
    method = make(SAMMed3D, refinement={"loss": "dice_ce"})
    logits = torch.randn(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(2, 1, 8, 8, 8, dtype=torch.bool)
    target[0, :, 2:5] = True
    valid = torch.ones_like(target)
    weights = method._weights(target)
    one = method.loss(logits[:1], target[:1], valid[:1], torch.ones(1))
    torch.testing.assert_close(method.loss(logits, target, valid, weights), one)
    assert method._weights(torch.zeros_like(target)).tolist() == [0, 0]
    valid[0, :, 6:] = False
    changed = logits.clone()
    changed[0, :, 6:] += 5
    torch.testing.assert_close(
        method.loss(changed, target, valid, weights), method.loss(logits, target, valid, weights)
    )


def test_crops_with_an_object_weigh_the_same_in_all_processes():
    """Two here and one there make a mean of 1.5, by which each is divided before gradients are averaged."""
    method = make(SAMMed3D)
    target = torch.zeros(2, 1, 4, 4, 4, dtype=torch.bool)
    target[:, :, 0] = True
    asked = []
    strategy = SimpleNamespace(reduce=lambda count, reduce_op: asked.append((float(count), reduce_op)) or count * 0.75)
    method._trainer = SimpleNamespace(world_size=2, strategy=strategy)
    assert method._weights(target).tolist() == pytest.approx([1 / 1.5] * 2) and asked == [(2.0, "mean")]


def test_steps_without_click_are_those_of_sam_med3d():
    """Of 11: one of the third to the ninth, and the last; the same in every process."""
    method = make(SAMMed3D, refinement={"steps": 11, "steps_without_click": True})
    drawn = [method._steps_without_click(seeded_generator(0, i)) for i in range(60)]
    assert all(10 in silent and len(silent) == 2 for silent in drawn)
    assert {min(silent) for silent in drawn} == set(range(2, 9))
    told = []
    method.answer = lambda *args, answer=method.answer: told.append(args[2:4]) or answer(*args)
    target, valid = draw_objects(crops().label, seeded_generator(0))
    method.refine(method.encode(crops().image), target, valid, seeded_generator(1), seeded_generator(2))
    silent = [points is None and labels is None for points, labels in told]
    assert silent[-1] and sum(silent) == 2
    method = make(SAMMed3D, refinement={"steps": 2, "steps_without_click": True})
    assert method._steps_without_click(seeded_generator(0)) == set()


def test_box_vectors_that_nothing_teaches_are_refused():
    with pytest.raises(ConfigError, match="box_fraction above 0"):
        make(SAMMed3D, boxes="corners")


def test_the_object_is_the_class_in_the_middle_of_the_crop():
    label = torch.zeros(2, 8, 8, 8, dtype=torch.long)
    label[:, :2], label[0, 4, 4, 4] = 2, 1
    targets = [draw_objects(label, seeded_generator(seed))[0] for seed in range(5)]
    assert all(torch.equal(t[0, 0], label[0] == 1) and torch.equal(t[1, 0], label[1] == 2) for t in targets)


def test_pictures_of_two_channels_are_refused_by_a_network_of_one():
    method = make(SAMMed3D)
    with pytest.raises(ConfigError, match="in_channels"):
        method.prepare(torch.rand(1, 2, 8, 8, 8), torch.tensor([[8, 8, 8]]), torch.ones(1, 3))


def test_rates_of_encoder_and_decoder_fall_at_their_epochs():
    method = make(MSAM, lr=1e-2, lr_decoder=1e-3, lr_drop_at=(0, 5))
    fit(method, crops(), 1)
    rates = [group["lr"] for group in method.optimizers().param_groups]
    assert rates == pytest.approx([1e-3, 1e-4])
