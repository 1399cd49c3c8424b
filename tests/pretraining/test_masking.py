import pytest
import torch

from detpretrain.errors import InputError
from detpretrain.pretraining.masking import block_masks, check_ratio, masked_error, masked_mse, visible_blocks

PATCH = (8, 16, 12)


def images_of(batch, seed=0):
    return torch.randn(batch, 1, *PATCH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("shape", "block", "ratio", "hidden"),
    [
        ((160, 160, 160), 16, 0.75, 750),  # the published setting
        ((8, 16, 12), 4, 0.75, 18),
        ((8, 16, 12), 2, 0.6, 115),  # int(0.6 x 192)
        ((4, 4, 8), 4, 0.9, 1),
    ],
)
def test_exactly_the_ratio_of_the_blocks_is_hidden(shape, block, ratio, hidden):
    grid = visible_blocks(shape, block, ratio, seed=3)
    assert grid.shape == tuple(size // block for size in shape)
    assert set(grid.unique().tolist()) == {0.0, 1.0}
    assert int((grid == 0).sum()) == hidden


def test_a_mask_shows_or_hides_whole_blocks_of_voxels():
    grid = visible_blocks(PATCH, 4, 0.75, seed=7)
    (mask,) = block_masks(images_of(1), 4, 0.75, [7])
    assert mask.shape == (1, *PATCH)
    for z, y, x in torch.cartesian_prod(*(torch.arange(size) for size in PATCH)).tolist():
        assert mask[0, z, y, x] == grid[z // 4, y // 4, x // 4]


def test_a_seed_gives_its_mask_whatever_the_state_of_the_generator():
    torch.manual_seed(1)
    first = visible_blocks(PATCH, 4, 0.75, seed=7)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(visible_blocks(PATCH, 4, 0.75, seed=7), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(visible_blocks(PATCH, 4, 0.75, seed=8), first)


def test_every_block_is_hidden_equally_often():
    count = torch.stack([visible_blocks((8, 8, 8), 4, 0.75, seed) == 0 for seed in range(600)]).sum(dim=0)
    assert count.sum() == 600 * 6
    assert (count.float() / 600 - 0.75).abs().max() < 4 * (0.75 * 0.25 / 600) ** 0.5


def test_samples_of_a_batch_have_masks_of_their_own():
    images = images_of(3)
    masks = block_masks(images, 4, 0.75, [5, 6, 5])
    assert masks.shape == images.shape
    assert masks.dtype == images.dtype
    assert torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0], masks[1])
    assert torch.equal(block_masks(images[1:2], 4, 0.75, [6])[0], masks[1])  # whatever the batch


def test_the_error_is_that_of_hidden_voxels_over_the_whole_batch():
    restored, images = images_of(2, seed=1), images_of(2, seed=2)
    visible = block_masks(images, 4, 0.75, [1, 2])
    errors = [(restored[index] - images[index]).item() ** 2 for index in map(tuple, (visible == 0).nonzero().tolist())]
    assert len(errors) == 2 * 18 * 64
    mean = sum(errors) / len(errors)
    assert masked_mse(restored, images, visible).item() == pytest.approx(mean, rel=1e-5)
    # what is said of visible voxels is of no interest
    assert masked_mse(restored + 5 * visible, images, visible).item() == pytest.approx(mean, rel=1e-5)
    error, hidden = masked_error(restored, images, visible)
    assert hidden.item() == len(errors)
    assert error.item() == pytest.approx(sum(errors), rel=1e-5)


def test_the_error_is_summed_in_float32():
    restored = torch.full((1, 1, 8, 8, 8), 1.5, dtype=torch.bfloat16)
    error, hidden = masked_error(restored, torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8))
    assert (error.dtype, hidden.dtype) == (torch.float32, torch.float32)
    assert (error.item(), hidden.item()) == (512 * 2.25, 512)


def test_a_patch_that_blocks_do_not_tile_is_an_input_error():
    with pytest.raises(InputError, match=r"patch \(8, 16, 12\) is not divisible by the block of 8"):
        visible_blocks(PATCH, 8, 0.75, seed=0)


def test_nothing_to_hide_is_an_input_error():
    with pytest.raises(InputError, match="masks nothing"):
        visible_blocks((8, 8, 8), 8, 0.75, seed=0)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 75])
def test_the_ratio_lies_between_0_and_1(ratio):
    with pytest.raises(InputError, match="must lie between 0 and 1"):
        check_ratio(ratio)
