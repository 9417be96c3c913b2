"""Weights files of every kind into a Sam: all tensors explained, or an error that says why not."""

import os
import re
import sys
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from samzoo.cli_checkpoint import check_checkpoint
from samzoo.errors import WeightsError
from samzoo.sam import ARCHITECTURES, build_sam, load_weights
from samzoo.sam.checkpoint import read_state_dict
from samzoo.sam.weights import WEIGHTS, file_sha256


@pytest.fixture
def trained(small):
    sam = build_sam(small)
    for p in sam.parameters():
        nn.init.normal_(p)
    return sam.state_dict()


def assert_same(sam, state):
    for key, tensor in sam.state_dict().items():
        assert torch.equal(tensor, state[key]), key


class Adapter(nn.Linear):
    def __init__(self, dim):
        super().__init__(dim, dim)


@pytest.mark.parametrize("form", ["flat.pth", "flat.pt", "model.pth", "tensors.safetensors", "old.pth", "run.ckpt"])
def test_files_of_every_form(small, trained, tmp_path, form, capsys):
    path = tmp_path / form
    if path.suffix == ".safetensors":
        save_file(trained, path)
    elif form == "model.pth":
        torch.save({"model": OrderedDict(trained), "epoch": 3}, path)
    elif form == "run.ckpt":  # of a method of the zoo that was trained from random weights
        state = {f"sam.{key}": tensor for key, tensor in trained.items()}
        torch.save({"state_dict": state, "epoch": 3, "samzoo_base_sha256": None}, path)
    else:
        torch.save(trained, path, _use_new_zipfile_serialization=form != "old.pth")
    sam = build_sam(small)
    report = load_weights(sam, str(path))
    assert_same(sam, trained)
    assert len(report.loaded) == len(trained) and not (report.new or report.ignored or report.resized)
    assert report.sha256 == file_sha256(path) and report.path == path
    printed = capsys.readouterr().out
    assert str(path) in printed and f"loaded  {len(trained)}" in printed and report.sha256 in printed


def test_sam_med2d_training_checkpoint_with_its_optimiser_object(small, trained, tmp_path):
    sam = build_sam(small)
    optimizer = torch.optim.Adam(sam.parameters())
    sam.encode(torch.randn(1, 3, 80, 80)).sum().backward()
    optimizer.step()
    torch.save({"model": trained, "optimizer": optimizer}, tmp_path / "sam-med2d_b.pth")
    load_weights(sam, tmp_path / "sam-med2d_b.pth")
    assert_same(sam, trained)


class Malicious:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("function", [os.mkdir, eval])
def test_code_in_a_file_never_runs(small, trained, tmp_path, function, new_format):
    proof = tmp_path / "proof"
    bait = Malicious(function, str(proof) if function is os.mkdir else f"__import__('os').mkdir({str(proof)!r})")
    path = tmp_path / "bad.pth"
    torch.save({"model": trained, "optimizer": bait}, path, _use_new_zipfile_serialization=new_format)
    sam = build_sam(small)
    before = {k: v.clone() for k, v in sam.state_dict().items()}
    with pytest.raises(WeightsError, match=r"bad\.pth"):
        load_weights(sam, path)
    assert not proof.exists()
    assert_same(sam, before)


def test_code_behind_a_name_of_torch_optim_never_runs(small, trained, tmp_path, monkeypatch):
    """A stand-in takes the place of anything under torch.optim, so whatever is called so does nothing."""
    calls = []

    def detonate(*_):
        calls.append(1)

    detonate.__module__, detonate.__qualname__ = "torch.optim.adam", "detonate"
    monkeypatch.setattr(sys.modules["torch.optim.adam"], "detonate", detonate, raising=False)
    torch.save({"model": trained, "optimizer": Malicious(detonate, 1)}, tmp_path / "bad.pth")
    load_weights(build_sam(small), tmp_path / "bad.pth")
    assert not calls


def test_other_image_sizes_are_resized_by_shape(small, trained, tmp_path, capsys):
    path = tmp_path / "w.safetensors"
    save_file(trained, path)
    sam = build_sam(small, image_size=160)
    report = load_weights(sam, path)
    block = "image_encoder.blocks.1.attn"
    assert report.resized == {
        "image_encoder.pos_embed": ((1, 5, 5, 32), (1, 10, 10, 32)),
        f"{block}.rel_pos_h": ((9, 16), (19, 16)),
        f"{block}.rel_pos_w": ((9, 16), (19, 16)),
    }
    assert "pos_embed 1 x 5 x 5 x 32 -> 1 x 10 x 10 x 32" in capsys.readouterr().out
    # and back: a finely sampled table is picked at its own places
    table = sam.state_dict()["image_encoder.pos_embed"]
    assert table.shape == (1, 10, 10, 32) and torch.isfinite(table).all()


def test_timm_encoder(small, trained, tmp_path):
    prefix = "image_encoder."
    timm = {
        k.removeprefix(prefix).replace(".mlp.lin", ".mlp.fc"): v for k, v in trained.items() if k.startswith(prefix)
    }
    save_file(timm, tmp_path / "timm.safetensors")
    sam = build_sam(small)
    with pytest.raises(WeightsError, match=r"an image encoder only.*sam_vit_b"):
        load_weights(sam, tmp_path / "timm.safetensors")
    decoder = {k: v.clone() for k, v in sam.state_dict().items() if not k.startswith(prefix)}
    report = load_weights(sam, tmp_path / "timm.safetensors", encoder_only=True)
    assert_same(sam, trained | decoder)
    assert set(report.new) == set(decoder)


