"""ProMISe's network: sizes of the original, any SAM, several classes, bounded memory, weights files of every mode."""

from __future__ import annotations

import warnings

import pytest
import torch
from safetensors.torch import save_file
from tiny_methods import TINY
from torch._subclasses.fake_tensor import FakeTensorMode

from samzoo.errors import ConfigError, WeightsError
from samzoo.methods.promise.network import ProMISeNetwork, choose_taps, load_args, warn_of_ignored
from samzoo.sam import ARCHITECTURES, build_sam, load_weights

SMALL = {"num_points": 4, "positive_points": 2, "fusion_width": 8, "stage_widths": (4, 4, 8, 8)}
MODES = [("resnet", None), (None, "mlp"), ("cross", None), ("resnet", "mlp"), ("cross", "mlp"), ("resnet", "table")]


def small(seed=0, **settings) -> ProMISeNetwork:
    torch.manual_seed(seed)
    return ProMISeNetwork(TINY, **(SMALL | settings)).eval()


def pictures(count=3):
    return torch.randn(count, 3, TINY.image_size, TINY.image_size, generator=torch.Generator().manual_seed(5))


def all_pairs(count, num_classes):
    index = torch.arange(count).repeat_interleave(num_classes)
    return index, torch.arange(num_classes).repeat(count)


# --- the original's sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "apm", "ips", "total", "trained", "tensors", "entries"),
    [
        ("vit_b", "resnet", None, 122_451_920, 28_716_448, 121, 546),
        ("vit_b", "cross", None, 138_044_466, 44_308_994, 65, 388),
        ("vit_b", None, "mlp", 95_048_240, 1_312_768, 4, 318),
        ("vit_b", "resnet", "mlp", 123_764_688, 30_029_216, 125, 550),
        ("vit_b", "cross", "mlp", 139_357_234, 45_621_762, 69, 392),
        ("vit_b", None, "table", 93_735_472 + 1_024, 1_024, 1, 315),
        ("vit_l", None, "mlp", 313_655_600, 1_312_768, 4, None),
        ("vit_h", None, "mlp", 642_403_376, 1_312_768, 4, None),
    ],
)
def test_counts_of_the_reference(architecture, apm, ips, total, trained, tensors, entries):
    with torch.device("meta"):
        network = ProMISeNetwork(ARCHITECTURES[architecture], apm=apm, ips=ips)
    parameters = list(network.parameters())
    assert sum(p.numel() for p in parameters) == total
    assert sum(p.numel() for p in parameters if p.requires_grad) == trained
    assert sum(p.requires_grad for p in parameters) == tensors
    assert entries is None or len(network.state_dict()) == entries


@pytest.mark.parametrize(
    ("architecture", "from_one"),
    [("vit_b", (12, 9, 6)), ("vit_l", (24, 18, 12)), ("vit_h", (32, 24, 16)), ("vit_tiny", (6, 5, 3))],
)
def test_taps_by_position(architecture, from_one):
    assert tuple(i + 1 for i in choose_taps(ARCHITECTURES[architecture])) == from_one


@pytest.mark.parametrize(("architecture", "apm"), [("vit_b", "resnet"), ("vit_l", "cross"), ("vit_h", "resnet")])
def test_shapes_at_1024(architecture, apm):
    config = ARCHITECTURES[architecture]
    g, c, d, classes = config.grid, config.prompt_embed_dim, config.embed_dim, 15
    with torch.device("meta"):
        network = ProMISeNetwork(config, classes, apm=apm)
        features = network.features(torch.empty(1, 3, config.image_size, config.image_size))
    assert [tuple(f.shape) for f in features] == [(1, c, g, g)] + 3 * [(1, d, g, g)]
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():  # meta, but with autocast
        network.to_empty(device="cpu")
        embedded = network.embed(tuple(torch.empty(2, *f.shape[1:]) for f in features))
        logits, quality = network.answer(embedded, *all_pairs(2, classes), tokens=(1, 3))
    assert [tuple(e.shape) for e in embedded] == [(2, c, g, g), (2, classes, 16, 2), (2, classes, 4, c)]
    assert logits.shape == (2 * classes, 2, 4 * g, 4 * g) and quality.shape == (2 * classes, 2)


@pytest.mark.parametrize("apm", ["resnet", "cross"])
def test_it_answers_on_a_sam_of_laptop_size(apm):
    config = ARCHITECTURES["vit_tiny"]
    network = ProMISeNetwork(config, 2, apm=apm).eval()
    with torch.no_grad():
        embedded = network.embed(network.features(torch.randn(1, 3, 128, 128)))
        logits, _ = network.answer(embedded, *all_pairs(1, 2))
    assert logits.shape == (2, 1, 64, 64) and torch.isfinite(logits).all()
    assert embedded[1].shape == (1, 2, 16, 2) and 0 < embedded[1].min() < embedded[1].max() < 128


