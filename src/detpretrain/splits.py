"""Which cases train and which validate: always whole patients, seeded, checked.

A fold has the parts "train" and "val". An official one may have a third, "test": then val only chooses the post-processing,
and test is what the fold's model is scored on. Without it, val is scored.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from detpretrain.errors import InputError

Folds = list[dict[str, list[str]]]
PARTS = ("train", "val", "test")
HELD_OUT = 0.05  # of a corpus: enough for a validation curve


def k_fold(patients: Mapping[str, str], folds: int, seed: int) -> Folds:
    """Shuffled K-fold over the sorted patients (nnDetection v0.1: 5 folds, seed 12345, over sorted cases).

    Args:
        patients: case -> patient.
        folds: at least 2, at most the number of patients.

    Raises:
        InputError: fewer patients than folds.
    """
    names = sorted(set(patients.values()))
    if folds < 2:
        raise ValueError(f"k_fold needs at least 2 folds, not {folds}; see held_out")
    if len(names) < folds:
        raise InputError(f"splits: {folds} folds for {len(names)} patients: set splits.folds to at most {len(names)}")
    from sklearn.model_selection import KFold  # a second to import, and only `prepare` splits

    splitter = KFold(folds, shuffle=True, random_state=seed)
    return [_fold(patients, {names[i] for i in held_out}) for _, held_out in splitter.split(names)]


def held_out(patients: Mapping[str, str], seed: int, fraction: float = HELD_OUT) -> Folds:
    """One fold that validates on ``fraction`` of the patients, at least one.

    Raises:
        InputError: a single patient.
    """
    names = sorted(set(patients.values()))
    if len(names) < 2:
        raise InputError(f"splits: {len(names)} patient: at least 2 are needed, one to train and one to validate")
    count = max(1, round(fraction * len(names)))
    chosen = np.random.default_rng(seed).permutation(len(names))[:count]
    return [_fold(patients, {names[i] for i in chosen})]


def problems(folds: Sequence[Mapping[str, Sequence[str]]], patients: Mapping[str, str]) -> list[str]:
    """What is wrong with folds, one sentence each: leaking patients, unknown or twice used cases, empty parts.

    Official splits need not cover all cases, nor validate each case once.
    """
    found = []
    for number, given in enumerate(folds):
        fold = {name: given[name] for name in PARTS if name in given}
        for name, part in fold.items():
            if not part:
                found.append(f"fold {number}: no case in {name}")
            if len(set(part)) != len(part):
                found.append(f"fold {number}: a case is named twice in {name}")
        unknown = sorted({case for part in fold.values() for case in part} - set(patients))
        if unknown:
            found.append(f"fold {number}: unknown cases {', '.join(unknown[:5])}")
        found += [f"fold {number}: {leak}" for leak in _leaks(fold, patients)]
    if not folds:
        found.append("no folds")
    if len({"test" in fold for fold in folds}) > 1:
        found.append("some folds have a test part and some have none")
    return found


def _leaks(fold: Mapping[str, Sequence[str]], patients: Mapping[str, str]) -> list[str]:
    """Patients with cases in two parts of a fold, in words."""
    parts = {name: {patients.get(case, case) for case in cases} for name, cases in fold.items()}
    return [
        f"patient {patient} in both {first} and {second}"
        for first, second in itertools.combinations(parts, 2)
        for patient in sorted(parts[first] & parts[second])
    ]


def _fold(patients: Mapping[str, str], held: set[str]) -> dict[str, list[str]]:
    cases = sorted(patients)
    return {
        "train": [case for case in cases if patients[case] not in held],
        "val": [case for case in cases if patients[case] in held],
    }
