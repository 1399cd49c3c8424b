"""How far the result hangs on single data sets, folds and seeds (secondary statistics)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

METRIC = "AP@0.10"
SOURCES = ("dataset", "fold", "init", "seed", "residual")


def winners(folds: pd.DataFrame) -> pd.DataFrame:
    """The best init of a detector, from all folds, and with each data set and each fold left out in turn.

    Args:
        folds: lines of ``folds.csv`` of one detector. A score is the mean over folds and seeds, then over data sets; inits that
            miss a data set are left out.

    Returns:
        One line each: ``left_out`` ("nothing", "data set X", "fold K"), ``winner``, ``lead`` (on the second; empty without one),
        ``stable`` (the winner is that of all).
    """
    table = folds[["dataset", "init", "fold", METRIC]].dropna()
    complete = table.groupby("init")["dataset"].nunique() == table["dataset"].nunique()
    table = table[table["init"].map(complete).astype(bool)]
    lines = []
    for left_out, part in _parts(table):
        means = part.groupby(["init", "dataset"])[METRIC].mean().groupby("init").mean().sort_values(ascending=False)
        lead = means.iloc[0] - means.iloc[1] if len(means) > 1 else np.nan
        lines.append({"left_out": left_out, "winner": means.index[0], "lead": lead})
    found = pd.DataFrame(lines, columns=["left_out", "winner", "lead"])
    return found.assign(stable=found["winner"] == found["winner"].iloc[0] if len(found) else False)


def _parts(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    if table.empty:
        return
    yield "nothing", table
    for column, name in (("dataset", "data set"), ("fold", "fold")):
        values = sorted(table[column].unique())
        if len(values) > 1:
            yield from ((f"{name} {value}", table[table[column] != value]) for value in values)


def variance_shares(folds: pd.DataFrame) -> dict[str, float]:
    """Share of the spread of one detector's fold scores by source, summing to 1; empty with a single seed.

    Sequential sums of squares in the order data set, fold within data set, init, seed; the rest is the residual.
    """
    table = folds[["dataset", "fold", "init", "seed", METRIC]].dropna().rename(columns={METRIC: "ap"})
    if table["seed"].nunique() < 2 or np.ptp(table["ap"]) == 0:
        return {}
    table = table.assign(fold=table["dataset"] + "/" + table["fold"].astype(str))
    ap, design = table["ap"].to_numpy(np.float64), np.ones((len(table), 1))
    left = [_rest(ap, design)]
    for source in SOURCES[:-1]:
        design = np.hstack([design, pd.get_dummies(table[source]).to_numpy(np.float64)])
        left.append(_rest(ap, design))
    squares = [*-np.diff(left), left[-1]]
    return {name: float(value / left[0]) for name, value in zip(SOURCES, squares, strict=True)}


def _rest(values: NDArray[np.float64], design: NDArray[np.float64]) -> float:
    """Sum of squares that a linear model leaves, dependent columns or not."""
    return float(np.square(values - design @ np.linalg.lstsq(design, values)[0]).sum())
