"""Many comparisons at once: Holm's step-down adjustment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjusted p values [N] of one family (Holm, Scandinavian Journal of Statistics 6, 1979); NaN is no member of it.

    The k-th smallest of n is multiplied by n - k + 1, never below the one before it, at most 1.
    """
    p = np.asarray(p, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    members = np.flatnonzero(~np.isnan(p))
    order = members[np.argsort(p[members], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def holm_within(table: pd.DataFrame, families: Sequence[str]) -> pd.Series:
    """Adjusted ``p`` of a table's lines; lines that agree in the columns ``families`` are one family."""
    if table.empty:
        return pd.Series(dtype="float64", index=table.index)
    return table.groupby(list(families), sort=False)["p"].transform(lambda p: holm(p.to_numpy(np.float64)))
