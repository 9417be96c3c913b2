import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluation_fakes import BoxDrawer, Crops, bright_case
from scipy.ndimage import binary_dilation, binary_erosion

from samzoo.errors import ConfigError
from samzoo.evaluation import CaseSession
from samzoo.evaluation.adapter import Inference
from samzoo.evaluation.run_info import count_flops
from samzoo.evaluation.scoring import Settings, runnable, score_case
from samzoo.evaluation.windows import OUTSIDE, importance_map, native_part, native_slices
from samzoo.geometry import VolumeGrid
from samzoo.prompts.io import dump_prompts, load_prompts
from samzoo.prompts.regimes import make_regime
from samzoo.types import Box, CasePrompt, Click

NAMES = ("organ", "lesion")


def part(*ends):
    return tuple(slice(a, b) for a, b in ends)


LESIONS = part((4, 8), (4, 8), (4, 8)), part((30, 36), (8, 12), (40, 46)), part((20, 24), (50, 56), (6, 10))
LONG = part((20, 24), (30, 36), (4, 76))


def lesions():
    return bright_case((40, 60, 50), *LESIONS)


def score(method, case, *regimes, steps=3, **settings):
    chosen = [make_regime(name, click_steps=steps) for name in regimes]
    return score_case(method, case, chosen, Settings("d", NAMES, **settings))


