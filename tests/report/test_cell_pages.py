"""Pages of cells: the shared case, its boxes, and what is printed of a cell."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from detpretrain.comparison.rows import read_rows
from detpretrain.errors import InputError
from detpretrain.evaluation import matches
from detpretrain.evaluation.matches import SIDES
from detpretrain.report.case_selection import case_scores, display_threshold
from detpretrain.report.cell_pages import boxes_of, cell_pages, cell_table, median_case
from detpretrain.report.learning_curves import read_logs


def made(study, cells=None, overlaps=None):
    cells = study.cells if cells is None else cells
    return cell_pages(cells, read_logs(cell.folder / "log.csv" for cell in cells), study.tasks, {}, overlaps or {})


def test_all_cells_of_a_fold_show_one_case(study):
    pages, films = made(study)
    assert [page.record.anchor for page in pages] == sorted(page.record.anchor for page in pages)
    assert {page.film for page in pages} == set(films) == {"nodules-fold0", "nodules-fold1"}
    for key, film in films.items():
        of_fold = [page for page in pages if page.film == key]
        assert len(of_fold) == 3
        truths = [page.boxes["truths"] for page in of_fold]
        assert truths[0] == truths[1] == truths[2] != []
        assert film.shape == (30, 40)
        assert film.slices == list(range(12))
        for page in of_fold:
            table = matches.read(page.record.folder / "matches.parquet")
            own = table[(table["case"] == film.case) & (table["kind"] == "truth")]
            np.testing.assert_allclose(page.boxes["truths"], own[SIDES].to_numpy(float))


def test_the_case_is_the_median_one(study):
    rows = [read_rows([cell.folder / "matches.parquet"])[0] for cell in study.cells if cell.fold == 1]
    means = pd.concat([case_scores(row) for row in rows]).groupby("case")["AP@0.10"].mean()
    chosen = median_case(rows)
    assert (means < means[chosen]).sum() <= len(means) / 2
    assert (means > means[chosen]).sum() <= len(means) / 2


def test_boxes_keep_score_and_the_ignored_apart(study):
    table = matches.read(study.cells[0].folder / "matches.parquet")
    case = table.loc[table["kind"] == "truth", "case"].iloc[0]
    first = table[(table["case"] == case) & (table["kind"] == "truth")].index[0]
    table.loc[first, "ignored"] = True
    found = boxes_of(table, case)
    own = table[table["case"] == case]
    assert len(found["ignored"]) == 1
    assert len(found["truths"]) == (own["kind"] == "truth").sum() - 1
    scores = [box[6] for box in found["detections"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == (own["kind"] == "detection").sum()
    assert found["threshold"] == pytest.approx(display_threshold(table), abs=1e-3)
    json.dumps(found, allow_nan=False)


def test_a_fold_without_objects_has_no_slices(study):
    cell = next(cell for cell in study.cells if cell.fold == 0)
    table = matches.read(cell.folder / "matches.parquet")
    matches.write(cell.folder / "matches.parquet", table[table["kind"] != "truth"])
    (page,), films = made(study, [cell])
    assert films == {}
    assert page.film is None
    assert page.boxes == {}


def test_scores_are_those_of_the_cell_and_a_seen_patient_is_marked(study):
    cell = study.cells[2]
    assert cell.init == "mae"
    (page,), _ = made(study, [cell], overlaps={("nodules", "mae"): 2})
    scores = json.loads((cell.folder / "metrics.json").read_text())["test_sets"]["cv"]
    line = dict(zip(page.columns, page.lines[0], strict=True))
    assert line["test set"] == "cv"
    assert line["AP@0.10"] == f"{scores['AP@0.10']:.3f}"
    assert line["cases"] == "3"
    assert page.title == "nodules: retina_unet_resenc, mae †, fold 0, seed 0"
    assert page.configuration == "recipe:\n  epochs: 6\n  note: <b>\n"
    table = cell_table([page])
    assert table["init"][0] == "mae †"
    assert table["fold"][0].__html__() == f'<a href="#{cell.anchor}">fold 0</a>'


def test_a_broken_cell_is_named(study):
    (study.cells[0].folder / "metrics.json").write_text('{"test_sets": {"cv": {}}}')
    with pytest.raises(InputError, match=r"fold0-seed0/metrics\.json: not the metrics of a cell"):
        made(study)
    (study.cells[0].folder / "metrics.json").write_text('{"test_sets": {}}')
    with pytest.raises(InputError, match="no test set in it"):
        made(study)
    gone = replace(study.cells[0], folder=study.root / "nowhere")
    with pytest.raises(InputError, match=r"nowhere/matches\.parquet: file not found"):
        cell_pages([gone], [], study.tasks, {}, {})