# --- what the modes compute -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("apm", "ips"), MODES)
def test_gradients_reach_every_part_through_the_frozen_sam(apm, ips):
    network = small(apm=apm, ips=ips, num_classes=2)
    embedded = network.embed(network.features(pictures()))
    assert not any(f.requires_grad for f in network.features(pictures()))
    clicks = {} if apm else {"user_points": torch.rand(6, 2, 2) * 32, "user_labels": torch.ones(6, 2).long()}
    logits, _ = network.answer(embedded, *all_pairs(3, 2), **clicks)
    logits.square().mean().backward()
    without = {name for name, p in network.named_parameters() if p.requires_grad and p.grad is None}
    assert all(".fc2." in name or ".norm2." in name for name in without)
    for name, p in network.named_parameters():
        assert (p.grad is None) if not p.requires_grad else (name in without or p.grad.abs().sum() > 0), name
    assert all(p.grad is None for module in network.sam_modules() for p in module.parameters())


def test_without_a_shift_it_is_sam():
    """Zero-initialised IPS, a fresh table and no IPS give SAM's own answer to the same points."""
    x, index = pictures(), torch.arange(3)
    points, labels = torch.rand(3, 2, 2) * 32, torch.tensor([[1, 0]] * 3)
    network = small(apm=None, ips="mlp", ips_zero_init=True)
    sparse, dense = network.encode_prompts(points, labels)
    expected, _ = network.decode(network.encode(x), index, sparse, dense, (1,))
    for ips, zero in (("mlp", True), ("table", False), ("mlp", False)):
        other = small(apm=None, ips=ips, ips_zero_init=zero)
        other.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("ips")}, strict=False)
        logits, _ = other.answer(other.embed(other.features(x)), index, torch.zeros_like(index), points, labels)
        assert torch.allclose(logits, expected, atol=1e-6) == (ips == "table" or zero)


@pytest.mark.parametrize("apm", ["resnet", "cross"])
def test_each_class_is_an_original_of_its_own(apm):
    """Class k of a network of three answers as a network of one with that class's weights."""
    classes, n = 3, SMALL["num_points"]
    many = small(apm=apm, num_classes=classes)
    embedded = many.embed(many.features(pictures()))
    index, kind = all_pairs(3, classes)
    logits = many.answer(embedded, index, kind)[0].unflatten(0, (3, classes))
    for k in range(classes):
        one = small(apm=apm, num_classes=1)
        state = dict(many.state_dict())
        for name, rows in (("apm_resnet.fc.", 2 * n), ("apm_cross.query_", n), ("ips_ffn.lin2.", None)):
            for key in (key for key in state if key.startswith(name)):
                size = rows or len(state[key]) // classes
                state[key] = state[key][k * size : (k + 1) * size]
        one.load_state_dict(state)
        alone = one.embed(one.features(pictures()))
        torch.testing.assert_close(alone[1][:, 0], embedded[1][:, k], atol=1e-4, rtol=0)
        torch.testing.assert_close(alone[2][:, 0], embedded[2][:, k])
        answer, _ = one.answer(alone, torch.arange(3), torch.zeros(3, dtype=torch.long))
        torch.testing.assert_close(answer, logits[:, k], atol=1e-5, rtol=1e-4)


def test_points_of_the_user_come_beside_or_instead():
    network = small()
    embedded = network.embed(network.features(pictures()))
    index, zero = torch.arange(3), torch.zeros(3, dtype=torch.long)
    points, labels = torch.rand(3, 1, 2) * 32, torch.ones(3, 1).long()
    boxes = torch.tensor([[4.0, 4, 20, 24]]).expand(3, -1)

    def sam(points, labels, boxes):
        sparse, dense = network.encode_prompts(points, labels, boxes)
        return network.decode(embedded[0], index, sparse, dense, (1,), embedded[2][:, 0])[0]

    own, own_labels = embedded[1][:, 0], torch.tensor([[1, 1, 0, 0]] * 3)
    both = torch.cat([own, points], 1), torch.cat([own_labels, labels], 1)
    for given, settings in (
        ((own, own_labels, None), {}),
        ((*both, None), {"user_points": points, "user_labels": labels}),
        ((*both, boxes), {"user_points": points, "user_labels": labels, "boxes": boxes}),
        ((points, labels, None), {"user_points": points, "user_labels": labels, "regressed": False}),
        ((None, None, boxes), {"boxes": boxes, "regressed": False}),
    ):
        torch.testing.assert_close(network.answer(embedded, index, zero, **settings)[0], sam(*given))
    with pytest.raises(ConfigError, match="needs a click or a box"):
        network.answer(embedded, index, zero, regressed=False)


@pytest.mark.parametrize("chunk", [2, 4])
@pytest.mark.parametrize("boxes", [False, True])
def test_chunks_change_nothing(chunk, boxes):
    index, kind = all_pairs(3, 3)
    box = torch.tensor([[4.0, 4, 20, 24]]).expand(9, -1) if boxes else None
    found = []
    for size in (None, chunk):
        network = small(num_classes=3)
        embedded = network.embed(network.features(pictures()))
        logits, quality = network.answer(embedded, index, kind, boxes=box, tokens=(0, 1), chunk=size)
        (logits.square().mean() + quality.mean()).backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        with torch.no_grad():
            frozen, _ = network.answer(embedded, index, kind, boxes=box, tokens=(0, 1), chunk=size)
        assert torch.equal(frozen, logits)
        found.append((logits, quality, *gradients))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


