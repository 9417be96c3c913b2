from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_fakes import BoxDrawer, Correctable, make_case

from samzoo.errors import ConfigError
from samzoo.evaluation import CaseSession
from samzoo.evaluation.adapter import Inference
from samzoo.types import Box, CasePrompt, Click


def filled(shape, *boxes):
    mask = np.zeros(shape, dtype=bool)
    for b in boxes:
        mask[b.z0 : b.z1, b.y0 : b.y1, b.x0 : b.x1] = True
    return mask


@pytest.mark.parametrize("shape", [(1, 64, 64), (1, 32, 64), (3, 64, 16), (2, 128, 64)])
def test_masks_come_back_on_the_native_grid(shape):
    """Boxes on multiples of the grid's scale are drawn exactly, wherever they lie and whatever the aspect."""
    _, height, width = shape
    boxes = (
        Box(0, 0, 0, 1, height // 4, width // 2),
        Box(0, height // 2, width // 4, 1, height, width),
    )
    session = CaseSession(BoxDrawer(), make_case(shape=shape))
    answers = session.segment([CasePrompt(k, (box,)) for k, box in enumerate(boxes, 1)])
    for answer, box in zip(answers, boxes, strict=True):
        assert np.array_equal(answer.mask, filled(shape, box))


def test_a_flipped_case_gives_the_flipped_mask():
    shape = (4, 32, 64)
    box = Box(1, 4, 8, 3, 16, 40)
    mirrored = Box(1, 32 - 16, 64 - 40, 3, 32 - 4, 64 - 8)
    case = make_case(shape=shape)
    (upright,) = CaseSession(BoxDrawer(), case).segment([CasePrompt(1, (box,))])
    (flipped,) = CaseSession(BoxDrawer(), case).segment([CasePrompt(1, (mirrored,))])
    assert np.array_equal(upright.mask, flipped.mask[:, ::-1, ::-1]) and upright.mask.any()


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_chunks_do_not_change_the_answer(chunk):
    case = make_case()
    prompts = [
        CasePrompt(1, (Box(0, 4, 6, 6, 30, 40),)),
        CasePrompt(2, (Box(2, 2, 2, 4, 8, 9),), (Click(3, 20, 20, True),)),
    ]
    reference = CaseSession(BoxDrawer(), case).segment(prompts)
    answers = CaseSession(BoxDrawer(), case, Inference(chunk, chunk)).segment(prompts)
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(answers, reference, strict=True))


def test_only_the_slices_asked_for_are_encoded_and_each_once():
    method, case = BoxDrawer(), make_case()
    session = CaseSession(method, case)
    answers = session.segment([CasePrompt(1, (Box(1, 4, 4, 3, 20, 20),))])
    assert session.cost.images_encoded == 2
    session.segment(
        [CasePrompt(1, (Box(1, 4, 4, 3, 20, 20),), (Click(2, 9, 9, False),)), CasePrompt(2, (Box(2, 0, 0, 5, 9, 9),))],
        [*answers, None],
    )
    assert session.cost.images_encoded == 4 and session.cost.slices == 6
    assert set(method.seen.values()) == {1} and sum(method.seen.values()) == 4


def test_prompts_of_one_form_share_a_call():
    method, case = BoxDrawer(), make_case()
    prompts = [CasePrompt(k, (Box(0, k, k, 6, 20, 20),)) for k in (1, 2)]
    CaseSession(method, case).segment(prompts)
    assert [(count, box) for count, box, _, _ in method.decoded] == [(12, True)]


def test_unchanged_slices_are_not_decoded_again_and_changed_ones_get_their_state():
    method, case = BoxDrawer(), make_case()
    session = CaseSession(method, case)
    first = CasePrompt(1, (Box(0, 4, 4, 6, 30, 30),))
    second = CasePrompt(1, first.boxes, (Click(2, 10, 10, False),))
    third = CasePrompt(1, first.boxes, (*second.clicks, Click(4, 10, 10, False)))
    answers = session.segment([first])
    answers = session.segment([second], answers)
    assert answers[0].mask[3, 10, 10] and not answers[0].mask[2, 10, 10]
    answers = session.segment([third], answers)
    assert not answers[0].mask[2, 10, 10] and not answers[0].mask[4, 10, 10]
    assert session.segment([third], answers)[0].rows == answers[0].rows
    assert method.decoded == [(6, True, 0, [1.0] * 6), (1, True, 1, [2.0]), (1, True, 1, [2.0])]


def test_automatic_answers_cover_every_slice_and_only_corrected_ones_are_decoded_again():
    method, case = Correctable(), make_case(shape=(5, 64, 64))
    session = CaseSession(method, case)
    alone, other = (CasePrompt(k, automatic=True) for k in (1, 2))
    answers = session.segment([alone, other])
    assert np.array_equal(answers[0].mask, filled((5, 64, 64), Box(0, 16, 16, 5, 40, 40))) and not answers[1].mask.any()
    corrected = CasePrompt(1, clicks=(Click(3, 50, 50, True), Click(4, 30, 30, False)), effort=2, automatic=True)
    answers = session.segment([corrected, other], answers)
    changed = [z for z in range(5) if answers[0].mask[z].sum() != 24 * 24]
    assert changed == [3, 4] and answers[0].mask[3, 50, 50] and not answers[0].mask[4, 30, 30]
    assert answers[0].mask[4, 20, 20] and not answers[1].mask.any(), "the answer before is kept where nobody clicked"
    assert session.cost.prompts_decoded == 10 + 2 and session.cost.images_encoded == 5


def test_without_the_automatic_answer_only_prompted_slices_are_answered():
    session = CaseSession(Correctable(), make_case(shape=(3, 64, 64)))
    (answer,) = session.segment([CasePrompt(2, clicks=(Click(1, 9, 9, True),))])
    assert answer.mask[1].any() and not answer.mask[[0, 2]].any() and session.cost.images_encoded == 1


def test_methods_that_need_prompts_refuse_automatic_ones():
    with pytest.raises(ConfigError, match="BoxDrawer gives no automatic answer; it takes box, click"):
        CaseSession(BoxDrawer(), make_case()).segment([CasePrompt(1, automatic=True)])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_features_of_the_case_stand_for_its_image(dtype):
    """The features are told from the image by a value that no slice of it has."""
    image = make_case(shape=(7, 40, 52))
    case = replace(image, features=(np.linspace(2, 3, 7).astype(dtype),))
    method = Correctable()
    session = CaseSession(method, case, Inference(encode_chunk=3))
    labels = session.label_map(None)
    assert not method.seen and session.cost.images_encoded == 7
    assert [float(session._adapter._embeddings[z].mean()) for z in (0, 6)] == [2.0, 3.0]
    assert np.array_equal(labels, CaseSession(Correctable(), image).label_map(None)) and labels.any()


def test_several_boxes_on_a_slice_are_united_and_clicks_go_to_their_own():
    method, case = BoxDrawer(), make_case(shape=(1, 64, 64))
    boxes = (Box(0, 4, 4, 1, 16, 16), Box(0, 40, 40, 1, 60, 60))
    session = CaseSession(method, case)
    answers = session.segment([CasePrompt(1, boxes)])
    assert np.array_equal(answers[0].mask, filled((1, 64, 64), *boxes))
    answers = session.segment([CasePrompt(1, boxes, (Click(0, 50, 50, False),))], answers)
    assert answers[0].mask[0, 10, 10] and not answers[0].mask[0, 50, 50]
    assert [count for count, *_ in method.decoded] == [2, 1]  # the other box is left alone


def test_label_map_takes_the_highest_logit_and_of_equals_the_lower_class():
    case = make_case(shape=(1, 64, 64))
    session = CaseSession(BoxDrawer(), case, keep_logits=True)
    large, small = Box(0, 0, 0, 1, 40, 40), Box(0, 30, 30, 1, 64, 64)
    labels = session.label_map(session.segment([CasePrompt(2, (large,)), CasePrompt(1, (small,))]))
    assert labels[0, 10, 10] == 2 and labels[0, 50, 50] == 1 and labels[0, 60, 5] == 0
    assert labels[0, 32, 32] == 2 and labels[0, 38, 38] == 1  # by the distance to the own border
    same = session.label_map(session.segment([CasePrompt(2, (large,)), CasePrompt(1, (large,))]))
    assert set(np.unique(same)) == {0, 1}


def test_no_gradients_are_kept():
    method = BoxDrawer()
    method.encode = lambda x: x.reshape(-1, 1, 1, 1) * method.weight
    session = CaseSession(method, make_case())
    session.segment([CasePrompt(1, (Box(0, 4, 4, 1, 20, 20),))])
    assert torch.is_grad_enabled() and not session._adapter._embeddings[0].requires_grad
