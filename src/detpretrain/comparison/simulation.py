"""Simulated rows with a known truth: what the intervals and p values of ``comparison`` are worth.

Objects of a patient resemble each other, for both rows alike (a hard patient) and for each row by itself (a patient that one
method does not cope with). The second is what makes objects the wrong unit of a comparison.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from detpretrain.comparison.pooled_ap import PooledAP
from detpretrain.evaluation.average_precision import average_precision
from detpretrain.evaluation.matching import MatchedCase


@dataclass(frozen=True)
class Population:
    """Patients with 1 + Poisson(``more_objects``) objects and Poisson(``false_positives``) false positives.

    An object is found when its visibility (logit scale) is above 0: ``level`` + patient + patient and row + object + noise, with
    the standard deviations below; a found object's score is the logistic function of it. ``effect`` raises the level of the
    second row.
    """

    more_objects: float = 2.0
    false_positives: float = 3.0
    level: float = 0.5
    effect: float = 0.0
    patient: float = 1.0
    patient_and_row: float = 0.8
    object: float = 0.7
    noise: float = 0.5


@dataclass(frozen=True)
class SimulatedRow:
    """Detections [N] of one row, with the patient and object (-1: false positive) of each, and the patient of each object."""

    scores: NDArray[np.float64]
    found: NDArray[np.int64]
    patient: NDArray[np.int64]
    patient_of_object: NDArray[np.int64]
    patients: int

    def by_patient(self) -> PooledAP:
        """AP as a function of the patients' weights."""
        return self._pooled(self.patient, self.patient_of_object, self.patients)

    def by_object(self) -> PooledAP:
        """AP as if every object were independent of all others, each with its share of its patient's false positives: the
        wrong unit."""
        objects = np.bincount(self.patient_of_object, minlength=self.patients)
        first = np.cumsum(objects) - objects
        shared_out = first[self.patient] + np.arange(len(self.patient)) % objects[self.patient]
        owner = np.where(self.found >= 0, self.found, shared_out)
        return self._pooled(owner, np.arange(objects.sum()), int(objects.sum()))

    def _pooled(self, owner: NDArray[np.int64], owner_of_object: NDArray[np.int64], owners: int) -> PooledAP:
        """One case per owner, matched at a single IoU threshold."""
        by_owner, objects_of = np.argsort(owner, kind="stable"), np.argsort(owner_of_object, kind="stable")
        starts = np.searchsorted(owner[by_owner], np.arange(owners + 1))
        object_starts = np.searchsorted(owner_of_object[objects_of], np.arange(owners + 1))
        cases = []
        for number in range(owners):
            mine = by_owner[starts[number] : starts[number + 1]]
            own = objects_of[object_starts[number] : object_starts[number + 1]]
            truth = np.where(self.found[mine] >= 0, np.searchsorted(own, self.found[mine]), -1)[None]
            zeros = np.zeros(len(mine), dtype=np.int64)
            cases.append(
                MatchedCase(
                    image_id=str(number),
                    labels=zeros,
                    scores=self.scores[mine],
                    source=zeros,
                    truth=truth,
                    iou=np.zeros(truth.shape),
                    object_labels=np.zeros(len(own), dtype=np.int64),
                    object_ignored=np.zeros(len(own), dtype=bool),
                )
            )
        return PooledAP.of_cases(cases, np.arange(owners))


def simulate(population: Population, patients: int, rng: np.random.Generator) -> tuple[SimulatedRow, SimulatedRow]:
    """Two rows on the same patients and objects."""
    patient_of_object = np.repeat(np.arange(patients), 1 + rng.poisson(population.more_objects, patients))
    objects = len(patient_of_object)
    shared = rng.normal(0, population.patient, patients)[patient_of_object] + rng.normal(0, population.object, objects)
    rows = []
    for effect in (0.0, population.effect):
        own = rng.normal(0, population.patient_and_row, patients)
        visibility = population.level + effect + shared + own[patient_of_object]
        visibility = visibility + rng.normal(0, population.noise, objects)
        found = np.flatnonzero(visibility > 0)
        of_false = np.repeat(np.arange(patients), rng.poisson(population.false_positives, patients))
        false = rng.normal(-0.5, 1.0, len(of_false)) - 0.5 * own[of_false]
        rows.append(
            SimulatedRow(
                scores=expit(np.concatenate([visibility[found], false])),
                found=np.concatenate([found, np.full(len(false), -1)]),
                patient=np.concatenate([patient_of_object[found], of_false]),
                patient_of_object=patient_of_object,
                patients=patients,
            )
        )
    return rows[0], rows[1]


def true_ap(population: Population, rng: np.random.Generator, patients: int = 200_000) -> tuple[float, float]:
    """AP of both rows in the population itself: in so many patients that chance is a thousandth."""
    values = []
    for row in simulate(population, patients, rng):
        hit = (row.found >= 0)[None]
        values.append(float(average_precision(row.scores, hit, ~hit, len(row.patient_of_object))[0]))
    return values[0], values[1]
