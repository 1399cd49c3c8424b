"""Claims and appendix as readers see them, from the comparison's own tables."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest

from detpretrain.comparison.compare import compare
from detpretrain.errors import InputError
from detpretrain.evaluation import matches
from detpretrain.report import statistics_section
from detpretrain.report.captions import OVERVIEW
from detpretrain.report.report import report


def test_claims_of_one_data_set_say_so(study):
    found = {claim.name: claim for claim in statistics_section.claims(study.root / "comparison", 0.95)}
    assert found["C1"].verdict == "too little data"
    assert found["C1"].evidence == "No data set has rows of both sides."  # no kinds were given
    compare(study.row_files, study.root / "comparison", {"resamples": 50}, {}, {"mae": "reconstruction"})
    found = {claim.name: claim for claim in statistics_section.claims(study.root / "comparison", 0.9)}
    evidence = found["C1"].evidence
    assert evidence.startswith("Difference +0.")
    assert "AP@0.10 (90 % CI " in evidence
    assert evidence.endswith("over 1 data set and 1 comparison; 1 data set: the claim is about several.")


@pytest.fixture
def two_data_sets(study):
    """The study's rows on a second data set too."""
    paths = list(study.row_files)
    for number, path in enumerate(study.row_files):
        paths.append(study.root / f"second{number}" / "matches.parquet")
        matches.write(paths[-1], matches.read(path).assign(dataset="other"))
        shutil.copy(path.with_name("metrics.json"), paths[-1].with_name("metrics.json"))
    kinds = {"mae": "reconstruction", "s3d_long_name": "reconstruction"}
    compare(paths, study.root / "comparison", {"resamples": 50}, {}, kinds)
    return replace(study, row_files=paths, tasks={**study.tasks, "other": study.tasks["nodules"]})


def test_appendix_of_several_data_sets(two_data_sets):
    tables = {table.name: table for table in statistics_section.appendix(two_data_sets.root / "comparison")}
    assert list(tables) == ["Ranks over data sets", "Linear mixed model", "Does the winner stay?"]
    ranks = tables["Ranks over data sets"].table
    assert set(ranks["init"]) == {"scratch", "mae", "s3d_long_name"}
    assert set(ranks["data sets and test sets"]) == {"2"}
    model = tables["Linear mixed model"].table
    assert model["init"].tolist() == ["scratch", "mae", "s3d_long_name"]
    assert model["difference [CI]"][0] == "–"
    stays = tables["Does the winner stay?"].table
    assert stays["left out"].tolist() == ["nothing", "data set nodules", "data set other", "fold 0", "fold 1"]
    assert stays["same as with all"][0] == ""


def test_one_data_set_gives_the_reason_instead_of_a_model(study):
    tables = {table.name: table for table in statistics_section.appendix(study.root / "comparison")}
    assert tables["Linear mixed model"].table["note"].item().startswith("one data set")
    assert tables["Linear mixed model"].table["init"].item() == "–"


def test_complaints_are_of_fits_and_ranks_not_of_what_was_left_out(study):
    folder = study.root / "comparison"
    assert statistics_section.complaints(folder) == []  # one data set: no model, and the appendix says why
    model = pd.read_csv(folder / "mixed_model.csv")
    model.assign(note="the fit failed: singular").to_csv(folder / "mixed_model.csv", index=False)
    assert statistics_section.complaints(folder) == [
        "Linear mixed model of retina_unet_resenc: the fit failed: singular."
    ]
    fitted = pd.concat([model.assign(note="the fit did not converge", mean=0.5)] * 2)
    fitted.to_csv(folder / "mixed_model.csv", index=False)
    assert statistics_section.complaints(folder) == [
        "Linear mixed model of retina_unet_resenc: the fit did not converge."
    ]


def test_figures_over_several_data_sets(two_data_sets):
    study, output = two_data_sets, two_data_sets.root / "report"
    report(study.root / "comparison", study.row_files, study.cells, study.tasks, output, {})
    page = (output / "report.html").read_text()
    for name in ("differences", "gains", "ranks", "critical_differences"):
        assert (output / "figures" / f"{name}.png").is_file()
        assert not pd.read_csv(output / "figures" / f"{name}.csv").empty
        assert OVERVIEW[name][0] in page
    assert "Does the winner stay?" in page


def test_the_page_shows_them(study):
    output = study.root / "report"
    report(study.root / "comparison", study.row_files, study.cells, study.tasks, output, {"margin": 0.03})
    page = (output / "report.html").read_text()
    assert "C3: contrastive pre-training gives no clear benefit." in page
    assert '<span class="verdict">too little data</span>' in page
    assert "±0.03" in page
    assert "<strong>" in page[page.index('id="paper-table"') : page.index('id="table"')]
    assert "&lt;strong&gt;" not in page


def test_a_missing_table_is_refused(study):
    (study.root / "comparison" / "claims.csv").unlink()
    with pytest.raises(InputError, match=r"claims\.csv: cannot be read.*run compare again"):
        statistics_section.claims(study.root / "comparison", 0.95)
