"""What evaluation may expect of every method of the zoo that works on slices; see test_methods_slab.py for slabs."""

from __future__ import annotations

import pytest
import torch

from samzoo.errors import ConfigError
from samzoo.geometry import from_grid
from samzoo.methods import METHODS, SAM, BoxEllipse, ProMISe, SAMMed2D
from samzoo.methods.base import concatenate, select_rows
from samzoo.types import Prompts

SLICES = [m for m in METHODS if m.spec.unit == "slice"]


def make(method, tiny):
    if method is BoxEllipse:
        return BoxEllipse().eval()
    torch.manual_seed(0)
    return method(tiny, image_size=None, **({"freeze_encoder": False} if method is SAMMed2D else {})).eval()


def ask(image_index, boxes=None, points=None, labels=None):
    index = torch.tensor(image_index)
    return Prompts(index, torch.ones(len(index), dtype=torch.long), points, labels, boxes)


BOXES = torch.tensor([[3.0, 4, 20, 16], [1, 1, 9, 9], [10, 8, 27, 19]])


@pytest.mark.parametrize("method", SLICES, ids=lambda m: m.__name__)
@torch.inference_mode()
def test_many_prompts_at_once_are_answered_as_one_by_one(method, tiny, batch):
    method = make(method, tiny)
    x, grids = method.prepare(batch.image, batch.size, batch.spacing)
    embedding = method.encode(x)
    boxes = torch.stack([grids[i].boxes_to_grid(box) for i, box in zip([2, 0, 1], BOXES, strict=True)])
    together, state = method.decode(embedding, ask([2, 0, 1], boxes))
    again, _ = method.decode(embedding, ask([2, 0, 1], boxes), state)
    for row, image in enumerate([2, 0, 1]):
        one = concatenate([select_rows(embedding, torch.tensor([image]))])
        alone, own = method.decode(one, ask([0], boxes[row : row + 1]))
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-4)
        alone, _ = method.decode(one, ask([0], boxes[row : row + 1]), own)
        torch.testing.assert_close(alone[0], again[row], atol=1e-5, rtol=1e-4)
        assert from_grid(alone, grids[image]).shape[-2:] == tuple(batch.size[image].tolist())
    assert all(len(tensor) == 3 for tensor in state.values())


@pytest.mark.parametrize("method", SLICES, ids=lambda m: m.__name__)
def test_without_prompts_a_method_answers_for_all_classes_or_refuses(method, tiny, batch):
    method = make(method, tiny).eval()
    embedding = method.encode(method.prepare(batch.image, batch.size, batch.spacing)[0])
    if method.spec.needs_prompts:
        with pytest.raises(ConfigError, match="regime"):
            method.decode(embedding, None)
    else:
        logits, _ = method.decode(embedding, None)
        assert logits.shape[:2] == (len(batch), method.num_classes) and logits.ndim == 4


@pytest.mark.parametrize("method", [SAM, SAMMed2D, ProMISe], ids=lambda m: m.__name__)
def test_two_channels_are_seen_as_the_first_their_mean_and_the_second(method, tiny, batch):
    two = torch.cat([batch.image, 1 - 0.5 * batch.image], 1)
    three = torch.stack([two[:, 0], two.mean(1), two[:, 1]], 1)
    made = make(method, tiny)
    x, same = (made.prepare(image, batch.size, batch.spacing)[0] for image in (two, three))
    torch.testing.assert_close(x, same)


@pytest.mark.parametrize("method", [SAM, BoxEllipse], ids=lambda m: m.__name__)
def test_training_a_baseline_is_refused(method, tiny, batch):
    for refused in (lambda m: m.configure_optimizers(), lambda m: m.training_step(batch, 0)):
        with pytest.raises(ConfigError, match="is not trained; score it"):
            refused(make(method, tiny))


@torch.inference_mode()
def test_the_ellipse_touches_its_box_on_pictures_of_any_size(batch):
    method = BoxEllipse()
    x, grids = method.prepare(batch.image, batch.size, batch.spacing)
    logits, _ = method.decode(
        method.encode(x), ask([0, 3, 3], torch.tensor([[3.0, 4, 23, 16], [5, 6, 6, 7], [0, 0, 22, 20]]))
    )
    masks = [from_grid(logits[i : i + 1], grids[j])[0, 0] > 0 for i, j in enumerate([0, 3, 3])]
    assert masks[0].sum() == pytest.approx(torch.pi / 4 * 20 * 12, rel=0.05)
    rows, columns = masks[0].any(1).nonzero(), masks[0].any(0).nonzero()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 15, 3, 22)
    assert masks[1].nonzero().tolist() == [[6, 5]]  # a box of one pixel
    assert masks[2].shape == (20, 22)


def test_the_ellipse_needs_a_box(batch):
    method = BoxEllipse()
    embedding = method.encode(method.prepare(batch.image, batch.size, batch.spacing)[0])
    with pytest.raises(ConfigError, match="can't answer clicks alone"):
        method.decode(embedding, ask([0], points=torch.ones(1, 1, 2), labels=torch.ones(1, 1)))


@torch.inference_mode()
def test_one_click_alone_takes_the_best_of_several_masks(tiny, batch):
    click = ask([0], points=torch.tensor([[[8.0, 8]]]), labels=torch.tensor([[1]]))
    answers = {}
    for multimask in ("always", "one_click", "never"):
        torch.manual_seed(0)
        method = SAM(tiny, image_size=None, multimask=multimask).eval()
        embedding = method.encode(method.prepare(batch.image, batch.size, batch.spacing)[0])
        first, state = method.decode(embedding, click)
        answers[multimask] = first, method.decode(embedding, click, state)[0], state
    assert torch.equal(answers["one_click"][0], answers["always"][0])
    assert not torch.equal(answers["one_click"][0], answers["never"][0])
    # with a mask fed back the click is no longer ambiguous
    single, _ = SAM.decode(method, embedding, click, answers["one_click"][2])
    assert torch.equal(answers["one_click"][1], single)


@torch.inference_mode()
def test_sam_feeds_logits_back_and_sam_med2d_probabilities(tiny, batch, build):
    for method, fed in ((make(SAM, tiny), lambda low: low), (build().eval(), torch.sigmoid)):
        embedding = method.encode(method.prepare(batch.image, batch.size, batch.spacing)[0])
        asked = ask([0], points=torch.tensor([[[8.0, 8]]]), labels=torch.tensor([[1]]))
        _, state = method.decode(embedding, asked)
        sparse, dense = method.sam.encode_prompts(asked.points, asked.point_labels, None, fed(state["low_res"]))
        several = isinstance(method, SAMMed2D)
        logits, quality = method.sam.decode(embedding, asked.image_index, sparse, dense, several)
        expected = logits[:, quality.argmax(1)]
        torch.testing.assert_close(method.decode(embedding, asked, state)[0], expected)


@torch.inference_mode()
def test_the_box_goes_when_clicks_come_unless_kept(batch, build):
    points, labels = torch.tensor([[[8.0, 8]]]), torch.tensor([[1]])
    for keep in (False, True):
        method = build(keep_box=keep).eval()
        embedding = method.encode(method.prepare(batch.image, batch.size, batch.spacing)[0])
        _, state = method.decode(embedding, ask([0], BOXES[:1]))
        with_box, _ = method.decode(embedding, ask([0], BOXES[:1], points, labels), state)
        without, _ = method.decode(embedding, ask([0], None, points, labels), state)
        assert torch.equal(with_box, without) != keep
