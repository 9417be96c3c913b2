"""MaskSAM in the zoo: what is trained, its zoo members, and its checkpoints."""

from __future__ import annotations

import hashlib

import pytest
import torch
from test_methods_slab import fit
from tiny_slabs import DEEPER, masksam, slabs

from samzoo.errors import ConfigError, WeightsError
from samzoo.methods.masksam.settings import FIXED, Corrections
from samzoo.sam import build_sam


@pytest.fixture
def base(tmp_path):
    torch.manual_seed(1)
    torch.save(build_sam(DEEPER).state_dict(), tmp_path / "sam.pth")
    return str(tmp_path / "sam.pth")


def digest(state):
    value = hashlib.sha256()
    for name in sorted(state):
        value.update(state[name].numpy().tobytes())
    return value.hexdigest()


@pytest.mark.parametrize("corrections", [Corrections(), FIXED], ids=["published", "fixed"])
def test_sams_own_weights_stay_as_they_are_and_all_else_is_trained(base, corrections):
    plain = build_sam(DEEPER).state_dict()
    method = masksam(weights=base, freeze=True, corrections=corrections)
    own = lambda: {k: v.clone() for k, v in method.sam.state_dict().items() if k in plain}  # noqa: E731
    before, names = digest(own()), {n for n, p in method.sam.named_parameters() if p.requires_grad}
    assert not names & plain.keys()
    start = {n: p.detach().clone() for n, p in method.sam.named_parameters() if n in names}
    fit(method, [slabs(0), slabs(1)], epochs=4)
    assert digest(own()) == before
    moved = {n for n, p in method.sam.named_parameters() if n in names and not torch.equal(p, start[n])}
    still = names - moved
    assert not still, f"nothing reached {sorted(still)}"


def test_each_correction_has_a_name_and_all_of_them_are_a_zoo_member():
    assert masksam().spec.name == "MaskSAM"
    assert masksam(corrections=FIXED).spec.name == "MaskSAM-fixed"
    assert masksam(corrections=Corrections(norm_before_window=True, box_bias=True)).spec.name == "MaskSAM-T2-T8"


@pytest.mark.parametrize(
    "settings",
    [
        {"skip_levels": 0},
        {"skip_levels": 1},
        {"conv_adapters": False},
        {"mlp_adapters": False},
        {"classifier_tokens": "global"},
        {"classifier_tokens": "auxiliary"},
        {"zero_init_adapters": True},
        {"design": "upsampled", "widths": (16, 8, 8, 8, 8), "patch": (3, 16, 16)},
        {"patch": (1, 32, 32)},
    ],
    ids=str,
)
def test_every_variant_trains(settings):
    method = masksam(**settings)
    start = {n: p.detach().clone() for n, p in method.named_parameters() if p.requires_grad}
    trainer = fit(method, [slabs(depth=method.patch[0])] * 2)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert any(not torch.equal(p, start[n]) for n, p in method.named_parameters() if n in start)


def test_a_checkpoint_holds_what_was_trained_and_belongs_to_its_base(base):
    method = masksam(weights=base, freeze=True)
    checkpoint = {"state_dict": dict(method.state_dict())}
    method.on_save_checkpoint(checkpoint)
    trained = {n for n, p in method.named_parameters() if p.requires_grad}
    assert trained <= checkpoint["state_dict"].keys()
    parameters = {n for n, _ in method.named_parameters()}
    assert not (checkpoint["state_dict"].keys() & parameters) - trained
    again = masksam(5, weights=base, freeze=True)
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(checkpoint["state_dict"])
    assert digest(again.state_dict()) == digest(method.state_dict())
    with pytest.raises(WeightsError, match="base weights"):
        masksam(5).on_load_checkpoint(checkpoint)


def test_fewer_queries_than_classes_on_a_slice_is_told():
    method = masksam(queries=2)
    with pytest.raises(ConfigError, match=r"3 classes .*2 queries.*model.init_args.queries"):
        fit(method, [slabs()])
