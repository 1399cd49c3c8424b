"""One fold of a task for a job that trains or predicts: read anew and checked, since a splits.json can be edited after `prepare`.

A patient who trains a model is never scored by it: not in another part of the fold, not in a test set of the task, and not by a
model that was trained on an earlier version of the split.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from detpretrain import splits
from detpretrain.errors import InputError
from detpretrain.tasks import CROSS_VALIDATION, read_splits, read_table

REMEDY = "undo the edit, or prepare the task again"


def read_fold(path: Path | str, number: int, trained_on: Collection[str] = ()) -> dict[str, list[str]]:
    """The parts of a fold: case ids that train, validate and, in some official splits, test.

    Args:
        path: splits.json, with cases.csv beside it.
        number: of the fold, from 0.
        trained_on: cases that a model which is to be scored on the fold has seen in training.

    Raises:
        InputError: no such fold, cases that the task does not have, or a patient on both sides.
    """
    path = Path(path)
    folds = read_splits(path)
    if number >= len(folds):
        raise InputError(f"{path}: has {len(folds)} folds, from 0, and no fold {number}: prepare the task again")
    table = read_table(path.with_name("cases.csv"))
    patients = dict(zip(table["case"], table["patient"], strict=True))
    divided = {case: patients[case] for case in table.loc[table["test_set"] == CROSS_VALIDATION, "case"]}
    problems = splits.problems(folds, divided)
    if problems:
        raise InputError(f"{path}: {problems[0]}: {REMEDY}")
    fold = folds[number]
    tested = set(table.loc[table["test_set"] != CROSS_VALIDATION, "case"])
    held_out = {case for part, cases in fold.items() if part != "train" for case in cases}
    _refuse_common(path, f"fold {number}", fold["train"], tested, "the test sets", patients)
    _refuse_common(path, f"fold {number}", trained_on, held_out | tested, "what the model is scored on", patients)
    return fold


def _refuse_common(
    path: Path, where: str, train: Collection[str], scored: Collection[str], name: str, patients: Mapping[str, str]
) -> None:
    """``InputError`` for a patient of both; a case that is not in the table is a patient of its own."""
    common = {patients.get(case, case) for case in train} & {patients.get(case, case) for case in scored}
    if common:
        raise InputError(f"{path}: {where}: patient {min(common)} was trained on and is in {name}: {REMEDY}")
