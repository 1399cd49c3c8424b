import pytest

from detpretrain.preprocessing.architecture_planning import (
    derived_levels,
    fit_to_memory,
    pool_late,
    total_stride,
    with_padding,
)

THREE = [3, 3, 3]


def test_isotropic_128_gives_the_six_stages_of_resenc_l():
    strides, kernels = pool_late([1.0, 1.0, 1.0], [128, 128, 128], 4)
    assert strides == [[1, 1, 1]] + [[2, 2, 2]] * 5
    assert kernels == [THREE] * 6
    assert derived_levels(6) == [2, 3, 4, 5]


def test_anisotropic_case_by_hand():
    # spacing 5, 1, 1 -> 5, 2, 2 -> 5, 4, 4 (5/4 < 2: z joins) -> 10, 8, 8; z: 16 -> 8 -> 4; in-plane 160 -> .. -> 5
    strides, kernels = pool_late([5.0, 1.0, 1.0], [16, 160, 160], 4)
    assert strides == [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]]
    assert kernels == [[1, 3, 3], [1, 3, 3], THREE, THREE, THREE, THREE]
    assert total_stride(strides) == [4, 32, 32]


def test_an_odd_map_is_halved_upwards():
    # 18 -> 9 -> 5 and stop, since 5 < 8
    assert pool_late([1, 1, 1], [18, 18, 18], 4)[0] == [[1, 1, 1], [2, 2, 2], [2, 2, 2]]


def test_too_small_to_pool():
    assert pool_late([1, 1, 1], [7, 7, 7], 4) == ([[1, 1, 1]], [THREE])


@pytest.mark.parametrize(("stages", "levels"), [(7, [2, 3, 4, 5, 6]), (5, [1, 2, 3, 4]), (3, [1, 2]), (1, [0])])
def test_detection_levels(stages, levels):
    assert derived_levels(stages) == levels


def derived(patch):
    return with_padding(patch, *pool_late([1, 1, 1], patch, 4), None)


def test_the_patch_shrinks_until_it_fits():
    architecture, voxels = fit_to_memory(
        [128] * 3, [200, 150, 150], derived, lambda a: a.patch[0] * a.patch[1] * a.patch[2], 1_000_000, 4
    )
    assert voxels == architecture.patch[0] * architecture.patch[1] * architecture.patch[2] <= 1_000_000
    assert voxels > 500_000  # not far below what is allowed
    assert all(n % t == 0 for n, t in zip(architecture.patch, total_stride(architecture.strides), strict=True))
    assert architecture.patch[0] > architecture.patch[2]  # the axes with a smaller median give way first


def test_a_fixed_architecture_keeps_its_strides():
    strides = [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
    architecture, _ = fit_to_memory(
        [31, 32, 33],
        [32] * 3,
        lambda patch: with_padding(patch, strides, [THREE] * 3, [1, 2]),
        lambda a: a.patch[0],
        20,
        None,
    )
    assert architecture.strides == strides
    assert architecture.patch[0] == 20


def test_nothing_fits():
    with pytest.raises(ValueError, match="patch"):
        fit_to_memory([32] * 3, [32] * 3, derived, lambda a: 100, 99, 4)
