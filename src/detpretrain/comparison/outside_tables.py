"""Tables of per-detection results from anywhere: csv or parquet with one line per image, object and detection.

Columns: ``case``; ``kind`` (``case``, ``truth`` or ``detection``; a line ``case`` is needed only for an image with neither object
nor detection); ``z1, y1, x1, z2, y2, x2`` in mm, of objects and detections; ``score`` of detections. Where there is more to say:
``class`` (0, 1, ...; default 0), ``patient`` (default: every case is a patient), ``fold`` (of cross-validation), ``ignored``
(objects that need not be found), ``dataset``, ``test_set``, ``detector``, ``init``, ``seed`` (default: one row per file, its
``init`` the name of the file). A study's own ``matches.parquet`` is read as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from detpretrain.errors import InputError
from detpretrain.evaluation import matches
from detpretrain.evaluation.cases import Case

NEEDED = ("case", "kind", "score", *matches.SIDES)
KINDS = ("case", "truth", "detection")
ROW_DEFAULTS = {"study": "compare", "dataset": "data", "test_set": "cv", "detector": "detector", "seed": 0}
MILLIMETRES = (1.0, 1.0, 1.0)


def read(path: Path) -> pd.DataFrame:
    """A matches table (``evaluation.matches``) of one file, matched here unless it is one already.

    Raises:
        InputError: the file cannot be read, lacks a column or holds what is no box, score or kind; the message names the line.
    """
    table = _read_file(path)
    if table is None:
        return matches.read(path)
    table = _checked(table, path)
    keys = list(matches.Run.__dataclass_fields__)
    groups = table.groupby(keys, sort=False)
    parts = [_matched(part, dict(zip(keys, values, strict=True))) for values, part in groups]
    return pd.concat(parts, ignore_index=True)


def _read_file(path: Path) -> pd.DataFrame | None:
    """The file's table; None for a matches table."""
    try:
        if path.suffix == ".csv":
            return pd.read_csv(path, dtype={"case": "str", "patient": "str", "init": "str"})
        if path.suffix == ".parquet":
            version = (parquet.read_schema(path).metadata or {}).get(matches.VERSION_KEY)
            return None if version else pd.read_parquet(path)
    except FileNotFoundError:
        raise InputError(f"{path}: file not found") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable table ({str(error).splitlines()[0]}): give csv or parquet") from None
    raise InputError(f"{path}: unknown kind of file: give a .csv or .parquet table")


def _checked(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    absent = [name for name in NEEDED if name not in table]
    if absent:
        raise InputError(f"{path}: no column {', '.join(absent)}: see `detpretrain compare --help` for the columns")
    table = table.assign(**{name: table[name].astype("str") for name in ("case", "kind")})
    defaults = {
        **ROW_DEFAULTS,
        "init": path.stem,
        "class": 0,
        "ignored": False,
        "patient": table["case"],
        "fold": pd.NA,
    }
    for name, value in defaults.items():
        if name not in table:
            table = table.assign(**{name: value})
    boxed, found = table["kind"] != "case", table["kind"] == "detection"
    boxes = table[matches.SIDES].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    problems = (
        (~table["kind"].isin(KINDS), "kind", f"is none of {', '.join(KINDS)}"),
        (boxed & ~np.isfinite(boxes).all(axis=1), "box", "has an edge that is no number"),
        (boxed & (boxes[:, 3:] < boxes[:, :3]).any(axis=1), "box", "ends before it starts"),
        (found & ~np.isfinite(pd.to_numeric(table["score"], errors="coerce")), "score", "is no number"),
        (boxed & ~_is_count(table["class"]), "class", "is no whole number from 0"),
    )
    for bad, what, why in problems:
        if bad.any():
            line = int(np.flatnonzero(bad)[0])
            raise InputError(f"{path}: line {line + 2}, case {table['case'].iloc[line]}: the {what} {why}: correct it")
    owners = table.groupby("case")[["patient", "fold"]].nunique(dropna=False).max(axis=1)
    if (owners > 1).any():
        raise InputError(f"{path}: case {owners.index[owners > 1][0]} has two patients or folds: give each case one")
    return table


def _is_count(values: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce")
    return numbers.ge(0) & (numbers % 1 == 0)


def _matched(part: pd.DataFrame, run: dict[str, Any]) -> pd.DataFrame:
    cases, infos = [], {}
    for name, lines in part.groupby("case", sort=False):
        truths, found = lines[lines["kind"] == "truth"], lines[lines["kind"] == "detection"]
        fold = lines["fold"].iloc[0]
        infos[name] = matches.CaseInfo(str(lines["patient"].iloc[0]), MILLIMETRES, None if pd.isna(fold) else int(fold))
        cases.append(
            Case(
                image_id=name,
                gt_boxes=truths[matches.SIDES].to_numpy(np.float64),
                gt_labels=truths["class"].to_numpy(np.int64),
                gt_ignore=truths["ignored"].to_numpy(bool),
                pred_boxes=found[matches.SIDES].to_numpy(np.float64),
                pred_labels=found["class"].to_numpy(np.int64),
                pred_scores=found["score"].to_numpy(np.float64),
            )
        )
    return matches.build(cases, infos, matches.Run(**{**run, "seed": int(run["seed"])}))
