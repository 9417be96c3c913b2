"""What evaluation and training may expect of methods on slabs."""

from __future__ import annotations

from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
from tiny_slabs import masksam, slabs
from torch.utils.data import DataLoader

from samzoo.errors import ConfigError
from samzoo.methods import METHODS, MaskSAM, UNet
from samzoo.methods.base import select_rows
from samzoo.types import Prompts


def unet(**settings):
    torch.manual_seed(0)
    return UNet(**({"patch": (4, 32, 32), "spacing": None, "width": 4, "num_classes": 2} | settings))


BUILD = {MaskSAM: masksam, UNet: unet}
SLABS = [m for m in METHODS if m.spec.unit == "slab"]


def fit(method, batches, epochs=1, **trainer):
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **trainer,
    )
    trainer.fit(method, DataLoader(batches, batch_size=None))
    return trainer


@pytest.mark.parametrize("method", SLABS, ids=lambda m: m.__name__)
@torch.no_grad()
def test_windows_are_answered_for_all_classes_and_one_by_one_as_together(method):
    method = BUILD[method]().eval()
    x = torch.rand(2, 1, *method.window)
    embedding = method.encode(x)
    logits, state = method.decode(embedding, None)
    assert logits.shape == (2, 2, *method.window) and state == {}
    alone, _ = method.decode(select_rows(embedding, torch.tensor([1])), None)
    torch.testing.assert_close(alone[0], logits[1], atol=1e-5, rtol=1e-4)
    index = torch.zeros(1, dtype=torch.long)
    with pytest.raises(ConfigError, match="takes no prompts"):
        method.decode(embedding, Prompts(index, index + 1))


@pytest.mark.parametrize("method", SLABS, ids=lambda m: m.__name__)
def test_volumes_lie_on_a_grid_of_their_own_spacing_that_holds_a_window(method):
    method = BUILD[method](spacing=(2.0, None, 1.0))
    assert method.unit_shape((4.0, 3.0, 0.5)) == (round(method.patch[0] / 2), 32, 64)
    image = torch.rand(1, 1, 2, 50, 20)
    x, (grid,) = method.prepare(image, torch.tensor([[2, 50, 20]]), torch.tensor([[4.0, 3.0, 0.5]]))
    assert grid.content == (4, 50, 10) and grid.size == (4, 50, 32) and x.shape[2:] == grid.size
    assert x[..., 0].unique().tolist() == [-2.0], "beside the volume lies the lowest value"
    assert grid.offset == (0, 0, 11)


@pytest.mark.parametrize("method", SLABS, ids=lambda m: m.__name__)
def test_training_units_of_another_spacing_become_whole_patches(method):
    method = BUILD[method](spacing=(1.0, 1.0, 1.0))
    batch = slabs(depth=method.patch[0], side=16)
    x, label = method.patches(batch)
    assert x.shape == (2, 1, *method.patch) and label.shape == (2, *method.patch)
    assert label[0, :, 8:32:2, 12:40:2].eq(batch.label[0, :, 4:16, 6:16][..., :10]).all()


@pytest.mark.parametrize("method", SLABS, ids=lambda m: m.__name__)
def test_it_learns_two_bright_classes(method):
    """From random weights, in a few steps: scored on the slabs that it saw."""
    steps, lr = {MaskSAM: (60, 3e-3), UNet: (100, 1e-2)}[method]
    method = BUILD[method](lr=lr, optimizer="adamw")
    batch = slabs(depth=method.patch[0], ignored=True)
    torch.manual_seed(0)
    fit(method, [batch] * steps, gradient_clip_val=12)
    method.eval()
    with torch.no_grad():
        logits, _ = method.decode(method.encode(method.patches(batch)[0]), None)
    top, winner = logits.max(1)
    found = torch.where(top > 0, winner + 1, 0)
    for k in (1, 2):
        truth = batch.label == k
        assert 2 * ((found == k) & truth).sum() / ((found == k).sum() + truth.sum()) > 0.7, k


@pytest.mark.parametrize("method", SLABS, ids=lambda m: m.__name__)
def test_training_is_deterministic_by_seed(method, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    ends = []
    for _ in range(2):
        trained = BUILD[method]()
        fit(trained, [slabs(0, depth=trained.patch[0]), slabs(1, depth=trained.patch[0])])
        ends.append(trained.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))


@pytest.mark.parametrize("method", SLABS, ids=lambda m: m.__name__)
def test_the_rate_falls_to_nothing_over_the_epochs(method):
    method, seen = BUILD[method](lr=1e-3), []
    depth = method.patch[0]

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(method, [slabs(depth=depth)], epochs=4, callbacks=[Watch()])
    assert seen == pytest.approx([1e-3 * (1 - e / 4) ** 0.9 for e in range(4)])


@pytest.mark.parametrize("method", SLABS, ids=lambda m: m.__name__)
def test_a_batch_with_all_voxels_ignored_teaches_nothing_and_breaks_nothing(method):
    method = BUILD[method](weight_decay=0.0)
    batch = slabs(depth=method.patch[0])
    batch.label[:] = 255
    before = {k: v.clone() for k, v in method.state_dict().items()}
    fit(method, [batch])
    assert all(torch.equal(before[k], v) for k, v in method.state_dict().items())


