import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detpretrain.evaluation import cases as case_files
from detpretrain.evaluation import metrics
from detpretrain.evaluation.cases import Case

REFERENCE = json.loads((Path(__file__).parent / "reference" / "detection_metrics.json").read_text())
SETS = {entry["name"]: entry for entry in REFERENCE["sets"]}
THRESHOLDS = {"0.10": "0p10", "0.50": "0p50"}


@pytest.fixture
def load(tmp_path):
    def read(name):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"num_classes": SETS[name]["num_classes"], "images": SETS[name]["images"]}))
        return case_files.read(path)

    return read


def box(at, size=2.0):
    return [at, 0.0, 0.0, at + size, 2.0, 2.0]


def case(name, truths, detections):
    """truths: (position, class, ignored); detections: (position, class, score)."""
    return Case(
        name,
        np.array([box(at) for at, *_ in truths]).reshape(-1, 6),
        np.array([label for _, label, _ in truths], dtype=int),
        np.array([ignored for *_, ignored in truths], dtype=bool),
        np.array([box(at) for at, *_ in detections]).reshape(-1, 6),
        np.array([label for _, label, _ in detections], dtype=int),
        np.array([score for *_, score in detections], dtype=float),
    )


def near(value):
    return pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("name", SETS)
def test_average_precision_equals_nndetection(load, name):
    result = metrics.evaluate(*load(name), "nndetection")
    expected = SETS[name]["reference"]["nndetection"]
    assert result["mAP@0.10:0.50"] == near(expected["mAP_0p10_0p50"])
    for label, own in result["per_class"].items():
        assert own["mAP@0.10:0.50"] == near(expected["mAP_0p10_0p50_per_class"][int(label)])
    for ours, theirs in THRESHOLDS.items():
        assert result[f"AP@{ours}"] == near(expected[f"AP_IoU_{theirs}"])
        for label, own in result["per_class"].items():
            assert own[f"AP@{ours}"] == near(expected[f"AP_IoU_{theirs}_per_class"][int(label)])
            found = expected["true_positives_per_class"][str(float(ours))][int(label)]
            assert own["counts"][f"true_positives@{ours}"] == found


@pytest.mark.parametrize(
    "name", [name for name, entry in SETS.items() if "FROC_error" not in entry["reference"]["nndetection"]]
)
def test_froc_equals_nndetection(load, name):
    """Where nnDetection's FROC is NaN, because nothing matches, it is 0."""
    result = metrics.evaluate(*load(name), "nndetection")
    expected = SETS[name]["reference"]["nndetection"]
    for ours, theirs in THRESHOLDS.items():
        pairs = [(result[f"FROC@{ours}"], expected[f"FROC_score_IoU_{theirs}"], expected[f"FROC_sens_IoU_{theirs}"])]
        pairs += [
            (
                own[f"FROC@{ours}"],
                expected[f"FROC_score_IoU_{theirs}_per_class"][int(label)],
                expected[f"FROC_sens_IoU_{theirs}_per_class"][int(label)],
            )
            for label, own in result["per_class"].items()
        ]
        for curve, score, sensitivity in pairs:
            assert curve["score"] == near(0.0 if score is None else score)
            assert curve["sensitivity"] == near([0.0 if value is None else value for value in sensitivity])
            assert curve["fppi"] == [0.125, 0.25, 0.5, 1, 2, 4, 8]


def test_average_precision_agrees_with_monai_where_recall_misses_the_grid(load):
    agreeing = 0
    for name, entry in SETS.items():
        monai = entry["reference"]["monai"]
        if abs(monai["AP_IoU_0.10_MaxDet_100"] - entry["reference"]["nndetection"]["AP_IoU_0p10"]) < 1e-9:
            agreeing += 1
            assert metrics.evaluate(*load(name))["AP@0.10"] == near(monai["AP_IoU_0.10_MaxDet_100"])
    assert agreeing >= 5


def test_nothing_but_the_froc_is_null_in_the_set_without_a_match(load):
    result = metrics.evaluate(*load("e03_no_match_at_all"))
    assert result["FROC@0.10"] == {"fppi": [0.125, 0.25, 0.5, 1, 2, 4, 8], "sensitivity": [0.0] * 7, "score": 0.0}
    assert "NaN" not in json.dumps(result)


def test_froc_with_ignored_objects_worked_by_hand():
    cases = [
        # .9 finds 0; .8 lies on the ignored object: neither; .7 lies on it too, but it has absorbed one: false positive
        case("a", [(0, 0, False), (10, 0, True)], [(0, 0, 0.9), (10, 0, 0.8), (10, 0, 0.7)]),
        # .6 finds nothing; .5 finds 20
        case("b", [(20, 0, False)], [(40, 0, 0.6), (20, 0, 0.5)]),
    ]
    result = metrics.evaluate(cases, 1)
    # 2 objects, 2 images: (0, 1/2) then .7: (1/2, 1/2), .6: (1, 1/2), .5: (1, 1)
    assert result["FROC@0.10"]["sensitivity"] == [0.5, 0.5, 0.5, 1, 1, 1, 1]
    assert result["FROC@0.10"]["score"] == near((3 * 0.5 + 4) / 7)
    # precision 1 up to recall 1/2 (51 points), then 2/4 (50 points)
    assert result["AP@0.10"] == near((51 + 50 * 0.5) / 101)
    assert result["counts"] == {
        "images": 2,
        "max_detections_per_image_and_class": 100,
        "objects": 2,
        "ignored_objects": 1,
        "detections": 5,
        "true_positives@0.10": 2,
        "true_positives@0.50": 2,
    }


