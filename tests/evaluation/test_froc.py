import numpy as np
import pytest
from sklearn.metrics import roc_curve

from detpretrain.evaluation import froc


@pytest.mark.parametrize("seed", range(200))
def test_equals_the_rescaled_roc_curve(seed):
    """nnDetection and LUNA16 rescale scikit-learn's ROC curve; bit-equal rates decide at the vertical parts."""
    rng = np.random.default_rng(seed)
    count, images = int(rng.integers(2, 400)), int(rng.integers(1, 65))
    hit = rng.random(count) < rng.uniform(0.05, 0.9)
    hit[:2] = True, False
    scores = np.round(rng.random(count), int(rng.integers(1, 6)))
    objects = int(hit.sum() + rng.integers(0, 20))
    fpr, tpr, _ = roc_curve(hit, scores)
    expected = np.interp(froc.FPPI, fpr * (~hit).sum() / images, tpr * hit.sum() / objects)
    np.testing.assert_allclose(froc.sensitivity_at(scores, hit, images, objects), expected, atol=1e-12)


def test_worked_by_hand():
    # 2 images, 4 objects. hit .9 | miss .8 (0.5 per image) | hit .7 and miss .7 together (1.0 per image)
    scores, hit = np.array([0.9, 0.8, 0.7, 0.7]), np.array([True, False, True, False])
    fppi, sensitivity = froc.curve(scores, hit, images=2, objects=4)
    assert fppi.tolist() == [0, 0, 0.5, 1.0]
    assert sensitivity.tolist() == [0, 0.25, 0.25, 0.5]
    assert froc.sensitivity_at(scores, hit, 2, 4).tolist() == [0.25, 0.25, 0.25, 0.5, 0.5, 0.5, 0.5]
    # Between 0.5 and 1 false positives per image the curve is linear.
    assert froc.sensitivity_at(scores, hit, 3, 4)[2] == pytest.approx(0.25 + 0.25 * (0.5 - 1 / 3) / (1 / 3))


def test_no_detection_no_hit_no_false_positive():
    assert froc.sensitivity_at(np.empty(0), np.empty(0, bool), 3, 4).tolist() == [0] * 7
    assert froc.sensitivity_at(np.array([0.5, 0.4]), np.array([False, False]), 3, 4).tolist() == [0] * 7
    assert froc.sensitivity_at(np.array([0.5, 0.4]), np.array([True, True]), 3, 4).tolist() == [0.5] * 7


def test_the_order_of_equal_scores_does_not_matter():
    rng = np.random.default_rng(0)
    scores, hit = rng.integers(0, 5, 100) / 5, rng.random(100) < 0.4
    shuffled = rng.permutation(100)
    np.testing.assert_array_equal(
        froc.sensitivity_at(scores, hit, 20, 60), froc.sensitivity_at(scores[shuffled], hit[shuffled], 20, 60)
    )
