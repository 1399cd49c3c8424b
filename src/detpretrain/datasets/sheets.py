"""Sheets of downloads, as text, with the columns they must have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from detpretrain.task_validation import Problem

REMEDY = "download the sheet again"


def read_sheet(path: Path, columns: Sequence[str], separator: str = ",") -> tuple[pd.DataFrame | None, list[Problem]]:
    """A sheet with every value as text without surrounding blanks, indexed by the line number in the file.

    Lines with nothing in ``columns`` do not count. None and a problem when it is missing, not a table, without lines, or lacks
    one of the columns.
    """
    if not path.is_file():
        return None, [Problem("", str(path), "sheet not found", "complete the download")]
    try:
        table = pd.read_csv(
            path, sep=separator, dtype=str, keep_default_na=False, index_col=False, skip_blank_lines=False
        )
    except (ValueError, OSError) as error:
        return None, [Problem("", str(path), f"not a table ({' '.join(str(error).split())})", REMEDY)]
    table.columns = [str(column).strip() for column in table.columns]
    missing = [column for column in columns if column not in table.columns]
    if missing:
        problem = f"no column {', '.join(missing)} (it has {', '.join(table.columns)})"
        return None, [Problem("", str(path), problem, REMEDY)]
    table = table.apply(lambda column: column.str.strip())
    table.index = pd.RangeIndex(2, len(table) + 2)
    table = table[(table[list(columns)] != "").any(axis=1)]
    if table.empty:
        return None, [Problem("", str(path), "no lines below the header", REMEDY)]
    return table, []


def whole_number(text: str) -> int | None:
    """ "3", "-1" and spreadsheets' "3.0" -> int; None for anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None
