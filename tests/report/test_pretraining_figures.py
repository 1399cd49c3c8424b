"""Figures of the pre-trainings: the numbers drawn are the files', nothing overlaps, colours can be told apart."""

from dataclasses import replace

import numpy as np
import pytest

from detpretrain.report import pretraining_figures as figures
from detpretrain.report.pretraining_section import PreviewPanel, read_pretrainings
from detpretrain.report.style import init_styles

MODULE = "detpretrain.report.pretraining_figures"


@pytest.fixture
def trained(pretraining):
    inits = ("mae", "models_genesis", "s3d", "voco", "multitalent")
    return read_pretrainings([pretraining(init) for init in inits])


@pytest.mark.parametrize("number", [1, 3, 4, 5])
def test_curves_have_a_panel_per_pretraining(trained, drawn, assert_readable, tmp_path, number):
    saved = drawn(MODULE)
    figures.plot_pretraining_curves(trained[:number], tmp_path / "x.png", ["scratch", "aaa"])
    panels = [panel for panel in saved[0].axes if panel.lines]
    assert [panel.get_title(loc="left") for panel in panels] == [one.name for one in trained[:number]]
    styles = init_styles(["scratch", "aaa", *(one.init for one in trained[:number])])
    for panel, one in zip(panels, trained, strict=False):
        solid, dashed = panel.lines
        assert np.allclose(solid.get_ydata(), one.log["train_loss"])
        assert np.allclose(dashed.get_ydata(), one.log["val_loss"])
        assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
        assert solid.get_color() == styles[one.init][0]
        assert panel.get_yscale() == "log"
    assert_readable(saved[0])


@pytest.mark.parametrize("scale", [1.0, 1e-4, 0.01, 300.0])
def test_log_axes_are_labelled_whatever_the_range(trained, drawn, tmp_path, scale):
    saved = drawn(MODULE)
    values = np.linspace(1, 1 + scale, 5)
    one = replace(trained[0], log=trained[0].log.assign(train_loss=values, val_loss=values))
    figures.plot_pretraining_curves([one], tmp_path / "x.png", [])
    panel = saved[0].axes[0]
    low, high = panel.get_ylim()
    assert sum(low <= tick <= high for tick in panel.get_yticks()) >= 2


def test_losses_that_reach_zero_have_a_linear_axis(trained, drawn, tmp_path):
    saved = drawn(MODULE)
    log = trained[0].log.assign(val_loss=[1, 0.5, 0.1, 0, -0.1])
    figures.plot_pretraining_curves([replace(trained[0], log=log)], tmp_path / "x.png", [])
    assert saved[0].axes[0].get_yscale() == "linear"


def test_epochs_without_validation_are_left_out(trained, drawn, tmp_path):
    saved = drawn(MODULE)
    log = trained[0].log.assign(val_loss=[np.nan, 1.0, np.nan, 2.0, np.nan])
    figures.plot_pretraining_curves([replace(trained[0], log=log)], tmp_path / "x.png", [])
    assert saved[0].axes[0].lines[1].get_xdata().tolist() == [2, 4]


def test_preview_shows_every_panel_in_its_kind(trained, drawn, assert_readable, tmp_path):
    saved = drawn(MODULE)
    figures.plot_preview(trained[0], tmp_path / "x.png")
    pictures = [axes for axes in saved[0].axes if axes.images]
    assert len(pictures) == 8
    shown = [panel for row in trained[0].preview for panel in row]
    for axes, panel in zip(pictures, shown, strict=True):
        assert np.array_equal(axes.images[0].get_array(), panel.values)
    grey, other, labels, matrix = (axes.images[0] for axes in pictures[:4])
    assert grey.get_clim() == other.get_clim() == figures.grey_window(trained[0].preview[0])
    assert np.allclose(labels.to_rgba(np.array([0])), [0, 0, 0, 1])
    assert len({tuple(colour) for colour in labels.to_rgba(np.arange(4))}) == 4
    assert (matrix.get_clim(), matrix.get_cmap().name) == ((0, 1), "viridis")
    assert pictures[3].get_xlabel()
    assert len(saved[0].axes) == 10  # a colour bar per row
    assert_readable(saved[0])


def test_rows_of_different_length_leave_room_empty(trained, drawn, assert_readable, tmp_path):
    saved = drawn(MODULE)
    rows = [trained[0].preview[0], trained[0].preview[1][:2]]
    figures.plot_preview(replace(trained[0], preview=rows), tmp_path / "x.png")
    assert sum(bool(axes.images) for axes in saved[0].axes) == 6
    assert_readable(saved[0])


def test_grey_window_is_shared_and_never_empty():
    panels = [
        PreviewPanel("a", "grey", np.arange(50.0).reshape(5, 10), ("row", "column")),
        PreviewPanel("b", "grey", np.arange(50.0, 101.0)[None], ("row", "column")),
        PreviewPanel("c", "matrix", np.full((2, 2), 1e6), ("row", "column")),
    ]
    assert figures.grey_window(panels) == pytest.approx((1.0, 99.0))
    assert figures.grey_window([PreviewPanel("a", "grey", np.full((2, 2), 3.0), ("row", "column"))]) == (3.0, 4.0)
    assert figures.grey_window(panels[2:]) == (0.0, 1.0)


def test_many_labels_have_colours():
    colours = figures.label_colours(25).colors
    assert len(colours) == 26
    assert colours[0] == "#000000"
    assert colours[11] == colours[1]


def test_probe_shows_every_repeat(trained, drawn, assert_readable, tmp_path):
    saved = drawn(MODULE)
    other = replace(trained[1], probe=replace(trained[1].probe, dataset="another"))
    figures.plot_probes([trained[0], other, replace(trained[2], probe=None)], tmp_path / "x.png")
    panels = saved[0].axes
    assert [panel.get_title(loc="left") for panel in panels] == ["another, 3 classes", "organs, 3 classes"]
    assert [label.get_text() for label in panels[1].get_yticklabels()] == ["mae (resenc)"]
    points = [line for line in panels[1].lines if line.get_marker() in "os^"]
    for line, contender in zip(points, ("pretrained", "random", "intensity"), strict=True):
        assert line.get_xdata().tolist() == trained[0].probe.accuracies[contender]
    assert_readable(saved[0])


def test_figures_are_written(trained, tmp_path):
    figures.plot_pretraining_curves(trained, tmp_path / "curves.png", ["scratch"])
    figures.plot_preview(trained[0], tmp_path / "preview.png")
    figures.plot_probes(trained, tmp_path / "probe.png")
    for name in ("curves", "preview", "probe"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
