import time

import numpy as np
import pytest

from detpretrain import boxes


def random_boxes(rng, count, extent=40.0, largest=12.0):
    low = rng.uniform(0, extent, (count, 3))
    return np.hstack([low, low + rng.uniform(0.5, largest, (count, 3))])


def voxels(box, extent=12):
    grid = np.zeros((extent,) * 3, dtype=bool)
    z1, y1, x1, z2, y2, x2 = box
    grid[z1:z2, y1:y2, x1:x2] = True
    return grid


def naive_nms(candidates, scores, labels, threshold):
    kept = []
    remaining = sorted(range(len(scores)), key=lambda i: -scores[i])
    overlap = boxes.iou(candidates, candidates)
    while remaining:
        best, *rest = remaining
        kept.append(best)
        remaining = [i for i in rest if labels[i] != labels[best] or overlap[best, i] <= threshold]
    return kept


def naive_clustering(candidates, scores, labels, weights, threshold, n_models):
    merged = []
    for label in sorted(set(labels)):
        pool = sorted((i for i in range(len(scores)) if labels[i] == label), key=lambda i: -scores[i])
        while pool:
            to_best = {i: boxes.iou(candidates[pool[:1]], candidates[[i]])[0, 0] for i in pool}
            members = [i for i in pool if to_best[i] > threshold]
            w = np.array([to_best[i] * weights[i] for i in members])
            s = scores[members]
            score = (w * s).sum() / (w.sum() + max(0, n_models - len(members)) * w.mean())
            box = ((w * s)[:, None] * candidates[members]).sum(axis=0) / (w * s).sum()
            merged.append((score, label, box))
            pool = [i for i in pool if i not in members]
    return sorted(merged, key=lambda entry: -entry[0])


def test_instance_boxes_have_a_margin_of_one_and_span_all_parts():
    instances = np.zeros((8, 9, 10), dtype=np.int32)
    instances[0, 2:4, 5] = 3
    instances[6, 8, 9] = 3
    instances[4, 4, 4] = 7
    instances[7, 0, 0] = -1
    ids, found = boxes.from_instances(instances)
    assert ids.tolist() == [3, 7]
    assert ids.dtype == np.int64
    assert found.dtype == np.float32
    assert found.tolist() == [[-1, 1, 4, 7, 9, 10], [3, 3, 3, 5, 5, 5]]


def test_a_map_without_instances_has_no_boxes():
    ids, found = boxes.from_instances(np.zeros((3, 3, 3), dtype=np.uint8))
    assert ids.shape == (0,)
    assert found.shape == (0, 6)


def test_instance_maps_are_integers():
    with pytest.raises(TypeError, match="float32"):
        boxes.from_instances(np.zeros((3, 3, 3), dtype=np.float32))


def test_iou_counts_voxels():
    rng = np.random.default_rng(0)
    low = rng.integers(0, 9, (20, 3))
    some = np.hstack([low, np.minimum(low + rng.integers(1, 7, (20, 3)), 12)])
    expected = [[(voxels(a) & voxels(b)).sum() / (voxels(a) | voxels(b)).sum() for b in some] for a in some]
    np.testing.assert_allclose(boxes.iou(some, some), expected, atol=1e-15)
    assert boxes.volume(some).tolist() == [voxels(box).sum() for box in some]


def test_touching_and_empty_boxes_do_not_overlap():
    cube, beside, empty = [0, 0, 0, 2, 2, 2], [2, 0, 0, 4, 2, 2], [1, 1, 1, 1, 1, 1]
    assert boxes.iou([cube, empty], [cube, beside, empty]).tolist() == [[1, 0, 0], [0, 0, 0]]
    assert boxes.iou(np.empty((0, 6)), [cube]).shape == (0, 1)


def test_clip():
    assert boxes.clip([[-1, 2, 3, 9, 4, 12]], (8, 9, 10)).tolist() == [[0, 2, 3, 8, 4, 10]]
    assert boxes.volume(boxes.clip([[20, 0, 0, 25, 5, 5]], (8, 9, 10))).tolist() == [0]


@pytest.mark.parametrize("threshold", [0.0, 1e-5, 0.1, 0.5])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 50, 300])
def test_nms_equals_the_naive_loop(count, classes, threshold):
    rng = np.random.default_rng(count + classes)
    candidates, labels = random_boxes(rng, count), rng.integers(0, classes, count)
    scores = rng.integers(0, 20, count) / 20
    assert boxes.nms(candidates, scores, labels, threshold).tolist() == naive_nms(candidates, scores, labels, threshold)


