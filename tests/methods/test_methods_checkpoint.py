"""Checkpoints hold what was trained and the hash of the base that the rest came from."""

from __future__ import annotations

import lightning.pytorch as L
import pytest
import torch
from torch.utils.data import DataLoader

from samzoo.errors import ConfigError, WeightsError
from samzoo.methods import SAMMed2D
from samzoo.methods.base import BASE_HASH_KEY
from samzoo.methods.sam_med2d.network import build_sam_med2d


def trained(method, batch, path):
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(method, DataLoader([batch], batch_size=None))
    trainer.save_checkpoint(path)
    return torch.load(path, weights_only=True)


def restore(method, checkpoint):
    method.on_load_checkpoint(checkpoint)
    method.load_state_dict(checkpoint["state_dict"])
    return method


def test_only_what_was_trained_is_kept_when_a_base_file_holds_the_rest(build, batch, base_file, tmp_path):
    method = build(weights=base_file, freeze_encoder=True)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    checkpoint = trained(method, batch, tmp_path / "run.ckpt")
    encoder = [k for k in checkpoint["state_dict"] if "image_encoder" in k]
    assert encoder and all(".Adapter." in k for k in encoder)
    assert checkpoint[BASE_HASH_KEY] == method.base_sha256
    frozen = [name for name, p in method.named_parameters() if not p.requires_grad]
    assert all(torch.equal(before[name], method.get_parameter(name)) for name in frozen)
    assert all(method.get_parameter(name).grad is None for name in frozen)

    again = restore(build(weights=base_file, freeze_encoder=True, lr=1.0), checkpoint)
    for name, tensor in method.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_another_base_file_is_refused(build, batch, base_file, tmp_path):
    checkpoint = trained(build(weights=base_file, freeze_encoder=True), batch, tmp_path / "run.ckpt")
    other = tmp_path / "other.pth"
    state = torch.load(base_file, weights_only=True)
    torch.save({k: v + 1 for k, v in state.items()}, other)
    with pytest.raises(WeightsError, match=r"other|trained on base weights"):
        restore(build(weights=str(other), freeze_encoder=True), checkpoint)
    with pytest.raises(WeightsError, match="random"):
        restore(build(freeze_encoder=True), checkpoint)


def test_without_a_base_file_everything_is_kept(build, batch, tmp_path):
    method = build(freeze_encoder=True)
    checkpoint = trained(method, batch, tmp_path / "run.ckpt")
    assert checkpoint["state_dict"].keys() == method.state_dict().keys()
    assert checkpoint[BASE_HASH_KEY] is None
    again = restore(build(freeze_encoder=True, lr=1.0), checkpoint)
    assert all(torch.equal(t, again.state_dict()[k]) for k, t in method.state_dict().items())


def test_what_an_encoder_file_lacks_is_kept_though_frozen(build, batch, base_file, tmp_path):
    state = torch.load(base_file, weights_only=True)
    encoder = tmp_path / "encoder.pth"
    torch.save({k: v for k, v in state.items() if k.startswith("image_encoder.")}, encoder)
    method = build(weights=str(encoder), freeze_encoder=True, train_point_embeddings=False)
    checkpoint = trained(method, batch, tmp_path / "run.ckpt")
    assert "sam.prompt_encoder.point_embeddings.0.weight" in checkpoint["state_dict"]
    assert "sam.image_encoder.pos_embed" not in checkpoint["state_dict"]


@pytest.mark.parametrize("adapters", [True, False])
def test_the_reference_s_own_checkpoint_loads_by_its_keys(build, tmp_path, adapters):
    source = build()
    path = tmp_path / "official.pth"
    torch.save({"model": source.sam.state_dict(), "optimizer": torch.optim.Adam(source.sam.parameters())}, path)
    method = build(weights=str(path), adapters=adapters)
    for name, tensor in method.sam.state_dict().items():
        assert torch.equal(tensor, source.sam.state_dict()[name]), name


def test_parts_that_are_frozen_stay_in_evaluation_mode(build, base_file):
    method = build(weights=base_file, freeze_encoder=True).train()
    encoder = method.sam.image_encoder
    assert method.frozen_modules() and not any(m.training for m in method.frozen_modules())
    assert encoder.blocks[0].Adapter.training and method.sam.mask_decoder.training
    assert not any(p.requires_grad for m in method.frozen_modules() for p in m.parameters())


def test_leaving_adapters_out_gives_the_encoder_that_they_were_put_into(build, base_file, batch):
    plain = build(weights=base_file, adapters=False).eval()
    without = build(weights=base_file, use_adapters=False).eval()
    with_adapters = build(weights=base_file).eval()
    x, _ = plain.prepare(batch.image, batch.size, batch.spacing)
    with torch.inference_mode():
        torch.testing.assert_close(without.encode(x), plain.encode(x))
        assert not torch.allclose(with_adapters.encode(x), plain.encode(x), atol=1e-2)
    assert not any(p.requires_grad for n, p in without.named_parameters() if ".Adapter." in n)


@pytest.mark.parametrize(
    ("size", "adapters", "total"), [(256, True, 271_241_776), (256, False, 90_737_200), (1024, True, 274_240_048)]
)
def test_parameters_of_vit_b_are_those_published(size, adapters, total):
    with torch.device("meta"):
        sam = build_sam_med2d("vit_b", size, adapters)
    assert sum(p.numel() for p in sam.parameters()) == total
    assert len(sam.state_dict()) == (386 if adapters else 314)


def test_parameters_trained_of_vit_b_are_those_published():
    with torch.device("meta"):
        assert SAMMed2D("vit_b").count_parameters() == (271_241_776, 184_569_136)
        assert SAMMed2D("vit_b", adapters=False).count_parameters() == (90_737_200, 4_064_560)


def test_adapters_need_an_even_grid():
    with pytest.raises(ConfigError, match="multiple of 32"), torch.device("meta"):
        SAMMed2D("vit_b", image_size=240)
