import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from detpretrain.errors import InputError
from detpretrain.evaluation import matches
from detpretrain.evaluation.ensemble import Candidates, PostProcessing
from detpretrain.evaluation.raw_boxes import RawBoxes
from detpretrain.evaluation.sweep import SweepCase, sweep
from detpretrain.inference.scoring import FoldBoxes, Truth, consolidate, detect, score_cell, scores_by_test_set

RUN = matches.Run("study", "nodules", "", "detector", "scratch", 0)
OFFSET = np.array([1.0, 2, 3, 1, 2, 3])  # of the crop: what lies between preprocessed and original indices here
SHAPE = [40, 40, 40]


def box(corner: float, side: float = 6) -> np.ndarray:
    return np.array([corner] * 3 + [corner + side] * 3)


class StudyCases:
    """Cases by name with their truth and, per fold model, their candidates; boxes are given in preprocessed indices."""

    def __init__(self):
        self.cases, self.objects, self.found, self.properties = [], [], {}, {}

    def add(self, case, truth=(), found=None, test_set="cv", ignored=()):
        """``found``: {fold: [(box, score) or (box, score, mirror), ...]}."""
        spacing = {"spacing_z": 2.0, "spacing_y": 1.0, "spacing_x": 0.5}
        self.cases.append({"case": case, "patient": f"patient of {case}", "test_set": test_set, **spacing})
        for truth_id, sides in enumerate(truth, start=1):
            row = dict(zip(matches.SIDES, sides + OFFSET, strict=True))
            self.objects.append(
                {"case": case, "truth": truth_id, "class": 0, **row, "ignored": truth_id in set(ignored)}
            )
        self.properties[case] = {
            "shape": SHAPE,
            "cropped_shape": SHAPE,
            "crop_offset": OFFSET[:3].tolist(),
            "transpose": [0, 1, 2],
            "ids": list(range(1, len(truth) + 1)),
            "classes": [0] * len(truth),
            "boxes": [sides.tolist() for sides in truth],
            "ignored": list(ignored),
        }
        for fold, boxes in (found or {}).items():
            self.found.setdefault(fold, {})[case] = candidates(boxes)

    @property
    def truth(self) -> Truth:
        table = pd.DataFrame(self.objects)
        objects = dict(list(table.groupby("case"))) if self.objects else {}
        return Truth(objects, pd.DataFrame(self.cases).set_index("case"))

    def folds(self, models=1) -> list[FoldBoxes]:
        return [
            FoldBoxes(fold, RawBoxes(found, {case: self.properties[case] for case in found}, models, 1, {}))
            for fold, found in sorted(self.found.items())
        ]


def candidates(boxes) -> Candidates:
    lines = [(*line, 0)[:3] for line in boxes]
    return Candidates(
        np.array([line[0] for line in lines], np.float32).reshape(-1, 6),
        np.array([line[1] for line in lines], np.float32),
        np.zeros(len(lines), np.int64),
        np.ones(len(lines), np.float32),
        np.array([line[2] for line in lines], np.int64),
    )


@pytest.fixture
def study():
    return StudyCases()


def detections(table, case):
    return table[(table["case"] == case) & (table["kind"] == "detection")]


def test_a_cell_by_hand(study):
    """Two objects; found: one of them (0.8); false: 0.9 in a case without objects, 0.3 beside the found one."""
    study.add("a", [box(10), box(25)], {0: [(box(10), 0.8), (box(1), 0.3)]})
    study.add("b", [], {0: [(box(5), 0.9)]})
    study.add("c", [], {0: []})
    table = score_cell(study.folds()[0], study.truth, RUN)
    assert table[table["kind"] == "case"]["case"].tolist() == ["a", "b", "c"]
    assert table["fold"].unique().tolist() == [0]
    assert table["test_set"].unique().tolist() == ["cv"]
    assert set(table["patient"]) == {"patient of a", "patient of b", "patient of c"}
    hit = detections(table, "a").iloc[0]
    assert hit["truth@0.50"] == 1
    assert hit["iou@0.50"] == pytest.approx(1.0)
    # original index = preprocessed + crop offset; spacing 2, 1, 0.5 mm
    assert hit[matches.SIDES].tolist() == pytest.approx([22, 12, 6.5, 34, 18, 9.5])
    scores = scores_by_test_set(table, 1)["cv"]
    # recall 0.5 at precision 0.5: 51 of the 101 recall points
    assert scores["AP@0.10"] == pytest.approx(0.5 * 51 / 101, abs=1e-12)
    assert scores["counts"]["images"] == 3
    # the only hit comes after 1/3 false positive per image: 1/8 and 1/4 allow fewer
    sensitivity = scores["FROC@0.10"]["sensitivity"]
    assert sensitivity[2:] == pytest.approx([0.5] * 5)
    assert max(sensitivity[:2]) < 0.5


