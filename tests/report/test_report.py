"""`report` from files to files."""

import subprocess
import sys
from html.parser import HTMLParser

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
    arguments = {"row_files": study.row_files, "cell_logs": study.logs, "tasks": study.tasks, "settings": {}, **changes}
    report(study.root / "comparison", output=study.root / "report", **arguments)
    return study.root / "report"


def test_everything_is_written_and_the_page_is_self_contained(study):
    output = run(study, settings={"provenance": [{"recipe": "a1b2", "source": "c3d4", "cells": 6}]})
    assert sorted(path.name for path in output.iterdir()) == [
        "froc_nodules.png",
        "learning_nodules.png",
        "main_table.csv",
        "main_table.md",
        "main_table.tex",
        "overlays_nodules.png",
        "report.html",
    ]
    text = (output / "report.html").read_text()
    page = Page(text)
    assert "http" not in text.replace("<!doctype html>", "")
    images = [reference for reference in page.references if not reference.startswith("#")]
    assert len(images) == 3
    assert all(image.startswith("data:image/png;base64,") for image in images)
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)
    assert {"a1b2", "c3d4", "6"} <= set(page.cells)
    assert "3 rows" in text
    assert "6 trainings" in text


def test_table_holds_the_comparison_s_numbers(study):
    output = run(study)
    scores = pd.read_csv(study.root / "comparison" / "scores.csv").set_index("init")
    table = pd.read_csv(output / "main_table.csv").set_index("init")
    assert table.index[0] == "scratch"
    for init in scores.index:
        assert table.loc[init, "AP@0.10"] == scores.loc[init, "AP@0.10"]
        for name in ("main_table.md", "main_table.tex", "report.html"):
            assert f"{scores.loc[init, 'AP@0.10']:.3f} [" in (output / name).read_text()


def test_without_logs_there_are_no_learning_curves(study):
    output = run(study, cell_logs=[])
    assert not (output / "learning_nodules.png").exists()
    assert (output / "froc_nodules.png").exists()


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
    compare(study.row_files[1:], study.root / "comparison", {"resamples": 10})
    output = run(study, row_files=study.row_files[1:])
    assert "No initialisation can be compared with scratch yet." in (output / "report.html").read_text()


def test_torch_is_never_imported():
    code = "import sys, detpretrain.report.report, detpretrain.comparison.compare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