def middle(where):
    return Click(*((s.start + s.stop) // 2 for s in where), True)


def within_a_voxel(mask, truth):
    around = np.ones((3, 3, 3), dtype=bool)
    assert not (mask & ~binary_dilation(truth, around)).any()
    assert not (binary_erosion(truth, around) & ~mask).any()


def test_every_lesion_is_covered_by_a_click_of_its_own():
    method, case = Crops(), lesions()
    result = score(method, case, "clicks_3d")
    assert [r.step for r in result.records] == [1, 3] and [r.effort for r in result.records] == [1, 3]
    first, last = result.records
    assert 0 < first.dice < 1 and last.dice == 1.0 and last.oracle_slices == "none"
    assert result.cost.images_encoded == 3 and sum(method.encoded) == 3


def test_a_long_lesion_is_followed_through_neighbouring_crops():
    method, case = Crops(), bright_case((40, 60, 80), LONG)
    prompt = CasePrompt(1, clicks=(Click(22, 33, 40, True),), effort=1)
    (answer,) = CaseSession(method, case).segment([prompt])
    assert np.array_equal(answer.mask, case.label.numpy() == 1), "from one click"
    assert all(with_state for _, _, _, with_state in method.decoded[1:]), "neighbours start from a share of the logits"
    (alone,) = CaseSession(Crops(), case, Inference(extensions=0)).segment([prompt])
    assert np.flatnonzero(alone.mask.any(axis=(0, 1))).tolist() == list(range(32, 48))
    (some,) = CaseSession(Crops(), case, Inference(extensions=1)).segment([prompt])
    assert alone.mask.sum() < some.mask.sum() < answer.mask.sum()
    (oracle,) = CaseSession(Crops(), case).segment([replace(prompt, focus=Box(20, 30, 4, 24, 36, 76))])
    assert np.array_equal(oracle.mask, alone.mask), "an oracle's crop is not extended"


def test_a_lesion_is_followed_on_coarse_logits():
    """The answer has half the crop's resolution, on which the structure leaves it upwards and to two sides."""
    turning = part((8, 24), (30, 36), (20, 26)), part((8, 14), (30, 36), (20, 70)), part((8, 14), (6, 36), (64, 70))
    case = bright_case((40, 60, 80), *turning)
    (answer,) = CaseSession(Crops(coarser=2), case).segment([CasePrompt(1, clicks=(Click(22, 33, 23, True),))])
    truth = case.label.numpy() == 1
    within_a_voxel(answer.mask, truth)


def test_the_end_of_the_volume_is_reached():
    """The last neighbour can be moved by a few voxels only."""
    case = bright_case((20, 20, 43), part((8, 12), (8, 12), (0, 43)))
    (answer,) = CaseSession(Crops(), case).segment([CasePrompt(1, clicks=(Click(9, 9, 30, True),))])
    assert np.array_equal(answer.mask, case.label.numpy() == 1)


def test_one_encoding_serves_all_clicks_on_a_crop_and_all_regimes():
    method = Crops()
    case = bright_case((40, 60, 50), part((18, 22), (28, 32), (23, 27)))
    case.label[10:14, 28:32, 23:27] = 1  # never found: every click is a new one
    result = score(method, case, "clicks_3d_oracle_crop", "clicks_3d_published", steps=10)
    assert sum(method.encoded) == result.cost.images_encoded == 1
    assert result.cost.prompts_decoded == 20
    assert {r.step for r in result.records} == {1, 3, 5, 7, 9, 10}
    assert {r.oracle_slices for r in result.records} == {"crop"}


def test_an_oracles_crop_is_the_only_one():
    """Of three lesions that no crop holds together, the one in the middle is seen; the others count as missed."""
    lesions = [part((18, 22), (28, 32), (x, x + 4)) for x in (4, 38, 72)]
    method, case = Crops(), bright_case((40, 60, 80), *lesions)
    result = score(method, case, "clicks_3d_oracle_crop", "clicks_3d_published", steps=3)
    assert sum(method.encoded) == 1
    assert {r.tp for r in result.records} == {64} and {r.fn for r in result.records} == {128}
    assert {r.effort for r in result.records} == {1}, "nothing in the crop is left to be clicked at"
    outer = bright_case((40, 60, 80), lesions[0], lesions[2])
    result = score(method, outer, "clicks_3d_published", steps=2)
    assert {(r.tp, r.effort) for r in result.records} == {(0, 0)}, "nothing to click at in the middle"


def test_what_followed_from_an_answer_goes_with_it():
    case = bright_case((40, 60, 80), LONG)
    first = CasePrompt(1, clicks=(Click(22, 33, 40, True),), effort=1)
    method = Crops()
    session = CaseSession(method, case)
    (answer,) = session.segment([first])
    corrected = replace(first, clicks=(*first.clicks, Click(22, 33, 42, False)))
    (second,) = session.segment([corrected], [answer])
    followed = [c for c in second.crops if c.parent is not None]
    assert len(answer.crops) > 1 and all(any(c.parent == p.corner for p in second.crops) for c in followed)
    assert not {id(c) for c in answer.crops} & {id(c) for c in second.crops}, "all were asked anew or forgotten"


def test_an_oracle_moves_the_first_crop():
    """The structure's middle, in which nobody can click at first, lies in the dark."""
    case = bright_case((40, 60, 60), part((20, 24), (30, 34), (20, 22)), part((20, 24), (30, 34), (30, 32)))
    click = (Click(21, 31, 20, True), Click(21, 31, 31, True))
    realistic, oracle = Crops(), Crops()
    (first,) = CaseSession(realistic, case).segment([CasePrompt(1, clicks=click)])
    focus = Box(20, 30, 20, 24, 34, 32)
    (second,) = CaseSession(oracle, case).segment([CasePrompt(1, clicks=click, focus=focus)])
    assert sum(realistic.encoded) == 2 and sum(oracle.encoded) == 1
    assert np.array_equal(first.mask, second.mask) and np.array_equal(first.mask, case.label.numpy() == 1)


@pytest.mark.parametrize("spacing", [(3.0, 1.5, 0.8), (0.6, 2.0, 1.5)])
def test_masks_come_back_on_anisotropic_voxels(spacing):
    shape = tuple(round(48 / mm) for mm in spacing)
    centres = [(np.arange(n) + 0.5) * mm for n, mm in zip(shape, spacing, strict=True)]
    z, y, x = np.meshgrid(*centres, indexing="ij")
    truth = ((z - 20) / 9) ** 2 + ((y - 25) / 12) ** 2 + ((x - 22) / 8) ** 2 < 1
    case = bright_case(shape, spacing=spacing)
    case = replace(case, image=torch.from_numpy(truth).float()[None], label=torch.from_numpy(truth).byte())
    click = Click(*(int(mm_at / mm) for mm_at, mm in zip((20, 25, 22), spacing, strict=True)), True)
    (answer,) = CaseSession(Crops(side=20, spacing=1.5, coarser=2), case).segment([CasePrompt(1, clicks=(click,))])
    within_a_voxel(answer.mask, truth)


def test_a_volume_smaller_than_the_crop():
    case = bright_case((5, 9, 12), part((1, 3), (2, 6), (3, 9)))
    method = Crops()
    (answer,) = CaseSession(method, case).segment([CasePrompt(1, clicks=(Click(2, 3, 4, True),))])
    assert np.array_equal(answer.mask, case.label.numpy() == 1) and sum(method.encoded) == 1


def test_prompts_given_at_once_equal_those_given_step_by_step():
    case = bright_case((40, 60, 80), LONG, part((2, 6), (2, 6), (2, 6)))
    clicks = (Click(22, 33, 40, True), Click(3, 3, 3, True), Click(22, 33, 60, False), Click(21, 32, 10, True))
    session, answers = CaseSession(Crops(), case), [None]
    for count in range(1, 5):
        answers = session.segment([CasePrompt(1, clicks=clicks[:count])], answers)
    (at_once,) = CaseSession(Crops(), case).segment([CasePrompt(1, clicks=clicks)])
    assert np.array_equal(at_once.mask, answers[0].mask) and at_once.mask.any()
    decoded = session.cost.prompts_decoded
    (same,) = session.segment([CasePrompt(1, clicks=clicks)], answers)
    assert np.array_equal(same.mask, at_once.mask) and session.cost.prompts_decoded == decoded
    (undone,) = session.segment([CasePrompt(1, clicks=clicks[1:2])], answers)
    assert np.array_equal(undone.mask, case.label.numpy().astype(bool) & (np.arange(40) < 10)[:, None, None])


def test_a_box_larger_than_a_crop_is_tiled_and_several_are_united():
    case = bright_case((40, 60, 80), LONG, LESIONS[0])
    boxes = (Box(20, 30, 4, 24, 36, 76), Box(4, 4, 4, 8, 8, 6))
    method = Crops()
    (answer,) = CaseSession(method, case).segment([CasePrompt(1, boxes)])
    expected = np.zeros(case.shape, dtype=bool)
    for b in boxes:
        expected[b.z0 : b.z1, b.y0 : b.y1, b.x0 : b.x1] = True
    assert np.array_equal(answer.mask, expected) and sum(method.encoded) == 8 + 1
    (more,) = CaseSession(Crops(), case).segment([CasePrompt(1, boxes, (Click(6, 6, 7, True),))])
    assert np.array_equal(more.mask, case.label.numpy() == 1)


def test_negative_clicks_go_where_something_was_found_or_nowhere():
    case, method = lesions(), Crops()
    click = middle(LESIONS[0])
    prompt = CasePrompt(1, clicks=(Click(30, 30, 30, False), click, replace(click, x=click.x + 1, positive=False)))
    session = CaseSession(method, case)
    assert not session.segment([prompt])[0].mask.any() and session.cost.images_encoded == 1


def test_classes_share_calls_and_places_and_the_higher_logit_wins():
    case, method = lesions(), Crops()
    clicks = [middle(where) for where in LESIONS]
    session = CaseSession(method, case, Inference(encode_chunk=32), keep_logits=True)
    prompts = [CasePrompt(2, clicks=(clicks[0],)), CasePrompt(1, clicks=tuple(clicks[:2]))]
    answers = session.segment(prompts)
    assert [count for count, *_ in method.decoded] == [2, 1] and method.encoded == [1, 1]
    label = session.label_map(answers)
    assert label.dtype == np.uint8 and set(np.unique(label[LESIONS[0]])) == {1}, "of equal logits, the lower class"
    assert set(np.unique(label[LESIONS[1]])) == {1} and not label[LESIONS[2]].any()
    assert np.array_equal(label > 0, answers[0].mask | answers[1].mask)


def test_saved_prompts_give_the_same_masks(tmp_path):
    case, regimes = lesions(), ("clicks_3d", "clicks_3d_published", "box_clicks_3d")
    case.label[LESIONS[1]] = 2
    result = score(Crops(), case, *regimes)
    path = tmp_path / "prompts.json"
    path.write_text(dump_prompts({"a": result.prompts}, NAMES))
    assert path.read_text().count('"focus"') == 2, "one for each class, in its first step"
    again = score(Crops(), case, *regimes, replay=load_prompts(path))
    assert again.prompts == result.prompts
    assert all(np.array_equal(again.label_maps[name], result.label_maps[name]) for name in regimes)


def test_ignored_voxels_are_neither_clicked_nor_counted():
    case = bright_case((40, 60, 50), *LESIONS[:2])
    case.label[LESIONS[0]] = 255
    result = score(Crops(), case, "clicks_3d", "clicks_3d_published", published=True)
    assert all(r.dice == 1.0 and r.effort == 1 for r in result.records)


@pytest.mark.parametrize(
    "size, content, offset", [((20, 24, 30), (20, 24, 30), (0, 0, 0)), ((16, 24, 30), (7, 24, 30), (4, 0, 0))]
)
def test_a_part_of_the_volume_is_resampled_as_the_whole_would_be(size, content, offset):
    """Three crops, two of which overlap, and all of the voxels that they do not cover."""
    generator = torch.Generator().manual_seed(0)
    grid = VolumeGrid((13, 40, 31), content, size, offset)
    side, weights = 12, importance_map((12, 12, 12))
    corners = ((0, 0, 0), (4, 3, 6), (size[0] - 12, 12, 18))
    crops = [(corner, torch.randn(1, 1, 6, 6, 6, generator=generator)) for corner in corners]
    total = torch.zeros(2, *size)
    for corner, logits in crops:
        where = tuple(slice(c, c + side) for c in corner)
        total[0][where] += F.interpolate(logits, (side,) * 3, mode="trilinear", align_corners=False)[0, 0] * weights
        total[1][where] += weights
    dense = torch.where(total[1] > 0, total[0] / total[1], OUTSIDE)
    whole = torch.cat(list(native_slices(iter(dense[:, None]), grid)))
    (z, y, x), slices = native_part(crops, grid, weights)
    mine = torch.stack(list(slices))
    d, h, w = mine.shape
    torch.testing.assert_close(mine, whole[z : z + d, y : y + h, x : x + w], atol=1e-4, rtol=1e-4)
    whole[z : z + d, y : y + h, x : x + w] = OUTSIDE
    assert (whole <= 0).all()
    _, slices = native_part(crops[2:], grid, weights)
    assert min(torch.stack(list(slices)).shape[1:]) < 31, "of one crop, only its surroundings"


def test_operations_are_counted_and_automatic_prompts_refused():
    assert count_flops(Crops(), lesions()) == {"encode": 0, "prompt": 0}
    with pytest.raises(ConfigError, match="Crops gives no automatic answer; it takes box, click, mask"):
        CaseSession(Crops(), lesions()).segment([CasePrompt(1, automatic=True)])
    with pytest.raises(ConfigError, match=r"protocol.extensions must be at least 0, got -1"):
        Inference(extensions=-1)


def test_regimes_are_for_slices_or_for_volumes():
    regimes = [make_regime(name) for name in ("auto", "box_per_slice", "clicks_3d", "box_clicks_3d")]
    able, notes = runnable(regimes, Crops.spec)
    assert [r.name for r in able] == ["clicks_3d", "box_clicks_3d"]
    assert "box_per_slice is left out: it prompts slice by slice, Crops sees volumes" in notes[1]
    able, notes = runnable(regimes, BoxDrawer.spec)
    assert [r.name for r in able] == ["box_per_slice", "box_clicks_3d"]
    assert "clicks_3d is left out: its clicks are for methods that see depth, BoxDrawer sees one slice" in notes[1]


@pytest.mark.slow
def test_a_large_volume_takes_little_memory_and_no_lesion_is_lost():
    script = Path(__file__).with_name("large_volume.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    smallest, *others = result["found"]  # three voxels of the method wide
    assert smallest > 0.3 and min(others) > 0.9 and result["extra"] < 0.1
    assert result["encoded"] == result["crops"] > 3
    assert result["peak_gib"] < 4
