"""Methods on slabs: sliding windows, streamed along depth, against the plain way that keeps everything."""

import gc
import itertools
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluation_fakes import Cases, Slabs, grey_case
from lightning.pytorch import Trainer

from samzoo.errors import ConfigError
from samzoo.evaluation import CaseSession, EvaluationProtocol, predict_cases
from samzoo.evaluation.adapter import Inference
from samzoo.evaluation.records import read_records
from samzoo.evaluation.windows import importance_map, stitched, window_starts
from samzoo.types import CasePrompt, MethodSpec

WINDOW = (4, 16, 20)


def plain_way(method, case, step=0.5, mirrors=((),)):
    """Class logits (K, D, H, W) of a whole case, everything kept in float64 until the end."""
    size, spacing = torch.tensor([case.shape]), torch.tensor([case.spacing])
    x, (grid,) = method.prepare(case.image[None], size, spacing)
    total, weight = torch.zeros(method.num_classes, *grid.size, dtype=torch.float64), torch.zeros(grid.size)
    weights = importance_map(method.window)
    for corner in itertools.product(*window_starts(grid.size, method.window, step)):
        place = tuple(slice(a, a + side) for a, side in zip(corner, method.window, strict=True))
        for axes in mirrors:
            flipped = [2 + axis for axis in axes]
            logits = method.decode(method.encode(x[(..., *place)].flip(flipped)), None)[0].flip(flipped)[0]
            total[(slice(None), *place)] += logits * weights / len(mirrors)
        weight[place] += weights
    content = tuple(slice(o, o + c) for o, c in zip(grid.offset, grid.content, strict=True))
    mean = (total / weight)[(slice(None), *content)]
    return F.interpolate(mean[None], case.shape, mode="trilinear", align_corners=False)[0]


def assert_answers(label, logits):
    """Where two answers are within rounding of each other, either is right."""
    first, second = torch.cat((torch.zeros_like(logits[:1]), logits)).topk(2, dim=0).values
    winner = torch.where(logits.amax(0) > 0, logits.argmax(0) + 1, 0).numpy()
    clear = (first - second > 1e-5).numpy()
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(label[clear], winner[clear])
    assert len(np.unique(label)) > 1


def run_test(folder, cases, method, **settings):
    protocol = EvaluationProtocol(surface_metrics=False, **settings)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        accelerator="cpu", default_root_dir=folder, callbacks=[protocol], enable_model_summary=False, **quiet
    )
    trainer.test(method, datamodule=Cases(cases), verbose=False)
    return read_records(folder / "records.csv"), json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((11, 40, 33), None),
        ((4, 16, 20), None),
        ((3, 30, 12), None),  # depth and width are padded
        ((1, 30, 40), None),  # a picture
        ((9, 40, 30), (2.0, 1.0, 1.0)),  # depth alone is resampled
        ((9, 40, 30), (None, 0.8, 1.5)),  # the plane alone
        ((17, 21, 30), (7.0, 0.7, 1.3)),  # everything; fewer slices than the case has
        ((2, 20, 24), (9.0, 2.0, 2.0)),  # one slice remains
    ],
)
def test_streaming_answers_as_the_plain_way_does(shape, spacing):
    case, method = grey_case(shape), Slabs(WINDOW, spacing, ramp=0.2)
    label = CaseSession(method, case).label_map(None)
    assert label.shape == case.shape and label.dtype == np.uint8
    assert_answers(label, plain_way(method, case))


def test_windows_that_agree_are_stitched_into_what_they_say():
    case = grey_case((13, 50, 45), num_classes=3)
    method = Slabs(WINDOW, num_classes=3, class_names=("a", "b", "c"))
    label = CaseSession(method, case).label_map(None)
    wrong = label != case.label.numpy()
    assert wrong.mean() < 1e-3 and set(np.unique(label)) == {0, 1, 2, 3}, "but for voxels between two classes"


