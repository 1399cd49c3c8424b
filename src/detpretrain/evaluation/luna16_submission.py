"""The detections of a study's scans as a submission to LUNA16, and its score.

Marks are the centres of the boxes. What a matches table holds is submitted: at most 100 detections of a scan, which is the
challenge's limit, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detpretrain.errors import InputError
from detpretrain.evaluation import luna16
from detpretrain.evaluation.matches import SIDES
from detpretrain.files import write_text
from detpretrain.geometry import Geometry

ANNOTATIONS, EXCLUDED, SERIESUIDS = "annotations.csv", "annotations_excluded.csv", "seriesuids.csv"
SUBMISSION, SCORED = "luna16_submission.csv", "luna16_seriesuids.csv"


def score(
    table: pd.DataFrame, series: Mapping[str, str], geometries: Mapping[str, Geometry], official: Path, output: Path
) -> dict[str, Any]:
    """Writes ``luna16_submission.csv`` and ``luna16_seriesuids.csv`` (the scored scans) and scores the one on the other.

    Args:
        table: ``matches`` of the scored scans, each once.
        series: case -> series uid.
        geometries: case -> geometry of its image.
        official: folder with the challenge's ``annotations.csv``, ``annotations_excluded.csv`` and ``seriesuids.csv``.
        output: folder of the two files.

    Returns:
        what ``luna16.evaluate`` gives for the two files; where the challenge has more scans, ``counts`` says how many
        (``official_scans``).

    Raises:
        InputError: a scan that is not in the challenge's list, or a bad file.
    """
    cases = [str(case) for case in table.loc[table["kind"] == "case", "case"]]
    listed, scored = luna16.series_uids(official / SERIESUIDS), {series[case] for case in cases}
    strangers = sorted(scored - set(listed))
    if strangers:
        raise InputError(f"{official / SERIESUIDS}: does not list {strangers[0]}, which is scored: exclude the scan")
    write_text(output / SUBMISSION, submission(table, series, geometries).to_csv(index=False))
    write_text(output / SCORED, "".join(f"{uid}\n" for uid in listed if uid in scored))
    found = luna16.evaluate(official / ANNOTATIONS, official / EXCLUDED, output / SCORED, output / SUBMISSION)
    if len(scored) < len(listed):
        found["counts"]["official_scans"] = len(listed)
    return found


def submission(table: pd.DataFrame, series: Mapping[str, str], geometries: Mapping[str, Geometry]) -> pd.DataFrame:
    """seriesuid, coordX, coordY, coordZ (mm), probability of every detection; arguments as of ``score``."""
    parts = []
    for case, lines in table[table["kind"] == "detection"].groupby("case", sort=False):
        sides = lines[SIDES].to_numpy(np.float64)  # mm along the image axes
        centres = (sides[:, :3] + sides[:, 3:]) / 2 / geometries[case].spacing
        marks = pd.DataFrame(geometries[case].index_to_world(centres), columns=list(luna16.POSITION))
        marks.insert(0, "seriesuid", series[case])
        parts.append(marks.assign(probability=lines["score"].to_numpy(np.float64)))
    columns = ["seriesuid", *luna16.POSITION, "probability"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
