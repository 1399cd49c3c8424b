"""The LUNA16 nodule detection score (CPM) by the rules of the challenge's own evaluation script.

Setio et al., "Validation, comparison, and combination of algorithms for automatic detection of pulmonary nodules in
computed tomography images: the LUNA16 challenge", Medical Image Analysis 42, 2017. Positions are world coordinates in mm,
in the order x, y, z of the challenge's CSV files.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detpretrain.errors import InputError
from detpretrain.evaluation import froc

MAX_MARKS = 100
POSITION = ("coordX", "coordY", "coordZ")
# An excluded finding without a diameter is written as -1 and counts as this large.
UNKNOWN_DIAMETER = 10.0


@dataclass(frozen=True)
class Scan:
    """One scan: nodules [N, 3] with radii [N], excluded findings likewise, marks [M, 3] with scores [M], in mm."""

    nodules: NDArray[np.float64]
    radii: NDArray[np.float64]
    excluded: NDArray[np.float64]
    excluded_radii: NDArray[np.float64]
    marks: NDArray[np.float64]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class ScanResult:
    """Scores of the nodules that were found, of the false positives, and how many marks hit excluded findings alone."""

    found: NDArray[np.float64]
    false_positives: NDArray[np.float64]
    ignored: int


def evaluate(
    annotations: Path | str, excluded: Path | str, seriesuids: Path | str, submission: Path | str
) -> dict[str, Any]:
    """Scores a submission.

    Args:
        annotations: CSV seriesuid, coordX, coordY, coordZ, diameter_mm of the nodules.
        excluded: the same for findings that are neither nodules nor false positives.
        seriesuids: one series uid a line, no header needed; only these scans count, the others' lines are not read.
        submission: CSV seriesuid, coordX, coordY, coordZ, probability.

    Returns:
        ``{"cpm", "sensitivity": {"0.125": ..., "8": ...}, "counts"}``.

    Raises:
        InputError: a file is missing or malformed, or the scans have no nodule at all.
    """
    scans = read(annotations, excluded, seriesuids, submission)
    if not sum(len(scan.nodules) for scan in scans):
        raise InputError(f"{annotations}: no nodule in the scans of {seriesuids}: check that the series uids agree")
    return score(scans)


def score(scans: Sequence[Scan]) -> dict[str, Any]:
    """CPM of scans with at least one nodule: the mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives per scan."""
    results = [score_scan(scan) for scan in scans]
    found = np.concatenate([result.found for result in results])
    false_positives = np.concatenate([result.false_positives for result in results])
    nodules = sum(len(scan.nodules) for scan in scans)
    hit = np.repeat([True, False], [len(found), len(false_positives)])
    sensitivity = froc.sensitivity_at(np.concatenate([found, false_positives]), hit, len(scans), nodules)
    return {
        "cpm": float(sensitivity.mean()),
        "sensitivity": {f"{rate:g}": float(value) for rate, value in zip(froc.FPPI, sensitivity, strict=True)},
        "counts": {
            "scans": len(scans),
            "nodules": nodules,
            "found": len(found),
            "marks": sum(len(scan.marks) for scan in scans),
            "false_positives": len(false_positives),
            "ignored_marks": sum(result.ignored for result in results),
        },
    }


def score_scan(scan: Scan) -> ScanResult:
    """A nodule is found by a mark closer to its centre than its radius, with the best score of such marks.

    A mark that hits a nodule is no false positive, whatever else hits that nodule; one that hits two nodules finds both.
    A mark that hits an excluded finding only counts neither way.
    """
    kept = _best_marks(scan.scores)
    marks, scores = scan.marks[kept], scan.scores[kept]
    on_nodule = _inside(scan.nodules, scan.radii, marks)
    on_excluded = _inside(scan.excluded, scan.excluded_radii, marks).any(axis=0)
    found = np.where(on_nodule, scores, -np.inf).max(axis=1, initial=-np.inf)[on_nodule.any(axis=1)]
    free = ~on_nodule.any(axis=0)
    return ScanResult(found, scores[free & ~on_excluded], int(np.count_nonzero(free & on_excluded)))


def _best_marks(scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """At most 100 marks of a scan; where the 101st ties with better placed ones, all of that score go, as in the challenge."""
    if len(scores) <= MAX_MARKS:
        return np.ones(len(scores), dtype=bool)
    return scores > np.sort(scores)[::-1][MAX_MARKS]


def _inside(centres: NDArray[np.float64], radii: NDArray[np.float64], marks: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[centres, marks]: strictly closer than the radius."""
    squared = np.square(centres[:, None] - marks[None]).sum(axis=2)
    return squared < np.square(radii)[:, None]


