"""What this study scores a data set by, as it is prepared here: the measure of every cell that is imported."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detpretrain.errors import InputError
from detpretrain.evaluation import matches
from detpretrain.files import read_json
from detpretrain.inference.scoring import Truth
from detpretrain.study import Cell, Study
from detpretrain.tasks import CROSS_VALIDATION, read_splits

TASK_FILES = ("dataset.json", "cases.csv", "objects.csv", "splits.json")


@dataclass(frozen=True)
class Prepared:
    """A data set under the plan of a detector.

    Attributes:
        folds: of splits.json.
        index: records of index.json, by case.
        classes: their number.
        inputs: the files that a cell's stages are given: cells that are older would be made again.
    """

    truth: Truth
    folds: Sequence[Mapping[str, Sequence[str]]]
    index: Mapping[str, Mapping[str, Any]]
    classes: int
    inputs: Sequence[Path]

    @classmethod
    def read(cls, study: Study, dataset: str, plan: str, config: Sequence[Path]) -> Prepared:
        """Reads what is there.

        Raises:
            InputError: it is not prepared or not preprocessed here; the command that does it is named. Made after the import,
                the preprocessed data would be newer than the imported cells, and Snakemake would train them again.
        """
        folder = study.data / dataset
        index, task = folder / plan / "preprocessed" / "index.json", folder / "task"
        if not index.is_file():
            raise InputError(make_first(index, config))
        for name in TASK_FILES:
            if not (task / name).is_file():
                raise InputError(make_first(task / "cases.csv", config))
        content = read_json(index)
        records = {record["case"]: record for record in content["cases"]}
        truth, folds = Truth.read(task), read_splits(task / "splits.json")
        if not set(records) <= set(truth.cases.index):
            raise InputError(
                f"{index}: holds cases that {task / 'cases.csv'} lacks: let Snakemake preprocess them again"
            )
        inputs = (index, task / "cases.csv", task / "splits.json")
        return cls(truth, folds, records, content["plan"]["classes"], inputs)

    def predicted(self, fold: int) -> set[str]:
        """The cases that the fold's model predicts: all that do not train it, and the test sets."""
        split = self.folds[fold]
        held_out = {*split["val"], *split.get("test", ())}
        return {
            case for case, record in self.index.items() if record["test_set"] != CROSS_VALIDATION or case in held_out
        }

    def scored(self, cell: Cell) -> pd.DataFrame:
        """The lines of cases and objects that the cell's ``matches.parquet`` should hold."""
        split = self.folds[cell.fold]
        held_out = set(split.get("test", split["val"]))
        grouped: dict[str, list[str]] = {}
        for case in sorted(self.predicted(cell.fold)):
            test_set = self.truth.test_set(case)
            if test_set != CROSS_VALIDATION or case in held_out:
                grouped.setdefault(test_set, []).append(case)
        nothing = (np.zeros((0, 6)), np.zeros(0), np.zeros(0, np.int64))
        tables = [
            matches.build(
                [self.truth.scored(case, *nothing) for case in cases],
                {case: self.truth.info(case, cell.fold) for case in cases},
                matches.Run("", cell.dataset, test_set, cell.detector, cell.init, cell.seed),
            )
            for test_set, cases in grouped.items()
        ]
        return pd.concat(tables, ignore_index=True)


def make_first(target: Path, config: Sequence[Path]) -> str:
    """The end of a message on a file that has to be there."""
    files = shlex.join(map(str, config))
    return f"{target} is not there: make it first, snakemake -c2 --configfile {files} {shlex.quote(str(target))}"