def test_a_box_that_one_of_two_mirrors_sees_loses_half_its_score(study):
    study.add("a", [box(10)], {0: [(box(10), 0.8, 0), (box(10), 0.6, 1), (box(25), 0.8, 1)]})
    fold = study.folds(models=2)[0]
    boxes, scores, labels = detect([fold.raw], "a", PostProcessing())
    np.testing.assert_allclose(scores, [0.7, 0.4], rtol=1e-6)
    np.testing.assert_allclose(boxes, [box(10) + OFFSET, box(25) + OFFSET], rtol=1e-6)
    assert labels.tolist() == [0, 0]


def two_folds(study):
    """Fold 0 holds out large objects among tiny confident junk, fold 1 tiny objects."""
    for number in range(4):
        junk = [(box(2 + 3 * i, 1.5), 0.95) for i in range(8)]
        study.add(f"large_{number}", [box(28, 8)], {0: [(box(28, 8), 0.7), *junk]})
        study.add(f"tiny_{number}", [box(20, 1.5)], {1: [(box(20, 1.5), 0.6), (box(5, 9), 0.55)]})
    return study


def test_every_case_is_pooled_once_by_the_model_that_did_not_see_it(study):
    two_folds(study)
    for fold in (0, 1):
        study.found[fold]["extra"] = candidates([(box(10), 0.8 - 0.2 * fold), *([(box(25), 0.8)] if fold else [])])
    study.add("extra", [box(10)], test_set="test")
    table, post = consolidate(study.folds(), study.truth, RUN)
    cases = table[table["kind"] == "case"].set_index("case")
    assert sorted(cases.index) == sorted([f"{kind}_{i}" for kind in ("large", "tiny") for i in range(4)] + ["extra"])
    assert {fold for case, fold in cases["fold"].items() if case.startswith("large")} == {0}
    assert {fold for case, fold in cases["fold"].items() if case.startswith("tiny")} == {1}
    assert (cases["test_set"] == "cv").sum() == 8
    # the test set is predicted by both models together: a box of one of them loses half its score
    assert cases.loc["extra", "test_set"] == "test"
    assert pd.isna(cases.loc["extra", "fold"])
    assert detections(table, "extra")["score"].tolist() == pytest.approx([0.7, 0.4], rel=1e-6)
    assert set(post) == {"faithful_sweep", "folds", "test_sets"}
    assert json.loads(json.dumps(post)) == post
    assert set(scores_by_test_set(table, 1)) == {"cv", "test"}


def sweep_cases(study, prefix):
    folds = {case: found for by_case in study.found.values() for case, found in by_case.items()}
    return [
        SweepCase(
            case, folds[case], 1, tuple(SHAPE), np.array(facts["boxes"]), np.zeros(1, int), np.zeros(1, dtype=bool)
        )
        for case, facts in study.properties.items()
        if case.startswith(prefix)
    ]


