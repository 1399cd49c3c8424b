import pytest

from detpretrain.preprocessing.patch_planning import initial_patch, is_flat, padded, smaller_patch


def test_initial_patch_is_square_in_plane():
    assert initial_patch([3.0, 1.0, 1.0], [60, 300, 260]) == [60, 260, 260]


def test_initial_patch_is_at_most_512_voxels_along_the_coarsest_axis():
    assert initial_patch([2.0, 1.0, 1.0], [900, 2000, 1800]) == [512, 1024, 1024]


def test_padded():
    assert padded([65, 64, 1], [32, 32, 2]) == [96, 64, 2]


def test_the_axis_that_is_large_for_its_median_gives_way():
    assert smaller_patch([64, 128, 128], [64, 256, 300], [8, 32, 32], 4) == [56, 128, 128]
    assert smaller_patch([64, 128, 128], [256, 256, 300], [8, 32, 32], 4) == [64, 112, 128]  # 128 / 32 = 4: half a step


def test_an_axis_ends_at_the_smallest_map():
    assert smaller_patch([4, 16, 16], [4, 64, 64], [1, 4, 4], 4) == [4, 14, 16]
    assert smaller_patch([4, 4, 4], [4, 4, 4], [1, 1, 1], 4) is None


def test_a_fixed_architecture_takes_whole_strides():
    assert smaller_patch([32, 64, 64], [100, 100, 100], [16, 16, 16], None) == [32, 48, 64]
    assert smaller_patch([16, 16, 16], [100, 100, 100], [16, 16, 16], None) is None


@pytest.mark.parametrize(("patch", "flat"), [([16, 49, 32], True), ([16, 48, 48], False)])
def test_flat_is_over_three_to_one(patch, flat):
    assert is_flat(patch) is flat
