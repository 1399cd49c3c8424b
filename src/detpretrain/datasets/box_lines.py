"""Lines of a table of boxes, and the boxes [N, 6] in index coordinates that their numbers mean in an image."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detpretrain.datasets import shapes
from detpretrain.datasets.raw_layout import path_safe
from detpretrain.geometry import Geometry
from detpretrain.task_validation import Problem

INDEX = ("z1", "y1", "x1", "z2", "y2", "x2")
CORNERS = ("x1", "y1", "z1", "x2", "y2", "z2")
CENTRE = ("x", "y", "z")
SIZE = ("size_x", "size_y", "size_z")
DIAMETER = ("diameter",)
RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class BoxLine:
    """One object: ``line`` of the table, ``numbers`` by column name."""

    line: int
    case: str
    label: str
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Coordinates:
    """What the numbers of a table are.

    Attributes:
        system: ``index`` = edges in voxels as everywhere in this software (an object of voxels 3..5 has edges 2 and 6);
            ``voxels`` = first and last voxel of the object, both counted from 0; ``lps`` or ``ras`` = mm in the patient.
        columns: those that are read. Of mm: the corners, or the centre with the size or the diameter.
    """

    system: str
    columns: tuple[str, ...]

    @classmethod
    def of_header(cls, system: str, header: Sequence[str]) -> Coordinates:
        """By the columns that a table has."""
        if system in ("index", "voxels"):
            return cls(system, INDEX)
        if DIAMETER[0] in header:
            return cls(system, (*CENTRE, *DIAMETER))
        return cls(system, (*CENTRE, *SIZE) if SIZE[0] in header else CORNERS)

    def wrong(self, numbers: Mapping[str, float]) -> str | None:
        """What is wrong with the numbers of a line, whatever the image; None if nothing is."""
        for column in (*SIZE, *DIAMETER):
            if column in self.columns and numbers[column] <= 0:
                return f"{column} is {numbers[column]:g}, not above 0"
        for axis in "zyx":
            if f"{axis}1" not in self.columns:
                continue
            low, high = numbers[f"{axis}1"], numbers[f"{axis}2"]
            if high < low or (high == low and self.system != "voxels"):
                return f"{axis}2 ({high:g}) is not above {axis}1 ({low:g})"
        return None

    def boxes(self, lines: Sequence[BoxLine], geometry: Geometry) -> NDArray[np.float64]:
        """Boxes [N, 6] in index coordinates, not clipped: what an object reaches, and half a voxel on each side."""
        if self.system == "index":
            return self._table(lines, INDEX)
        if self.system == "voxels":
            return self._table(lines, INDEX) + np.repeat([-1.0, 1.0], 3)
        if DIAMETER[0] in self.columns:
            return shapes.sphere_boxes(geometry, *self.spheres(lines))
        if SIZE[0] in self.columns:
            centre, half = self._world(lines, CENTRE), self._table(lines, SIZE) / 2
            return _around(geometry, centre - half, centre + half)
        return _around(geometry, self._world(lines, CORNERS[:3]), self._world(lines, CORNERS[3:]))

    def spheres(self, lines: Sequence[BoxLine]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centres [N, 3] (x, y, z; mm, LPS) and diameters [N] (mm)."""
        return self._world(lines, CENTRE), self._table(lines, DIAMETER)[:, 0]

    def _world(self, lines: Sequence[BoxLine], columns: Sequence[str]) -> NDArray[np.float64]:
        return self._table(lines, columns) * (RAS_TO_LPS if self.system == "ras" else 1.0)

    @staticmethod
    def _table(lines: Sequence[BoxLine], columns: Sequence[str]) -> NDArray[np.float64]:
        values = [[line.numbers[column] for column in columns] for line in lines]
        return np.asarray(values, np.float64).reshape(-1, len(columns))