def test_froc_of_the_ignored_set_is_that_of_its_counted_detections(load):
    """Detections that ignored objects absorb can be taken out beforehand: the rest has an ordinary FROC."""
    cases, num_classes = load("e05_with_ignored_gt")
    thinned = []
    for one in cases:
        matched = metrics.match_case(one)
        absorbed = matched.source[~matched.true_positive[0] & ~matched.false_positive[0]]
        keep = np.setdiff1d(np.arange(len(one.pred_scores)), absorbed)
        counted = ~one.gt_ignore
        thinned.append(
            Case(
                one.image_id,
                one.gt_boxes[counted],
                one.gt_labels[counted],
                one.gt_ignore[counted],
                one.pred_boxes[keep],
                one.pred_labels[keep],
                one.pred_scores[keep],
            )
        )
    whole, rest = metrics.evaluate(cases, num_classes), metrics.evaluate(thinned, num_classes)
    assert whole["counts"]["ignored_objects"] > 0
    assert sum(len(one.pred_scores) for one in thinned) < sum(len(one.pred_scores) for one in cases)
    assert whole["FROC@0.10"] == rest["FROC@0.10"]
    assert 0 < whole["FROC@0.10"]["score"] < 1


def test_a_class_without_objects():
    cases = [case("a", [(0, 0, False)], [(0, 0, 0.9), (5, 1, 0.8)]), case("b", [(0, 1, True)], [(0, 1, 0.7)])]
    exclude, zero, nndetection = (metrics.evaluate(cases, 2, mode) for mode in ("exclude", "zero", "nndetection"))
    assert [result["AP@0.10"] for result in (exclude, zero, nndetection)] == near([1.0, 0.5, 0.0])
    assert exclude["per_class"]["1"]["AP@0.10"] is None
    assert exclude["per_class"]["1"]["FROC@0.10"]["score"] is None
    assert zero["per_class"]["1"]["mAP@0.10:0.50"] == 0.0
    assert nndetection["per_class"]["1"]["mAP@0.10:0.50"] == -1.0
    assert nndetection["per_class"]["1"]["FROC@0.10"]["score"] == 0.0
    # The pooled FROC counts the false positive of the class without objects.
    assert exclude["FROC@0.10"] == zero["FROC@0.10"] == nndetection["FROC@0.10"]


def test_a_set_without_any_object_has_no_score():
    cases = [case("a", [], [(0, 0, 0.9)]), case("b", [], [])]
    result = metrics.evaluate(cases, 1)
    assert result["mAP@0.10:0.50"] is result["AP@0.10"] is result["FROC@0.50"]["score"] is None
    assert result["FROC@0.10"]["sensitivity"] == [None] * 7
    assert metrics.evaluate(cases, 1, "zero")["AP@0.10"] == 0.0
    assert metrics.evaluate(cases, 1, "nndetection")["AP@0.50"] == -1.0


def test_the_order_of_images_and_detections_without_ties_does_not_matter(load):
    cases, num_classes = load("s04_three_class_dense")
    rng = np.random.default_rng(0)
    distinct = iter(rng.permutation(10_000) / 10_000)
    cases = [replace(one, pred_scores=np.array([next(distinct) for _ in one.pred_scores])) for one in cases]
    shuffled = []
    for index in rng.permutation(len(cases)):
        order = rng.permutation(len(cases[index].pred_scores))
        fields = {key: getattr(cases[index], key)[order] for key in ("pred_boxes", "pred_labels", "pred_scores")}
        shuffled.append(replace(cases[index], **fields))
    assert metrics.evaluate(shuffled, num_classes) == metrics.evaluate(cases, num_classes)


def test_only_the_hundred_best_detections_of_an_image_and_class_count():
    misses = [(1000 + 3 * i, 0, 0.9) for i in range(99)]
    last, beyond = (0, 0, 0.5), (0, 0, 0.4)
    assert metrics.evaluate([case("a", [(0, 0, False)], [*misses, last])], 1)["AP@0.10"] == near(0.01)
    late = metrics.evaluate([case("a", [(0, 0, False)], [*misses, (500, 0, 0.5), beyond])], 1)
    assert late["AP@0.10"] == 0.0
    assert late["FROC@0.10"]["score"] == 0.0
    assert late["counts"]["detections"] == 100
    other_class = metrics.evaluate([case("a", [(0, 1, False)], [*misses, (500, 0, 0.5), (0, 1, 0.4)])], 2)
    assert other_class["per_class"]["1"]["AP@0.10"] == near(1.0)


def test_mean_average_precision_is_that_of_evaluate(load):
    cases, num_classes = load("s08_many_empty_pred")
    matched = [metrics.match_case(one) for one in cases]
    assert metrics.mean_average_precision(matched, num_classes) == metrics.evaluate(cases, num_classes)["mAP@0.10:0.50"]


def test_misuse_is_refused():
    one = case("a", [(0, 1, False)], [])
    with pytest.raises(ValueError, match=r"beyond 0 \.\. 0"):
        metrics.evaluate([one], 1)
    with pytest.raises(ValueError, match="absent_class"):
        metrics.evaluate([one], 2, "ignore")
    with pytest.raises(ValueError, match="empty"):
        metrics.evaluate([], 2)
