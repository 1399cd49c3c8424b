"""Are the comparison's p values and intervals right? Many simulated studies, each judged as a real one is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from detpretrain.comparison.bootstrap import interval, p_value
from detpretrain.comparison.pooled_ap import PooledAP
from detpretrain.comparison.simulation import Population, simulate, true_ap

LEVEL = 0.05


@dataclass(frozen=True)
class Calibration:
    """Shares of simulated studies.

    Attributes:
        false_positives: no effect, p < 0.05 by the paired bootstrap of patients.
        false_positives_by_object: the same with objects as the unit.
        power: an effect, p < 0.05 in its favour.
        computed_power: what normal theory gives for the true difference and the mean standard error of the draws.
        coverage: the 95 % interval of the first row's AP holds the population's.
        true_difference, standard_error, spread: of the effect: in the population, by the draws, and over the studies.
    """

    false_positives: float
    false_positives_by_object: float
    power: float
    computed_power: float
    coverage: float
    true_difference: float
    standard_error: float
    spread: float


@dataclass(frozen=True)
class _Study:
    null_p: float
    null_p_by_object: float
    p: float
    difference: float
    error: float
    covered: bool


def calibrate(
    population: Population,
    patients: int,
    repetitions: int,
    resamples: int,
    seed: int = 0,
    map_studies: Callable[[Callable[[int], _Study], Iterable[int]], Iterable[_Study]] = map,
) -> Calibration:
    """Simulates ``repetitions`` studies with and without ``population.effect``; ``map_studies``: ``map`` or a pool's."""
    truth = true_ap(population, np.random.default_rng([seed, 0]))
    one = partial(_study, population, patients, resamples, seed, truth[0])
    studies = list(map_studies(one, range(repetitions)))
    difference, error = truth[1] - truth[0], float(np.mean([study.error for study in studies]))
    reach = norm.ppf(1 - LEVEL / 2)
    return Calibration(
        false_positives=float(np.mean([study.null_p < LEVEL for study in studies])),
        false_positives_by_object=float(np.mean([study.null_p_by_object < LEVEL for study in studies])),
        power=float(np.mean([study.p < LEVEL and study.difference > 0 for study in studies])),
        computed_power=float(norm.sf(reach - difference / error)),
        coverage=float(np.mean([study.covered for study in studies])),
        true_difference=difference,
        standard_error=error,
        spread=float(np.std([study.difference for study in studies], ddof=1)),
    )


def _study(population: Population, patients: int, resamples: int, seed: int, truth: float, number: int) -> _Study:
    rng = np.random.default_rng([seed, 1, number])
    null = simulate(replace(population, effect=0.0), patients, rng)
    first, second = simulate(population, patients, rng)
    null_draws = _draws(null[0].by_patient(), null[1].by_patient(), resamples, rng)
    by_object = _draws(null[0].by_object(), null[1].by_object(), resamples, rng)
    draws = _draws(first.by_patient(), second.by_patient(), resamples, rng)
    low, high = interval(draws[0, 1:], 1 - LEVEL)
    differences = draws[1] - draws[0]
    return _Study(
        null_p=p_value(null_draws[1, 1:] - null_draws[0, 1:]),
        null_p_by_object=p_value(by_object[1, 1:] - by_object[0, 1:]),
        p=p_value(differences[1:]),
        difference=float(differences[0]),
        error=float(np.std(differences[1:], ddof=1)),
        covered=bool(low <= truth <= high),
    )


def _draws(first: PooledAP, second: PooledAP, resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """AP of two rows [2, 1 + R]: as they are, then on the same draws of their units."""
    units = first.n_patients
    drawn = rng.multinomial(units, np.full(units, 1 / units), size=resamples)
    weights = np.vstack([np.ones((1, units)), drawn])
    return np.stack([row(weights)[:, 0] for row in (first, second)])
