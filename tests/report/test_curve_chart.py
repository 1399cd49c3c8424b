"""Charts of one log: where points and numbers stand."""

import numpy as np
import pandas as pd
import pytest

from detpretrain.report.curve_chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, charts


def places(line):
    return [tuple(map(float, pair.split(","))) for pair in line.points.split()]


def log(**columns):
    return pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [3.0, 2.0, 1.0], **columns})


def test_points_lie_where_their_values_say():
    loss, ap = charts(log(val_loss=[2.0, 2.0, 2.0], val_ap=[0.0, 0.5, 1.0]))
    training, validation = loss.lines
    bottom = HEIGHT - BOTTOM
    assert places(training)[0] == (LEFT, TOP)  # the first epoch, the highest loss
    assert places(training)[2] == (WIDTH - RIGHT, bottom)
    assert {y for _, y in places(validation)} == {(TOP + bottom) / 2}
    assert (training.dashed, validation.dashed) == (False, True)
    assert [y for _, y in places(ap.lines[0])] == [bottom, (TOP + bottom) / 2, TOP]
    assert "training 1 in the last epoch, validation 2 in the last epoch" in loss.title
    assert [text for _, text in loss.x_ticks] == ["1", "2", "3"]
    ticks = {text: place for place, text in ap.y_ticks}
    assert ticks["0"] == pytest.approx(bottom)
    assert ticks["1"] == pytest.approx(TOP)


def test_what_was_not_logged_is_not_drawn():
    assert len(charts(log())) == 1
    assert len(charts(log(val_ap=[np.nan] * 3))) == 1
    (_, ap) = charts(log(val_ap=[np.nan, 0.2, np.nan]))
    assert len(places(ap.lines[0])) == 1
    assert charts(pd.DataFrame({"epoch": [1], "train_loss": [np.inf]})) == []


def test_a_single_epoch_and_equal_values_have_a_place():
    (chart,) = charts(pd.DataFrame({"epoch": [4], "train_loss": [2.0]}))
    ((x, y),) = places(chart.lines[0])
    assert LEFT < x < WIDTH - RIGHT
    assert TOP < y < HEIGHT - BOTTOM
