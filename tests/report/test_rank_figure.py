"""Rank figures and the heat map: drawn as the tables say, and readable."""

import numpy as np
import pandas as pd
import pytest

from detpretrain.report.gain_figure import plot_gains
from detpretrain.report.rank_figure import plot_critical_differences, plot_ranks

INITS = ("scratch", "mae", "mg", "s3d", "voco", "multitalent")


def ranks(detectors=("net", "other"), inits=INITS, blocks=8, critical=2.0):
    mean_rank = np.linspace(1.2, len(inits) - 0.3, len(inits))
    lines = [
        {"detector": d, "init": i, "mean_rank": r, "low": r - 0.5, "high": r + 0.5, "best": 0.1, "blocks": blocks,
         "friedman_p": 0.01, "critical_difference": critical, "note": ""}
        for d in detectors for i, r in zip(inits, mean_rank, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(lines)


def test_ranks_with_their_intervals(tmp_path, drawn, assert_readable):
    figures = drawn("detpretrain.report.rank_figure")
    table = ranks()
    assert plot_ranks(table, tmp_path / "r.png")
    for panel in figures[0].axes:
        points = [line.get_xdata()[0] for line in panel.lines if line.get_marker() == "o"]
        assert points == pytest.approx(table["mean_rank"].tolist()[: len(INITS)])
    assert_readable(figures[0])
    assert not plot_ranks(ranks(blocks=1), tmp_path / "r.png")


def test_bars_join_what_cannot_be_told_apart(tmp_path, drawn, assert_readable):
    figures = drawn("detpretrain.report.rank_figure")
    assert plot_critical_differences(ranks(critical=2.0), tmp_path / "c.png")
    assert_readable(figures[0])
    bars = [c for c in figures[0].axes[0].collections if c.get_linewidth()[0] == 3.5]
    mean_rank = ranks()["mean_rank"].to_numpy()[: len(INITS)]
    # steps of 0.9: each bar spans three inits
    spans = sorted(tuple(bar.get_segments()[0][:, 0].tolist()) for bar in bars)
    assert spans == [pytest.approx((a - 0.04, b + 0.04)) for a, b in zip(mean_rank[:-2], mean_rank[2:], strict=True)]
    assert not plot_critical_differences(ranks(critical=np.nan), tmp_path / "c.png")


def test_many_inits_stay_readable(tmp_path, drawn, assert_readable):
    figures = drawn("detpretrain.report.rank_figure")
    plot_critical_differences(ranks(inits=[f"a_long_init_{i}" for i in range(11)], critical=4.0), tmp_path / "c.png")
    assert_readable(figures[0])


def test_gains_by_data_set(tmp_path, drawn, assert_readable):
    figures = drawn("detpretrain.report.gain_figure")
    lines = [
        {"dataset": d, "test_set": t, "detector": n, "init": i, "seed": 0, "metric": "AP@0.10", "overlap": 0}
        for d, t in (("a", "cv"), ("a", "centre"), ("bbbbbbbbbbbb", "cv"))
        for n in ("net", "retina_unet_resenc") for i in INITS[1:]
    ]  # fmt: skip
    table = pd.DataFrame(lines)
    table = table.assign(difference=np.linspace(-0.1, 0.05, len(table)), p_holm=np.where(table.index == 0, 0.01, 1.0))
    assert plot_gains(table[:-1], tmp_path / "g.png")
    axes = figures[0].axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert len(texts) == 30
    assert [text for text in texts if text.endswith("*")] == ["−0.10*"]
    assert texts.count("–") == 1
    assert_readable(figures[0])
    assert not plot_gains(table[table["dataset"] == "bbbbbbbbbbbb"], tmp_path / "g.png")
