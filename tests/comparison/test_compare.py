"""`compare` from files to files: what is in the tables, and that it is right."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests

from detpretrain.comparison.compare import compare
from detpretrain.errors import InputError
from detpretrain.evaluation import matches
from detpretrain.evaluation.metrics import evaluate_matched

SETTINGS = {"resamples": 200, "seed": 1}
KINDS = {"mae": "reconstruction", "voco": "contrastive", "multitalent": "supervised"}
ROWS = ("scores", "folds", "metrics", "differences", "pairs")
KEY = ["study", "dataset", "test_set", "detector", "init", "seed"]


@pytest.fixture
def run(tmp_path):
    def call(paths, overlaps=None, **settings):
        compare(paths, tmp_path / "out", {**SETTINGS, **settings}, overlaps or {}, KINDS)
        return {path.stem: pd.read_csv(path) for path in (tmp_path / "out").glob("*.csv")}

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
    assert len(differences) == 10
    compared = differences[differences["seed"] == 0]
    assert (compared["difference"] > 0.2).sum() >= 2
    assert (compared["patients"] == 12).all()
    alone = differences[differences["seed"] == 1]
    empty = ["reference", "difference", "low", "high", "p", "p_holm", "standardised", "detectable", "patients"]
    assert alone[empty].isna().all(axis=None)
    assert len(found["scores"]) == 4


def test_only_scratch_gives_an_empty_table_of_differences(make_table, write_rows, run):
    found = run(write_rows(make_table()))["differences"]
    assert found.empty
    assert list(found.columns[:7]) == [*KEY, "metric"]


def test_other_rows_do_not_change_a_result(make_table, write_rows, run):
    pair = [make_table("scratch"), make_table("mae", seed_finds=1)]
    alone = run(write_rows(*pair))["differences"]
    more = run(write_rows(make_table("aaa", seed_finds=2), *pair, make_table("mae", dataset="other")))["differences"]
    more = more[(more["init"] == "mae") & (more["dataset"] == "nodules")].reset_index(drop=True)
    adjusted = alone.pop("p_holm"), more.pop("p_holm")
    pd.testing.assert_frame_equal(alone, more, check_dtype=False)
    assert (adjusted[0] <= adjusted[1] + 1e-12).all()  # of one comparison per metric, and of two


def test_adjusted_for_all_differences_of_a_metric(make_table, write_rows, run):
    tables = [
        make_table(init, seed_finds=i, dataset=d) for d in "ab" for i, init in enumerate(("scratch", "mae", "mg"))
    ]
    found = run(write_rows(*tables))["differences"]
    for _, lines in found.groupby("metric"):
        assert len(lines) == 4
        expected = multipletests(lines["p"], method="holm")[1]
        assert lines["p_holm"].to_numpy() == pytest.approx(expected)


def test_all_pairs_of_a_detector(make_table, write_rows, run):
    tables = [make_table(init, seed_finds=i) for i, init in enumerate(("scratch", "mae", "mg"))]
    tables += [make_table("scratch", detector="other", seed_finds=5), make_table("scratch", seed=1, seed_finds=6)]
    found = run(write_rows(*tables))
    pairs = found["pairs"].set_index(["reference", "init", "metric"])
    assert sorted({pair[:2] for pair in pairs.index}) == [("mae", "mg"), ("mae", "scratch"), ("mg", "scratch")]
    to_scratch = found["differences"].set_index(["init", "metric"])
    for metric in ("AP@0.10", "CPM"):
        mirrored, line = pairs.loc[("mae", "scratch", metric)], to_scratch.loc[("mae", metric)]
        assert (mirrored["difference"], mirrored["low"]) == pytest.approx((-line["difference"], -line["high"]))
        assert mirrored["standardised"] == pytest.approx(-line["standardised"])
        assert mirrored["detectable"] == pytest.approx(line["detectable"])


def test_effects_agree_with_the_interval(make_table, write_rows, run):
    """The standard error that makes 'detectable' is about a quarter of the width of the interval."""
    tables = [make_table("scratch", patients=60, found=0.4), make_table("mae", patients=60, found=0.8, seed_finds=1)]
    line = run(write_rows(*tables), resamples=1000)["differences"].set_index("metric").loc["AP@0.10"]
    assert line["detectable"] / (1.96 + 0.8416) == pytest.approx((line["high"] - line["low"]) / 3.92, rel=0.1)
    assert line["superiority"] > 0.95
    error = line["detectable"] / (1.96 + 0.8416)
    assert line["standardised"] == pytest.approx(line["difference"] / error / np.sqrt(60), rel=0.01)


def test_metrics_of_parts_and_folds(make_table, write_rows, run):
    table = make_table(patients=20)
    scale = table["case"].str[1:4].astype(int) % 3 + 1.0  # objects of three sizes
    table[matches.SIDES] = table[matches.SIDES].mul(scale.to_numpy(float), axis=0)
    found = run(write_rows(table))
    lines = found["metrics"].set_index(["part", "fold", "metric"])
    pooled = found["metrics"][found["metrics"]["fold"].isna()].set_index(["part", "metric"])
    expected = matches.metrics(table, num_classes=2)
    for name, value in zip((0.125, 0.25, 0.5, 1, 2, 4, 8), expected["FROC@0.10"]["sensitivity"], strict=True):
        assert pooled.loc[("all", f"sensitivity@{name:g}"), "value"] == pytest.approx(value)
    for label in range(2):
        of_class = expected["per_class"][str(label)]["AP@0.10"]
        assert pooled.loc[(f"class {label}", "AP@0.10"), "value"] == pytest.approx(of_class)
    assert {"small", "medium", "large"} <= set(found["metrics"]["part"])
    folds = found["folds"].set_index("fold")
    for fold in range(3):
        for metric in ("AP@0.10", "FROC@0.10"):
            assert lines.loc[("all", fold, metric), "value"] == pytest.approx(folds.loc[fold, metric])
    assert (pooled["low"] <= pooled["high"]).all()


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
    for table in (found[name] for name in ROWS):
        expected = ((table["dataset"] == "nodules") & (table["init"] == "mae")) * 3
        assert table["overlap"].tolist() == expected.tolist()
    assert (found["differences"]["overlap"] == 3).any()
    assert run(paths[:1])["differences"]["overlap"].empty


def test_a_planted_effect_over_data_sets(make_table, write_rows, run):
    """Reconstruction is planted above supervised, and contrastive is scratch itself."""
    found_by = {"scratch": 0.4, "voco": 0.4, "multitalent": 0.4, "mae": 0.95}
    tables = [
        make_table(
            init, dataset=dataset, seed_truth=i, patients=40, found=found_by[init], seed_finds=(init == "mae") + i
        )
        for i, dataset in enumerate(("a", "b", "c"))
        for init in found_by
    ]
    found = run(write_rows(*tables))
    claims = found["claims"].set_index("claim")
    assert claims["verdict"].to_dict() == {"C1": "supported", "C2": "supported", "C3": "supported"}
    assert claims["datasets"].tolist() == [3, 3, 3]
    assert claims.loc["C3", ["estimate", "low", "high"]].tolist() == [0, 0, 0]
    ranks = found["ranks"].set_index("init")
    assert ranks.loc["mae", ["mean_rank", "best"]].tolist() == pytest.approx([1.0, 1.0])
    assert ranks.loc["voco", "mean_rank"] == 3.0  # ties with scratch and MultiTalent everywhere
    assert (ranks["blocks"] == 3).all()
    assert ranks["friedman_p"].iloc[0] < 0.05
    model = found["mixed_model"].set_index("init")
    folds = found["folds"].groupby("init")["AP@0.10"].mean()
    assert model.loc["mae", "difference"] == pytest.approx(folds["mae"] - folds["scratch"], abs=0.02)
    assert found["stability"]["stable"].all()
    assert len(found["stability"]) == 1 + 3 + 3
    assert found["variance"].empty


def test_one_data_set_is_told_and_nothing_pretends(make_table, write_rows, run):
    found = run(write_rows(make_table("scratch"), make_table("mae", seed_finds=1)))
    assert (found["claims"]["verdict"] == "too little data").all()
    assert found["mixed_model"]["note"].item().startswith("one data set")
    assert found["mixed_model"]["mean"].isna().all()
    assert found["ranks"][["friedman_p", "critical_difference"]].isna().all(axis=None)


def test_inits_that_miss_a_data_set_are_not_ranked(make_table, write_rows, run):
    tables = [
        make_table(init, seed_finds=i, dataset=d) for d in "ab" for i, init in enumerate(("scratch", "mae", "mg"))
    ]
    ranks = run(write_rows(*tables[:-1]))["ranks"]
    assert ranks["init"].tolist() == ["mae", "scratch"]
    assert ranks["note"].unique().tolist() == ["not ranked, without a row on every data set: mg"]


def test_seeds_are_sources_of_variance(make_table, write_rows, run):
    tables = [make_table(init, seed=seed, seed_finds=2 * seed + i)
              for seed in range(2) for i, init in enumerate(("scratch", "mae"))]  # fmt: skip
    shares = run(write_rows(*tables))["variance"].set_index("source")["share"]
    assert shares.sum() == pytest.approx(1)
    assert shares["dataset"] == pytest.approx(0, abs=1e-12)
    assert shares["residual"] > 0
