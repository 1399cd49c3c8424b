import numpy as np
import pytest

from detpretrain import boxes
from detpretrain.evaluation.cases import Case
from detpretrain.evaluation.matching import IOU_THRESHOLDS, match_case, match_greedily


def naive(iou, ignored, threshold):
    """COCO's rule, one detection and one object at a time."""
    taken, found = set(), []
    for row in iou:
        choices = [j for j in range(len(ignored)) if j not in taken and row[j] >= min(threshold, 1 - 1e-10)]
        choices = [j for j in choices if not ignored[j]] or choices
        best = max(choices, key=lambda j: (row[j], j), default=-1)
        taken.add(best)
        found.append(best)
    return found


@pytest.mark.parametrize("seed", range(30))
def test_equals_the_naive_loop_at_every_threshold(seed):
    rng = np.random.default_rng(seed)
    # A coarse grid of values makes ties and values exactly at a threshold.
    iou = rng.choice([0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0], (rng.integers(0, 12), rng.integers(0, 8)))
    ignored = rng.random(iou.shape[1]) < 0.3
    found = match_greedily(iou, ignored, IOU_THRESHOLDS)
    assert found.tolist() == [naive(iou, ignored, threshold) for threshold in IOU_THRESHOLDS]


def test_an_object_is_found_once_and_an_ignored_one_absorbs_once():
    iou = np.array([[0.6, 0.9], [0.5, 0.8], [0.4, 0.7]])
    assert match_greedily(iou, np.array([False, True]), np.array([0.1])).tolist() == [[0, 1, -1]]


def test_a_perfect_box_passes_a_threshold_of_one():
    assert match_greedily(np.array([[1 - 1e-12]]), np.array([False]), np.array([1.0])).tolist() == [[0]]


def test_classes_are_matched_apart_and_cut_to_the_best_detections():
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 20, (230, 3))
    placed = np.hstack([low, low + 4])
    labels, scores = rng.integers(0, 2, 230), rng.random(230)
    case = Case("a", placed[:5], np.array([0, 1, 0, 1, 1]), np.zeros(5, bool), placed, labels, scores)
    matched = match_case(case)
    for label in (0, 1):
        own = np.flatnonzero(labels == label)
        best = own[np.argsort(-scores[own], kind="stable")][:100]
        assert matched.source[matched.labels == label].tolist() == best.tolist()
    hits = np.argwhere(matched.truth >= 0)
    assert len(hits)
    for row, column in hits:
        truth, source = matched.truth[row, column], matched.source[column]
        assert case.gt_labels[truth] == matched.labels[column]
        assert matched.iou[row, column] == boxes.iou(placed[[source]], placed[[truth]])[0, 0] >= IOU_THRESHOLDS[row]


def test_empty_sides():
    nothing, one = np.empty((0, 6)), np.array([[0, 0, 0, 1, 1, 1.0]])
    none = match_case(Case("a", one, np.array([0]), np.array([True]), nothing, np.empty(0), np.empty(0)))
    assert none.truth.shape == none.iou.shape == (9, 0)
    assert none.object_ignored.tolist() == [True]
    alone = match_case(Case("a", nothing, np.empty(0), np.empty(0), one, np.array([2]), np.array([0.5])))
    assert alone.false_positive.all()
    assert not alone.true_positive.any()
