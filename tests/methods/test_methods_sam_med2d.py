"""SAM-Med2D's prompts, objective and training steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_methods import make_batch
from torch.utils.data import DataLoader

from samzoo.errors import ConfigError
from samzoo.methods.mask_loss import Objective
from samzoo.methods.objects import draw_masks, object_map
from samzoo.methods.randomness import seeded_generator
from samzoo.prompts.batched import random_error_clicks

QUIET = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")


def fit(method, batches, epochs=1, ckpt_path=None, **trainer):
    trainer = L.Trainer(max_epochs=epochs, devices=1, **(QUIET | {"enable_checkpointing": False} | trainer))
    trainer.fit(method, DataLoader(batches, batch_size=None), ckpt_path=ckpt_path)
    return trainer


def weights(method):
    return {k: v.clone() for k, v in method.state_dict().items()}


def same(a, b, tolerance=0.0):
    return all(torch.allclose(a[k], b[k], atol=tolerance, rtol=0) for k in a)


# --- training --------------------------------------------------------------------------------------------------------


def test_a_batch_makes_one_optimiser_step_per_pass_and_the_loss_falls(build):
    method = build(lr=3e-3)
    trainer = fit(method, [make_batch()] * 2)
    assert trainer.global_step == 2 * 4
    first = float(trainer.callback_metrics["train/loss_first"])
    trainer = fit(method, [make_batch()] * 10)
    assert float(trainer.callback_metrics["train/loss_first"]) < first
    assert {"train/loss", "train/focal", "train/dice_loss", "train/quality"} <= trainer.callback_metrics.keys()


def test_training_does_not_depend_on_global_random_numbers(build):
    results = []
    for seed in (1, 2):
        method = build()
        torch.manual_seed(seed)
        fit(method, [make_batch(), make_batch(1)])
        results.append(weights(method))
    assert same(*results)


def test_the_seed_of_the_run_changes_the_prompts(build, monkeypatch):
    results = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        method = build()
        fit(method, [make_batch()])
        results.append(weights(method))
    assert not same(*results)


def test_a_resumed_run_ends_with_the_same_weights(build, tmp_path):
    batches = [make_batch(0), make_batch(1)]
    whole = build(lr_halve_at=(1, 2))
    fit(whole, batches, epochs=3)
    begun = build(lr_halve_at=(1, 2))
    saver = ModelCheckpoint(tmp_path, save_last=True)
    fit(begun, batches, epochs=2, callbacks=[saver], enable_checkpointing=True)
    resumed = build(lr_halve_at=(1, 2))
    trainer = fit(resumed, batches, epochs=3, ckpt_path=tmp_path / "last.ckpt")
    assert same(weights(whole), weights(resumed))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3 / 4)


@pytest.mark.parametrize("with_boxes", [True, False])
def test_micro_batches_change_memory_not_results(build, with_boxes):
    passes = []
    for accumulate in (1, 2, 4):
        method, own = build(accumulate=accumulate), seeded_generator(0)
        gradients = []

        def corrections(number, part, own=own):
            return random_error_clicks(part.prediction, part.target, 3, own, part.valid)

        def step(method=method, gradients=gradients):
            gradients.append({k: p.grad.clone() for k, p in method.named_parameters() if p.grad is not None})
            method.zero_grad(set_to_none=True)

        parts = method.draw_parts(make_batch(), with_boxes, own)
        assert len(parts) == accumulate
        method.episode.run(method.sam, parts, corrections, torch.Tensor.backward, step)
        passes.append(gradients)
    for other in passes[1:]:
        for expected, actual in zip(passes[0], other, strict=True):
            assert expected.keys() == actual.keys() and same(expected, actual, tolerance=1e-5)


def test_a_batch_without_objects_changes_nothing(build):
    method = build()
    before = weights(method)
    fit(method, [make_batch(objects=False)])
    assert same(before, weights(method))


def test_slices_without_objects_are_left_out(build):
    method = build(accumulate=3)
    mixed = make_batch()
    mixed.label[1:3] = 0
    parts = method.draw_parts(mixed, True, seeded_generator(0))
    assert [len(part.images) for part in parts] == [1, 1, 1]
    assert [part.share for part in parts] == [0.5, 0.5, 0]
    assert not parts[2].target.any()


def test_only_adapters_and_decoder_move_and_adapters_in_the_first_pass_alone(build, base_file):
    method = build(weights=base_file, freeze_encoder=True, refinement_passes=2)
    moved = []
    (part,) = method.draw_parts(make_batch(), True, seeded_generator(0))
    optimizer = torch.optim.Adam(method.trainable_parameters())
    states = [weights(method)]

    def step():
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        states.append(weights(method))
        moved.append({k for k in states[-1] if not torch.equal(states[-2][k], states[-1][k])})

    method.episode.run(method.sam, [part], lambda number, part: None, torch.Tensor.backward, step)
    assert any(".Adapter." in k for k in moved[0])
    assert not any("image_encoder" in k for k in moved[0] if ".Adapter." not in k)
    for later in moved[1:]:
        assert not any("image_encoder" in k for k in later)
        assert any("mask_downscaling" in k for k in later)  # the mask prompt learns, unlike in the reference
        assert any("mask_decoder" in k for k in later)


def test_gradients_are_clipped_by_hand(build):
    results = []
    for clip in (None, 1e-9):
        method = build(clip_norm=clip)
        before = weights(method)
        # Adam divides by the gradient's own size: only its epsilon shows that the gradient was small
        fit(method, [make_batch()])
        results.append(max((weights(method)[k] - before[k]).abs().max() for k in before))
    assert results[1] < results[0] / 10


@pytest.mark.parametrize("settings", [{"loss": "pooled", "train_prompt_encoder": False}, {"selection": "min_loss"}])
def test_variants_train_in_mixed_precision(build, settings):
    method = build(**settings)
    before = weights(method)
    trainer = fit(method, [make_batch()], precision="bf16-mixed")
    after = weights(method)
    assert all(t.dtype == torch.float32 and t.isfinite().all() for t in after.values() if t.is_floating_point())
    assert not same(before, after)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])


def test_settings_out_of_range_are_refused(build):
    for settings, message in (
        ({"refinement_passes": -1}, "refinement_passes"),
        ({"clicks_per_pass": ()}, "clicks_per_pass"),
        ({"accumulate": 0}, "accumulate"),
        ({"loss": "pooled", "selection": "min_loss"}, "per_mask"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(**settings)


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_the_plan_of_clicks(build):
    method = build(refinement_passes=8, clicks_per_pass=(1, 9))
    free = set()
    for seed in range(200):
        plan = method.draw_clicks_plan(seeded_generator(seed))
        assert len(plan) == 8 and plan[-1] == 0 and set(plan) <= {0, 1, 9}
        (without,) = [i for i, count in enumerate(plan[:-1]) if count == 0]
        free.add(without)
    assert free == set(range(1, 7))
    assert [build(refinement_passes=r).draw_clicks_plan(seeded_generator(0))[-1:] for r in (0, 1)] == [[], [0]]
    assert 0 not in build(refinement_passes=2).draw_clicks_plan(seeded_generator(0))[:-1]


def test_ignored_pixels_are_no_target_and_do_not_count(build):
    method = build(masks_per_picture=20)
    batch = make_batch()
    (part,) = method.draw_parts(batch, False, seeded_generator(0))
    _, grids = method.prepare(batch.image, batch.size, batch.spacing)
    top, left = grids[0].offset
    hole = (slice(None), 0, slice(top + 5, top + 8), slice(left + 6, left + 9))
    first = part.image_index == 0
    assert not part.valid[first][hole].any() and not part.target[first][hole].any()
    # the batch's own padding at the far end is cut away before the slice is laid on the grid
    assert part.valid[part.image_index == 3].all()


def test_padding_of_the_grid_is_background(build):
    (part,) = build(policy="longest_side").draw_parts(make_batch(pictures=2), True, seeded_generator(0))
    bottom = part.target[:, 0, -2:]
    assert not bottom.any() and part.valid[:, 0, -2:].all()


def test_boxes_enclose_whole_classes_and_single_parts():
    label = torch.zeros(2, 8, 8, dtype=torch.long)
    label[0, 0:2, 0:2] = label[0, 2, 2] = 1  # touches at a corner: one part
    label[0, 5:7, 5:7] = 1
    label[0, 0, 7] = 2
    label[0, 7, 7] = 255
    assert object_map(label, "class").unique().tolist() == [0, 1, 2]
    parts = object_map(label, "component")
    assert sorted((parts == i).sum().item() for i in range(1, 4)) == [1, 4, 5] and parts.max() == 3
    index, target = draw_masks(parts, 300, seeded_generator(0))
    assert index.tolist() == [0] * 300  # the second picture has none
    sizes = target.sum((1, 2, 3))
    assert all(70 < (sizes == size).sum() < 130 for size in (1, 4, 5))


# --- objective -------------------------------------------------------------------------------------------------------


def test_a_small_mask_counts_as_much_as_a_large_one_unless_pooled():
    target = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    target[0, :, :15], target[1, :, 0, 0] = True, True
    logits = torch.where(target, 12.0, -12.0)
    logits[1] = -12.0  # the small one is missed
    quality = torch.tensor([[1.0], [0.0]])
    assert Objective()(logits, quality, target).dice == pytest.approx(0.25, abs=0.01)
    assert Objective(pooled=True)(logits, quality, target).dice < 0.01
    assert Objective()(logits, quality, target).quality == pytest.approx(0, abs=1e-4)
    assert Objective(pooled=True)(logits, quality, target).quality == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("pooled", [True, False])
def test_ignored_pixels_have_no_part_in_the_loss(pooled):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, 8, 8, generator=generator, requires_grad=True)
    target = torch.rand(3, 1, 8, 8, generator=generator) > 0.5
    valid = torch.ones_like(target)
    valid[..., 4:] = False
    quality = torch.zeros(3, 1)
    objective = Objective(pooled=pooled)
    masked = objective(logits, quality, target, valid)
    cut = objective(logits[..., :4], quality, target[..., :4])
    torch.testing.assert_close(masked.total, cut.total)
    masked.total.backward()
    assert not logits.grad[..., 4:].any() and logits.grad[..., :4].any()


def test_least_loss_trains_the_best_mask_and_every_quality():
    target = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    target[..., :4] = True
    good, bad = torch.where(target, 5.0, -5.0), torch.where(target, -5.0, 5.0)
    logits = torch.cat([bad, good, bad], 1).requires_grad_()
    quality = torch.zeros(1, 3, requires_grad=True)
    Objective()(logits, quality, target).total.backward()
    assert logits.grad[:, 1].any() and not logits.grad[:, [0, 2]].any()
    assert quality.grad.ne(0).all()


def test_hopeless_logits_give_finite_loss_and_gradients_in_half_precision():
    logits = torch.full((1, 1, 4, 4), -300.0, dtype=torch.bfloat16, requires_grad=True)
    terms = Objective()(logits, torch.zeros(1, 1), torch.ones(1, 1, 4, 4, dtype=torch.bool))
    terms.total.backward()
    assert terms.total.dtype == torch.float32 and terms.total.isfinite() and logits.grad.isfinite().all()


# --- several processes -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_end_with_the_same_weights(tmp_path):
    script = Path(__file__).with_name("train_on_two.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, tmp_path], env=environment, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert same(first, second)
