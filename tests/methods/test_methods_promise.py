"""ProMISe in the zoo: what stays frozen, who is asked for which class, what a user's prompts do, what is trained."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import lightning.pytorch as L
import pytest
import torch
from tiny_methods import TINY, make_batch
from torch.utils.data import DataLoader

from samzoo.errors import ConfigError, WeightsError
from samzoo.geometry import plan
from samzoo.methods import ProMISe
from samzoo.sam import build_sam
from samzoo.types import Prompts

SMALL = {"image_size": None, "fusion_width": 8, "stage_widths": (4, 4, 8, 8), "num_classes": 2, "lr": 1e-2}


def tiny(seed=0, **settings):
    torch.manual_seed(seed)
    return ProMISe(TINY, **(SMALL | settings))


def prepared(method, batch):
    return method.prepare(batch.image, batch.size, batch.spacing)[0]


def sam_hash(method):
    digest = hashlib.sha256()
    for module in method.sam.sam_modules():
        for tensor in module.state_dict().values():
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def fit(method, batches, epochs=1):
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(method, DataLoader(batches, batch_size=None))
    return trainer


def loss_of(method, batch, epoch=0):
    """The loss of a training step outside a fit."""
    logged = {}
    method.log_dict = lambda values, **_: logged.update(values)
    method.log = lambda *_, **__: None
    method._trainer = type("T", (), {"world_size": 1, "current_epoch": epoch, "global_rank": 0, "precision": "32-true"})
    return method.training_step(batch, 0)


@pytest.mark.parametrize("settings", [{}, {"apm": None}, {"ips": None, "apm": "cross"}, {"training_clicks": 2}])
def test_sam_stays_frozen_to_the_last_parameter(settings):
    method = tiny(**settings)
    before = sam_hash(method)
    trained = {name: p.detach().clone() for name, p in method.named_parameters() if p.requires_grad}
    fit(method, [make_batch(0), make_batch(1)], epochs=2)
    assert sam_hash(method) == before
    method.train()
    for module in method.sam.sam_modules():
        assert not any(m.training for m in module.modules())
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    assert trained and all(name.startswith(("sam.apm", "sam.ips")) for name in trained)
    after = dict(method.named_parameters())
    assert any(not torch.equal(value, after[name]) for name, value in trained.items())


@pytest.mark.parametrize(
    "settings", [{}, {"apm": "cross"}, {"apm": None}, {"ips": None}, {"ips": "table"}, {"double_sigmoid": True}]
)
def test_it_learns_two_bright_classes(settings):
    method, batch = tiny(**settings), make_batch()
    for mlp in method.sam.mask_decoder.output_hypernetworks_mlps:  # a fresh decoder is too faint to answer anything
        mlp.layers[-1].weight.data *= 100
    optimizer, losses = method.configure_optimizers(), []
    for _ in range(40):
        loss = loss_of(method, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.15


@torch.no_grad()
def test_one_call_answers_all_classes_and_a_prompt_one_of_them():
    method = tiny().eval()
    embedding = method.encode(prepared(method, make_batch()))
    everything, _ = method.decode(embedding, None)
    assert everything.shape == (4, 2, 16, 16)
    rows, classes = torch.tensor([3, 0, 2]), torch.tensor([2, 1, 1])
    some, _ = method.decode(embedding, Prompts(rows, classes))
    torch.testing.assert_close(some[:, 0], everything[rows, classes - 1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_users_prompts_stand_beside_or_instead_of_the_regressed_points():
    beside, instead = tiny().eval(), tiny(user_prompts="instead").eval()
    instead.load_state_dict(beside.state_dict())
    embedding = beside.encode(prepared(beside, make_batch()))
    rows, classes = torch.arange(4), torch.ones(4, dtype=torch.long)
    click = torch.full((4, 1, 2), 9.0), torch.ones(4, 1, dtype=torch.long)
    box = torch.tensor([[2.0, 3, 20, 18]]).expand(4, -1)
    automatic, _ = beside.decode(embedding, Prompts(rows, classes))
    for extra in ({"points": click[0], "point_labels": click[1]}, {"boxes": box}):
        asked = Prompts(rows, classes, **extra)
        both, only = beside.decode(embedding, asked)[0], instead.decode(embedding, asked)[0]
        assert not torch.allclose(both, automatic) and not torch.allclose(only, both)
        moved = (embedding[0], embedding[1] + 5, embedding[2])  # other regressed points
        assert torch.equal(instead.decode(moved, asked)[0], only)
        assert not torch.allclose(beside.decode(moved, asked)[0], both)
    assert torch.equal(instead.decode(embedding, Prompts(rows, classes))[0], automatic)


@torch.no_grad()
def test_its_own_points_can_be_looked_at():
    method = tiny(positive_points=5).eval()
    points = method.own_points(method.encode(prepared(method, make_batch())))
    assert points.shape == (4, 2, 16, 3) and points[..., 2].sum() == 4 * 2 * 5
    assert ((points[..., :2] > 0) & (points[..., :2] < 32)).all()
    assert tiny(apm=None).own_points(None) is None


def test_without_apm_it_answers_prompts_only():
    method = tiny(apm=None).eval()
    assert method.spec.prompts == {"click", "box"} and "auto" in ProMISe.spec.prompts
    embedding = method.encode(prepared(method, make_batch()))
    with pytest.raises(ConfigError, match="needs a click or a box"):
        method.decode(embedding, None)


@pytest.mark.parametrize("settings", [{}, {"apm": "cross"}, {"apm": None}])
def test_cached_features_give_the_same_loss(settings):
    method, batch = tiny(**settings), make_batch()
    plain = loss_of(method, batch)
    x = prepared(method, batch)
    again = loss_of(tiny(**settings), replace(batch, image=None, features=method.features(x)))
    assert torch.equal(plain, again)


def test_the_features_signature_tells_weights_and_preparation_apart_but_not_what_is_trained():
    signature = tiny().features_signature()
    other = tiny()
    with torch.no_grad():
        for parameter in other.trainable_parameters():
            parameter.add_(1)
    assert other.features_signature() == signature
    assert tiny(seed=1).features_signature() != signature
    for settings in ({"padding": "mean"}, {"policy": "stretch"}, {"image_size": 64}, {"apm": None}):
        assert tiny(**settings).features_signature() != signature, settings


def test_pixels_to_be_ignored_have_no_part_in_the_loss():
    """On a square that the picture fills, because what lies beside a picture does count: it is background."""
    method, batch = tiny(policy="stretch"), make_batch()
    batch.label[1, :10] = 255
    assert torch.isfinite(loss_of(method, batch))
    batch.label[:] = 255
    assert float(loss_of(method, batch).detach()) == pytest.approx(0, abs=1e-6)


def test_points_training_survives_slices_without_any_class():
    method = tiny(apm=None)
    loss = loss_of(method, make_batch(objects=False))
    loss.backward()
    assert float(loss) == 0
    assert all(p.grad is None or not p.grad.any() for p in method.parameters())


def test_a_checkpoint_holds_what_was_trained_and_belongs_to_its_base(tmp_path):
    torch.manual_seed(1)
    torch.save(build_sam(TINY).state_dict(), tmp_path / "sam.pth")
    method = tiny(weights=str(tmp_path / "sam.pth"))
    checkpoint = {"state_dict": dict(method.state_dict())}
    method.on_save_checkpoint(checkpoint)
    kept = [k for k in checkpoint["state_dict"] if not k.startswith(("sam.apm", "sam.ips"))]
    assert not [k for k in kept if k.endswith(("weight", "bias"))], "SAM's parameters are in the base file"
    again = tiny(seed=5, weights=str(tmp_path / "sam.pth"))
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(checkpoint["state_dict"])
    for (name, a), b in zip(method.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    with pytest.raises(WeightsError, match="base weights"):
        tiny(seed=5).on_load_checkpoint(checkpoint)


@torch.no_grad()
def test_published_scores_are_those_of_the_low_resolution_square():
    method = tiny()
    truth = torch.zeros(2, 20, 28, dtype=torch.bool)
    truth[0, 4:16, 5:20] = True
    logits = torch.full((2, 1, 16, 16), -9.0)
    logits[0, 0, 2:9, 3:12] = 9
    scores = method.published_scores(logits, truth, plan((20, 28), 32, "longest_side"))
    assert 0.8 < scores["dice"][0] < 1 and torch.isnan(scores["dice"][1])
    assert scores["iou"][0] < scores["dice"][0]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"apm": None, "ips": None}, "nothing to train"),
        ({"num_points": 0}, "num_points must be at least 1"),
        ({"positive_points": 17}, "between 0 and num_points 16"),
        ({"decode_chunk": 0}, "decode_chunk"),
    ],
)
def test_settings_that_can_not_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**settings)
