"""The user's own images with a table of boxes, one object per line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detpretrain import volumes
from detpretrain.datasets import shapes
from detpretrain.datasets.box_lines import DIAMETER, BoxLine, Coordinates, outside, read_lines, unknown_cases
from detpretrain.datasets.own_images import Images, OwnCase, OwnImages, geometry_of, grid_problems, own_data
from detpretrain.datasets.raw_dataset import Converted, Layout, RawCase
from detpretrain.errors import InputError
from detpretrain.task_validation import Problem

SYSTEMS = ("index", "voxels", "lps", "ras")
SHAPES = ("box", "ellipsoid", "sphere")
UNLISTED = ("refuse", "empty")


@dataclass(frozen=True)
class _Files:
    images: tuple[Path, ...]
    lines: tuple[BoxLine, ...]
    coordinates: Coordinates


class BoxTable:
    """Images that patterns find (see ``case_patterns``), and a CSV with the columns ``case``, ``class`` and the box.

    The box is ``z1, y1, x1, z2, y2, x2`` in voxels, or in mm ``x1, y1, z1, x2, y2, z2``, ``x, y, z, size_x, size_y, size_z``
    or ``x, y, z, diameter``. It is the target of the detector; ``shape`` is what the segmentation branch sees.

    Args:
        images: see ``SemanticMasks``.
        labels: the classes, as the table writes them.
        modalities: name of every channel.
        coordinates: ``index``, ``voxels``, ``lps`` or ``ras``, see ``box_lines.Coordinates``.
        table: the CSV, relative to the raw folder.
        shape: ``box``, ``ellipsoid``, or ``sphere`` (needs ``diameter``).
        columns: the table's name of a column -> the one above, where they differ: ``{PatientID: case}``.
        unlisted: ``refuse`` images that the table does not name, or take them as ``empty`` of objects.
        patient: regular expression with one group, see ``OwnImages``.
        test_sets: name -> pattern(s) of its images; the table is the same.

    Raises:
        InputError: a choice that does not exist.
    """

    def __init__(
        self,
        *,
        images: Images,
        labels: Sequence[str],
        modalities: Sequence[str],
        coordinates: str,
        table: str = "boxes.csv",
        shape: str = "box",
        columns: Mapping[str, str] | None = None,
        unlisted: str = "refuse",
        patient: str | None = None,
        test_sets: Mapping[str, Images] | None = None,
        licence: str = "",
        citation: str = "",
    ) -> None:
        for key, value, known in (
            ("coordinates", coordinates, SYSTEMS), ("shape", shape, SHAPES), ("unlisted", unlisted, UNLISTED),
        ):  # fmt: skip
            if value not in known:
                raise InputError(f"{key}: {value!r} is not one of {', '.join(known)}")
        if isinstance(labels, str) or not labels:
            raise InputError("labels: list the classes of the table, [nodule] for example")
        if shape == "sphere" and coordinates not in ("lps", "ras"):
            raise InputError(
                f"shape: a sphere has a diameter in mm: use ellipsoid, or coordinates lps or ras, not {coordinates}"
            )
        self.labels = [str(name) for name in labels]
        self.images = OwnImages(images, modalities, patient, test_sets)
        self.modalities = self.images.modalities
        self.coordinates, self.table, self.shape = coordinates, table, shape
        self.columns, self.unlisted = dict(columns or {}), unlisted
        self.published = own_data(licence, citation)

    def layout(self, raw: Path) -> Layout:
        own, problems = self.images.find(raw)
        path = raw / self.table
        lines, coordinates, wrong = read_lines(path, self.coordinates, self.columns, self.labels)
        problems += wrong
        if coordinates is None:
            return Layout([], problems)
        if self.shape == "sphere" and DIAMETER[0] not in coordinates.columns:
            problem = f"no column {DIAMETER[0]}"
            problems.append(Problem("", str(path), problem, "add it, or use shape: ellipsoid"))
        problems += unknown_cases(path, lines, [case.name for case in own])
        of_case = defaultdict(list)
        for line in lines:
            of_case[line.case].append(line)
        bad = {problem.case for problem in wrong}
        cases = []
        for case in own:
            mine = of_case.get(case.name, [])
            problems += self._case_problems(path, case, mine, coordinates)
            if not mine and case.case not in bad and self.unlisted == "refuse":
                remedy = "add its boxes, exclude the case, or, if it holds no object, set unlisted: empty"
                problems.append(Problem(case.case, str(case.images[0]), f"not in {self.table}", remedy))
            files = _Files(case.images, tuple(mine), coordinates)
            source = case.images[0].relative_to(raw).as_posix()
            cases.append(RawCase(case.case, case.patient, source, files, test_set=case.test_set))
        return Layout(cases, problems)

    def convert(self, case: RawCase) -> Converted:
        files: _Files = case.files
        geometry = volumes.read_geometry(files.images[0])
        boxes = files.coordinates.boxes(files.lines, geometry)
        if self.shape == "sphere":
            instances = shapes.sphere_mm(geometry, *files.coordinates.spheres(files.lines))
        else:
            paint = shapes.filled_box if self.shape == "box" else shapes.ellipsoid
            instances = paint(geometry.shape, boxes)
        limits = np.asarray(geometry.shape, np.float64)
        clipped = np.clip(boxes, -1.0, np.concatenate([limits, limits]))
        beyond = (clipped != boxes).any(axis=1)
        return Converted(
            list(files.images),
            geometry,
            instances,
            {number: self.labels.index(line.label) for number, line in enumerate(files.lines, start=1)},
            boxes={number: box.tolist() for number, box in enumerate(clipped, start=1)},
            notes=[
                f"line {files.lines[i].line}: the box reaches beyond the image: cut" for i in np.flatnonzero(beyond)
            ],
        )

    def _case_problems(
        self, path: Path, case: OwnCase, lines: Sequence[BoxLine], coordinates: Coordinates
    ) -> list[Problem]:
        problems: list[Problem] = []
        geometry = geometry_of(case.case, case.images[0], problems)
        if geometry is None:
            return problems
        problems += grid_problems(case.case, case.images[0], case.images[1:])
        return problems + outside(path, lines, coordinates.boxes(lines, geometry), geometry.shape)
