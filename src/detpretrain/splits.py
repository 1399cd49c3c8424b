"""Which cases train and which validate: always whole patients, seeded, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.model_selection import KFold

from detpretrain.errors import InputError

Folds = list[dict[str, list[str]]]
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
    for number, fold in enumerate(folds):
        train, val = fold["train"], fold["val"]
        for name, part in (("train", train), ("val", val)):
            if not part:
                found.append(f"fold {number}: no case in {name}")
            if len(set(part)) != len(part):
                found.append(f"fold {number}: a case is named twice in {name}")
        unknown = sorted((set(train) | set(val)) - set(patients))
        if unknown:
            found.append(f"fold {number}: unknown cases {', '.join(unknown[:5])}")
        leaking = {patients.get(case, case) for case in train} & {patients.get(case, case) for case in val}
        found += [f"fold {number}: patient {patient} in both train and val" for patient in sorted(leaking)]
    if not folds:
        found.append("no folds")
    return found


def _fold(patients: Mapping[str, str], held: set[str]) -> dict[str, list[str]]:
    cases = sorted(patients)
    return {
        "train": [case for case in cases if patients[case] not in held],
        "val": [case for case in cases if patients[case] in held],
    }
