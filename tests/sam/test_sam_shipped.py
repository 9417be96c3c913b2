"""Weights that come with the package, and how a run's checkpoint becomes such a file."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from samzoo import __version__
from samzoo.errors import WeightsError
from samzoo.sam import ARCHITECTURES, ARCHITECTURES_3D, build_sam, build_sam3d, load_weights, weights
from samzoo.sam.export import main
from samzoo.sam.weights import WEIGHTS, file_sha256, find_weights

SHIPPED = [name for name, entry in WEIGHTS.items() if entry.shipped]
BUILD = {2: build_sam, 3: build_sam3d}


def test_what_is_shipped():
    assert set(SHIPPED) == {"sam_tiny", "sam_tiny_3d"}
    for name in SHIPPED:
        entry = WEIGHTS[name]
        config = {2: ARCHITECTURES, 3: ARCHITECTURES_3D}[entry.dim][entry.architecture]
        assert entry.image_size == config.image_size and entry.path.name == f"{name}.safetensors"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_fill_their_network(name, home):
    entry = WEIGHTS[name]
    assert entry.sha256 is not None, "a file that is shipped has a hash in the table"
    report = load_weights(BUILD[entry.dim](entry.architecture, **({"boxes": True} if entry.dim == 3 else {})), name)
    assert report.verified and not (report.new or report.ignored or report.resized)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An empty folder in place of the package's."""
    monkeypatch.setattr(weights, "SHIPPED", tmp_path / "package")
    (tmp_path / "package").mkdir()
    return tmp_path / "package"


def test_a_shipped_file_lies_in_the_package_and_is_never_fetched(package, home, monkeypatch):
    with pytest.raises(WeightsError, match=r"sam_tiny belong.*sam_tiny.safetensors is missing: install"):
        find_weights("sam_tiny")
    save_file(build_sam("vit_tiny").state_dict(), package / "sam_tiny.safetensors")
    monkeypatch.setitem(WEIGHTS, "sam_tiny", weights._shipped("sam_tiny", "vit_tiny", 128, 2, "0" * 64))
    with pytest.raises(WeightsError, match="install samzoo again"):
        find_weights("sam_tiny")
    digest = file_sha256(package / "sam_tiny.safetensors")
    monkeypatch.setitem(WEIGHTS, "sam_tiny", weights._shipped("sam_tiny", "vit_tiny", 128, 2, digest))
    assert find_weights("sam_tiny").verified and not home.exists()


def answer(sam, config, dim):
    """Logits of one box, or of one click, on a random image; the same at each call."""
    torch.manual_seed(3)
    side = config.image_size
    x = torch.randn(1, 3 if dim == 2 else 1, *(side,) * dim)
    with torch.no_grad():
        embedding = sam.eval().encode(x)
        points, labels = torch.full((1, 1, dim), side / 3), torch.ones(1, 1)
        sparse, dense = sam.encode_prompts(points, labels)
        return sam.decode(embedding, torch.zeros(1, dtype=torch.long), sparse, dense, False)[0]


def run_of(folder, sam, **others):
    """A run folder with a checkpoint of a method that holds this network."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("model:\n  class_path: samzoo.methods.SAMMed2D\n")
    state = {f"sam.{name}": t for name, t in sam.state_dict().items()} | others
    path = folder / "checkpoints/best.ckpt"
    torch.save({"state_dict": state, "epoch": 3, "samzoo_base_sha256": None}, path)
    return path


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("float16", [False, True])
def test_an_exported_checkpoint_answers_as_the_run_did(tmp_path, capsys, dim, float16):
    architecture = {2: "vit_tiny", 3: "vit_tiny_3d"}[dim]
    trained = BUILD[dim](architecture)
    checkpoint, out = run_of(tmp_path / "run", trained), tmp_path / "w" / "mine.safetensors"
    assert main([str(checkpoint), str(out), *(["--float16"] if float16 else [])]) == 0
    assert file_sha256(out) in capsys.readouterr().out
    with safe_open(out, "pt") as file:
        told = file.metadata()
        stored = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 not a mapping
    assert told == {"method": "SAMMed2D", "checkpoint_sha256": file_sha256(checkpoint), "samzoo": __version__}
    assert stored == {torch.float16 if float16 else torch.float32}

    again = BUILD[dim](architecture)
    load_weights(again, out)
    assert all(p.dtype == torch.float32 for p in again.parameters())
    expected, got = answer(trained, trained.config, dim), answer(again, again.config, dim)
    if float16:
        torch.testing.assert_close(got, expected, atol=0.02 * float(expected.std()), rtol=0)
    else:
        assert torch.equal(got, expected)


def test_half_precision_is_resized_to_another_image_size(tmp_path, small):
    state = {name: t.half() for name, t in build_sam(small).state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    sam = build_sam(small, image_size=160)
    report = load_weights(sam, tmp_path / "half.safetensors")
    assert "image_encoder.pos_embed" in report.resized and sam.image_encoder.pos_embed.dtype == torch.float32


def test_what_is_no_part_of_a_sam_is_told(tmp_path, small, capsys):
    checkpoint = run_of(tmp_path / "run", build_sam(small), **{"head.weight": torch.ones(2)})
    assert main([str(checkpoint), str(tmp_path / "mine.safetensors")]) == 0
    assert "left out, no part of a SAM: head.weight" in capsys.readouterr().out


def test_exports_that_can_not_be(tmp_path, small, capsys):
    out = tmp_path / "mine.safetensors"

    def complaint(checkpoint, *options, out=out):
        assert main([str(checkpoint), str(out), *options]) == 1
        assert not out.exists()
        return capsys.readouterr().err

    sam = build_sam(small)
    whole = run_of(tmp_path / "whole", sam)
    assert "ends so" in complaint(whole, out=tmp_path / "mine.pth")
    assert "no weights file" in complaint(tmp_path / "nowhere.ckpt")
    content = torch.load(whole, weights_only=True)
    del content["state_dict"]["sam.image_encoder.blocks.1.attn.qkv.weight"]
    torch.save(content, tmp_path / "frozen.ckpt")
    assert "blocks.1.attn.qkv.weight" in (told := complaint(tmp_path / "frozen.ckpt")) and "1 of its" in told
    torch.save({"state_dict": {"network.weight": torch.ones(2)}}, tmp_path / "unet.ckpt")
    assert "no whole SAM" in complaint(tmp_path / "unet.ckpt")
    with torch.no_grad():
        sam.image_encoder.pos_embed.fill_(1e6)
    assert "too large for float16" in complaint(run_of(tmp_path / "large", sam), "--float16")
