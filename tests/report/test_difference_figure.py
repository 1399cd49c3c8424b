"""Forest plot and sizes: what is drawn is what the comparison says."""

import numpy as np
import pandas as pd
import pytest

from detpretrain.report.difference_figure import plot_differences
from detpretrain.report.size_figure import plot_sizes


def differences(datasets=("a", "b"), detectors=("net", "other"), inits=("mae", "voco"), seeds=(0,)):
    lines = [
        {"dataset": d, "test_set": "cv", "detector": n, "init": i, "seed": s, "metric": "AP@0.10", "overlap": 0}
        for d in datasets for n in detectors for i in inits for s in seeds
    ]  # fmt: skip
    table = pd.DataFrame(lines)
    place = np.arange(len(table)) / 100
    return table.assign(difference=place, low=place - 0.05, high=place + 0.05, p_holm=np.where(place > 0.03, 0.01, 0.5))


def test_every_difference_is_a_point_on_its_interval(tmp_path, drawn, assert_readable):
    figures = drawn("detpretrain.report.difference_figure")
    table = differences()
    assert plot_differences(table, tmp_path / "d.png")
    points, bars, filled = [], [], []
    for panel in figures[0].axes:
        for line in panel.lines:
            if line.get_marker() == "o":
                points.append(line.get_xdata()[0])
                filled.append(line.get_markerfacecolor() != "white")
            elif len(set(line.get_ydata())) == 1:
                bars.append(list(line.get_xdata()))
    order = table.sort_values(["detector", "dataset", "init"])
    assert points == pytest.approx(order["difference"].tolist())
    assert np.array(bars) == pytest.approx(order[["low", "high"]].to_numpy())
    assert filled == (order["p_holm"] < 0.05).tolist()
    labels = [label.get_text().strip() for label in figures[0].axes[0].get_yticklabels()]
    assert labels == ["a", "mae", "voco", "b", "mae", "voco"]
    assert_readable(figures[0])


def test_many_rows_stay_readable_and_seeds_are_named(tmp_path, drawn, assert_readable):
    figures = drawn("detpretrain.report.difference_figure")
    names = [f"a_long_data_set_{i}" for i in range(8)]
    plot_differences(
        differences(names, ("retina_unet_resenc", "deformable_detr_resenc"), seeds=(0, 1)), tmp_path / "d.png"
    )
    assert "mae, seed 1" in [label.get_text().strip() for label in figures[0].axes[1].get_yticklabels()]
    assert_readable(figures[0])


def test_nothing_to_draw(tmp_path, drawn):
    drawn("detpretrain.report.difference_figure")
    assert not plot_differences(differences().assign(low=np.nan), tmp_path / "d.png")


def sizes(detectors=("net",), inits=("scratch", "mae")):
    lines = [
        {"dataset": "a", "test_set": "cv", "detector": n, "init": i, "seed": 0, "part": part, "fold": pd.NA,
         "metric": "FROC@0.10", "value": 0.2 + 0.1 * k + 0.2 * (i == "mae")}
        for n in detectors for i in inits for k, part in enumerate(("all", "small", "medium", "large"))
    ]  # fmt: skip
    return pd.DataFrame(lines).assign(low=lambda t: t["value"] - 0.1, high=lambda t: t["value"] + 0.1)


def test_sizes_of_every_init(tmp_path, drawn, assert_readable):
    figures = drawn("detpretrain.report.size_figure")
    assert plot_sizes(sizes(("net", "other")), tmp_path / "s.png")
    for panel in figures[0].axes:
        assert [line.get_ydata().tolist() for line in panel.lines] == [
            pytest.approx([0.3, 0.4, 0.5]),
            pytest.approx([0.5, 0.6, 0.7]),
        ]
        places = np.array([line.get_xdata() for line in panel.lines])
        assert np.array_equal(places.round(), [[0, 1, 2]] * 2)
        assert (places[1] > places[0]).all()
    assert_readable(figures[0])
    assert not plot_sizes(sizes().query("part == 'all'"), tmp_path / "s.png")