def test_new_adapters_must_be_named(small, trained, tmp_path):
    save_file(trained, tmp_path / "w.safetensors")
    sam = build_sam(small, adapter=Adapter)
    with pytest.raises(WeightsError, match=r"lacks 6 tensors of the model .*blocks\.\*\.Adapter\.weight \(3\)"):
        load_weights(sam, tmp_path / "w.safetensors")
    report = load_weights(sam, tmp_path / "w.safetensors", new=lambda key: ".Adapter." in key)
    assert len(report.new) == 6 and len(report.loaded) == len(trained)


def test_adapters_of_the_file_are_not_dropped_in_silence(small, tmp_path):
    save_file(build_sam(small, adapter=Adapter).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"holds 6 tensors that the model does not have.*SAMMed2D"):
        load_weights(build_sam(small), tmp_path / "w.safetensors")
    report = load_weights(build_sam(small), tmp_path / "w.safetensors", ignore=lambda key: ".Adapter." in key)
    assert len(report.ignored) == 6


def test_wrong_architecture_names_tensor_shapes_and_likely_model(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(build_sam("vit_tiny").state_dict(), path)
    config = replace(ARCHITECTURES["vit_tiny"], embed_dim=64)
    with pytest.raises(WeightsError) as error:
        load_weights(build_sam(config), path)
    text = str(error.value)
    assert str(path) in text and "the file looks like vit_tiny (width 128, 6 blocks, patches of 8, 128 px)" in text
    tensor, shapes = re.search(r"tensor (\S+) is (.* in the file and .* in the model)", text).groups()
    file_shape = " x ".join(map(str, build_sam("vit_tiny").state_dict()[tensor].shape))
    assert shapes.startswith(f"{file_shape} in the file") and shapes.endswith("64 in the model")


def test_windows_of_another_width_are_not_stretched(small, trained, tmp_path):
    save_file(trained, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"blocks\.0\.attn\.rel_pos_h is 5 x 16 in the file and 7 x 16 in the model"):
        load_weights(build_sam(replace(small, window_size=4)), tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "can't be read as weights"),
        (b"not a checkpoint at all", "can't be read as weights"),
        ({"model": {"a": 1}}, "its entry 'a' is a int, not a tensor"),
        ([1, 2], "holds no state dict"),
        ({"backbone.weight": torch.zeros(2)}, "none of its tensors has a name that SAM knows"),
    ],
)
def test_files_that_are_no_weights(small, tmp_path, content, message):
    path = tmp_path / "w.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(WeightsError, match=message):
        load_weights(build_sam(small), path)


def test_truncated_files(small, trained, tmp_path):
    for name, save in {"w.pth": torch.save, "w.safetensors": save_file}.items():
        path = tmp_path / name
        save(trained, path)
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(WeightsError, match=rf"{name} can't be read as weights .*is it complete"):
            load_weights(build_sam(small), path)


def test_nan_in_weights(small, trained, tmp_path):
    trained["mask_decoder.iou_token.weight"][0, 0] = float("nan")
    save_file(trained, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"'mask_decoder\.iou_token\.weight' holds NaN"):
        load_weights(build_sam(small), tmp_path / "w.safetensors")


def test_unknown_name(small):
    with pytest.raises(WeightsError, match="neither a file nor a url nor a known name; did you mean sam_vit_b"):
        load_weights(build_sam(small), "sam_vitb")


def test_weights_without_a_link_say_where_to_put_the_file(small, home):
    with pytest.raises(WeightsError, match=r"no direct download: get sam-med2d_b\.pth from .*weights/sam-med2d_b\.pth"):
        load_weights(build_sam(small), "sam_med2d_b")


def test_a_cached_file_with_another_hash_is_not_used(small, trained, home):
    path = WEIGHTS["sam_vit_b"].path
    path.parent.mkdir(parents=True)
    torch.save(trained, path)
    with pytest.raises(WeightsError, match=r"has sha256 .* but sam_vit_b has ec2df627.*delete it"):
        load_weights(build_sam(small), "sam_vit_b")


def test_whole_numbers_are_no_weights(small, trained, tmp_path):
    """A header that names another type of as many bytes: 1.0 would become 1065353216."""
    key = "image_encoder.patch_embed.proj.weight"
    save_file(trained | {key: trained[key].view(torch.int32)}, tmp_path / "x.safetensors")
    with pytest.raises(
        WeightsError, match=f"x.safetensors does not fit: tensor {key} is int32 in the file and float32"
    ):
        load_weights(build_sam(small), tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({1: torch.ones(2)}, "its entry 1 is a Tensor, not a tensor by name"),
        ({"a": torch.ones(3, dtype=torch.complex64)}, "'a' is sparse, quantised, complex or empty"),
        ({"a": torch.eye(3).to_sparse()}, "'a' is sparse, quantised, complex or empty"),
        ({"a": torch.ones(3, device="meta")}, "'a' is sparse, quantised, complex or empty"),
        ({"a": torch.zeros(1).expand(10**6, 10**6)}, "'a' of .1000000, 1000000. is larger than the file"),
        ({"a": torch.tensor([1.0, float("inf")])}, "'a' holds NaN or infinite values"),
    ],
)
@pytest.mark.parametrize("name", ["x.pth", "x.ckpt"])
def test_tensors_that_are_no_plain_numbers(tmp_path, content, message, name):
    path = tmp_path / name
    torch.save({"state_dict": content}, path)
    with pytest.raises(WeightsError, match=f"{name}.*{message}"):
        (read_state_dict if name == "x.pth" else check_checkpoint)(path)
