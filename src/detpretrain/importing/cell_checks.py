"""Whether a cell that was computed elsewhere is a cell of this study: its recipes, its cases and objects, its names."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detpretrain import status
from detpretrain.errors import InputError
from detpretrain.evaluation import matches, raw_boxes
from detpretrain.evaluation.raw_boxes import RawBoxes
from detpretrain.files import read_json
from detpretrain.importing.prepared import Prepared
from detpretrain.study import Cell, Study

TOLERANCE_MM = 1e-3
LOG_COLUMNS = ("epoch", "train_loss", "seconds")  # that the report reads
SAME = ("test_set", "shape", "ids", "classes", "ignored")  # of a preprocessed case, beside its boxes
FACTS = ("recipe", "source", "commit", "dirty")  # of a stage, that a mark repeats


@dataclass(frozen=True)
class Checked:
    """What is told of a cell that fits.

    Attributes:
        study: as it is called in the files.
        stages: ``FACTS`` of every stage.
        same_bytes: whether all cases were preprocessed from the bytes and the plan that are here.
        pretrain: provenance of the checkpoint that it started from.
    """

    study: str
    stages: Mapping[str, Mapping[str, Any]]
    same_bytes: bool
    pretrain: Mapping[str, Any]


def check(study: Study, cell: Cell, folder: Path, here: Prepared) -> Checked:
    """Looks at all files of a cell in ``folder``.

    Raises:
        InputError: the first thing that does not fit.
    """
    recorded = read_provenance(folder / "metrics.json")
    expected = {stage: recipe for stage, (recipe, _) in status.expected(study, cell).items()}
    check_recipes(folder / "metrics.json", recorded, expected)
    if cell.fold >= len(here.folds):
        raise InputError(f"fold {cell.fold}: the data set has {len(here.folds)} folds here, from 0: prepare it again")
    same_bytes = _check_boxes(folder / "raw_boxes.parquet", cell, here, recorded)
    name = _check_matches(folder / "matches.parquet", cell, here)
    check_archive(folder / "model.pth")
    check_log(folder / "log.csv")
    stages = {stage: {key: recorded[stage].get(key) for key in FACTS} for stage in expected}
    return Checked(name, stages, same_bytes, recorded["pretrain"])


def read_provenance(path: Path) -> dict[str, Any]:
    """Of every stage, as ``metrics.json`` tells it; ``pretrain`` is empty for a cell that is not pre-trained."""
    content = read_json(path)
    try:
        recorded, _ = dict(content["provenance"]), content["test_sets"]
        stages = {stage: dict(recorded[stage]) for stage in ("finetune", "predict", "evaluate")}
        return {**stages, "pretrain": dict(stages["finetune"].get("pretrain") or {})}
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: not the metrics of a cell, with the provenance of its stages") from None


def check_recipes(path: Path, recorded: Mapping[str, Any], expected: Mapping[str, str]) -> None:
    for stage, recipe in expected.items():
        found = recorded[stage].get("recipe")
        if found != recipe:
            raise InputError(
                f"{path}: recipe of {stage} is {found}, this study's is {recipe}: their configuration is another one"
            )


def _check_boxes(path: Path, cell: Cell, here: Prepared, recorded: Mapping[str, Any]) -> bool:
    """Returns ``Checked.same_bytes``."""
    raw = _read_boxes(path)
    for stage in ("finetune", "predict"):
        if raw.provenance.get(stage) != recorded[stage]:
            raise InputError(f"{path}: comes from another {stage} than metrics.json: files of two runs are mixed")
    if raw.classes != here.classes:
        raise InputError(f"{path}: {raw.classes} classes, here the data set has {here.classes}")
    _check_names(path, set(raw.properties), here.predicted(cell.fold), cell.fold)
    for case, properties in raw.properties.items():
        _check_case(path, case, properties, here)
    return all(properties.get("source") == here.index[case]["source"] for case, properties in raw.properties.items())


def _read_boxes(path: Path) -> RawBoxes:
    try:
        return raw_boxes.read(path)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not raw boxes as this version writes them ({error!r})") from None


def _check_names(path: Path, found: set[str], expected: set[str], fold: int) -> None:
    if found != expected:
        case = min(found ^ expected)
        what, does = ("lacks", "scores") if case in expected else ("holds", "does not score")
        raise InputError(f"{path}: {what} case {case}, which fold {fold} {does} here: other splits or another data set")


def _check_case(path: Path, case: str, properties: Mapping[str, Any], here: Prepared) -> None:
    """Against the preprocessed case and the original image that are here."""
    record, line = here.index[case], here.truth.cases.loc[case]
    try:
        differing = [key for key in SAME if properties[key] != record[key]]
        if not _close(properties["boxes"], record["boxes"]):
            differing.append("boxes")
        geometry = properties["geometry"]
        for key in ("shape", "spacing"):
            if not _close(geometry[key], [line[f"{key}_{axis}"] for axis in "zyx"]):
                differing.append(f"{key} of the image")
    except (KeyError, TypeError):
        raise InputError(f"{path}: case {case}: properties are not those that this version writes") from None
    if differing:
        raise InputError(
            f"{path}: case {case}: {differing[0]} differs from what is preprocessed here: other data or plan"
        )


def _check_matches(path: Path, cell: Cell, here: Prepared) -> str:
    """Returns the name of the study."""
    table = matches.read(path)
    for column in ("dataset", "detector", "init", "seed", "fold"):
        found, expected = table[column].unique().tolist(), getattr(cell, column)
        if found != [expected]:
            raise InputError(f"{path}: {column} is {', '.join(map(str, found))}, the cell's is {expected}")
    names = table["study"].unique().tolist()
    if len(names) != 1:
        raise InputError(f"{path}: lines of several studies: {', '.join(map(str, names))}")
    _check_truth(path, table, here.scored(cell), cell.fold)
    return str(names[0])


def _check_truth(path: Path, found: pd.DataFrame, expected: pd.DataFrame, fold: int) -> None:
    """Cases with their test sets and patients, and objects with classes and boxes in mm."""
    found, expected = _truth_lines(found), _truth_lines(expected)
    _check_names(path, set(found["case"]), set(expected["case"]), fold)
    for case, lines in expected.groupby("case"):
        theirs = found[found["case"] == case]
        if len(theirs) != len(lines):
            raise InputError(f"{path}: case {case}: {len(theirs) - 1} objects, here it has {len(lines) - 1}")
        for column in ("kind", "test_set", "patient", "truth", "class", "ignored"):
            if theirs[column].astype(str).tolist() != lines[column].astype(str).tolist():
                raise InputError(f"{path}: case {case}: {column} differs from what is prepared here")
        if not _close(theirs[matches.SIDES], lines[matches.SIDES]):
            raise InputError(f"{path}: case {case}: boxes of objects differ from those that are prepared here")


def _truth_lines(table: pd.DataFrame) -> pd.DataFrame:
    lines = table[table["kind"] != "detection"]
    return lines.sort_values(["case", "kind", "truth"], ignore_index=True)


def _close(one: Any, other: Any) -> bool:
    one, other = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    return one.shape == other.shape and np.allclose(one, other, rtol=0.0, atol=TOLERANCE_MM, equal_nan=True)


def check_archive(path: Path) -> None:
    """A file of torch or numpy is a zip archive with checksums: a copy that was cut off or damaged shows without torch."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise InputError(f"{path}: not a whole file ({error}): copy it again") from None
    if damaged is not None:
        raise InputError(f"{path}: damaged in {damaged}: copy it again")


def check_log(path: Path) -> None:
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as csv ({error})") from None
    missing = [column for column in LOG_COLUMNS if column not in table]
    if missing or table.empty:
        raise InputError(f"{path}: {f'no column {missing[0]}' if missing else 'no epoch in it'}: not a training's log")
