"""What the page warns of."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd

from detpretrain.report.warning_list import warning_list

SCORES = {
    "dataset": ["d", "d"],
    "test_set": ["cv", "cv"],
    "patients": [40, 40],
    "folds": [5, 5],
    "undefined_draws": [0, 0],
    "resamples": [200, 200],
}


def warned(missing=(), cells=(), scores=None, complaints=(), trained=(), overlap="", optimistic=()):
    table = pd.DataFrame({**SCORES, **(scores or {})})
    return warning_list(missing, cells, table, complaints, trained, overlap, optimistic)


def test_a_whole_fresh_study_warns_of_nothing(study):
    assert warned(cells=study.cells) == []


def test_missing_results_are_counted_and_the_first_named():
    (line,) = warned(missing=[f"cell {number}" for number in range(9)])
    assert line.startswith("Incomplete: 9 of the study's results are missing (cell 0, ")
    assert "cell 5 and 3 more" in line
    assert "cell 6" not in line


def test_stale_cells_are_told_by_state(study):
    cells = [replace(study.cells[0], state="recipe changed"), *study.cells[1:]]
    (line,) = warned(cells=cells)
    assert line.startswith("1 of 6 cells do not come from today's source and configuration (recipe changed): nodules-")


def test_rows_that_chose_on_what_scores_them_are_named():
    (line,) = warned(optimistic=[f"d/x/i/seed{number}" for number in range(7)])
    assert line.startswith(
        "Post-processing was chosen on the scored cases themselves, as nnDetection does, in 7 of the rows"
    )
    assert line.endswith("d/x/i/seed0, d/x/i/seed1, d/x/i/seed2, d/x/i/seed3, d/x/i/seed4, d/x/i/seed5 and 1 more.")


def test_imported_cells_are_told_by_their_origin(study):
    cells = [replace(cell, imported="theirs (study a)") for cell in study.cells[:2]]
    cells += [replace(study.cells[2], imported="others"), *study.cells[3:]]
    one, two = warned(cells=cells)
    assert one.startswith("1 of 6 cells was not computed here but imported from others: nodules-")
    assert two.startswith("2 of 6 cells were not computed here but imported from theirs (study a): nodules-")
    assert two.count("fold") == 2


def test_few_patients_folds_and_objects_are_told():
    assert warned(scores={"folds": [1, 1]}) == [
        "d (cv): one fold: no spread over folds; the luck of its split is not in any interval."
    ]
    assert "a single patient" in warned(scores={"patients": [1, 1], "undefined_draws": [200, 200]})[0]
    assert len(warned(scores={"patients": [1, 1], "undefined_draws": [200, 200]})) == 1
    assert "5.0 % of the bootstrap draws" in warned(scores={"undefined_draws": [4, 10]})[0]
    assert warned(scores={"test_set": ["test", "test"], "folds": [0, 0]}) == []


def test_failed_fits_overlaps_and_untaught_encoders_are_told():
    assert warned(complaints=["it failed."], overlap="† seen") == ["† seen", "it failed."]
    score = SimpleNamespace(beats_baseline=False, baseline_name="in-fill", name="MSE")
    undefined = SimpleNamespace(beats_baseline=None, baseline_name="x", name="y")
    trained = [SimpleNamespace(name="mae (resenc)", scores=[score, undefined])]
    assert warned(trained=trained) == ["Pre-training mae (resenc) does not beat in-fill on its own task (MSE)."]
