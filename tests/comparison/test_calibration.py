"""A short version of `make bench-stats`, and the simulation itself."""

import numpy as np
import pytest

from detpretrain.comparison.bootstrap import patient_draws
from detpretrain.comparison.calibration import calibrate
from detpretrain.comparison.simulation import Population, simulate, true_ap


def test_patients_are_the_right_unit_and_objects_the_wrong_one():
    """Bounds are those of a binomial count: with 300 studies the standard error of 0.05 is 0.013."""
    found = calibrate(Population(effect=0.3), patients=60, repetitions=300, resamples=300)
    assert 0.01 < found.false_positives < 0.10
    assert found.false_positives_by_object > found.false_positives + 0.03
    assert found.power == pytest.approx(found.computed_power, abs=0.12)
    assert 0.86 < found.coverage < 0.99  # percentile intervals are a little short at 60 patients
    assert found.standard_error == pytest.approx(found.spread, rel=0.2)


def test_units_change_the_weights_and_not_the_score():
    row, other = simulate(Population(), 30, np.random.default_rng(0))
    by_patient, by_object = row.by_patient(), row.by_object()
    whole = by_patient(np.ones((1, by_patient.n_patients)))
    assert by_object(np.ones((1, by_object.n_patients))) == pytest.approx(whole, abs=1e-12)
    assert by_object.n_patients == len(row.patient_of_object)
    assert np.array_equal(row.patient_of_object, other.patient_of_object)
    # a draw that leaves patients out is the score of the others
    weights = patient_draws(30, 1, 0, "x")
    drawn = by_object(weights[:, row.patient_of_object])
    assert drawn == pytest.approx(by_patient(weights), abs=1e-12)


def test_effect_and_its_absence_in_the_population():
    rng = np.random.default_rng(1)
    same = true_ap(Population(), rng)
    assert same[0] == pytest.approx(same[1], abs=0.005)
    better = true_ap(Population(effect=0.5), rng)
    assert better[1] > better[0] + 0.05