def test_cross_fitting_differs_from_the_optimistic_sweep_where_the_folds_differ(study):
    two_folds(study)
    crossed, post = consolidate(study.folds(), study.truth, RUN)
    # fold 0 is scored with what is best on fold 1's cases, and the other way round
    assert post["folds"]["0"] == asdict(sweep(sweep_cases(study, "tiny"), 1))
    assert post["folds"]["1"] == asdict(sweep(sweep_cases(study, "large"), 1))
    assert post["folds"]["0"]["min_size"] < 1.5 < post["folds"]["1"]["min_size"]
    assert detections(crossed, "tiny_0").empty or detections(crossed, "tiny_0")["truth@0.10"].isna().all()

    faithful, chosen = consolidate(study.folds(), study.truth, RUN, faithful_sweep=True)
    assert chosen["folds"]["0"] == chosen["folds"]["1"] == chosen["test_sets"] == post["test_sets"]
    assert chosen["faithful_sweep"]
    assert not post["faithful_sweep"]
    honest, optimistic = (scores_by_test_set(table, 1)["cv"]["AP@0.10"] for table in (crossed, faithful))
    assert honest < optimistic


def test_a_single_fold_uses_its_own_validation_part(study):
    two_folds(study)
    (only, _) = study.folds()
    table, post = consolidate([only], study.truth, RUN)
    assert post["folds"]["0"] == post["test_sets"] == asdict(sweep(sweep_cases(study, "large"), 1))
    assert sorted(table["case"].unique()) == [f"large_{i}" for i in range(4)]
    assert scores_by_test_set(table, 1)["cv"]["AP@0.10"] == pytest.approx(1.0)


def with_test_parts(study):
    """Three folds that choose on junk of different sizes: fold f's val has junk of side f + 2, its test of every side."""
    sides = [2.0, 3.0, 4.0]
    for fold, side in enumerate(sides):
        choosing = {fold: [(box(25, 8), 0.6), *[(box(2 + 6 * i, side - 0.5), 0.9) for i in range(3)]]}
        study.add(f"val_{fold}", [box(25, 8)], choosing)
        scored = [(box(28, 8), 0.6), *[(box(1 + 8 * i, side - 0.5), 0.9) for i, side in enumerate(sides)]]
        study.add(f"test_{fold}", [box(28, 8)], {fold: scored})
    split = [{"train": ["x"], "val": [f"val_{f}"], "test": [f"test_{f}"]} for f in range(3)]
    return [FoldBoxes.of(fold.fold, fold.raw, split) for fold in study.folds()]


def test_a_test_part_is_scored_with_what_the_validation_part_of_its_fold_chose(study):
    folds = with_test_parts(study)
    table, post = consolidate(folds, study.truth, RUN)
    assert sorted(table["case"].unique()) == ["test_0", "test_1", "test_2"]
    assert table[table["kind"] == "case"].set_index("case")["fold"].to_dict() == {f"test_{f}": f for f in range(3)}
    assert set(table["test_set"]) == {"cv"}
    assert [post["folds"][str(fold)]["min_size"] for fold in range(3)] == [2.0, 3.0, 4.0]
    for fold in range(3):
        assert post["folds"][str(fold)] == asdict(sweep(sweep_cases(study, f"val_{fold}"), 1))
        # of three false boxes, those below the chosen size are gone
        assert len(detections(table, f"test_{fold}")) == 3 - fold
    assert post["test_sets"] == asdict(sweep(sweep_cases(study, "val"), 1))


def test_a_single_fold_with_a_test_part(study):
    fold = with_test_parts(study)[1]
    table, post = consolidate([fold], study.truth, RUN)
    assert table["case"].unique().tolist() == ["test_1"]
    assert post["folds"] == {"1": asdict(sweep(sweep_cases(study, "val_1"), 1))}


def test_faithful_sweep_never_sees_a_test_part(study):
    folds = with_test_parts(study)
    _, post = consolidate(folds, study.truth, RUN, faithful_sweep=True)
    assert [post["folds"][str(fold)] for fold in range(3)] == [asdict(sweep(sweep_cases(study, "val"), 1))] * 3


def test_a_cell_is_scored_on_its_test_part_and_the_test_sets(study):
    study.found[0] = {"apart": candidates([(box(10), 0.7)])}
    study.add("apart", [box(10)], test_set="outside")
    fold = with_test_parts(study)[0]
    table = score_cell(fold, study.truth, RUN)
    assert sorted(table["case"].unique()) == ["apart", "test_0"]
    assert sorted(table["test_set"].unique()) == ["cv", "outside"]


