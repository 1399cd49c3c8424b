import numpy as np
import pytest

from detpretrain import boxes as box_ops
from detpretrain.evaluation.ensemble import Candidates, PostProcessing, merge, within_models

SHAPE = (40, 40, 40)


def candidates(entries):
    """entries: (box, score, label, weight, model)."""
    boxes, scores, labels, weights, model = zip(*entries, strict=True) if entries else [[]] * 5
    return Candidates(
        np.array(boxes, dtype=np.float32).reshape(-1, 6),
        np.array(scores, dtype=np.float32),
        np.array(labels, dtype=np.int64),
        np.array(weights, dtype=np.float32),
        np.array(model, dtype=np.int64),
    )


def cube(at, size=4.0):
    return [at, at, at, at + size, at + size, at + size]


def random_candidates(rng, count, models=4, classes=2):
    low = rng.uniform(-3, 36, (count, 3))
    boxes = np.hstack([low, low + rng.uniform(0, 9, (count, 3))]).astype(np.float32)
    return Candidates(
        boxes,
        rng.random(count, dtype=np.float32),
        rng.integers(0, classes, count),
        rng.uniform(0.5, 1, count).astype(np.float32),
        rng.integers(0, models, count),
    )


def reference_within(case, post):
    """One model after another, each step as the description says."""
    parts = []
    for model in np.unique(case.model):
        own = case.select(np.flatnonzero(case.model == model))
        own = own.select(np.argsort(-own.scores, kind="stable")[: post.topk])
        own = own.select(own.scores > post.score_threshold)
        clipped = box_ops.clip(own.boxes, SHAPE)
        large = ((clipped[:, 3:] - clipped[:, :3]) >= post.min_size).all(axis=1)
        own, clipped = own.select(large), clipped[large]
        weighted = post.model_nms == "weighted"
        rank = own.scores.astype(float) * (own.weights.astype(float) if weighted else 1)
        kept = []
        for label in np.unique(own.labels):
            mine = np.flatnonzero(own.labels == label)
            kept += mine[box_ops.nms(clipped[mine], rank[mine], np.zeros(len(mine)), post.model_iou)].tolist()
        kept = sorted(kept, key=lambda i: -rank[i])[: post.per_model]
        weights = np.ones(len(kept)) if weighted else own.weights[kept]
        parts.append((clipped[kept], own.scores[kept], own.labels[kept], weights, own.model[kept]))
    return Candidates(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@pytest.mark.parametrize("model_nms", ["weighted", "plain"])
@pytest.mark.parametrize("seed", range(5))
def test_each_model_by_itself(seed, model_nms):
    case = random_candidates(np.random.default_rng(seed), 300)
    post = PostProcessing(model_iou=0.2, model_nms=model_nms, score_threshold=0.1, min_size=1.5, topk=50, per_model=20)
    found, expected = within_models(case, SHAPE, post), reference_within(case, post)
    for name in ("boxes", "scores", "labels", "weights", "model"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("seed", range(3))
def test_merge_clusters_what_the_models_leave(seed):
    case = random_candidates(np.random.default_rng(seed), 200)
    post = PostProcessing(model_nms="plain", ensemble_iou=0.3, ensemble_topk=60)
    left = reference_within(case, post)
    best = np.argsort(-left.scores, kind="stable")[:60]
    expected = box_ops.weighted_box_clustering(
        left.boxes[best], left.scores[best], left.labels[best], left.weights[best], 0.3, 4
    )
    for found, wanted in zip(merge(case, 4, SHAPE, post), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_models_that_miss_an_object_lower_its_score():
    entries = [(cube(5), 0.8, 0, 1.0, model) for model in range(2)]
    boxes, scores, labels = merge(candidates(entries), 8, SHAPE, PostProcessing())
    np.testing.assert_allclose(scores, [0.8 * 2 / 8], rtol=1e-6)
    np.testing.assert_allclose(boxes, [cube(5)])
    assert labels.tolist() == [0]


def test_weighted_nms_prefers_the_centre_of_a_tile_and_forgets_the_weight():
    entries = [(cube(5), 0.9, 0, 0.5, 0), (cube(5.2), 0.8, 0, 1.0, 0)]
    _, weighted, _ = merge(candidates(entries), 1, SHAPE, PostProcessing(model_nms="weighted"))
    _, plain, _ = merge(candidates(entries), 1, SHAPE, PostProcessing(model_nms="plain"))
    np.testing.assert_allclose([weighted, plain], [[0.8], [0.9]], rtol=1e-6)
    kept = within_models(candidates(entries), SHAPE, PostProcessing(model_nms="plain"))
    assert kept.weights.tolist() == [0.5]


def test_small_and_outside_boxes_go():
    entries = [(cube(5), 0.5, 0, 1, 0), (cube(39), 0.9, 0, 1, 0), (cube(50), 0.9, 0, 1, 0), (cube(20, 2), 0.9, 0, 1, 0)]
    boxes, _, _ = merge(candidates(entries), 1, SHAPE, PostProcessing(min_size=3.0))
    np.testing.assert_allclose(boxes, [cube(5)])


def test_a_score_at_the_threshold_goes_and_a_size_at_the_minimum_stays():
    entries = [(cube(5, 3), 0.5, 0, 1, 0), (cube(20, 3), 0.75, 0, 1, 0)]
    boxes, _, _ = merge(candidates(entries), 1, SHAPE, PostProcessing(score_threshold=0.5, min_size=3.0))
    np.testing.assert_allclose(boxes, [cube(20, 3)])


def test_no_candidates():
    boxes, scores, labels = merge(candidates([]), 8, SHAPE, PostProcessing())
    assert boxes.shape == (0, 6)
    assert scores.shape == labels.shape == (0,)


def test_an_unknown_nms_is_refused():
    with pytest.raises(ValueError, match="soft"):
        PostProcessing(model_nms="soft")
