"""FROC figure: the curves carry the evaluation's sensitivities."""

import numpy as np
import pandas as pd
import pytest

from detpretrain.comparison.rows import Row
from detpretrain.evaluation import matches
from detpretrain.report.froc_figure import plot_froc


def test_marked_points_are_the_evaluation_s(study, drawn, assert_readable):
    figures = drawn("detpretrain.report.froc_figure")
    plot_froc(study.rows, study.root / "froc.png")
    (panel,) = figures[0].axes
    points = [line for line in panel.lines if line.get_marker() == "o"]
    for row, line in zip(study.rows, points, strict=True):
        expected = matches.metrics(row.table, num_classes=1)["FROC@0.10"]
        assert line.get_xdata() == pytest.approx(expected["fppi"])
        assert line.get_ydata() == pytest.approx(expected["sensitivity"])
    assert [label.get_text() for label in panel.get_xticklabels()] == ["1/8", "1/4", "1/2", "1", "2", "4", "8"]
    assert panel.get_xscale() == "log"
    assert_readable(figures[0])


def test_panels_for_test_sets_and_detectors(study, drawn, assert_readable):
    figures = drawn("detpretrain.report.froc_figure")
    rows = []
    for detector in ("deformable_detr_resenc", "retina_unet_resenc", "retina_unet_plainconv"):
        for test_set in ("internal", "cv"):
            rows += [
                Row(type(r.key)("s", "d", test_set, detector, r.key.init, 0), r.table, r.source) for r in study.rows
            ]
    plot_froc(rows, study.root / "froc.png")
    titles = [panel.get_title(loc="left") for panel in figures[0].axes]
    assert titles[0] == "deformable_detr_resenc (cv)"
    assert len(titles) == 6
    assert titles[3].endswith("(internal)")
    assert_readable(figures[0])


def test_inits_whose_pretraining_saw_scored_patients_are_marked(study, drawn):
    figures = drawn("detpretrain.report.froc_figure")
    plot_froc(study.rows, study.root / "froc.png", overlaps={"mae": 2, "scratch": 0})
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["scratch", "mae †", "s3d_long_name"]


def test_row_without_objects_or_detections(study, drawn):
    figures = drawn("detpretrain.report.froc_figure")
    row = study.rows[0]
    bare = Row(row.key, row.table[row.table["kind"] == "case"].reset_index(drop=True), row.source)
    plot_froc([bare], study.root / "froc.png")
    assert np.all(figures[0].axes[0].lines[0].get_ydata() == 0)


def test_bands_are_the_intervals_of_the_comparison(study, drawn):
    figures = drawn("detpretrain.report.froc_figure")
    metrics = pd.read_csv(study.root / "comparison" / "metrics.csv")
    plot_froc(study.rows, study.root / "froc.png", metrics=metrics)
    bands = figures[0].axes[0].collections
    assert len(bands) == len(study.rows)
    lines = metrics[(metrics["part"] == "all") & metrics["fold"].isna()].set_index(["init", "metric"])
    for row, band in zip(study.rows, bands, strict=True):
        corners = {tuple(corner) for corner in band.get_paths()[0].vertices.round(9).tolist()}
        for rate in (0.125, 1.0, 8.0):
            line = lines.loc[(row.key.init, f"sensitivity@{rate:g}")]
            assert (rate, round(line["low"], 9)) in corners
            assert (rate, round(line["high"], 9)) in corners
    plot_froc(study.rows, study.root / "froc.png", metrics=metrics.assign(low=np.nan))
    assert len(figures[1].axes[0].collections) == 0
