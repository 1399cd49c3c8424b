"""Steps of the trainings of a study, and how fast they were: a speed that nobody measured is None, never guessed."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detpretrain.files import read_json
from detpretrain.study import Study

LOOKED_AT = 5  # finished trainings whose median tells the speed of the others


@dataclass(frozen=True)
class Speed:
    """Steps per second, None = unknown, and what says so."""

    value: float | None
    source: str


def steps(study: Study, recipe: str) -> int:
    """Of a whole training."""
    entry = study.entry("recipes", recipe)
    return entry["epochs"] * entry["steps_per_epoch"]


def of_detector(study: Study, detector: str) -> Speed:
    """Of a detector's fine-tunings: as the finished ones tell, else ``runtime.steps_per_second`` of the study file.

    Of an engine's, whose steps nobody knows here: trainings per second.
    """
    recipe = study.entry("detectors", detector).get("recipe")
    cells = (cell for cell in study.cells if cell.detector == detector)
    records = _finished(study.folder / "cells" / cell.path / "metrics.json" for cell in cells)
    told = (record.get("finetune", {}) for record in records)
    if recipe is None:
        return _measured(1, told) or Speed(None, "unknown until one is finished")
    return _measured(steps(study, recipe), told) or _given(study, detector)


def of_pretraining(study: Study, init: str, backbone: str) -> Speed:
    """Of a pre-training: as finished ones of its method for this backbone tell, else as the study file says."""
    method = study.entry("inits", init)["method"]
    total = steps(study, study.entry("methods", method)["recipe"])
    alike = (
        other
        for other, net in study.pretrainings
        if net == backbone and study.entry("inits", other)["method"] == method
    )
    folder = study.folder / "pretrained"
    told = _finished(folder / other / backbone / "assessment.json" for other in alike)
    return _measured(total, told) or _given(study, method)


def _finished(paths: Iterable[Path]) -> Iterable[Mapping[str, Any]]:
    """The provenance of those results that are there."""
    return (read_json(path).get("provenance", {}) for path in paths if path.is_file())


def _measured(total: int, records: Iterable[Mapping[str, Any]]) -> Speed | None:
    """The slower half decides: a resumed training tells only the seconds of its last run."""
    told = [record for record in itertools.islice(records, LOOKED_AT) if record.get("seconds", 0) > 0]
    if not told:
        return None
    devices = sorted({str(record.get("device", "an unknown device")) for record in told})
    seconds = statistics.median_high(float(record["seconds"]) for record in told)
    return Speed(total / seconds, f"{len(told)} finished on {', '.join(devices)}")


def _given(study: Study, name: str) -> Speed:
    value = study.config["runtime"].get("steps_per_second", {}).get(name)
    source = f"unknown: runtime.steps_per_second: {{{name}: ...}}" if value is None else "runtime.steps_per_second"
    return Speed(value, source)
