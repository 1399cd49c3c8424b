"""Numbers that others published, printed beside those of this study.

A csv file per source of them, ``config/reference/*.csv``; its columns are those of ``PublishedNumber``. Names of data sets,
detectors and initialisations are those of the configuration.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from detpretrain.comparison.compare import KEY_COLUMNS, METRICS
from detpretrain.errors import InputError
from detpretrain.evaluation import matches
from detpretrain.report.tables import marked, number

CHALLENGE_CPM = "challenge CPM"
KNOWN_METRICS = (*METRICS, CHALLENGE_CPM)
COLUMNS = (
    "data set", "test set", "detector", "init", "metric", "published by others", "this study", "this study − published",
    "source of the published number", "note on the published number",
)  # fmt: skip
NOTE = (
    "Numbers published by others, not made by this study, beside those of its row of the same detector and initialisation (mean "
    "over seeds; – = the study has no such row). Splits, data and protocol may differ, so that a difference is no evidence of "
    "its own. challenge CPM: by the rules of the LUNA16 challenge."
)


@dataclass(frozen=True)
class PublishedNumber:
    """``metric``: one of ``KNOWN_METRICS``; ``value`` in [0, 1]; ``source``: where it stands; ``note``: what differs there."""

    dataset: str
    test_set: str
    detector: str
    init: str
    metric: str
    value: float
    source: str
    note: str = ""


def read_published(folder: Path) -> list[PublishedNumber]:
    """The lines of every ``*.csv`` of a folder, files by name; a folder that is not there holds none.

    Raises:
        InputError: an unreadable file, a missing column or field, an unknown metric, a value that is no number in [0, 1].
    """
    return [entry for path in sorted(Path(folder).glob("*.csv")) for entry in _read(path)]


def published_table(
    published: Sequence[PublishedNumber], scores: pd.DataFrame, cpm: Mapping[matches.Run, float] | None = None
) -> pd.DataFrame:
    """One line, as text, per published number of a data set and test set of the study; empty without any.

    ``scores``: of ``tables.read_comparison``. ``cpm``: the LUNA16 challenge's score of the rows that have one, as for
    ``tables.main_table``. Ordered by data set, test set (``cv`` first), detector, initialisation, metric and source.
    """
    scored = set(zip(scores["dataset"], scores["test_set"], strict=True))
    keys = [matches.Run(*key) for key in scores[KEY_COLUMNS].itertuples(index=False, name=None)]
    challenge = pd.Series([(cpm or {}).get(key) for key in keys], scores.index, dtype="float64")
    table = scores.assign(**{CHALLENGE_CPM: challenge})
    lines = [_line(one, table) for one in sorted(published, key=_order) if (one.dataset, one.test_set) in scored]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _order(one: PublishedNumber) -> tuple:
    return one.dataset, one.test_set != "cv", one.test_set, one.detector, one.init, one.metric, one.source, one.value


def _line(one: PublishedNumber, scores: pd.DataFrame) -> tuple[str, ...]:
    same = pd.Series(True, scores.index)
    for column in ("dataset", "test_set", "detector", "init"):
        same &= scores[column] == getattr(one, column)
    rows = scores[same]
    ours = rows[one.metric].mean() if one.metric in rows else float("nan")
    return (
        one.dataset,
        one.test_set,
        one.detector,
        marked(one.init, rows["overlap"].max()),
        one.metric,
        number(one.value),
        number(ours),
        number(ours - one.value, "+"),
        one.source,
        one.note,
    )


def _read(path: Path) -> list[PublishedNumber]:
    needed = list(PublishedNumber.__dataclass_fields__)
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:  # spreadsheets write a byte order mark
            reader = csv.DictReader(handle, skipinitialspace=True)
            absent = [column for column in needed if column not in (reader.fieldnames or ())]
            if absent:
                raise InputError(
                    f"{path}: line 1: no column {', '.join(absent)}: name the columns there, {','.join(needed)}, with commas "
                    "between them"
                )
            return [_entry(line, f"{path}: line {reader.line_num}") for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as csv ({error}): save it as csv in UTF-8") from None


def _entry(line: Mapping[str | None, str | None], where: str) -> PublishedNumber:
    if None in line:
        raise InputError(f"{where}: more fields than columns: put texts that hold a comma in double quotes")
    fields = {name: (line[name] or "").strip() for name in PublishedNumber.__dataclass_fields__}
    for name, text in fields.items():
        if not text and name != "note":
            raise InputError(f"{where}: no {name}: fill it in")
    if fields["metric"] not in KNOWN_METRICS:
        raise InputError(f"{where}: metric {fields['metric']!r} is not known: use one of {', '.join(KNOWN_METRICS)}")
    return PublishedNumber(**fields | {"value": _value(fields["value"], where)})


def _value(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{where}: value {text!r} is no number: write it as 0.605") from None
    if not 0 <= value <= 1:
        raise InputError(f"{where}: value {text!r} is not between 0 and 1: write 60.5 % as 0.605")
    return value