def read(annotations: Path | str, excluded: Path | str, seriesuids: Path | str, submission: Path | str) -> list[Scan]:
    """The scans of ``seriesuids`` in that order; files as in ``evaluate``."""
    series = series_uids(Path(seriesuids))
    nodules = by_series(Path(annotations), "diameter_mm")
    findings = by_series(Path(excluded), "diameter_mm")
    marks = by_series(Path(submission), "probability")
    if marks and not set(series) & set(marks):
        raise InputError(f"{submission}: no mark in any scan of {seriesuids}: check that the series uids agree")
    return [
        Scan(
            nodules=nodules[uid][:, :3],
            radii=_radii(nodules[uid][:, 3]),
            excluded=findings[uid][:, :3],
            excluded_radii=_radii(findings[uid][:, 3]),
            marks=marks[uid][:, :3],
            scores=marks[uid][:, 3],
        )
        for uid in series
    ]


def _radii(diameters: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(diameters < 0, UNKNOWN_DIAMETER, diameters) / 2.0


def series_uids(path: Path) -> list[str]:
    """The scans that count, one a line; a header is no scan. ``InputError`` when there is none, or one twice."""
    series = [row[0].strip() for _, row in _rows(path) if row[0].strip() != "seriesuid"]
    if not series or "" in series:
        raise InputError(f"{path}: a line or the whole file has no series uid: write one a line")
    uid, times = Counter(series).most_common(1)[0]
    if times > 1:
        raise InputError(f"{path}: series uid {uid} occurs {times} times: list each scan once")
    return series


def by_series(path: Path, value: str) -> defaultdict[str, NDArray[np.float64]]:
    """series uid -> [N, 4]: x, y, z and the named value, in the order of the file; no line for any other uid.

    Raises:
        InputError: the file is missing or malformed; the message names the line.
    """
    rows = _rows(path)
    columns = ("seriesuid", *POSITION, value)
    header = [name.strip() for name in rows[0][1]] if rows else []
    missing = [name for name in columns if name not in header]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}: start the file with a line {','.join(columns)}")
    where = [header.index(name) for name in columns]
    found: defaultdict[str, list[list[float]]] = defaultdict(list)
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise InputError(f"{path}: line {line}: {len(row)} values for {len(header)} columns: correct the line")
        found[row[where[0]].strip()].append(_numbers([row[i] for i in where[1:]], columns[1:], f"{path}: line {line}"))
    arrays = {uid: np.array(values) for uid, values in found.items()}
    return defaultdict(lambda: np.empty((0, 4)), arrays)


def _numbers(texts: list[str], names: tuple[str, ...], where: str) -> list[float]:
    numbers = []
    for text, name in zip(texts, names, strict=True):
        try:
            number = float(text)
        except ValueError:
            raise InputError(f"{where}: {name} is {text!r}: give a number") from None
        if not np.isfinite(number):
            raise InputError(f"{where}: {name} is {text!r}: give a finite number")
        numbers.append(number)
    return numbers


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Line numbers and values of the lines that are not empty."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            reader = csv.reader(handle)
            return [(reader.line_num, row) for row in reader if any(value.strip() for value in row)]
    except FileNotFoundError:
        raise InputError(f"{path}: file not found: check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): check the path") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file ({error}): export it as CSV text in UTF-8") from None
