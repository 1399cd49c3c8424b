from dataclasses import replace

import numpy as np
import pytest

from detpretrain.evaluation import metrics
from detpretrain.evaluation.cases import Case
from detpretrain.evaluation.ensemble import Candidates, PostProcessing, merge
from detpretrain.evaluation.sweep import GRID, SweepCase, Trial, cross_fit, faithful, sweep

SHAPE = (48, 48, 48)


def make_case(rng, name, small_junk=False):
    """Objects seen by most of 4 models, boxes jittered, and junk: random, or confident 1-voxel boxes that all models share."""
    centres, half = rng.uniform(8, 40, (rng.integers(1, 4), 3)), rng.uniform(3, 6)
    parts, junk = [], rng.uniform(0, 48, (20, 3))
    for model in range(4):
        seen = centres[rng.random(len(centres)) < 0.8].repeat(4, axis=0)
        middle = np.vstack([seen + rng.normal(0, 1.5, seen.shape), junk if small_junk else rng.uniform(0, 48, (20, 3))])
        size = np.full((len(middle), 3), half)
        score = np.concatenate([rng.beta(4, 2, len(seen)), rng.beta(2, 4, 20)])
        if small_junk:
            size[len(seen) :], score[len(seen) :] = 0.5, rng.uniform(0.9, 1, 20)
        parts.append((np.hstack([middle - size, middle + size]), score, np.full(len(middle), model)))
    boxes, scores, model = (np.concatenate(column) for column in zip(*parts, strict=True))
    found = Candidates(boxes, scores, np.zeros(len(scores), np.int64), rng.uniform(0.5, 1, len(scores)), model)
    truth = np.hstack([centres - half, centres + half])
    return SweepCase(name, found, 4, SHAPE, truth, np.zeros(len(truth), np.int64), np.zeros(len(truth), bool))


def make_cases(count, seed=0, **options):
    rng = np.random.default_rng(seed)
    return [make_case(rng, f"case-{i}", **options) for i in range(count)]


def objective(cases, post):
    """What the sweep maximises, by the public functions and without any cache."""
    scored = []
    for case in cases:
        boxes, scores, labels = merge(case.candidates, case.n_models, case.shape, post)
        scored.append(Case(case.image_id, case.gt_boxes, case.gt_labels, case.gt_ignore, boxes, labels, scores))
    return metrics.evaluate(scored, 1)["mAP@0.10:0.50"]


def plain_sweep(cases):
    best = PostProcessing()
    for parameter in ("model_iou", "model_nms", "ensemble_iou", "score_threshold", "min_size"):
        tried = [replace(best, **{parameter: value}) for value in GRID[parameter]]
        best = max(tried, key=lambda post: objective(cases, post))
    return best


def test_grid_and_order_are_those_of_nndetection():
    assert list(GRID) == ["model_iou", "model_nms", "ensemble_iou", "score_threshold", "min_size"]
    assert GRID["model_iou"] == GRID["ensemble_iou"] == (1e-5, 0.1, 0.2, 0.3, 0.4, 0.5)
    assert GRID["model_nms"] == ("weighted", "plain")
    assert GRID["score_threshold"] == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    assert GRID["min_size"] == (0.01, 2, 3, 4, 5, 6, 7)


def test_equals_a_sweep_without_cache_and_records_every_trial():
    cases, trials = make_cases(6), []
    best = sweep(cases, 1, trials=trials)
    assert best == plain_sweep(cases)
    assert len(trials) == 28
    assert all(trial == Trial(trial.parameter, trial.post, objective(cases, trial.post)) for trial in trials[::5])
    assert objective(cases, best) == max(trial.mean_average_precision for trial in trials)
    assert objective(cases, best) > objective(cases, PostProcessing())


def test_a_fold_uses_what_is_best_on_the_others():
    cases, folds = make_cases(9), [0, 1, 2] * 3
    trials = {}
    chosen = cross_fit(cases, folds, 1, trials=trials)
    for fold in range(3):
        others = [case for case, own in zip(cases, folds, strict=True) if own != fold]
        assert chosen[fold] == sweep(others, 1)
        assert len(trials[fold]) == 28
    # Fold 1 is full of tiny confident boxes: fold 0 is scored with the settings that answer to them.
    mixed = [case for pair in zip(make_cases(4), make_cases(4, small_junk=True), strict=True) for case in pair]
    chosen = cross_fit(mixed, [0, 1] * 4, 1)
    assert chosen[0].min_size > 1
    assert chosen[1] == sweep(mixed[::2], 1)


def test_faithful_uses_all_folds_for_each():
    cases = make_cases(4)
    assert faithful(cases, [0, 1, 0, 1], 1) == dict.fromkeys([0, 1], sweep(cases, 1))


def test_without_objects_the_start_is_kept():
    start = PostProcessing(model_iou=0.3)
    bare = [
        replace(case, gt_ignore=np.ones(len(case.gt_boxes), bool)) if i else
        replace(case, gt_boxes=np.empty((0, 6)), gt_labels=np.empty(0, int), gt_ignore=np.empty(0, bool))
        for i, case in enumerate(make_cases(2))
    ]  # fmt: skip
    assert sweep(bare, 1, start) == start


def test_what_is_not_swept_comes_from_the_start():
    assert sweep(make_cases(2), 1, PostProcessing(per_model=7)).per_model == 7


def test_ties_take_the_first_value():
    only = make_cases(1)[0]
    sole = replace(only, candidates=only.candidates.select(np.empty(0, np.int64)))
    assert sweep([sole], 1) == PostProcessing(1e-5, "weighted", 1e-5, 0.0, 0.01)


def test_misuse_is_refused():
    cases = make_cases(2)
    with pytest.raises(ValueError, match="at least two folds"):
        cross_fit(cases, [0, 0], 1)
    with pytest.raises(ValueError, match="1 folds for 2 cases"):
        cross_fit(cases, [0], 1)
