"""A task the user already has in the canonical (nnDetection's) layout: taken as it is, linked file by file."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from detpretrain import tasks
from detpretrain.case_files import CaseRecord
from detpretrain.datasets.raw_layout import required
from detpretrain.errors import InputError
from detpretrain.task_writer import TaskWriter
from detpretrain.tasks import Task


class TaskFolder:
    """``raw`` is the task folder. Its own cases.csv (columns case and patient, more if known) says which cases belong to
    one patient, else every case is a patient; its own splits.json is used as the official split.
    """

    def write(self, raw: Path | None, writer: TaskWriter) -> None:
        raw = required(raw)
        source = Task.read(raw)
        writer.adopt(source, _records(raw, source))
        if (raw / "splits.json").is_file():
            writer.official_folds = tasks.read_splits(raw / "splits.json")


def _records(raw: Path, source: Task) -> dict[str, CaseRecord]:
    path = raw / "cases.csv"
    if not path.is_file():
        return {}
    table = tasks.read_table(path)
    missing = {"case", "patient"} - set(table.columns)
    if missing:
        raise InputError(f"{path}: no column {', '.join(sorted(missing))}: add it, or remove the file")
    known = {case for test_set in source.test_sets for case in source.cases(test_set)}
    strangers = sorted(set(table["case"]) - known)
    if strangers:
        raise InputError(f"{path}: case {strangers[0]} has no image: remove its line, or add the image")
    return {row["case"]: _record(row, source) for _, row in table.iterrows()}


def _record(row: pd.Series, source: Task) -> CaseRecord:
    return CaseRecord(
        case=row["case"],
        patient=row["patient"],
        source_id=row.get("source_id", row["case"]),
        session=row.get("session", ""),
        test_set=source.test_set(row["case"]),
    )
