import numpy as np
import pytest

from detpretrain.evaluation.average_precision import average_precision


def brute_force(scores, hit, miss, objects):
    ranked = sorted(range(len(scores)), key=lambda i: -scores[i])
    points, tp, fp = [], 0, 0
    for i in ranked:
        tp, fp = tp + int(hit[i]), fp + int(miss[i])
        points.append((tp / objects, tp / (tp + fp) if tp else 0.0))
    recalls = np.linspace(0, 1, 101)
    return np.mean([max((precision for recall, precision in points if recall >= at), default=0.0) for at in recalls])


@pytest.mark.parametrize("seed", range(20))
def test_equals_brute_force(seed):
    rng = np.random.default_rng(seed)
    count, objects = int(rng.integers(0, 60)), int(rng.integers(1, 30))
    scores = rng.integers(0, 15, count) / 15
    hit, miss = np.zeros((2, 3, count), dtype=bool)
    for row in range(3):
        found = rng.permutation(count)[: rng.integers(0, min(count, objects) + 1)]
        hit[row, found] = True
        miss[row] = ~hit[row] & (rng.random(count) < 0.9)
    expected = [brute_force(scores, hit[row], miss[row], objects) for row in range(3)]
    np.testing.assert_allclose(average_precision(scores, hit, miss, objects), expected, atol=1e-12)


def test_worked_by_hand():
    # hit, miss, hit of 4 objects: precision 1 up to recall 0.25 (26 points), 2/3 up to 0.5 (25 points), then nothing.
    hit = np.array([[True, False, True]])
    value = average_precision(np.array([0.9, 0.8, 0.7]), hit, ~hit, 4)
    np.testing.assert_allclose(value, [(26 + 25 * 2 / 3) / 101])


def test_without_detections_it_is_zero():
    assert average_precision(np.empty(0), np.empty((2, 0), bool), np.empty((2, 0), bool), 3).tolist() == [0, 0]
