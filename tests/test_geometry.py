"""Prompts follow a picture onto the method's grid, and logits come back where they belong."""

import pytest
import torch

from samzoo.errors import ConfigError, DataError
from samzoo.geometry import from_grid, plan, to_grid
from samzoo.types import Batch, Box, Case, Prompts

POLICIES = ["longest_side", "pad_or_stretch", "stretch"]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("native", [(40, 30), (64, 64), (63, 64), (128, 80), (50, 200), (1, 90)])
def test_a_bright_blob_is_found_again_at_the_mapped_point(policy, native):
    h, w = native
    grid = plan(native, 64, policy)
    picture = torch.zeros(1, 1, h, w)
    y, x = h // 3, (2 * w) // 3
    picture[..., max(0, y - h // 8) : y + h // 8 + 1, max(0, x - w // 8) : x + w // 8 + 1] = 1
    laid = to_grid(picture, grid)
    assert laid.shape == (1, 1, 64, 64)
    gx, gy = grid.points_to_grid(torch.tensor([x + 0.5, y + 0.5])).tolist()
    assert laid[0, 0, int(gy), int(gx)] > 0.5


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("native", [(40, 30), (64, 64), (97, 80), (50, 200)])
def test_round_trip_keeps_a_smooth_mask(policy, native):
    h, w = native
    grid = plan(native, 64, policy)
    rows, cols = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    mask = (rows - 0.1) ** 2 + (cols + 0.2) ** 2 < 0.4
    logits = to_grid(mask[None, None].float() * 20 - 10, grid, fill=-10)
    back = from_grid(logits, grid)[0, 0] > 0
    assert back.shape == (h, w)
    dice = 2 * (back & mask).sum() / (back.sum() + mask.sum())
    assert dice > 0.97


@pytest.mark.parametrize("policy", POLICIES)
def test_points_come_back_where_they_were(policy):
    grid = plan((40, 30), 64, policy)
    points = torch.tensor([[[0.0, 0.0], [29.0, 39.0], [12.0, 7.0]]])
    torch.testing.assert_close(grid.points_from_grid(grid.points_to_grid(points)), points)


def test_boxes_and_points_move_alike():
    grid = plan((30, 40), 64, "pad_or_stretch")
    box = grid.boxes_to_grid(torch.tensor([[1.0, 2.0, 11.0, 22.0]]))
    assert box.tolist() == [[13.0, 19.0, 23.0, 39.0]]


def test_nearest_keeps_label_values_and_dtype():
    label = torch.randint(0, 5, (1, 1, 90, 70))
    assert set(to_grid(label, plan((90, 70), 64, "stretch"), "nearest").unique().tolist()) <= set(range(5))


def test_wrong_policy_and_wrong_picture_are_told():
    with pytest.raises(ConfigError, match="longest_side"):
        plan((4, 4), 8, "squeeze")
    with pytest.raises(ValueError, match="does not belong"):
        to_grid(torch.zeros(1, 1, 5, 5), plan((4, 4), 8, "stretch"))


def test_types_refuse_what_can_not_be():
    affine = torch.eye(4).numpy()
    with pytest.raises(DataError, match="not empty"):
        Case("a", "a", torch.zeros(1, 0, 4, 4), None, (1, 1, 1), affine)
    with pytest.raises(DataError, match="label has shape"):
        Case("a", "a", torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 5), (1, 1, 1), affine)
    with pytest.raises(DataError, match="spacing"):
        Case("a", "a", torch.zeros(1, 1, 4, 4), None, (1, -1, 1), affine)
    with pytest.raises(DataError, match="far corner"):
        Box(0, 3, 3, 1, 3, 5)
    with pytest.raises(ValueError, match="go together"):
        Prompts(torch.zeros(1), torch.zeros(1), points=torch.zeros(1, 1, 2))


def test_batch_moves_all_its_tensors():
    batch = Batch(torch.zeros(1, 1, 2, 2), None, torch.ones(1, 2), torch.ones(1, 2), ("a",), ("a",), torch.zeros(1))
    moved = batch.to("meta")
    assert moved.image.device.type == moved.size.device.type == "meta" and moved.case_id == ("a",) and len(moved) == 1
