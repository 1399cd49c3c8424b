import numpy as np
import pytest

from detpretrain.preprocessing.spacing_planning import axis_order, median_shape, target_spacing


def test_isotropic_data_take_the_median():
    spacings = np.array([[1.0, 0.8, 0.8], [2.0, 0.9, 0.7], [3.0, 1.0, 0.75]])
    spacing, reason = target_spacing(spacings, np.full((3, 3), 100))
    np.testing.assert_allclose(spacing, [2.0, 0.9, 0.75])
    assert reason == "median of 3 cases per axis"


def test_anisotropic_data_take_the_10th_percentile_of_the_coarse_axis():
    # 11 cases: the 10th percentile of 1..11 is 2, the median 6: 6 > 3 x 0.5, and 30 slices x 3 < 400
    spacings = np.array([[z, 0.5, 0.6] for z in range(1, 12)], dtype=float)
    spacing, reason = target_spacing(spacings, np.tile([30, 512, 400], (11, 1)))
    np.testing.assert_allclose(spacing, [2.0, 0.5, 0.6])
    assert "axis z is anisotropic" in reason
    assert "10th percentile 2 mm" in reason


def test_the_coarse_axis_stays_the_coarsest():
    spacings = np.array([[0.3, 0.5, 0.6]] * 2 + [[6, 0.5, 0.6]] * 9)  # 10th percentile of z: 0.3, below 0.5
    spacing, _ = target_spacing(spacings, np.tile([30, 512, 512], (11, 1)))
    np.testing.assert_allclose(spacing, [0.5 + 1e-5, 0.5, 0.6], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("z", "slices"), [(1.5, 30), (6.0, 171)])
def test_both_conditions_are_needed(z, slices):
    # 1.5 is not more than 3 x 0.5; 171 slices x 3 = 513 are not fewer than 512
    spacings = np.tile([z, 0.5, 0.5], (4, 1))
    spacings[0, 0] = z / 2
    spacing, _ = target_spacing(spacings, np.tile([slices, 512, 512], (4, 1)))
    assert spacing[0] == z


def test_any_axis_may_be_the_coarse_one():
    spacings = np.array([[0.5, 0.5, x] for x in range(1, 12)], dtype=float)
    spacing, reason = target_spacing(spacings, np.tile([512, 512, 30], (11, 1)))
    np.testing.assert_allclose(spacing, [0.5, 0.5, 2.0])
    assert "axis x" in reason


@pytest.mark.parametrize(
    ("spacing", "order"),
    [([3, 1, 1], [0, 1, 2]), ([1, 3, 2], [1, 0, 2]), ([1, 2, 3], [2, 0, 1]), ([1, 1, 1], [0, 1, 2])],
)
def test_axis_order(spacing, order):
    assert axis_order(spacing) == order


def test_median_shape_is_of_the_resampled_sizes_in_the_plans_order():
    shapes, spacings = (
        np.array([[10, 20, 30], [20, 20, 40], [30, 20, 50]]),
        np.array([[1, 1, 3], [1, 1, 3], [1, 1, 1.5]]),
    )
    # x: 30 * 3/3 = 30, 40, 50 * 0.5 = 25 -> 30
    assert median_shape(shapes, spacings, [2, 1, 3], [2, 0, 1]) == [30, 10, 20]