def test_chunks_bound_what_is_kept_for_the_backward_pass():
    network = small(num_classes=8)
    embedded = network.embed(network.features(pictures()))
    kept = {}
    for size in (None, 2):
        shapes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (shapes.append(t.numel()), t)[1], lambda t: t):  # noqa: B023
            network.answer(embedded, *all_pairs(3, 8), chunk=size)
        kept[size] = sum(shapes)
    assert kept[2] < kept[None] / 10


@pytest.mark.parametrize("apm", ["resnet", "cross"])
def test_half_precision_keeps_points_exact(apm):
    network = small(apm=apm)
    features = network.features(pictures())
    exact = network.embed(features)[1]
    torch.testing.assert_close(network.embed(tuple(f.half() for f in features))[1], exact, atol=0.05, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(f.dtype == torch.float32 and f.is_contiguous() for f in network.features(pictures()))
        points = network.embed(features)[1]
        logits, _ = network.answer(network.embed(features), torch.arange(3), torch.zeros(3, dtype=torch.long))
    assert points.dtype == torch.float32 and torch.isfinite(logits).all()
    assert (points - points.bfloat16().float()).abs().max() > 0  # not rounded to what half precision can tell apart
    torch.testing.assert_close(points, exact, atol=0.5, rtol=0)


def test_batch_norm_of_one_picture_says_what_to_do():
    network = small().train()
    features = network.features(pictures(1))
    with pytest.raises(ConfigError, match="batches of at least two"):
        network.embed(features)
    network.eval()
    network.embed(features)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"apm": None, "ips": None}, "nothing to train"),
        ({"apm": "restnet"}, "resnet, cross or null, got 'restnet'"),
        ({"ips": "pae"}, "mlp, table or null, got 'pae'"),
        ({"positive_points": 5}, "positive_points 5 must lie between 0 and num_points 4"),
        ({"num_classes": 0}, "at least one class"),
        ({"apm": "cross", "cross_heads": 3}, "cross_heads 3 must divide the encoder's width 16"),
        ({"stage_widths": (4, 4)}, "has 4 stages, got 2"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ConfigError, match=message):
        small(**settings)


# --- weights files --------------------------------------------------------------------------------------------------


@pytest.fixture
def union(tmp_path):
    """A file with the parts of all modes, as the golden one."""
    state = small(1).state_dict() | small(1, apm="cross").state_dict()
    path = tmp_path / "union.safetensors"
    save_file({k: v.clone() for k, v in state.items()}, path)
    return path, state


def load(network, path):
    return load_weights(network, path, **load_args(network))


@pytest.mark.parametrize(("apm", "ips"), MODES[:5])
def test_files_of_any_mode(union, apm, ips):
    path, state = union
    network = small(apm=apm, ips=ips)
    report = load(network, path)
    assert not report.new
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    with pytest.warns(UserWarning, match=r"holds a trained .*: left out"):
        warn_of_ignored(report)


def test_plain_sam_weights_leave_the_parts_new(tmp_path):
    save_file(build_sam(TINY).state_dict(), tmp_path / "sam.safetensors")
    network = small()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    report = load(network, tmp_path / "sam.safetensors")
    assert {key.split(".")[0] for key in report.new} == {"apm_feature_map", "apm_resnet", "ips_ffn"}
    assert all(torch.equal(network.state_dict()[k], before[k]) for k in report.new)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_ignored(report)


@pytest.mark.parametrize(
    ("part", "key"), [(r"APM \(resnet\)", "apm_resnet.fc.bias"), (r"IPS \(mlp\)", "ips_ffn.lin1.bias")]
)
def test_half_a_part_is_no_part(union, tmp_path, part, key):
    state = {k: v for k, v in union[1].items() if k != key}
    save_file({k: v.clone() for k, v in state.items()}, tmp_path / "half.safetensors")
    network = small()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(WeightsError, match=rf"half\.safetensors.*only a part of {part}, without 1 tensors \({key}\)"):
        load(network, tmp_path / "half.safetensors")
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_early_files_name_the_shift_otherwise(union, tmp_path):
    old = {k.replace("ips_ffn.", "ffn."): v.clone() for k, v in union[1].items()}
    torch.save(old, tmp_path / "old.pt")
    network = small()
    assert not load(network, tmp_path / "old.pt").new
    assert torch.equal(network.ips_ffn.lin2.weight, union[1]["ips_ffn.lin2.weight"])
    torch.save(old | union[1], tmp_path / "both.pt")
    with pytest.raises(WeightsError, match=r"'ips_ffn\.lin\d\.\w+' twice, under an old and a new name"):
        load(network, tmp_path / "both.pt")


def test_other_numbers_of_classes_and_other_methods_are_told(union):
    with pytest.raises(WeightsError, match=r"apm_resnet\.fc\.\w+ is .*another num_classes, num_points"):
        load(small(num_classes=2), union[0])
    with pytest.raises(WeightsError, match="ProMISe's modules: load it into the method ProMISe"):
        load_weights(build_sam(TINY), union[0])
