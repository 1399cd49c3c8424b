"""Detections of a case as a file: JSON, a table, or markups for 3D Slicer. World coordinates are LPS mm in all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detpretrain.evaluation.matches import SIDES
from detpretrain.files import atomic_path, write_json
from detpretrain.geometry import Geometry
from detpretrain.inference.unseen import CaseDetections

COORDINATES = {
    "box": "z1, y1, x1, z2, y2, x2 in voxel indices of the image array (z, y, x), voxel i centred at i",
    "centre": "x, y, z in mm, LPS (as DICOM and ITK; negate x and y for RAS)",
    "size": "mm along the x, y and z axis of the image, whose directions are the columns of geometry.direction",
}
SLICER_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
DECIMALS = 4  # of voxels and mm
SCORE_DECIMALS = 6


def write(found: CaseDetections, folder: Path, form: str) -> Path:
    """Writes ``CASE.json``, ``CASE.csv`` or ``CASE.mrk.json`` (``form`` json, csv, slicer) and returns its path."""
    suffix, write_form = FORMATS[form]
    path = folder / f"{found.name}{suffix}"
    write_form(found, path)
    return path


def in_world(boxes: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Index boxes [N, 6] -> centres [N, 3] (x, y, z, LPS mm) and sizes [N, 3] (mm along the image's x, y, z axes)."""
    low, high = boxes[:, :3], boxes[:, 3:]
    centres = geometry.index_to_world((low + high) / 2)
    return centres, ((high - low) * geometry.spacing)[:, ::-1]


def _write_json(found: CaseDetections, path: Path) -> None:
    centres, sizes = in_world(found.boxes, found.geometry)
    detections = [
        {
            "box": _rounded(box),
            "box_world": {"centre": _rounded(centre), "size": _rounded(size)},
            "score": round(float(score), SCORE_DECIMALS),
            "label": int(label),
            "class": name,
        }
        for box, centre, size, score, label, name in zip(
            found.boxes, centres, sizes, found.scores, found.labels, found.names, strict=True
        )
    ]
    content = {
        "case": found.name,
        "images": [str(channel) for channel in found.channels],
        "coordinates": COORDINATES,
        "geometry": found.geometry.to_json(),
        "detections": detections,
    }
    write_json(path, content)


def _write_csv(found: CaseDetections, path: Path) -> None:
    """One line per detection; ``case`` is on each, so that the tables of several cases can be put together."""
    centres, sizes = in_world(found.boxes, found.geometry)
    columns: dict[str, Any] = {"case": found.name, "label": found.labels, "class": found.names}
    columns["score"] = found.scores.round(SCORE_DECIMALS)
    columns |= {side: found.boxes[:, index].round(DECIMALS) for index, side in enumerate(SIDES)}
    columns |= {f"centre_{axis}": centres[:, index].round(DECIMALS) for index, axis in enumerate("xyz")}
    columns |= {f"size_{axis}": sizes[:, index].round(DECIMALS) for index, axis in enumerate("xyz")}
    with atomic_path(path) as temporary:
        pd.DataFrame(columns, index=range(len(found.scores))).to_csv(temporary, index=False)


def _write_slicer(found: CaseDetections, path: Path) -> None:
    centres, sizes = in_world(found.boxes, found.geometry)
    orientation = _rotation(found.geometry)
    markups = [
        _roi(f"{found.name} {rank}: {name}, {score:.2f}", centre, size, orientation)
        for rank, (centre, size, score, name) in enumerate(
            zip(centres, sizes, found.scores, found.names, strict=True), start=1
        )
    ]
    write_json(path, {"@schema": SLICER_SCHEMA, "markups": markups})


def _roi(label: str, centre: np.ndarray, size: np.ndarray, orientation: list[float]) -> dict[str, Any]:
    """A region of interest of Slicer's markups format 1.0.3: a box around ``centre`` along the columns of ``orientation``."""
    point = {"id": "1", "label": label, "position": _rounded(centre), "positionStatus": "defined"}
    return {
        "type": "ROI",
        "name": label,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": True,
        "roiType": "Box",
        "center": _rounded(centre),
        "orientation": orientation,
        "size": _rounded(size),
        "controlPoints": [point],
        "display": {"visibility": True, "propertiesLabelVisibility": True, "pointLabelsVisibility": False},
    }


def _rotation(geometry: Geometry) -> list[float]:
    """The image's axes as a proper rotation, row-major: Slicer expects one, and a box does not change when an axis turns."""
    axes = np.asarray(geometry.direction).reshape(3, 3)
    if np.linalg.det(axes) < 0:
        axes = axes * [1.0, 1.0, -1.0]
    return [float(value) + 0.0 for value in axes.ravel()]  # no -0.0


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), DECIMALS) + 0.0 for value in values]


FORMATS: dict[str, tuple[str, Callable[[CaseDetections, Path], None]]] = {
    "json": (".json", _write_json),
    "csv": (".csv", _write_csv),
    "slicer": (".mrk.json", _write_slicer),
}