def final_folds(study, split=None):
    """Folds of an engine, whose boxes are given in original indices."""
    folds = []
    for fold, found in sorted(study.found.items()):
        properties = {case: {"shape": SHAPE} for case in found}
        raw = RawBoxes(found, properties, 1, 1, {}, final=True)
        folds.append(FoldBoxes.of(fold, raw, split) if split else FoldBoxes(fold, raw))
    return folds


def test_final_boxes_are_scored_as_they_are(study):
    """No merging, no clipping, no threshold, no crop: two boxes on one another stay two, the lower one false."""
    there, outside = box(10) + OFFSET, box(-4)
    study.add("a", [box(10)], {0: [(there, 0.4), (there, 0.8), (outside, 0.001)]})
    study.add("b", [box(20)], {1: [(box(20) + OFFSET, 0.7)]})
    folds = final_folds(study)
    boxes, scores, labels = detect([folds[0].raw], "a", PostProcessing(score_threshold=0.9, min_size=99))
    np.testing.assert_allclose(boxes, [there, there, outside])
    np.testing.assert_allclose(scores, [0.8, 0.4, 0.001], rtol=1e-6)
    assert labels.tolist() == [0, 0, 0]
    cell = score_cell(folds[0], study.truth, RUN)
    assert detections(cell, "a")["truth@0.50"].tolist()[0] == 1
    assert detections(cell, "a")["truth@0.50"].isna().sum() == 2
    row, post = consolidate(folds, study.truth, RUN)
    pd.testing.assert_frame_equal(
        detections(row, "a").reset_index(drop=True), detections(cell, "a").reset_index(drop=True)
    )
    assert post == {"faithful_sweep": True, "folds": {}, "test_sets": asdict(PostProcessing())}


def test_final_boxes_of_a_test_set_are_put_together(study):
    """Two models find one object at 0.8 and 0.6, one of them another at 0.8: halved, as any model's miss."""
    study.found = {
        0: {"far": candidates([(box(10), 0.8)])},
        1: {"far": candidates([(box(10), 0.6), (box(25), 0.8)])},
    }
    study.add("far", [box(10) - OFFSET], test_set="outside")
    study.add("a", [], {0: []})
    study.add("b", [], {1: []})
    table, _ = consolidate(final_folds(study), study.truth, RUN)
    found = detections(table, "far")
    assert found["score"].tolist() == pytest.approx([0.7, 0.4], rel=1e-6)
    assert found["truth@0.50"].tolist()[0] == 1


def test_final_boxes_of_a_test_part_are_the_ones_that_count(study):
    study.found = {0: {"val": candidates([(box(5), 0.9)]), "test": candidates([(box(10) + OFFSET, 0.8)])}}
    study.add("val", [])
    study.add("test", [box(10)])
    table, _ = consolidate(final_folds(study, [{"train": [], "val": ["val"], "test": ["test"]}]), study.truth, RUN)
    assert table["case"].unique().tolist() == ["test"]
    assert scores_by_test_set(table, 1)["cv"]["AP@0.10"] == pytest.approx(1.0)


def test_a_test_part_that_was_not_predicted_is_refused(study):
    with_test_parts(study)
    split = [{"train": [], "val": ["val_0"], "test": ["test_0", "late"]}]
    with pytest.raises(InputError, match="fold 0: no boxes of case late of its test part: predict the fold again"):
        FoldBoxes.of(0, study.folds()[0].raw, split)
    assert FoldBoxes.of(0, study.folds()[0].raw, [{"train": [], "val": ["val_0"]}]) == study.folds()[0]


def test_a_case_in_two_test_parts_is_refused(study):
    with_test_parts(study)
    study.found[1]["test_0"] = study.found[0]["test_0"]
    split = [{"train": [], "val": [f"val_{f}"], "test": ["test_0"]} for f in range(2)]
    folds = [FoldBoxes.of(fold, one.raw, split) for fold, one in zip((0, 1), study.folds(), strict=False)]
    with pytest.raises(InputError, match="case test_0 is held out in two folds"):
        consolidate(folds, study.truth, RUN)