def test_mirrored_answers_are_averaged():
    case, method = grey_case((7, 24, 30)), Slabs(WINDOW, ramp=0.3)
    label = CaseSession(method, case, Inference(mirror_axes=(0, 2))).label_map(None)
    assert_answers(label, plain_way(method, case, mirrors=[(), (0,), (2,), (0, 2)]))
    assert (label != CaseSession(method, case).label_map(None)).any()


@pytest.mark.parametrize(("chunk", "together"), [(1, 1), (4, 1), (8, 2), (100, 25)])
def test_windows_share_calls_and_are_counted(chunk, together):
    """5 positions along depth, 2 in each direction of the plane."""
    case, method = grey_case((12, 24, 30)), Slabs(WINDOW, ramp=0.2)
    session = CaseSession(method, case, Inference(encode_chunk=chunk))
    label = session.label_map(None)
    assert max(method.calls) == min(together, 20) and sum(method.calls) == 20
    assert session.cost.images_encoded == session.cost.prompts_decoded == 20
    assert session.cost.decode_calls == len(method.calls) and session.cost.slices == 12
    np.testing.assert_array_equal(label, CaseSession(Slabs(WINDOW, ramp=0.2), case).label_map(None))


@pytest.mark.parametrize(("step", "passes", "windows"), [(1.0, 1, 3 * 2 * 2), (0.25, 1, 9 * 3 * 3), (0.5, 8, 8 * 20)])
def test_step_and_mirroring_take_their_passes(step, passes, windows):
    case, method = grey_case((12, 24, 30)), Slabs(WINDOW, ramp=0.2)
    axes = (0, 1, 2) if passes == 8 else ()
    session = CaseSession(method, case, Inference(window_step=step, mirror_axes=axes))
    label = session.label_map(None)
    assert session.cost.images_encoded == windows
    every = [s for count in range(len(axes) + 1) for s in itertools.combinations(axes, count)]
    assert_answers(label, plain_way(method, case, step, every))


def test_only_the_slices_of_a_window_are_kept():
    classes, (height, width) = 7, (16, 33)
    kept = []

    def storages():
        size = 4 * height * width * (classes + 1)
        tensors = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.layout == torch.strided]
        return {s.data_ptr() for s in (t.untyped_storage() for t in tensors) if s.nbytes() == size}

    others = storages()  # of whatever else ran in this process

    class Looking(Slabs):
        def encode(self, x):
            kept.append(len(storages() - others))
            return super().encode(x)

    method = Looking(WINDOW, num_classes=classes, class_names=tuple("abcdefg"))
    session = CaseSession(method, grey_case((12, height, width), num_classes=classes), Inference(encode_chunk=1))
    assert (session.label_map(None) > 0).any()
    assert WINDOW[0] <= max(kept) <= WINDOW[0] + 2, "and two finished ones to interpolate between"


def test_a_slice_is_finished_before_windows_beyond_it_are_asked_for():
    asked = []

    def windows():
        for z in (0, 2, 4):
            asked.append(z)
            yield (z, 0, 0), torch.full((1, 4, 2, 2), float(z))

    weights = torch.ones(4, 2, 2)
    seen = [(list(asked), s[0, 0, 0].item()) for s in stitched(windows(), (8, 2, 2), weights)]
    assert [value for _, value in seen] == [0, 0, 1, 1, 3, 3, 4, 4]
    assert [known[-1] for known, _ in seen] == [2, 2, 4, 4, 4, 4, 4, 4]


def test_windows_cover_the_grid_and_never_come_twice():
    for n, side, step in itertools.product((1, 2, 5, 9, 40), (1, 2, 5, 9), (0.1, 0.5, 0.75, 1.0)):
        if n < side:
            with pytest.raises(ValueError, match="does not hold a window"):
                window_starts([n], [side], step)
            continue
        (starts,) = window_starts([n], [side], step)
        assert starts[0] == 0 and starts[-1] == n - side
        assert all(0 < b - a <= side for a, b in itertools.pairwise(starts))


