"""Losses and test records of every method, against stored ones: no number drifts unnoticed.

Each method is trained for a few steps on two small volumes of the phantom and tested on a third, in all regimes that it
answers. Settings and tolerances were chosen by what threads, the instruction set of the CPU, its libraries and another
torch change, see `regression_runs.py`.

`pytest tests/regression -m "slow or not slow" --update-regression` writes the stored files anew. That is honest only
after a change that was *meant* to change the numbers (a corrected fault, another default, new weights), in the same
commit as that change, with the reason in its message, and after looking at `git diff tests/regression/stored`: what
should have stayed must not have moved. It is never the way to mend a test that fails on another machine or after an
update of torch: then the tolerances or the code are wrong. Boards that are checked in have changed as well.
"""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from regression_runs import CELLS, CROPS, LOSS, differences, make_parser, run

from samzoo.evaluation.records import read_records, write_records
from samzoo.methods.masksam import module as masksam
from samzoo.prompts import regimes

STORED = Path(__file__).parent / "stored"
SLOW = {"m_sam_fixed", "unet_resampled", "masksam_fixed", "masksam_background"}
cells = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CELLS]


@pytest.fixture(scope="module")
def parser(tmp_path_factory):
    """One thread, for which the stored numbers hold best, and a home of its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMZOO_HOME", str(tmp_path_factory.mktemp("home")))
        yield make_parser()
    torch.set_num_threads(threads)


def stored(name):
    losses = json.loads((STORED / "losses.json").read_text(encoding="utf-8"))
    return losses[name], read_records(STORED / f"{name}.csv")


@pytest.mark.parametrize("name", cells)
def test_losses_and_records_are_as_stored(name, parser, tmp_path, request):
    losses, records = run(parser, CELLS[name], tmp_path)
    if request.config.getoption("--update-regression"):
        file = STORED / "losses.json"
        kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        kept[name] = [float(f"{loss:.6g}") for loss in losses]
        STORED.mkdir(exist_ok=True)
        file.write_text(json.dumps({k: kept[k] for k in CELLS if k in kept}, indent=1) + "\n", encoding="utf-8")
        write_records(STORED / f"{name}.csv", records)
    assert not (found := differences(CELLS[name], losses, records, *stored(name))), "\n".join(found)


@pytest.mark.parametrize("name", CELLS)
def test_stored_records_are_neither_nothing_nor_perfect(name):
    """Where nothing is found, an error in what finds it changes nothing."""
    best = {}
    for r in stored(name)[1]:
        found = r.dice is not None and 0.05 < r.dice < 0.95
        best[r.regime, r.step] = best.get((r.regime, r.step), False) or found
    assert best and all(best.values()), [place for place, found in best.items() if not found]


def other_click(truth, prediction, spacing):
    """At the first voxel that is wrong, instead of the middle of the largest part."""
    wrong = (truth != prediction).nonzero()
    if not len(wrong[0]):
        return None
    place = tuple(int(axis[0]) for axis in wrong)
    return place[::-1], bool(truth[place])


def other_scores(class_logits, mask_logits, depth):
    """Classes among each other, whatever speaks for "no object"."""
    return SCORES(F.pad(class_logits[..., :-1], (0, 1), value=-torch.inf), mask_logits, depth)


SCORES = masksam.semantic_scores
CHANGES = {
    "learning rate": ("unet", {"model": {"lr": 1.05e-2}}),
    "learning rate of a SAM": ("sam_med2d", {"model": {"lr": 9.0e-4}}),
    "resampling order": ("sam_med2d", {"model": {"interpolation": "nearest"}}),
    "window step": ("unet", {"protocol": {"window_step": 0.75}}),
    "click rule": ("sam", {}),
    "loss weight": ("masksam", {"model": {"loss": LOSS | {"dice": 5.1}}}),
    "window step of MaskSAM": ("masksam", {"protocol": {"window_step": 0.75}}),
    "mirrors of MaskSAM": ("masksam", {"protocol": {"mirror_axes": [0]}}),
    "class scores": ("masksam", {}),
    "loss on crops": ("sam_med3d", {"model": {"refinement": CROPS["refinement"] | {"loss": "dice"}}}),
    "clicks on crops": ("m_sam", {"model": {"refinement": CROPS["refinement"] | {"clicks": "all"}}}),
    "spacing of crops": ("m_sam", {"model": {"spacing": 5.1}}),
    "double sigmoid": ("promise", {"model": {"double_sigmoid": True}}),
    "regressed points": ("promise", {"model": {"positive_points": 9}}),
    "learning rate of ProMISe": ("promise_cross", {"model": {"lr": 1.05e-3}}),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(change, parser, tmp_path, monkeypatch):
    name, changed = CHANGES[change]
    if change == "click rule":
        monkeypatch.setattr(regimes, "corrective_click", other_click)
    if change == "class scores":
        monkeypatch.setattr(masksam, "semantic_scores", other_scores)
    assert differences(CELLS[name], *run(parser, CELLS[name], tmp_path, **changed), *stored(name))
