"""Which cases and slices the overlays show: chosen by rule, so that nobody picks the pretty ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from detpretrain.comparison.pooled_ap import PooledAP
from detpretrain.comparison.rows import Row, summarise_ap

SHOWN_FALSE_POSITIVES_PER_CASE = 1.0


@dataclass(frozen=True)
class ChosenCase:
    """``rank``: "best", "median" or "worst"; ``score``: AP@0.10 of the case alone."""

    rank: str
    case: str
    score: float


def case_scores(row: Row) -> pd.DataFrame:
    """AP@0.10 and mAP@0.10:0.50 of each case that has objects: columns case, AP@0.10, mAP@0.10:0.50; best first.

    Cases of equal AP@0.10 are ordered by mAP@0.10:0.50, then by name. Cases without objects have no AP and no line.
    """
    own = PooledAP.of_cases(row.cases, np.arange(len(row.cases)))(np.eye(len(row.cases)))
    scores = pd.DataFrame({"case": row.case_lines["case"], **summarise_ap(own)}).dropna(subset=["AP@0.10"])
    order = ["AP@0.10", "mAP@0.10:0.50", "case"]
    return scores[["case", *order[:2]]].sort_values(order, ascending=[False, False, True], ignore_index=True)


def choose_cases(row: Row) -> list[ChosenCase]:
    """The best, the (lower) median and the worst case of one row; fewer when fewer cases have objects."""
    scores = case_scores(row)
    places = {"best": 0, "median": len(scores) // 2, "worst": len(scores) - 1}
    kept = {0: (), 1: ("best",), 2: ("best", "worst")}.get(len(scores), tuple(places))
    return [
        ChosenCase(rank, str(scores["case"][places[rank]]), float(scores["AP@0.10"][places[rank]])) for rank in kept
    ]


def display_threshold(table: pd.DataFrame) -> float:
    """The lowest score that keeps at most one false positive per case on average over all cases of the row.

    A detection on no object at IoU 0.10 is a false positive. 0 when all of them together are fewer.
    """
    allowed = int(SHOWN_FALSE_POSITIVES_PER_CASE * table["case"].nunique())
    false = (table["kind"] == "detection") & table["truth@0.10"].isna()
    scores = np.sort(table.loc[false, "score"].to_numpy(np.float64))[::-1]
    if len(scores) <= allowed:
        return 0.0
    return float(np.nextafter(scores[allowed], np.inf))


def choose_slices(truths: np.ndarray, detections: np.ndarray, spacing: float, depth: int, limit: int) -> list[int]:
    """Slice indices through box centres: objects by falling volume, then detections in the given order (by score).

    ``truths`` [N, 6] and ``detections`` [M, 6] in mm; ``spacing``: mm between slices; ``depth``: number of slices. A box
    whose middle half a chosen slice already crosses needs no slice of its own. Returned in ascending order, at most
    ``limit``; the middle slice when there is no box.
    """
    volumes = np.prod(truths[:, 3:] - truths[:, :3], axis=1)
    boxes = np.concatenate([truths[np.argsort(-volumes, kind="stable")], detections])
    chosen: list[int] = []
    for box in boxes:
        centre, half = (box[0] + box[3]) / 2, (box[3] - box[0]) / 4
        if len(chosen) < limit and not any(abs(index * spacing - centre) <= half for index in chosen):
            chosen.append(int(np.clip(np.rint(centre / spacing), 0, depth - 1)))
    return sorted(set(chosen)) or [depth // 2]
