"""Learning curves: logs read by their path, every fold drawn, nothing overlapping."""

from dataclasses import replace

import numpy as np
import pytest

from detpretrain.errors import InputError
from detpretrain.report.learning_curves import plot_learning_curves, read_logs

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
    assert log.title == "detr, mae, seed 12, frac25"


def test_bad_logs_are_refused(study, tmp_path):
    with pytest.raises(InputError, match="not a cell's log"):
        read_logs([tmp_path / "log.csv"])
    with pytest.raises(InputError, match=r"fold9-seed0/log\.csv: cannot be read"):
        read_logs([study.logs[0].parent.with_name("fold9-seed0") / "log.csv"])
    study.logs[0].write_text("epoch,loss\n0,1\n")
    with pytest.raises(InputError, match="no column train_loss"):
        read_logs(study.logs)


def test_every_fold_is_a_line_and_the_reference_comes_first(study, drawn, assert_readable):
    figures = drawn(MODULE)
    plot_learning_curves(read_logs(study.logs), study.root / "x.png")
    panels = figures[0].axes
    assert [panel.get_title(loc="left").split(", ")[1] for panel in panels[::2]] == ["scratch", "mae", "s3d_long_name"]
    for loss, ap in zip(panels[::2], panels[1::2], strict=True):
        assert (len(loss.lines), len(ap.lines)) == (4, 2)
        assert np.allclose(loss.lines[0].get_ydata(), 2.0 / (1 + np.arange(6)))
        assert ap.lines[0].get_xdata().tolist() == [1, 3, 5]  # epochs without validation are left out
    assert panels[-1].get_xlabel() == "epoch"
    assert_readable(figures[0])


def test_logs_without_validation_say_so(study, drawn, assert_readable):
    figures = drawn(MODULE)
    logs = [replace(log, table=log.table[["epoch", "train_loss"]]) for log in read_logs(study.logs)]
    plot_learning_curves(logs, study.root / "x.png")
    assert [text.get_text() for text in figures[0].axes[1].texts] == ["not recorded"]
    assert_readable(figures[0])


def test_figure_is_written(study):
    plot_learning_curves(read_logs(study.logs), study.root / "learning.png")
    assert (study.root / "learning.png").read_bytes().startswith(b"\x89PNG")