def test_of_equal_logits_the_lower_class_wins_and_nothing_above_0_is_background():
    class Equal(Slabs):
        def decode(self, embedding, prompts, state=None):
            left = torch.where(torch.arange(self.window[2]) < 10, 1.0, -1.0)
            return left.expand(len(embedding), 2, *self.window).contiguous(), {}

    label = CaseSession(Equal(WINDOW), grey_case(WINDOW)).label_map(None)
    assert (label[..., :10] == 1).all() and (label[..., 10:] == 0).all()


def test_half_precision_answers_are_summed_in_float32():
    class Half(Slabs):
        def decode(self, embedding, prompts, state=None):
            logits, state = super().decode(embedding, prompts)
            return (logits * 6e4).half(), state

    case, method = grey_case((10, 24, 30)), Half(WINDOW)
    assert_answers(CaseSession(method, case).label_map(None), plain_way(method, case) / 6e4)


def test_a_whole_test_of_a_method_on_slabs(tmp_path):
    cases = [grey_case((9, 40, 30), case_id="a"), grey_case((3, 30, 12), seed=1, case_id="b")]
    settings = {"mirror_axes": [1], "overlays": 1, "published": True}
    records, info = run_test(tmp_path, cases, Slabs(WINDOW), **settings)
    assert {(r.case_id, r.regime, r.class_name) for r in records} == {
        (c, "auto", name) for c in "ab" for name in ("organ", "lesion")
    }
    assert all(r.dice > 0.99 and r.effort == 0 for r in records)
    assert info["protocol"]["window_step"] == 0.5 and info["protocol"]["mirror_axes"] == [1]
    assert info["cost"]["cases"]["a"]["images_encoded"] == 2 * 4 * 4 * 2 and info["cost"]["slices"] == 12
    assert info["flops"]["encode"] == 2 * np.prod(WINDOW) and info["flops"]["prompt"] == 0, "of one window"
    assert "published" not in info
    assert [p.name for p in (tmp_path / "overlays").iterdir()] == ["a_auto.png"]


def test_validation_scores_without_mirroring(tmp_path):
    method, case = Slabs(WINDOW), grey_case((12, 24, 30))
    protocol = EvaluationProtocol(mirror_axes=[0, 1, 2])
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, callbacks=[protocol], **quiet)
    (values,) = trainer.validate(method, datamodule=Cases([case]), verbose=False)
    assert values["val/dice"] > 0.99 and sum(method.calls) == 20


def test_prediction_writes_the_same_label_map(tmp_path):
    case, written = grey_case((9, 40, 30)), []
    inference = Inference(window_step=1.0)
    method = Slabs(WINDOW, ramp=0.2)
    predict_cases(
        method,
        [case],
        tmp_path,
        lambda label, *_: written.append(label),
        ("organ", "lesion"),
        overlays=True,
        inference=inference,
    )
    np.testing.assert_array_equal(written[0], CaseSession(method, case, inference).label_map(None))
    assert_answers(written[0], plain_way(method, case, step=1.0))
    assert (tmp_path / "overlays" / "a.png").is_file()


def test_prompts_for_methods_on_slabs_are_refused(tmp_path):
    case, method = grey_case(WINDOW), Slabs(WINDOW)
    with pytest.raises(ConfigError, match="Slabs works on slabs, for which prompts can't be evaluated yet"):
        CaseSession(method, case).segment([CasePrompt(1, automatic=True)])
    assert CaseSession(method, case).segment([]) == []
    method.spec = MethodSpec("Clicked", 3, "slab", frozenset({"click"}), False, "everything")
    with pytest.raises(ConfigError, match="Clicked works on slabs and needs prompts"):
        CaseSession(method, case)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window_step": 0}, "protocol.window_step must be above 0 and at most 1, got 0"),
        ({"window_step": 1.5}, "protocol.window_step"),
        ({"mirror_axes": [3]}, r"protocol.mirror_axes names each of 0 .* at most once, got \[3\]"),
        ({"mirror_axes": [1, 1]}, "protocol.mirror_axes"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        EvaluationProtocol(**settings)
