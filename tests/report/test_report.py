"""`report` from files to files."""

import importlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from detpretrain.comparison.compare import compare
from detpretrain.errors import InputError
from detpretrain.report.report import report


class Page(HTMLParser):
    """Table cells, ids, and everything the page would load or link to."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.ids, self.references, self._in_cell = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.references += [named[name] for name in ("src", "href", "data", "action") if name in named]
        self.ids += [named["id"]] if "id" in named else []
        self._in_cell = tag == "td"

    def handle_endtag(self, tag):
        self._in_cell = False

    def handle_data(self, data):
        if self._in_cell:
            self.cells.append(data)


def run(study, **changes):
    arguments = {"row_files": study.row_files, "cells": study.cells, "tasks": study.tasks, "settings": {}, **changes}
    report(study.root / "comparison", output=study.root / "report", **arguments)
    return study.root / "report"


def test_everything_is_written_and_the_page_is_self_contained(study):
    output = run(study, settings={"provenance": [{"recipe": "a1b2", "source": "c3d4", "cells": 6}]})
    figures = ("differences", "froc_nodules", "learning_nodules", "overlays_nodules")
    assert sorted(path.name for path in (output / "figures").iterdir()) == sorted(
        [f"{name}.{suffix}" for name in figures for suffix in ("pdf", "png", "svg")]
        + [f"{name}.csv" for name in figures if name != "overlays_nodules"]
    )
    assert sorted(path.name for path in output.iterdir()) == sorted(
        [f"{name}_table.{suffix}" for name in ("main", "paper") for suffix in ("csv", "md", "tex")]
        + ["report.html", "citations.bib", "figures"]
    )
    text = (output / "report.html").read_text()
    page = Page(text)
    assert "http" not in text.replace("<!doctype html>", "").replace("http://www.w3.org/2000/svg", "")
    images = [reference for reference in page.references if reference.startswith("data:image")]
    assert len(images) == 4
    assert all(image.startswith("data:image/png;base64,") for image in images)
    beside = [reference for reference in page.references if reference.startswith("figures/")]
    assert len(beside) == 4 * 3 - 1
    assert all((output / reference).is_file() for reference in beside)
    kinds = ("#", "data:image/png;base64,", "data:text/plain", "figures/")
    assert all(reference.startswith(kinds) for reference in page.references)
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert {"a1b2", "c3d4", "6"} <= set(page.cells)
    assert "3 rows" in text
    assert "6 finished cells" in text


def test_every_cell_has_a_page_that_its_data_set_leads_to(study):
    page = Page((run(study) / "report.html").read_text())
    assert [name for name in page.ids if name.startswith("cell-") and not name.endswith("title")] == [
        cell.anchor for cell in sorted(study.cells, key=lambda cell: (cell.init, cell.fold))
    ]
    links = page.references
    assert all(f"#{cell.anchor}" in links for cell in study.cells)
    assert "#dataset-nodules" in links


def test_what_is_missing_or_stale_is_said(study):
    assert 'id="warnings"' not in (run(study) / "report.html").read_text()
    cells = [replace(study.cells[0], state="source changed"), *study.cells[1:]]
    text = (run(study, cells=cells, settings={"missing": ["row a", "cell b"]}) / "report.html").read_text()
    assert "Incomplete: 2 of the study&#39;s results are missing (row a, cell b)." in text
    assert "1 of 6 cells do not come from today&#39;s source and configuration (source changed)" in text


def test_imported_cells_are_said_in_every_table_at_the_top_and_on_their_pages(study):
    cells = [replace(cell, imported="theirs") if cell.init == "mae" else cell for cell in study.cells]
    output = run(study, cells=cells)
    assert pd.read_csv(output / "main_table.csv").set_index("init")["imported_cells"].to_dict() == {
        "scratch": 0, "mae": 2, "s3d_long_name": 0,
    }  # fmt: skip
    for name in ("main_table.md", "main_table.tex", "paper_table.md", "paper_table.tex"):
        text = (output / name).read_text().replace(r"\_", "_")
        assert "(data set, detector, init, seed): nodules retina_unet_resenc mae 0: 2." in text
    page = (output / "report.html").read_text()
    assert "2 of 6 cells were not computed here but imported from theirs: nodules-retina_unet_resenc-mae-fold0" in page
    assert page.index("imported from theirs") < page.index('id="paper-table"')
    assert page.count("fresh, imported") == 2
    assert '<button type="button">imported cells</button>' in page


def test_a_data_set_without_a_whole_row_shows_its_cells(study):
    other = replace(study.cells[0], dataset="later")
    folder = study.root / "cells" / "later" / Path(*study.cells[0].folder.parts[-3:])
    shutil.copytree(other.folder, folder)
    cells = [*study.cells, replace(other, folder=folder)]
    output = run(study, cells=cells, tasks={**study.tasks, "later": study.tasks["nodules"]})
    text = (output / "report.html").read_text()
    assert "No row of this data set is whole yet." in text
    assert (output / "figures" / "learning_later.png").exists()
    assert not (output / "figures" / "froc_later.png").exists()


def test_table_holds_the_comparison_s_numbers(study):
    output = run(study)
    scores = pd.read_csv(study.root / "comparison" / "scores.csv").set_index("init")
    table = pd.read_csv(output / "main_table.csv").set_index("init")
    assert table.index[0] == "scratch"
    for init in scores.index:
        assert table.loc[init, "AP@0.10"] == scores.loc[init, "AP@0.10"]
        for name in ("main_table.md", "main_table.tex", "report.html"):
            assert f"{scores.loc[init, 'AP@0.10']:.3f} [" in (output / name).read_text()


def test_the_challenge_s_score_is_a_column_of_every_table_for_rows_that_have_it(study):
    output = run(study)
    assert "CPM" not in "".join((output / f"main_table.{form}").read_text() for form in ("csv", "md", "tex"))
    assert "CPM" not in (output / "report.html").read_text()
    scored = study.row_files[1].with_name("metrics.json")
    scored.write_text(json.dumps({"test_sets": {"cv": {"luna16": {"cpm": 0.87654, "counts": {}}}}}))
    output = run(study)
    table = pd.read_csv(output / "main_table.csv").set_index("init")["CPM"]
    assert table["mae"] == 0.87654
    assert table.drop("mae").isna().all()
    page = Page((output / "report.html").read_text())
    assert page.cells.count("0.877") == 1
    assert '<button type="button">CPM</button>' in (output / "report.html").read_text()
    assert "CPM: the LUNA16 challenge's score" in (output / "report.html").read_text()
    for form, cell in (("md", "| 0.877 |"), ("tex", "& 0.877 &")):
        text = (output / f"main_table.{form}").read_text()
        assert "CPM" in text
        assert text.count(cell) == 1


def test_rows_without_their_metrics_are_refused(study):
    path = study.row_files[1].with_name("metrics.json")
    path.write_text(json.dumps({"test_sets": {"test": {}}}))
    with pytest.raises(
        InputError, match=r"mae/seed0/metrics\.json: not the metrics of matches\.parquet: run consolidate"
    ):
        run(study)
    path.unlink()
    with pytest.raises(InputError, match=r"mae/seed0/metrics\.json: file not found"):
        run(study)


def test_without_cells_there_are_no_learning_curves(study):
    output = run(study, cells=[])
    assert not (output / "figures" / "learning_nodules.png").exists()
    assert (output / "figures" / "froc_nodules.png").exists()


def test_rows_that_were_not_compared_are_refused(study):
    with pytest.raises(InputError, match=r"scores\.csv: .*mae.*run compare again"):
        run(study, row_files=[study.row_files[0], study.row_files[2]])


def test_missing_task_and_unknown_setting_are_refused(study):
    with pytest.raises(InputError, match="no task folder given for nodules"):
        run(study, tasks={})
    with pytest.raises(InputError, match="unknown setting 'titel'"):
        run(study, settings={"titel": "x"})


def test_missing_rows_still_give_a_report(study):
    """Without the reference nothing can be compared, and the page says so."""
    compare(study.row_files[1:], study.root / "comparison", {"resamples": 10}, {}, {})
    output = run(study, row_files=study.row_files[1:])
    assert "No initialisation can be compared with scratch yet." in (output / "report.html").read_text()


def test_overlap_is_marked_in_every_readable_table_and_in_the_findings(study):
    compare(study.row_files, study.root / "comparison", {"resamples": 10}, {("nodules", "mae"): 2}, {})
    output = run(study)
    assert pd.read_csv(output / "main_table.csv").set_index("init").loc["mae", "overlap"] == 2
    for name in ("main_table.md", "report.html"):
        assert "† pre-trained on patients that are scored (mae: 2 of" in (output / name).read_text()
    assert "$\\dagger$ pre-trained on" in (output / "main_table.tex").read_text()
    page = (output / "report.html").read_text()
    assert "mae † is " in page
    assert "<td>mae †</td>" in page
    # a warning, and below the table, the FROC curves and the overlays of the best row, which is this one
    assert page.count("† pre-trained on patients that are scored") == 4
    assert "retina_unet_resenc, mae †, fold 0" in page


@pytest.mark.parametrize("name", ["plot_froc", "plot_overlays"])
def test_figures_are_told_of_the_overlap(study, monkeypatch, name):
    compare(study.row_files, study.root / "comparison", {"resamples": 10}, {("nodules", "mae"): 2}, {})
    path, told = f"detpretrain.report.dataset_section.{name}", []
    draw = getattr(importlib.import_module("detpretrain.report.dataset_section"), name)
    monkeypatch.setattr(path, lambda *arguments, **more: (told.append(arguments[-1]), draw(*arguments, **more)))
    run(study)
    expected = {"scratch": 0, "mae": 2, "s3d_long_name": 0}
    assert told == [expected if name == "plot_froc" else expected["mae"]]  # the overlays are of the best row, mae


def test_pretrainings_are_shown_and_their_works_cited(study, pretraining):
    folders = [pretraining("mae"), pretraining("unused", probed=False)]
    published = {"type": "Architecture", "name": "ResEnc", "apa_citations": ["Isensee, F. (2024)."]}
    same = json.loads((folders[0] / "assessment.json").read_text())["citations"][0]
    settings = {"citations": {"s3d_long_name": [published, same], "elsewhere": [{**published, "name": "nowhere"}]}}
    output = run(study, pretrainings=folders, settings=settings)
    assert {path.name for path in output.glob("figures/pretraining_*.png")} == {
        "pretraining_curves.png",
        "pretraining_probe.png",
        "pretraining_preview_mae_resenc.png",
        "pretraining_preview_unused_resenc.png",
    }
    text = (output / "report.html").read_text()
    page = Page(text)
    assert len([reference for reference in page.references if reference.startswith("data:image")]) == 8
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)
    assert {"MSE of masked voxels (lower is better)", "0.820 (0.800 to 0.840)", "25 %"} <= set(page.cells)
    assert "<strong>ResEnc</strong> [s3d_long_name]" in text
    assert "<strong>Masked autoencoder</strong> [mae, s3d_long_name]" in text  # once, and not for an init without rows
    assert "nowhere" not in text


def test_pretrainings_without_a_probe_have_no_probe_table(study, pretraining):
    output = run(study, pretrainings=[pretraining("mae", probed=False)])
    assert not (output / "figures" / "pretraining_probe.png").exists()
    text = (output / "report.html").read_text()
    assert "Linear probe" not in text
    assert "Time per step" in text


def test_torch_is_never_imported():
    code = "import sys, detpretrain.report.report, detpretrain.comparison.compare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
