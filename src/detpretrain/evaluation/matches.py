"""``matches.parquet``: every case, object and detection of an evaluation, with what was matched at each IoU threshold.

All that ``comparison`` and ``report`` compute comes from these tables. One line for each evaluated case (kind ``case``),
object (``truth``) and scored detection (``detection``), cases in their order, detections of a case by class and
descending score; that order decides between equal scores. Boxes are in mm along the image axes (index x spacing).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from detpretrain import boxes, files
from detpretrain.errors import InputError
from detpretrain.evaluation.cases import Case
from detpretrain.evaluation.matching import IOU_THRESHOLDS, MatchedCase, match_case
from detpretrain.evaluation.metrics import AbsentClass, evaluate_matched

SCHEMA_VERSION = 1
SIDES = ["z1", "y1", "x1", "z2", "y2", "x2"]
TRUTH_AT = [f"truth@{threshold:.2f}" for threshold in IOU_THRESHOLDS]
IOU_AT = [f"iou@{threshold:.2f}" for threshold in IOU_THRESHOLDS]
VERSION_KEY = b"detpretrain.matches.version"

SCHEMA = pa.schema(
    [pa.field(name, pa.string()) for name in ("study", "dataset", "test_set", "detector", "init")]
    + [pa.field("seed", pa.int64()), pa.field("fold", pa.int64())]
    + [pa.field(name, pa.string()) for name in ("patient", "case", "kind")]
    + [pa.field("class", pa.int64()), pa.field("score", pa.float64())]
    + [pa.field(name, pa.float64()) for name in [*SIDES, "size_mm"]]
    + [pa.field("ignored", pa.bool_()), pa.field("truth", pa.int64())]
    + [pa.field(name, pa.int64()) for name in TRUTH_AT]
    + [pa.field(name, pa.float64()) for name in IOU_AT],
    metadata={VERSION_KEY: str(SCHEMA_VERSION)},
)
_DTYPES = {pa.string(): "string", pa.int64(): "Int64", pa.float64(): "float64", pa.bool_(): "bool"}


@dataclass(frozen=True)
class Run:
    """What the detections come from: the columns that are the same on every line, and what identifies a row of the tables
    (``test_set`` is ``cv`` for held-out folds).
    """

    study: str
    dataset: str
    test_set: str
    detector: str
    init: str
    seed: int


@dataclass(frozen=True)
class CaseInfo:
    """What a table says of a case beside its boxes: spacing in mm (z, y, x); no fold where all fold models predict together."""

    patient: str
    spacing: Sequence[float]
    fold: int | None = None


def build(cases: Sequence[Case], infos: Mapping[str, CaseInfo], run: Run) -> pd.DataFrame:
    """The table of an evaluation; boxes of the cases in index coordinates of the original image.

    Detections beyond the 100 best of their class and image are not scored and have no line.

    Args:
        infos: by ``image_id``.
    """
    names = {case.image_id for case in cases}
    if not cases or len(names) < len(cases):
        raise ValueError("an evaluation has at least one case, and each case once")
    parts = []
    for case in cases:
        info = infos[case.image_id]
        part = {name: np.concatenate(columns) for name, columns in _columns(case, info).items()}
        common = {**asdict(run), "fold": info.fold, "patient": info.patient, "case": case.image_id}
        parts.append(pd.DataFrame(part).assign(**common))
    return _typed(pd.concat(parts, ignore_index=True))


def write(path: Path | str, table: pd.DataFrame) -> None:
    """Writes a table (one evaluation, or several in one) with its schema version."""
    with files.atomic_path(path) as temporary:
        arrow = pa.Table.from_pandas(_typed(table), schema=SCHEMA, preserve_index=False)
        parquet.write_table(arrow.replace_schema_metadata(SCHEMA.metadata), temporary)


def read(path: Path | str) -> pd.DataFrame:
    """Reads a table.

    Raises:
        InputError: no such file, not parquet, or written with another schema.
    """
    try:
        arrow = parquet.read_table(Path(path))
    except FileNotFoundError:
        raise InputError(f"{path}: file not found") from None
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a readable parquet file ({reason}): evaluate the run again") from None
    version = (arrow.schema.metadata or {}).get(VERSION_KEY, b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise InputError(f"{path}: schema version {version}, not {SCHEMA_VERSION}: evaluate the run again")
    if not arrow.schema.equals(SCHEMA):
        raise InputError(f"{path}: columns differ from schema version {SCHEMA_VERSION}: evaluate the run again")
    return _typed(arrow.to_pandas())


def metrics(table: pd.DataFrame, num_classes: int, absent_class: AbsentClass = "exclude") -> dict[str, Any]:
    """What ``metrics.evaluate`` gives for the cases the table was built from."""
    return evaluate_matched(matched_cases(table), num_classes, absent_class)


def matched_cases(table: pd.DataFrame) -> list[MatchedCase]:
    """The matching of the one evaluation in ``table``, cases in their order; ``source`` counts detections of the table."""
    names = _case_names(table)
    truths = _by_case(table, "truth", names, ["truth", "class", "ignored"])
    detections = _by_case(table, "detection", names, ["class", "score", *TRUTH_AT, *IOU_AT])
    return [_matched(*of_case) for of_case in zip(names, truths, detections, strict=True)]


def cases(table: pd.DataFrame) -> list[Case]:
    """The cases of the one evaluation in ``table``, boxes in mm, scored detections only."""
    names = _case_names(table)
    truths = _by_case(table, "truth", names, ["truth", "class", "ignored", *SIDES])
    detections = _by_case(table, "detection", names, ["class", "score", *SIDES])
    return [
        Case(
            image_id=name,
            gt_boxes=np.stack([objects[side] for side in SIDES], axis=1).astype(np.float64),
            gt_labels=objects["class"].astype(np.int64),
            gt_ignore=objects["ignored"].astype(bool),
            pred_boxes=np.stack([found[side] for side in SIDES], axis=1).astype(np.float64),
            pred_labels=found["class"].astype(np.int64),
            pred_scores=found["score"].astype(np.float64),
            gt_ids=objects["truth"].astype(np.int64),
        )
        for name, objects, found in zip(names, truths, detections, strict=True)
    ]


def _columns(case: Case, info: CaseInfo) -> dict[str, list[NDArray]]:
    """The lines of a case, as one array each for the case itself, its objects and its detections."""
    matched, scale = match_case(case), np.tile(np.asarray(info.spacing, dtype=np.float64), 2)
    truths = np.asarray(case.gt_boxes, dtype=np.float64).reshape(-1, 6) * scale
    found = np.asarray(case.pred_boxes, dtype=np.float64).reshape(-1, 6)[matched.source] * scale
    counts = (1, len(truths), len(found))
    nothing = [np.full(count, np.nan) for count in counts]
    placed = np.vstack([truths, found])
    columns = {
        "kind": [np.repeat(["case", "truth", "detection"], counts)],
        "class": [nothing[0], matched.object_labels, matched.labels],
        "score": [nothing[0], nothing[1], matched.scores],
        "size_mm": [nothing[0], np.cbrt(boxes.volume(placed))],
        "ignored": [[False], matched.object_ignored, np.zeros(len(found), dtype=bool)],
        "truth": [nothing[0], case.truth_ids, nothing[2]],
    }
    columns |= {side: [nothing[0], placed[:, index]] for index, side in enumerate(SIDES)}
    ids = np.append(case.truth_ids.astype(np.float64), np.nan)
    for row, (truth_at, iou_at) in enumerate(zip(TRUTH_AT, IOU_AT, strict=True)):
        columns[truth_at] = [nothing[0], nothing[1], ids[matched.truth[row]]]
        columns[iou_at] = [nothing[0], nothing[1], np.where(matched.truth[row] >= 0, matched.iou[row], np.nan)]
    return columns


def _case_names(table: pd.DataFrame) -> list[str]:
    names = table.loc[table["kind"] == "case", "case"]
    if names.duplicated().any():
        raise ValueError(f"case {names[names.duplicated()].iloc[0]} occurs twice: choose the lines of one evaluation")
    return [str(name) for name in table["case"].unique()]


def _by_case(table: pd.DataFrame, kind: str, names: Sequence[str], columns: Sequence[str]) -> list[dict[str, NDArray]]:
    """Of each case its lines of a kind, as an array a column: the table is cut up once, not a frame for each case."""
    lines = table[table["kind"] == kind]
    place = pd.Index(names).get_indexer(lines["case"])
    order = np.argsort(place, kind="stable")
    bounds = np.searchsorted(place[order], np.arange(1, len(names)))
    arrays = {name: np.split(lines[name].to_numpy(np.float64, na_value=np.nan)[order], bounds) for name in columns}
    return [{name: parts[at] for name, parts in arrays.items()} for at in range(len(names))]


def _matched(case: str, truths: Mapping[str, NDArray], detections: Mapping[str, NDArray]) -> MatchedCase:
    position = pd.Index(truths["truth"].astype(np.int64))
    ids = np.stack([detections[name] for name in TRUTH_AT])
    truth = np.where(np.isnan(ids), -1, position.get_indexer(ids.ravel()).reshape(ids.shape))
    return MatchedCase(
        image_id=case,
        labels=detections["class"].astype(np.int64),
        scores=detections["score"],
        source=np.arange(len(detections["score"])),
        truth=truth,
        iou=np.nan_to_num(np.stack([detections[name] for name in IOU_AT])),
        object_labels=truths["class"].astype(np.int64),
        object_ignored=truths["ignored"].astype(bool),
    )


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """The schema's columns in its order and types, missing values as NA."""
    return pd.DataFrame({field.name: pd.Series(table[field.name], dtype=_DTYPES[field.type]) for field in SCHEMA})
