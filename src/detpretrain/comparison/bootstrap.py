"""The patient-level bootstrap: intervals, paired differences and their p values.

Objects and cases of one patient are not independent, so patients are drawn, with all they bring. Rows of one data set are
compared on the SAME draws (paired): what makes a patient hard for both rows cancels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Difference:
    """``value`` of the whole sample, its percentile interval and the two-sided bootstrap p value; NaN = not defined."""

    value: float
    low: float
    high: float
    p: float


def patient_draws(n_patients: int, resamples: int, seed: int, name: str) -> np.ndarray:
    """How often each patient is drawn: float64 [resamples, n_patients], every line sums to ``n_patients``.

    The generator depends on ``seed`` and ``name`` (data set and test set) alone: every row of a data set gets the same
    draws, whatever other rows and data sets are compared in the same run.
    """
    name_as_number = int.from_bytes(hashlib.sha256(name.encode()).digest(), "little")
    generator = np.random.default_rng(np.random.SeedSequence([seed, name_as_number]))
    return generator.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=resamples).astype(np.float64)


def interval(draws: np.ndarray, confidence: float) -> tuple[float, float]:
    """Percentile interval (Efron & Tibshirani 1993, chapter 13) of the defined draws; NaN when none is defined."""
    defined = draws[~np.isnan(draws)]
    if len(defined) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def p_value(draws: np.ndarray) -> float:
    """Two-sided p of "no difference" from the draws of a difference: twice the smaller tail beyond 0, at most 1.

    It is the level at which the percentile interval just reaches 0. One is added to both tails and to the number of
    draws (Davison & Hinkley 1997, section 4.2), so p is never 0: with 2,000 draws the smallest is 0.001. Draws of
    exactly 0 count in both tails. Draws without any object are left out.
    """
    defined = draws[~np.isnan(draws)]
    if len(defined) == 0:
        return float("nan")
    tail = min(np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0))
    return float(min(1.0, 2 * (tail + 1) / (len(defined) + 1)))


def paired_difference(
    value: float, reference: float, draws: np.ndarray, reference_draws: np.ndarray, confidence: float
) -> Difference:
    """Row minus reference; ``draws`` and ``reference_draws`` [R] are their metrics on the same draws of patients."""
    if draws.shape != reference_draws.shape:
        raise ValueError(f"paired draws differ in number: {draws.shape} and {reference_draws.shape}")
    differences = draws - reference_draws
    low, high = interval(differences, confidence)
    return Difference(value - reference, low, high, p_value(differences))
