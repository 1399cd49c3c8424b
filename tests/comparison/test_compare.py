"""`compare` from files to files: what is in the tables, and that it is right."""

import numpy as np
import pandas as pd
import pytest

from detpretrain.comparison.compare import compare
from detpretrain.errors import InputError
from detpretrain.evaluation import matches
from detpretrain.evaluation.metrics import evaluate_matched

SETTINGS = {"resamples": 200, "seed": 1}
KEY = ["study", "dataset", "test_set", "detector", "init", "seed"]


@pytest.fixture
def run(tmp_path):
    def call(paths, overlaps=None, **settings):
        compare(paths, tmp_path / "out", {**SETTINGS, **settings}, overlaps or {})
        return {name: pd.read_csv(tmp_path / "out" / f"{name}.csv") for name in ("scores", "folds", "differences")}

    return call


def test_scores_are_those_of_the_evaluation(make_table, write_rows, run):
    table = make_table(patients=20)
    line = run(write_rows(table))["scores"].iloc[0]
    expected = matches.metrics(table, num_classes=2)
    assert line["AP@0.10"] == pytest.approx(expected["AP@0.10"], abs=1e-12)
    assert line["mAP@0.10:0.50"] == pytest.approx(expected["mAP@0.10:0.50"], abs=1e-12)
    assert line["FROC@0.10"] == pytest.approx(expected["FROC@0.10"]["score"], abs=1e-12)
    assert line["AP@0.10_low"] < line["AP@0.10"] < line["AP@0.10_high"]
    assert (line["folds"], line["patients"], line["resamples"], line["confidence"]) == (3, 20, 200, 0.95)


def test_fold_spread_is_that_of_the_fold_lines(make_table, write_rows, run):
    found = run(write_rows(make_table()))
    folds = found["folds"]["AP@0.50"].to_numpy()
    assert found["scores"]["AP@0.50_fold_mean"].item() == pytest.approx(folds.mean())
    assert found["scores"]["AP@0.50_fold_sd"].item() == pytest.approx(np.sqrt(((folds - folds.mean()) ** 2).sum() / 2))


def test_difference_against_a_bootstrap_in_full(make_table, write_rows, run):
    """The same interval from evaluating drawn patients case by case, with draws of its own."""
    tables = [make_table("scratch", found=0.4, patients=15), make_table("mae", found=0.8, patients=15, seed_finds=1)]
    line = run(write_rows(*tables), resamples=4000)["differences"].set_index("metric").loc["AP@0.10"]
    generator = np.random.default_rng(7)
    by_patient = []
    for table in tables:
        cases = {case.image_id: case for case in matches.matched_cases(table)}
        by_patient.append([[c for name, c in cases.items() if name.startswith(f"p{p:03d}")] for p in range(15)])
    brute = []
    for _ in range(400):
        drawn = generator.integers(0, 15, 15)
        ap = [evaluate_matched([c for p in drawn for c in own[p]], 2)["AP@0.10"] for own in by_patient]
        brute.append(ap[1] - ap[0])
    spread = np.std(brute)
    low, high = np.quantile(brute, [0.025, 0.975])
    assert line["low"] == pytest.approx(low, abs=0.3 * spread)
    assert line["high"] == pytest.approx(high, abs=0.3 * spread)
    assert line["difference"] > 0


def test_equal_rows_do_not_differ(make_table, write_rows, run):
    found = run(write_rows(make_table("scratch"), make_table("copy")))["differences"]
    assert (found[["difference", "low", "high"]] == 0).all(axis=None)
    assert (found["p"] == 1).all()


def test_reference_of_the_same_detector_and_seed_only(make_table, write_rows, run):
    tables = [
        make_table("scratch", found=0.3),
        make_table("mae", found=0.9),
        make_table("scratch", found=0.9, detector="other"),
        make_table("mae", found=0.9, seed=1),
    ]
    found = run(write_rows(*tables))
    differences = found["differences"]
    assert len(differences) == 6
    compared = differences[differences["seed"] == 0]
    assert (compared["difference"] > 0.2).sum() >= 2
    assert (compared["patients"] == 12).all()
    alone = differences[differences["seed"] == 1]
    assert alone[["reference", "difference", "low", "high", "p", "patients"]].isna().all(axis=None)
    assert len(found["scores"]) == 4


def test_only_scratch_gives_an_empty_table_of_differences(make_table, write_rows, run):
    found = run(write_rows(make_table()))["differences"]
    assert found.empty
    assert list(found.columns[:7]) == [*KEY, "metric"]


def test_other_rows_do_not_change_a_result(make_table, write_rows, run):
    pair = [make_table("scratch"), make_table("mae", seed_finds=1)]
    alone = run(write_rows(*pair))["differences"]
    more = run(write_rows(make_table("aaa", seed_finds=2), *pair, make_table("mae", dataset="other")))["differences"]
    more = more[(more["init"] == "mae") & (more["dataset"] == "nodules")]
    pd.testing.assert_frame_equal(alone, more.reset_index(drop=True), check_dtype=False)


def test_unknown_setting_and_values_out_of_range(make_table, write_rows, run):
    paths = write_rows(make_table())
    with pytest.raises(InputError, match="unknown setting 'resample'"):
        run(paths, resample=10)
    with pytest.raises(InputError, match="confidence 95"):
        run(paths, confidence=95)


def test_single_patient_has_a_score_but_no_interval(make_table, write_rows, run):
    tables = [make_table(init, patients=1, seed_truth=2, found=1.0) for init in ("scratch", "mae")]
    found = run(write_rows(*tables))
    assert found["scores"]["AP@0.10"].notna().all()
    assert found["scores"][["AP@0.10_low", "AP@0.10_high"]].isna().all(axis=None)
    assert found["differences"]["difference"].notna().all()
    assert found["differences"][["low", "high", "p"]].isna().all(axis=None)


def test_every_table_says_how_many_scored_patients_the_pretraining_saw(make_table, write_rows, run):
    paths = write_rows(make_table("scratch"), make_table("mae"), make_table("mae", dataset="other"))
    found = run(paths, overlaps={("nodules", "mae"): 3, ("other", "elsewhere"): 5})
    for table in found.values():
        expected = ((table["dataset"] == "nodules") & (table["init"] == "mae")) * 3
        assert table["overlap"].tolist() == expected.tolist()
    assert (found["differences"]["overlap"] == 3).any()
    assert run(paths[:1])["differences"]["overlap"].empty
