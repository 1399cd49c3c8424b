"""Learning curves: logs read by their path, every fold drawn, nothing overlapping."""

from dataclasses import replace

import numpy as np
import pytest

from detpretrain.errors import InputError
from detpretrain.report.learning_curves import PANELS, plot_learning_curves, read_logs

MODULE = "detpretrain.report.learning_curves"


def test_the_path_says_what_a_log_is_of(study):
    source = study.logs[0]
    moved = study.root / "cells" / "nodules" / "detr" / "mae" / "fold3-seed12-frac25" / "log.csv"
    moved.parent.mkdir(parents=True)
    moved.write_bytes(source.read_bytes())
    (log,) = read_logs([moved])
    assert (log.dataset, log.detector, log.init, log.fold, log.seed, log.variant) == (
        "nodules",
        "detr",
        "mae",
        3,
        12,
        "-frac25",
    )
    assert log.label == "mae, frac25"


def test_bad_logs_are_refused(study, tmp_path):
    with pytest.raises(InputError, match="not a cell's log"):
        read_logs([tmp_path / "log.csv"])
    with pytest.raises(InputError, match=r"fold9-seed0/log\.csv: cannot be read"):
        read_logs([study.logs[0].parent.with_name("fold9-seed0") / "log.csv"])
    study.logs[0].write_text("epoch,loss\n0,1\n")
    with pytest.raises(InputError, match="no column train_loss"):
        read_logs(study.logs)


def test_detectors_have_panels_and_inits_a_mean_over_thin_folds(study, drawn, assert_readable):
    figures = drawn(MODULE)
    logs = read_logs(study.logs)
    logs = [replace(log, table=log.table.assign(val_loss=log.table["val_loss"] / 10)) for log in logs]
    slower = [replace(log, detector="z_detr", table=log.table.assign(train_loss=9.0)) for log in logs[:3]]
    plot_learning_curves([*logs, *slower], study.root / "x.png")
    panels = np.array(figures[0].axes).reshape(2, 3)
    assert [panel.get_title(loc="left") for panel in panels[:, 0]] == [logs[0].detector, "z_detr"]
    assert [panel.get_ylabel() for panel in panels[0]] == [label for _, label in PANELS]
    inits = sorted({log.init for log in logs})
    for panel in panels[0]:
        assert len(panel.lines) == len(logs) + len(inits)
    first, second, mean = panels[0, 0].lines[:3]
    assert np.allclose(first.get_ydata(), 2.0 / (1 + np.arange(6)))
    assert np.allclose(mean.get_ydata(), (first.get_ydata() + second.get_ydata()) / 2)
    assert mean.get_linewidth() > first.get_linewidth()
    assert panels[0, 2].lines[0].get_xdata().tolist() == [1, 3, 5]  # epochs without validation are left out
    assert panels[0, 1].get_ylim()[0] < min(panels[0, 1].lines[0].get_ydata())
    assert panels[0, 0].get_ylim() == panels[0, 1].get_ylim() != panels[1, 0].get_ylim()
    assert panels[0, 2].get_ylim() == (0, 1)
    assert figures[0].legends[0].get_texts()[0].get_text() == "scratch"
    assert_readable(figures[0])


def test_the_mean_is_of_the_epochs_that_all_folds_have(study, drawn):
    figures = drawn(MODULE)
    whole, other = read_logs(study.logs)[:2]
    short = replace(other, table=other.table.iloc[:4].assign(train_loss=[4.0, 3.0, 2.0, 1.0]))
    plot_learning_curves([whole, short], study.root / "x.png")
    mean = figures[0].axes[0].lines[2]
    assert mean.get_xdata().tolist() == [0, 1, 2, 3]
    assert np.allclose(mean.get_ydata(), [3.0, 2.0, 4 / 3, 0.75])


def test_logs_without_validation_say_so(study, drawn, assert_readable):
    figures = drawn(MODULE)
    logs = [replace(log, table=log.table[["epoch", "train_loss"]]) for log in read_logs(study.logs)]
    plot_learning_curves(logs, study.root / "x.png")
    assert [[text.get_text() for text in panel.texts] for panel in figures[0].axes] == [
        [],
        ["not recorded"],
        ["not recorded"],
    ]
    assert_readable(figures[0])


def test_figure_is_written(study):
    plot_learning_curves(read_logs(study.logs), study.root / "learning.png")
    assert (study.root / "learning.png").read_bytes().startswith(b"\x89PNG")