@pytest.mark.parametrize("method", SLABS, ids=lambda m: m.__name__)
@pytest.mark.parametrize(
    "settings, message",
    [
        ({"patch": (0, 32, 32)}, "patch must be three positive"),
        ({"spacing": (1.0, -1.0, 1.0)}, "spacing must be positive"),
        ({"in_channels": 0}, "in_channels"),
    ],
)
def test_settings_that_can_not_be(method, settings, message):
    with pytest.raises(ConfigError, match=message):
        BUILD[method](**settings)


@pytest.mark.parametrize("method", SLABS, ids=lambda m: m.__name__)
def test_another_number_of_channels_is_told(method):
    method = BUILD[method]()
    with pytest.raises(ConfigError, match=r"built for 1 channel.*in_channels"):
        method.prepare(torch.rand(1, 2, 4, 32, 32), torch.tensor([[4, 32, 32]]), torch.ones(1, 3))


def test_unets_stages_follow_nnunets_rules():
    from samzoo.methods.baselines.unet import nnunet_stages

    strides, kernels = nnunet_stages((20, 256, 256), (5.0, 1.0, 1.0))
    assert strides == [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2], [1, 2, 2]]
    assert kernels[:3] == [[1, 3, 3], [1, 3, 3], [3, 3, 3]]
    assert nnunet_stages((1, 64, 64), (1.0, 1.0, 1.0))[1][0] == [1, 3, 3]
    with pytest.raises(ConfigError, match="multiples of"):
        unet(patch=(4, 36, 36))


def fingerprint(spacing, shape):
    return lambda: SimpleNamespace(spacing=spacing, shape=shape, cases=3)


@pytest.mark.parametrize(
    "shape, spacing, voxels, patch",
    [
        # as nnU-Net's authors report of the Decathlon's Hippocampus, BrainTumour and, at its own size, Prostate
        ((36, 50, 35), (1.0, 1.0, 1.0), 128**3, (40, 56, 40)),
        ((138, 169, 138), (1.0, 1.0, 1.0), 128**3, (128, 128, 128)),
        ((20, 320, 319), (3.6, 0.62, 0.62), 20 * 320 * 256, (20, 320, 256)),
        ((1, 500, 700), (1.0, 1.0, 1.0), 512**2, (1, 448, 512)),
        ((3, 2, 1), (1.0, 1.0, 1.0), 1, (1, 1, 1)),
    ],
)
def test_unets_patch_follows_nnunets_rules(shape, spacing, voxels, patch):
    from samzoo.methods.baselines.unet import plan_patch

    assert plan_patch(shape, spacing, voxels) == patch


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.7, 0.7), (0.6, 2.5, 0.9)])
def test_a_planned_patch_fits_the_budget_and_can_be_halved(spacing):
    from samzoo.methods.baselines.unet import plan_patch

    for side in range(9, 120, 10):
        patch = plan_patch((side, 2 * side, 90), spacing, 20_000, stages=4)
        assert patch[0] * patch[1] * patch[2] <= 20_000
        assert patch == unet(patch=patch, spacing=spacing, stages=4).patch, "the network takes it"


def test_unet_plans_what_is_not_given():
    measured = fingerprint((3.0, 1.0, 1.0), (10, 60, 64))
    planned = unet(patch=None, spacing="fingerprint", fingerprint=measured)
    assert planned.spacing == (3.0, 1.0, 1.0) and planned.patch == (10, 64, 64)
    small = unet(patch=None, spacing="fingerprint", patch_voxels=5000, fingerprint=measured)
    assert 2500 < small.patch[0] * small.patch[1] * small.patch[2] <= 5000
    given = unet(patch=(4, 32, 32), spacing="fingerprint", fingerprint=measured)
    assert given.spacing == (3.0, 1.0, 1.0) and given.patch == (4, 32, 32)
    finer = unet(patch=None, spacing=(None, 2.0, 2.0), fingerprint=measured)
    assert finer.spacing == (None, 2.0, 2.0) and finer.patch == (10, 32, 32), "the median case at this spacing"
    with pytest.raises(ConfigError, match="give patch and spacing"):
        unet(patch=None)
    with pytest.raises(ConfigError, match="patch_voxels"):
        unet(patch=None, patch_voxels=0, fingerprint=measured)


def test_nothing_is_measured_where_nothing_is_planned():
    unet(fingerprint=lambda: pytest.fail("measured"))


def test_a_checkpoint_keeps_its_plan():
    settings = {"patch": (4, 32, 32), "spacing": "fingerprint"}
    trained = unet(**settings, fingerprint=fingerprint((3.0, 1.0, 1.0), (10, 60, 64)))
    checkpoint = {"state_dict": trained.state_dict()}
    trained.on_save_checkpoint(checkpoint)
    unet(**settings, fingerprint=fingerprint((3.0, 1.0, 1.0), (9, 50, 60))).on_load_checkpoint(checkpoint)
    with pytest.raises(ConfigError, match=r"init_args.patch=\[4,32,32\] --model.init_args.spacing=\[3.0,1.0,1.0\]"):
        unet(**settings, fingerprint=fingerprint((2.0, 1.0, 1.0), (10, 60, 64))).on_load_checkpoint(checkpoint)
    unet(spacing=(2.0, 1.0, 1.0)).on_load_checkpoint(checkpoint)  # what is given wins
    del checkpoint["samzoo_unet_plan"]  # of a checkpoint from before there were plans
    unet(**settings, fingerprint=fingerprint((2.0, 1.0, 1.0), (9, 50, 60))).on_load_checkpoint(checkpoint)
