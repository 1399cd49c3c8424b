"""Ranks of the rows of one detector over data sets (secondary statistics: few data sets, little power).

Demsar, "Statistical comparisons of classifiers over multiple data sets", JMLR 7, 2006.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats


@dataclass(frozen=True)
class Ranking:
    """Inits in the order of the columns that came in; rank 1 is the best.

    Attributes:
        mean_rank: over the data sets [K].
        low, high: percentile interval of the mean rank over the draws of patients [K].
        best: share of the draws in which an init has the best mean rank, ties shared [K].
        friedman_p: of equal ranks (Friedman's chi-squared); NaN with fewer than two data sets or three inits.
        critical_difference: mean ranks closer than this do not differ (Nemenyi); NaN likewise.
    """

    mean_rank: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    best: NDArray[np.float64]
    friedman_p: float
    critical_difference: float


def rank(scores: NDArray[np.float64], draws: NDArray[np.float64], confidence: float) -> Ranking:
    """``scores`` [data sets, K], ``draws`` [R, data sets, K]: higher is better, none missing; a draw with NaN is left out."""
    n_sets, k = scores.shape
    defined = draws[~np.isnan(draws).any(axis=(1, 2))]
    of_draws = ranks(defined).mean(axis=1) if len(defined) else np.full((1, k), np.nan)
    first = of_draws == of_draws.min(axis=1, keepdims=True)
    low, high = np.quantile(of_draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    enough = n_sets >= 2 and k >= 3
    return Ranking(
        mean_rank=ranks(scores).mean(axis=0),
        low=low,
        high=high,
        best=(first / first.sum(axis=1, keepdims=True)).mean(axis=0) if len(defined) else np.full(k, np.nan),
        friedman_p=friedman(scores) if enough else float("nan"),
        critical_difference=nemenyi(k, n_sets, confidence) if enough else float("nan"),
    )


def ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks along the last axis, 1 = highest score, equal scores share their mean rank."""
    return stats.rankdata(-scores, method="average", axis=-1)


def friedman(scores: NDArray[np.float64]) -> float:
    """p of Friedman's test that all columns of ``[data sets, K]`` rank alike; 1 when every data set ties throughout."""
    if (np.ptp(scores, axis=1) == 0).all():
        return 1.0
    return float(stats.friedmanchisquare(*scores.T).pvalue)


def nemenyi(k: int, n_sets: int, confidence: float) -> float:
    """Critical difference of mean ranks of ``k`` inits over ``n_sets`` data sets at level ``1 - confidence``."""
    quantile = stats.studentized_range.ppf(confidence, k, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(k * (k + 1) / (6 * n_sets)))


def cliques(mean_rank: NDArray[np.float64], critical_difference: float) -> list[tuple[int, ...]]:
    """Largest groups of inits (by index, best first) whose mean ranks lie within the critical difference, two or more each."""
    order = np.argsort(mean_rank, kind="stable")
    found: list[tuple[int, ...]] = []
    end_before = 0
    for start in range(len(order)):
        within = mean_rank[order] - mean_rank[order[start]] <= critical_difference
        end = int(np.flatnonzero(within)[-1]) + 1
        if end - start > 1 and end > end_before:
            found.append(tuple(int(i) for i in order[start:end]))
            end_before = end
    return found
