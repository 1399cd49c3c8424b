import dataclasses

import numpy as np
import pytest
import torch

from detpretrain.errors import InputError
from detpretrain.loading import intensity
from detpretrain.loading.augmentation import none
from detpretrain.pretraining import voco_crops
from detpretrain.pretraining.voco_crops import CropDraws

SHAPES = [((64, 192, 192), 64), ((32, 32, 32), 16), ((24, 24, 24), 12), ((8, 12, 4), 4)]


@pytest.mark.parametrize(
    ("patch", "side", "count"),
    [
        ((64, 192, 192), 64, 9),  # nnssl's 192 x 192 x 64
        ((192, 192, 64), 64, 9),
        ((192, 64, 192), 64, 9),
        ((256, 256, 64), 64, 16),
        ((192, 192, 192), 96, 8),
        ((48, 48, 48), 24, 8),
        ((32, 32, 32), 16, 8),
        ((8, 8, 16), 4, 16),  # 2 crops of 8 are too few
    ],
)
def test_the_crop_is_the_shortest_side_halved_until_four_fit(patch, side, count):
    assert voco_crops.crop_side(patch, None) == side
    assert len(voco_crops.base_starts(patch, side)) == count


@pytest.mark.parametrize(("patch", "crop"), SHAPES)
def test_base_crops_cover_every_voxel_of_the_patch_once(patch, crop):
    times = np.zeros(patch, dtype=int)
    for z, y, x in voco_crops.base_starts(patch, crop):
        times[z : z + crop, y : y + crop, x : x + crop] += 1
    assert (times == 1).all()


def test_a_given_crop_wins_over_the_derived_one():
    assert voco_crops.crop_side((64, 192, 192), 32) == 32


@pytest.mark.parametrize(
    ("patch", "crop", "message"),
    [
        ((64, 192, 192), 48, r"crops of 48 do not tile the patch \(64, 192, 192\): set crop"),
        ((64, 160, 160), None, "crops of 64 do not tile"),
        ((32, 32, 32), 64, "do not tile"),
        ((32, 32, 32), 32, "is a single crop of 32: set crop to a smaller side"),
        ((1, 1, 1), None, "single crop"),
    ],
)
def test_crops_that_do_not_tile_the_patch_are_input_errors(patch, crop, message):
    with pytest.raises(InputError, match=message):
        voco_crops.crop_side(patch, crop)


@pytest.mark.parametrize(("patch", "crop"), SHAPES)
def test_overlaps_equal_a_count_of_shared_voxels(patch, crop):
    bases = voco_crops.base_starts(patch, crop)
    targets = voco_crops.target_starts(np.random.default_rng(1), patch, crop, 5)
    owner = np.zeros(patch, dtype=int)  # which base crop a voxel belongs to
    for number, (z, y, x) in enumerate(bases):
        owner[z : z + crop, y : y + crop, x : x + crop] = number
    found = voco_crops.overlaps(targets, bases, crop)
    for row, (z, y, x) in zip(found, targets, strict=True):
        inside = owner[z : z + crop, y : y + crop, x : x + crop]
        np.testing.assert_array_equal(row, np.bincount(inside.ravel(), minlength=len(bases)) / crop**3)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


def test_overlaps_by_hand():
    bases = voco_crops.base_starts((4, 8, 8), 4)
    found = voco_crops.overlaps(np.array([[0, 1, 0], [0, 2, 2], [0, 4, 4]]), bases, 4)
    np.testing.assert_array_equal(found, [[0.75, 0, 0.25, 0], [0.25, 0.25, 0.25, 0.25], [0, 0, 0, 1]])


def test_targets_are_at_every_position_inside_the_patch_equally_often():
    starts = voco_crops.target_starts(np.random.default_rng(0), (4, 5, 8), 4, 5000)
    for axis, positions in enumerate((1, 2, 5)):
        count = np.bincount(starts[:, axis])
        assert len(count) == positions
        assert np.abs(count / 5000 - 1 / positions).max() < 4 * np.sqrt(0.25 / 5000)


def test_crops_are_what_stands_at_their_starts():
    images = torch.arange(2 * 6 * 7 * 8).view(2, 1, 6, 7, 8).float()
    starts = torch.tensor([[[0, 0, 0], [2, 3, 4], [1, 0, 3]], [[2, 1, 0], [0, 3, 4], [0, 0, 0]]])
    crops = voco_crops.cut(images, starts, 4)
    assert crops.shape == (2, 3, 4, 4, 4)
    for sample in range(2):
        for crop, (z, y, x) in zip(crops[sample], starts[sample].tolist(), strict=True):
            assert torch.equal(crop, images[sample, 0, z : z + 4, y : y + 4, x : x + 4])


def cubes(count, side=6, seed=0):
    return torch.randn(count, side, side, side, generator=torch.Generator().manual_seed(seed))


def test_crops_are_mirrored_then_turned_in_plane_each_on_its_own():
    mirrors = [(z, y, x) for z in (False, True) for y in (False, True) for x in (False, True)]
    plain = none().draw(np.random.default_rng(0), 1)
    draws = [CropDraws(dataclasses.replace(plain, mirror=m), turns) for m in mirrors for turns in range(4)]
    crops = cubes(len(draws))
    before = crops.clone()
    found = voco_crops.augment(crops, draws)
    assert torch.equal(crops, before)
    for crop, result, draw in zip(crops.numpy(), found.numpy(), draws, strict=True):
        expected = np.flip(crop, [axis for axis in range(3) if draw.draws.mirror[axis]])
        np.testing.assert_array_equal(result, np.rot90(expected, draw.turns, axes=(1, 2)))


def test_intensities_come_before_the_turns_and_of_each_crop_its_own():
    draws = voco_crops.draw_crops(np.random.default_rng(4), voco_crops.CROP_AUGMENTATION, 30)
    crops = cubes(30)
    found = voco_crops.augment(crops, draws)
    still = [CropDraws(draw.draws, 0) for draw in draws]
    for index, draw in enumerate(draws):
        changed = intensity.apply(crops[index][None, None], [draw.draws])[0, 0]
        changed = changed.flip([axis for axis in range(3) if draw.draws.mirror[axis]])
        expected = torch.rot90(changed, draw.turns, (1, 2))
        torch.testing.assert_close(found[index], expected, rtol=1e-4, atol=1e-4)
    assert any(draw.turns for draw in draws)
    assert not torch.equal(found, voco_crops.augment(crops, still))


def test_draws_have_the_probabilities_of_the_original():
    count = 4000
    drawn = voco_crops.draw_crops(np.random.default_rng(0), voco_crops.CROP_AUGMENTATION, count)

    def near(probability):
        return pytest.approx(probability, abs=4 * np.sqrt(probability * (1 - probability) / count))

    turns = np.bincount([crop.turns for crop in drawn]) / count
    assert turns.tolist() == [near(0.7), near(0.1), near(0.1), near(0.1)]
    assert all(crop.draws.matrix is None for crop in drawn)
    for name, neutral, probability in (
        ("noise", 0, 0.1),
        ("blur", 0, 0.2 * 0.5),  # half of the channels of a drawn crop, of which there is one
        ("brightness", 1, 0.15),
        ("contrast", 1, 0.15),
        ("low_resolution", 1, 0.1 * 0.5),
        ("inverted_gamma", 1, 0.1),
        ("gamma", 1, 0.3),
    ):
        assert np.mean([np.any(getattr(crop.draws, name) != neutral) for crop in drawn]) == near(probability), name
    assert np.mean([crop.draws.mirror for crop in drawn], axis=0).tolist() == [near(0.5)] * 3
