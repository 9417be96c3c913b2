"""Pictures on SAM's square."""

import pytest
import torch

from samzoo.sam import PIXEL_MEAN, PIXEL_STD, prepare_pictures
from samzoo.sam.preprocess import three_channels


def prepare(image, sizes, policy="longest_side", interpolation="bilinear", side=32):
    return prepare_pictures(image, torch.tensor(sizes), side, policy, interpolation, PIXEL_MEAN, PIXEL_STD)


def test_statistics_are_those_of_0_to_255_and_the_padding_is_zero_afterwards():
    image = torch.full((1, 3, 16, 32), 0.5)
    x, (grid,) = prepare(image, [[16, 32]])
    assert x.shape == (1, 3, 32, 32) and grid.content == (16, 32)
    expected = (127.5 - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)
    torch.testing.assert_close(x[0, :, :16], expected[:, None, None].expand(3, 16, 32))
    assert (x[:, :, 16:] == 0).all()


def test_one_channel_becomes_three():
    grey = torch.rand(2, 1, 20, 20)
    x, _ = prepare(grey, [[20, 20]] * 2)
    same, _ = prepare(grey.expand(-1, 3, -1, -1), [[20, 20]] * 2)
    torch.testing.assert_close(x, same)


def test_pictures_of_a_padded_batch_are_laid_out_by_their_own_size():
    image = torch.rand(2, 3, 40, 30)
    x, grids = prepare(image, [[40, 30], [20, 24]], "pad_or_stretch", "nearest")
    alone, (grid,) = prepare(image[1:, :, :20, :24], [[20, 24]], "pad_or_stretch", "nearest")
    assert grids[1] == grid and grid.offset == (6, 4)
    torch.testing.assert_close(x[1:], alone)


@pytest.mark.parametrize("channels", range(1, 9))
def test_sam_sees_every_channel_in_order(channels):
    image = torch.arange(1.0, channels + 1).view(1, channels, 1, 1).expand(2, -1, 4, 4)
    three = three_channels(image).expand(-1, 3, -1, -1)[0, :, 0, 0]
    assert three.tolist() == sorted(three) and three[0] + three[2] == pytest.approx(channels + 1)
    for left_out in range(channels):
        changed = image.clone()
        changed[:, left_out] += 10
        assert (three_channels(changed).expand(-1, 3, -1, -1)[0, :, 0, 0] != three).any()


def test_three_channels_stay_and_of_four_the_neighbours_are_averaged():
    rgb = torch.rand(2, 3, 4, 4)
    assert three_channels(rgb) is rgb
    a, b, c, d = (t := torch.rand(2, 4, 4, 4)).unbind(1)
    torch.testing.assert_close(three_channels(t), torch.stack([(a + b) / 2, (b + c) / 2, (c + d) / 2], 1))
