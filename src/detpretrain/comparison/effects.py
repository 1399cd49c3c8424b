"""How large a paired difference is, beside its p value, and how large it would have to be to be found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

POWER = 0.8


@dataclass(frozen=True)
class Effect:
    """Sizes of a difference; NaN = not defined.

    Attributes:
        relative: difference over the reference's value.
        superiority: share of draws in which the row is the better one, ties half.
        standardised: difference over the standard deviation that a patient's contribution would have, were the score a mean of
            contributions: the draws' standard deviation times the root of the number of patients (as Cohen's d of paired data).
            The jackknife's own contributions are of no use here: 101-point AP moves in steps when a patient goes.
        detectable: the true difference that a two-sided test at the level of the interval finds in 80 % of studies with as many
            patients (normal theory with the draws' standard deviation).
    """

    relative: float
    superiority: float
    standardised: float
    detectable: float


def effect_of(value: float, reference: float, draws: NDArray[np.float64], patients: int, confidence: float) -> Effect:
    """Effect of a row with score ``value`` against a reference; ``draws`` [R]: their differences on the same draws."""
    difference = value - reference
    defined = draws[~np.isnan(draws)]
    error = np.std(defined, ddof=1) if len(defined) > 1 else np.nan
    return Effect(
        relative=difference / reference if reference else np.nan,
        superiority=float(np.mean((defined > 0) + 0.5 * (defined == 0))) if len(defined) else np.nan,
        standardised=float(difference / (error * np.sqrt(patients))) if error > 0 else np.nan,
        detectable=detectable_difference(float(error), confidence),
    )


def detectable_difference(error: float, confidence: float, power: float = POWER) -> float:
    """True difference that is found with ``power`` at a two-sided level of ``1 - confidence``; ``error``: its standard error."""
    return float((norm.ppf((1 + confidence) / 2) + norm.ppf(power)) * error)
