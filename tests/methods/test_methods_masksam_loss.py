"""What MaskSAM is trained towards: targets of slices, ignored voxels, empty slices, what a loss must not depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from samzoo.errors import ConfigError
from samzoo.methods.masksam import loss as loss_module
from samzoo.methods.masksam.loss import ACDC_SYNAPSE, TERMS, Criterion, LossSettings
from samzoo.methods.masksam.matcher import sample_targets
from samzoo.methods.masksam.targets import mask_boxes, slice_targets

S, N, K, SIDE = 3, 6, 4, 16
CRITERION = Criterion(replace(ACDC_SYNAPSE, points=400))
UNIFORM = Criterion(replace(ACDC_SYNAPSE, points=400, importance=0.0))
"""Without the search for edges, where no pixel mask is right at every point between its pixels."""


@pytest.fixture
def slices():
    """Three slices with 3, 2 and 1 classes."""
    slices = torch.zeros(S, SIDE, SIDE, dtype=torch.int64)
    slices[0, 2:7, 3:9], slices[0, 9:15, 1:6] = 1, 3
    slices[1, 4:13, 6:14] = 2
    return slices


@pytest.fixture
def predictions():
    """Class logits, mask logits, auxiliary masks of half the size, and boxes."""
    generator = torch.Generator().manual_seed(0)
    masks, aux = (2 * torch.randn(S, N, side, side, generator=generator) for side in (SIDE, SIDE // 2))
    corners = torch.rand(S, N, 2, 2, generator=generator).sort(dim=2).values
    return [torch.randn(S, N, K + 1, generator=generator), masks, aux, corners.flatten(2)]


def perfect(targets):
    """Query q answers for target q, the others for nothing; with logits of 4, close to right between pixels too."""
    classes = torch.full((S, N, K + 1), -20.0)
    masks = torch.full((S, N, SIDE, SIDE), -4.0)
    boxes = torch.zeros(S, N, 4)
    classes[..., -1] = 20
    for s in range(S):
        for q in range(int(targets.counts[s])):
            classes[s, q, -1], classes[s, q, targets.labels[s, q]] = -20, 20
            masks[s, q][targets.masks[s, q]] = 4
            boxes[s, q] = targets.boxes[s, q]
    return [classes, masks, masks.clone(), boxes]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gradients(predictions, targets, criterion=CRITERION, seed=0):
    leaves = [p.clone().requires_grad_() for p in predictions]
    terms = criterion(*leaves, targets, seeded(seed))
    terms.total.backward()
    return terms, [leaf.grad for leaf in leaves]


def values(terms):
    return torch.stack([getattr(terms, name) for name in (*TERMS, "total")]).detach()


# --- targets --------------------------------------------------------------------------------------------------------


def test_targets_are_the_classes_of_a_slice(slices):
    targets = slice_targets(slices, K, N)
    assert targets.labels.tolist() == [[0, 1, 3], [0, 2, -1], [0, -1, -1]]
    assert targets.counts.tolist() == [3, 2, 1] and targets.valid is None
    assert torch.equal(targets.masks[0, 2], slices[0] == 3)
    assert not targets.masks[targets.labels < 0].any()
    assert targets.boxes[0, 1].tolist() == [3 / 16, 2 / 16, 8 / 16, 6 / 16]


def test_box_extent():
    """A box of one pixel has an area only where it ends past that pixel; an empty mask has the box 0."""
    masks = torch.zeros(2, 1, 10, 20, dtype=torch.bool)
    masks[0, 0, 4, 5] = True
    torch.testing.assert_close(mask_boxes(masks)[0, 0], torch.tensor([0.25, 0.4, 0.25, 0.4]))
    torch.testing.assert_close(mask_boxes(masks, "exclusive")[0, 0], torch.tensor([0.25, 0.4, 0.3, 0.5]))
    for extent in ("inclusive", "exclusive"):
        assert mask_boxes(masks, extent)[1, 0].tolist() == [0, 0, 0, 0]
        full = mask_boxes(torch.ones_like(masks), extent)[0, 0].tolist()
        assert full == ([0, 0, 1, 1] if extent == "exclusive" else pytest.approx([0, 0, 0.95, 0.9]))


def test_more_classes_than_queries(slices):
    with pytest.raises(ConfigError, match=r"3 classes.* 2 queries.*model\.init_args\.queries"):
        slice_targets(slices, K, queries=2)
    assert slice_targets(slices, K, queries=3).labels.shape == (S, 3)


# --- what does not count --------------------------------------------------------------------------------------------


def test_ignored_voxels_count_for_nothing(slices, predictions):
    """Whatever is predicted there changes neither value, gradient nor matching; it draws no gradient itself."""
    slices[:, :, 10:] = 255
    targets = slice_targets(slices, K, N)
    assert torch.equal(targets.valid, slices != 255) and not (targets.masks & ~targets.valid[:, None]).any()
    terms, grads = gradients(predictions, targets)
    assert (grads[1][..., 10:] == 0).all() and (grads[1][..., :10] != 0).any()
    assert (grads[2][..., 6:] == 0).all(), "auxiliary pixels whose every point is ignored"
    other = [p.clone() for p in predictions]
    other[1][..., 10:] *= -3
    other[2][..., 6:] *= -3
    again, grads_again = gradients(other, targets)
    torch.testing.assert_close(values(again), values(terms), rtol=0, atol=0)
    torch.testing.assert_close(grads_again, grads, rtol=0, atol=0)
    other[1][..., :10] *= -3
    assert values(gradients(other, targets)[0])[-1] != values(terms)[-1]


def test_points_beside_ignored_pixels():
    """Half-way to an ignored pixel a target would be half a target: such points are left out, those at borders not."""
    masks = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    masks[..., 2:], valid[..., 2:] = False, False
    x = torch.tensor([0.0, 0.125, 0.375, 0.5, 0.7])
    wanted, weight = sample_targets(masks, valid, torch.stack([x, torch.full_like(x, 0.5)], -1)[None])
    assert weight.flatten().tolist() == [1, 1, 1, 0, 0]
    assert wanted.flatten().tolist() == [0.5, 1, 1, 0, 0]


def test_a_slice_of_ignored_voxels_is_as_if_absent(slices, predictions):
    slices[1] = 255
    targets = slice_targets(slices, K, N)
    assert targets.counts.tolist() == [3, 0, 1]
    terms, grads = gradients(predictions, targets)
    assert not (terms.matching.slices == 1).any()
    for grad in grads:
        assert (grad[1] == 0).all() and (grad[0] != 0).any()
    kept = [0, 2]
    points = [torch.rand(S, 400, 2), *(torch.rand(4, n, 2) for n in (800, 100, 800, 100))]
    with_it = CRITERION(*predictions, targets, points=points)
    points[0] = points[0][kept]
    without = CRITERION(*(p[kept] for p in predictions), slice_targets(slices[kept], K, N), points=points)
    torch.testing.assert_close(values(with_it), values(without))


def test_a_batch_without_targets_has_a_backward_pass(slices, predictions):
    """All processes of a training make the same one; nothing is learnt from it."""
    terms, grads = gradients(predictions, slice_targets(torch.full_like(slices, 255), K, N))
    assert len(terms.matching.slices) == 0 and terms.total == 0
    assert all(grad is not None and (grad == 0).all() for grad in grads)


# --- what is learnt -------------------------------------------------------------------------------------------------


def test_each_term_prefers_the_perfect_answer(slices, predictions):
    targets = slice_targets(slices, K, N)
    right = perfect(targets)
    best = UNIFORM(*right, targets, seeded())
    pairs = best.matching
    assert torch.equal(pairs.queries, pairs.targets), "perfect answers are matched to their targets"
    assert best.ce < 1e-6 and best.aux_box == 0
    spoilt = {0: ["ce"], 1: ["mask", "dice"], 2: ["aux_mask", "aux_dice"], 3: ["aux_box", "aux_giou"]}
    for i, names in spoilt.items():
        worse = UNIFORM(*right[:i], predictions[i], *right[i + 1 :], targets, seeded())
        for name in TERMS:
            if name in names:
                assert getattr(worse, name) > getattr(best, name) + 0.1, name
            else:
                torch.testing.assert_close(getattr(worse, name), getattr(best, name), msg=name)


def test_probabilities_can_never_be_perfect(slices):
    """T3: a second sigmoid of auxiliary masks keeps the loss of a perfect probability high, that of a logit not."""
    targets = slice_targets(slices, K, N)
    right = perfect(targets)
    as_logits = UNIFORM(*right, targets, seeded())
    right[2] = right[2].sigmoid()
    as_probabilities = UNIFORM(*right, targets, seeded())
    assert as_logits.aux_dice < 0.15 < 0.4 < as_probabilities.aux_dice


def test_order_of_queries_does_not_matter(slices, predictions):
    """The same points for the same targets, so that they must be given: pairs are numbered by query."""
    targets = slice_targets(slices, K, N)
    order = torch.tensor([4, 2, 5, 0, 1, 3])
    points = [torch.rand(S, 400, 2), *(torch.rand(1, n, 2).expand(6, -1, -1) for n in (800, 100, 800, 100))]
    terms = CRITERION(*predictions, targets, points=points)
    moved = CRITERION(*(p[:, order] for p in predictions), targets, points=points)
    torch.testing.assert_close(values(moved), values(terms))
    chosen = {
        (s, int(order[q]), t) for s, q, t in zip(*(x.tolist() for x in vars(moved.matching).values()), strict=True)
    }
    assert chosen == set(zip(*(x.tolist() for x in vars(terms.matching).values()), strict=True))


def test_same_generator_same_points(slices, predictions):
    targets = slice_targets(slices, K, N)
    first, second, other = (values(gradients(predictions, targets, seed=seed)[0]) for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_diverged_query_is_matched_last(slices, predictions):
    """NaN costs 100 instead of ending the training inside the assignment."""
    predictions[1][:, 0] = float("nan")
    terms = CRITERION(*predictions, slice_targets(slices, K, N), seeded())
    assert not (terms.matching.queries == 0).any() and torch.isfinite(terms.total)


def test_half_precision_predictions(slices, predictions):
    """Losses are float32 inside autocast too, and their gradients go back in the predictions' own type."""
    targets = slice_targets(slices, K, N)
    half = [p.bfloat16() for p in predictions]
    with torch.autocast("cpu", torch.bfloat16):
        terms, grads = gradients(half, targets)
    assert terms.total.dtype == torch.float32 and all(g.dtype == torch.bfloat16 for g in grads)
    plain = gradients([p.float() for p in half], targets)[0]
    torch.testing.assert_close(values(terms), values(plain))


def test_targets_are_averaged_over_processes(slices, predictions, monkeypatch):
    """Of two processes with 6 and 2 targets each divides by 4: the mean of both gradients weighs pairs alike."""
    targets = slice_targets(slices, K, N)
    alone = CRITERION(*predictions, targets, seeded())
    distributed = loss_module.torch.distributed
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", lambda number: number.add_(2))
    shared = CRITERION(*predictions, targets, seeded())
    torch.testing.assert_close(shared.ce, alone.ce)
    for name in TERMS[1:]:
        torch.testing.assert_close(getattr(shared, name), getattr(alone, name) * 6 / 4)


@pytest.mark.parametrize("setting", [{"points": 0}, {"oversample": 0.5}, {"importance": 1.5}])
def test_impossible_settings(setting):
    with pytest.raises(ConfigError, match="points and oversample must be at least 1 and importance between 0 and 1"):
        LossSettings(**setting)
