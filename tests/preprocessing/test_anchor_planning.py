import itertools
import time

import numpy as np
import pytest

from detpretrain import boxes as box_ops
from detpretrain.preprocessing.anchor_planning import mean_best_iou, plan_anchors, relative_strides, without_outliers

SCALES = np.array([[1, 1, 1], [2, 2, 2], [4, 4, 4]], dtype=float)


def draw(n, seed=0, spread=0.25):
    rng = np.random.default_rng(seed)
    return np.round(np.exp(rng.normal(2.3, 0.6, n))[:, None] * np.exp(rng.normal(0, spread, (n, 3)))) + 1


def test_objective_equals_box_iou():
    """Against the package's IoU of centred boxes, anchor by anchor."""
    lengths, sizes = draw(20), np.array([[3, 5, 9], [4, 6, 8], [2, 7, 20]])
    scales = np.array([[1, 1, 1], [1, 2, 2]], dtype=float)
    shapes = np.array([np.array(shape) * scale for scale in scales for shape in itertools.product(*sizes)])
    overlap = box_ops.iou(np.hstack([-lengths, lengths]) / 2, np.hstack([-shapes, shapes]) / 2)
    expected = overlap.max(axis=1).mean()
    assert mean_best_iou(sizes, lengths, np.full(20, 1 / 20), scales) == pytest.approx(expected, rel=1e-12)


def test_no_combination_of_a_small_grid_is_better():
    """Brute force over all sizes up to 4 per axis: 20^3 choices."""
    lengths = np.random.default_rng(2).integers(2, 5, (30, 3)).astype(float)
    found = plan_anchors(lengths, SCALES[:1])
    weights = np.full(len(lengths), 1 / len(lengths))
    triples = list(itertools.combinations_with_replacement(range(1, 5), 3))
    best = max(
        mean_best_iou(np.array(sizes), lengths, weights, SCALES[:1]) for sizes in itertools.product(triples, repeat=3)
    )
    assert found.mean_iou == pytest.approx(best, abs=1e-12)


def test_boxes_of_27_shapes_are_met_exactly():
    sizes = [[3, 6, 11], [4, 7, 15], [5, 9, 13]]
    lengths = np.array(list(itertools.product(*sizes)), dtype=float)
    found = plan_anchors(np.repeat(lengths, 40, axis=0), SCALES[:1])
    assert found.sizes == sizes
    assert found.mean_iou == pytest.approx(1.0)


def test_no_random_draw_is_better():
    lengths, rng = draw(60), np.random.default_rng(1)
    found = plan_anchors(lengths, SCALES)
    kept = without_outliers(lengths)
    weights = np.full(len(kept), 1 / len(kept))
    draws = rng.integers(1, int(kept.max()) + 1, (1500, 3, 3))
    assert found.mean_iou > max(mean_best_iou(sizes, kept, weights, SCALES) for sizes in draws)
    assert found.boxes == len(kept)


def test_order_of_the_boxes_does_not_matter():
    lengths = draw(700, spread=0.5) * 1.37
    shuffled = np.random.default_rng(3).permutation(lengths)
    assert plan_anchors(lengths, SCALES).sizes == plan_anchors(shuffled, SCALES).sizes


def test_thousands_of_boxes_take_seconds():
    start = time.perf_counter()
    plan = plan_anchors(draw(4000) * 1.1, SCALES)
    assert time.perf_counter() - start < 10
    assert plan.mean_iou > 0.7


def test_outliers_are_dropped_on_any_axis():
    lengths = np.full((1000, 3), 10.0)
    lengths[0, 1] = 500.0
    lengths[1, 2] = 1.0
    assert len(without_outliers(lengths)) == 998
    assert len(without_outliers(np.array([[1.0, 2, 3], [3, 2, 1]]))) == 2  # all would go: all stay


def test_a_single_box():
    assert plan_anchors(np.array([[4.0, 5.0, 6.0]]), SCALES).mean_iou == pytest.approx(1.0)


def test_relative_strides_per_axis():
    strides = [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2]]
    np.testing.assert_array_equal(relative_strides(strides, [1, 2, 3]), [[1, 1, 1], [1, 2, 2], [2, 4, 4]])