def test_nms_in_small_blocks_gives_the_same(monkeypatch):
    rng = np.random.default_rng(5)
    candidates, scores, labels = random_boxes(rng, 200), rng.random(200), rng.integers(0, 2, 200)
    whole = boxes.nms(candidates, scores, labels, 0.1)
    monkeypatch.setattr(boxes, "_CANDIDATES_PER_BLOCK", 37)
    np.testing.assert_array_equal(boxes.nms(candidates, scores, labels, 0.1), whole)


def test_weighted_nms_orders_by_score_times_weight():
    near = [[0, 0, 0, 4, 4, 4], [0, 0, 0, 4, 4, 5]]
    assert boxes.nms(near, [0.9, 0.8], [0, 0], 0.1).tolist() == [0]
    assert boxes.nms(near, [0.9, 0.8], [0, 0], 0.1, weights=[0.5, 1.0]).tolist() == [1]


def test_nms_keeps_a_box_whose_overlap_is_exactly_the_threshold():
    assert boxes.nms([[0, 0, 0, 2, 2, 2], [0, 0, 0, 2, 2, 1]], [0.9, 0.8], [0, 0], 0.5).tolist() == [0, 1]


def test_nms_of_a_thousand_boxes_is_fast():
    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 128, (25, 3))[rng.integers(0, 25, 1000)] + rng.normal(0, 2, (1000, 3))
    half = rng.uniform(2, 8, (1000, 3))
    candidates, scores = np.hstack([centres - half, centres + half]), rng.random(1000)

    def seconds():
        start = time.perf_counter()
        boxes.nms(candidates, scores, np.zeros(1000, dtype=int), 0.1)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.1  # about 5 ms on an idle core


def test_clustering_worked_by_hand():
    # IoU of the second with the first is 0.5; the third is alone.
    candidates = [[0, 0, 0, 2, 2, 2], [0, 0, 0, 2, 2, 1], [9, 9, 9, 10, 10, 10]]
    found, scores, labels = boxes.weighted_box_clustering(
        candidates, [0.8, 0.4, 0.6], [1, 1, 1], [1.0, 0.5, 1.0], 0.2, 3
    )
    # w = 1, 0.25; sum(w s) = 0.9; sum(w) = 1.25, one of three models is missing: + 0.625.
    # alone: 0.6 / (1 + 2 * 1)
    np.testing.assert_allclose(scores, [0.9 / 1.875, 0.2])
    np.testing.assert_allclose(found, [[0, 0, 0, 2, 2, (0.8 * 2 + 0.1 * 1) / 0.9], [9, 9, 9, 10, 10, 10]])
    assert labels.tolist() == [1, 1]


def test_more_boxes_than_models_in_a_cluster_are_not_punished():
    same = np.tile([0, 0, 0, 2, 2, 2], (4, 1))
    _, scores, _ = boxes.weighted_box_clustering(same, [0.5] * 4, [0] * 4, [1.0] * 4, 0.5, 2)
    np.testing.assert_allclose(scores, [0.5])


@pytest.mark.parametrize("threshold", [1e-5, 0.1, 0.5])
@pytest.mark.parametrize("count", [1, 40, 200])
def test_clustering_equals_the_naive_loop(count, threshold):
    rng = np.random.default_rng(count)
    candidates, scores = random_boxes(rng, count), rng.uniform(0.01, 1, count)
    labels, weights = rng.integers(0, 2, count), rng.uniform(0.5, 1, count)
    expected = naive_clustering(candidates, scores, labels, weights, threshold, 8)
    found, merged, classes = boxes.weighted_box_clustering(candidates, scores, labels, weights, threshold, 8)
    np.testing.assert_allclose(merged, [entry[0] for entry in expected], rtol=1e-12)
    np.testing.assert_allclose(found, [entry[2] for entry in expected], rtol=1e-12)
    assert classes.tolist() == [entry[1] for entry in expected]


def test_clustering_drops_boxes_without_volume_and_takes_none():
    found, scores, _ = boxes.weighted_box_clustering([[1, 1, 1, 1, 2, 2]], [0.9], [0], [1.0], 0.5, 1)
    assert len(scores) == 0
    found, scores, labels = boxes.weighted_box_clustering(np.empty((0, 6)), [], [], [], 0.5, 1)
    assert found.shape == (0, 6)
    assert scores.shape == labels.shape == (0,)