def read_lines(
    path: Path, system: str, names: Mapping[str, str], labels: Sequence[str]
) -> tuple[list[BoxLine], Coordinates | None, list[Problem]]:
    """The good lines of a CSV, what its numbers are, and what is wrong with the others.

    Args:
        names: the table's name of a column -> this software's, where they differ.
        labels: the known classes.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, restkey="")
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            rows = [(reader.line_num, row) for row in reader]
    except FileNotFoundError:
        return [], None, [Problem("", str(path), "file not found", "add the table, or correct table:")]
    except (csv.Error, UnicodeDecodeError) as error:
        return [], None, [Problem("", str(path), f"not a CSV in UTF-8 ({error})", "save it as one")]
    known = [names.get(name, name) for name in header]
    coordinates = Coordinates.of_header(system, known)
    missing = [name for name in ("case", "class", *coordinates.columns) if name not in known]
    if missing:
        problem = f"no column {', '.join(missing)}; there are {', '.join(header) or 'none'}"
        return [], None, [Problem("", str(path), problem, "correct the first line, coordinates: or columns:")]
    if not rows:
        return [], None, [Problem("", str(path), "no line below the header", "list the boxes, one per line")]
    lines, problems, seen = [], [], {}
    for number, row in rows:
        found = _line(path, number, {names.get(key, key): value for key, value in row.items()}, coordinates, labels)
        if isinstance(found, BoxLine):
            key = (found.case, found.label, *found.numbers.values())
            if key in seen:
                found = _bad(path, number, found.case, f"the same object as in line {seen[key]}", "remove one of them")
            seen.setdefault(key, number)
        (lines if isinstance(found, BoxLine) else problems).append(found)
    return lines, coordinates, problems


def unknown_cases(path: Path, lines: Sequence[BoxLine], cases: Sequence[str]) -> list[Problem]:
    """Lines of cases without an image."""
    found, known = [], set(cases)
    for line in lines:
        if line.case not in known:
            close = difflib.get_close_matches(line.case, cases, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            remedy = f"{hint}Add the image, correct the name, or exclude the case"
            found.append(_bad(path, line.line, line.case, f"case {line.case} has no image", remedy))
    return found


def outside(path: Path, lines: Sequence[BoxLine], boxes: NDArray, shape: Sequence[int]) -> list[Problem]:
    """Lines whose box has its centre outside the image."""
    centres = (boxes[:, :3] + boxes[:, 3:]) / 2
    away = ((centres < -0.5) | (centres > np.asarray(shape) - 0.5)).any(axis=1)
    return [
        _bad(
            path,
            lines[i].line,
            lines[i].case,
            f"the box lies outside its image: centre (z, y, x) {tuple(float(c) for c in centres[i].round(1))} in voxels, "
            f"the image has {tuple(shape)}",
            "correct the numbers, coordinates:, or the image",
        )
        for i in np.flatnonzero(away)
    ]


def _line(
    path: Path, number: int, row: Mapping[str, str | None], coordinates: Coordinates, labels: Sequence[str]
) -> BoxLine | Problem:
    case, label = (str(row[name] or "").strip() for name in ("case", "class"))
    if not case:
        return _bad(path, number, "", "no case", "write the name of the case")
    if label not in labels:
        return _bad(path, number, case, f"class {label!r} is not in labels", f"known are {', '.join(labels)}")
    numbers = {}
    for column in coordinates.columns:
        try:
            numbers[column] = float(row[column] or "")
        except ValueError:
            numbers[column] = float("nan")
        if not np.isfinite(numbers[column]):
            return _bad(path, number, case, f"{column} is {row[column]!r}, not a number", "write a number with a point")
    wrong = coordinates.wrong(numbers)
    if wrong:
        return _bad(path, number, case, wrong, "correct the line")
    return BoxLine(number, case, label, numbers)


def _bad(path: Path, number: int, case: str, problem: str, remedy: str) -> Problem:
    return Problem(path_safe(case) if case else "", str(path), f"line {number}: {problem}", remedy)


def _around(geometry: Geometry, first: NDArray, second: NDArray) -> NDArray[np.float64]:
    """Index boxes around boxes of the world, whose eight corners may lie obliquely in the array."""
    choices = np.array([[(corner >> axis) & 1 for axis in range(3)] for corner in range(8)])  # [8, 3]
    corners = np.where(choices[None], second[:, None], first[:, None])  # [N, 8, 3]
    index = geometry.world_to_index(corners.reshape(-1, 3)).reshape(-1, 8, 3)
    return np.concatenate([index.min(axis=1) - shapes.MARGIN, index.max(axis=1) + shapes.MARGIN], axis=1)