@pytest.mark.parametrize(("ignored", "ap", "sensitivity"), [((), 67 / 101, 2 / 3), ((1, 3), 1.0, 1.0)])
def test_ignored_objects_need_not_be_found_and_may_be(study, ignored, ap, sensitivity):
    """Objects 1 and 2 are found, 3 is not: as ignored ones, neither the hit on 1 nor the miss of 3 counts."""
    study.add("a", [box(10), box(25), box(1, 4)], {0: [(box(10), 0.9), (box(25), 0.5)]}, ignored=ignored)
    for table in (score_cell(study.folds()[0], study.truth, RUN), consolidate(study.folds(), study.truth, RUN)[0]):
        assert table[table["kind"] == "truth"]["ignored"].sum() == len(ignored)
        scores = scores_by_test_set(table, 1)["cv"]
        assert scores["AP@0.50"] == pytest.approx(ap)
        assert scores["FROC@0.50"]["score"] == pytest.approx(sensitivity)


def test_the_sweep_does_not_reward_ignored_objects(study):
    """Only small ignored objects are found when small boxes are allowed: the sweep must not care for them."""
    for number in range(3):
        found = {0: [(box(10, 2), 0.9), (box(25), 0.5), (box(3, 3), 0.6)]}
        study.add(f"case_{number}", [box(10, 2), box(25)], found, ignored=(1,))
    _, post = consolidate(study.folds(), study.truth, RUN)
    # 3 voxels cost nothing and remove the false box
    assert post["folds"]["0"]["min_size"] == 4.0


def test_nothing_to_find_gives_the_default_post_processing(study):
    study.add("a", [], {0: [(box(10), 0.9)]})
    study.add("b", [], {1: []})
    table, post = consolidate(study.folds(), study.truth, RUN)
    assert post["folds"]["0"] == post["folds"]["1"] == post["test_sets"] == asdict(PostProcessing())
    scores = scores_by_test_set(table, 1)["cv"]
    assert scores["AP@0.10"] is None
    assert scores["counts"]["images"] == 2


def test_a_case_in_two_folds_is_refused(study):
    study.add("a", [box(10)], {0: [(box(10), 0.9)], 1: [(box(10), 0.9)]})
    with pytest.raises(InputError, match="case a is held out in two folds"):
        consolidate(study.folds(), study.truth, RUN)


def test_truth_is_read_from_the_tables_of_the_task(tmp_path):
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "nodule"}, "modalities": {"0": "CT"}}')
    (tmp_path / "objects.csv").write_text(
        "case,truth,class,z1,y1,x1,z2,y2,x2,ignored\n007,1,0,1,2,3,4,5,6,False\n007,3,0,2,2,2,4,4,4.5,True\n"
    )
    (tmp_path / "cases.csv").write_text(
        "case,patient,test_set,spacing_z,spacing_y,spacing_x\n007,01,cv,2.5,1,0.5\nNA,02,test,1,1,1\n"
    )
    truth = Truth.read(tmp_path)
    assert truth.test_set("NA") == "test"
    assert truth.info("007", 3) == matches.CaseInfo("01", (2.5, 1.0, 0.5), 3)
    scored = truth.scored("007", np.zeros((0, 6)), np.zeros(0), np.zeros(0, int))
    assert scored.gt_boxes.tolist() == [[1, 2, 3, 4, 5, 6], [2, 2, 2, 4, 4, 4.5]]
    assert scored.gt_ignore.tolist() == [False, True]
    assert scored.truth_ids.tolist() == [1, 3]
    empty = truth.scored("NA", np.zeros((0, 6)), np.zeros(0), np.zeros(0, int))
    assert empty.gt_boxes.shape == (0, 6)
    assert len(empty.gt_labels) == len(empty.gt_ignore) == len(empty.truth_ids) == 0
