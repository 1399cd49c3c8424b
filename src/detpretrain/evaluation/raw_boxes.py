"""``raw_boxes.parquet``: every box of every case, mirror and tile of one model, before any merging.

Columns: case, mirror (index of the combination), z1 .. x2 (preprocessed index coordinates), score, label, weight. The file's
metadata hold, per case, what is needed to merge, to match and to go back to the original space.

An engine (``engine_entries``) merges by itself: its file is ``final``, with detections in original index coordinates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from detpretrain.errors import InputError
from detpretrain.evaluation.ensemble import Candidates
from detpretrain.evaluation.matches import SIDES
from detpretrain.files import atomic_path

_METADATA = b"detpretrain.raw_boxes"


@dataclass(frozen=True)
class RawBoxes:
    """One model's predictions.

    Attributes:
        candidates: by case; ``model`` is the mirror.
        properties: by case: the properties that preprocessing wrote (shape, crop, geometry, test_set, ids, classes, boxes).
        models: mirrors per case.
        classes: number of classes.
        provenance: of the prediction and of the model.
        final: whether the boxes are detections already, in original index coordinates; of ``properties`` only ``shape`` and
            ``test_set`` are there then.
    """

    candidates: dict[str, Candidates]
    properties: dict[str, dict[str, Any]]
    models: int
    classes: int
    provenance: dict[str, Any]
    final: bool = False


def write(path: Path | str, raw: RawBoxes) -> None:
    columns: dict[str, Any] = {"case": [], "mirror": []}
    boxes, scores, labels, weights = [], [], [], []
    for case, found in raw.candidates.items():
        columns["case"] += [case] * len(found.scores)
        columns["mirror"].append(found.model)
        boxes.append(found.boxes)
        scores.append(found.scores)
        labels.append(found.labels)
        weights.append(found.weights)
    sides = np.concatenate(boxes).astype(np.float32)
    table = pa.table(
        {
            "case": pa.array(columns["case"], pa.string()).dictionary_encode(),
            "mirror": np.concatenate(columns["mirror"]).astype(np.int16),
            **{side: sides[:, index] for index, side in enumerate(SIDES)},
            "score": np.concatenate(scores).astype(np.float32),
            "label": np.concatenate(labels).astype(np.int16),
            "weight": np.concatenate(weights).astype(np.float32),
        }
    )
    facts = {"properties": raw.properties, "models": raw.models, "classes": raw.classes, "provenance": raw.provenance}
    if raw.final:
        facts["final"] = True
    with atomic_path(path) as temporary:
        parquet.write_table(table.replace_schema_metadata({_METADATA: json.dumps(facts)}), temporary)


def read(path: Path | str) -> RawBoxes:
    """Reads predictions; ``InputError`` when the file is missing or something else."""
    try:
        table = parquet.read_table(Path(path))
    except FileNotFoundError:
        raise InputError(f"{path}: file not found") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not readable ({str(error).splitlines()[0]}): predict again") from None
    metadata: Mapping[bytes, bytes] = table.schema.metadata or {}
    if _METADATA not in metadata:
        raise InputError(f"{path}: not a file of raw boxes: give the raw_boxes.parquet of a cell")
    facts = json.loads(metadata[_METADATA])
    frame = table.to_pandas()
    groups = {str(case): lines for case, lines in frame.groupby("case", observed=True, sort=False)}
    empty = frame.iloc[:0]
    candidates = {case: _candidates(groups.get(case, empty)) for case in facts["properties"]}
    known = facts["properties"], facts["models"], facts["classes"], facts["provenance"]
    return RawBoxes(candidates, *known, final=facts.get("final", False))


def _candidates(lines: Any) -> Candidates:
    return Candidates(
        lines[SIDES].to_numpy(np.float32),
        lines["score"].to_numpy(np.float32),
        lines["label"].to_numpy(np.int64),
        lines["weight"].to_numpy(np.float32),
        lines["mirror"].to_numpy(np.int64),
    )
