"""GPU-hours of what a study has planned and not yet done. A speed that nobody measured is "unknown", never guessed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from detpretrain.files import read_json
from detpretrain.study import Cell, Study

SECONDS = 3600


@dataclass(frozen=True)
class Work:
    """Trainings of one kind: how many are planned and done, steps of each, steps per second and what says so.

    An engine's trainings have no known steps (None); their ``speed`` is in trainings per second.
    """

    name: str
    planned: int
    done: int
    steps: int | None
    speed: float | None
    source: str

    @property
    def hours(self) -> float | None:
        left = self.planned - self.done
        if not left:
            return 0.0
        return None if self.speed is None else left * (self.steps or 1) / self.speed / SECONDS


def work(study: Study, given: float | None, given_pretraining: float | None) -> list[Work]:
    """``given``: steps per second of fine-tunings (of pre-trainings) where no finished one tells."""
    return [*_fine_tunings(study, given), *_pretrainings(study, given_pretraining)]


def _fine_tunings(study: Study, given: float | None) -> list[Work]:
    found = []
    for detector in sorted({cell.detector for cell in study.cells}):
        cells = [cell for cell in study.cells if cell.detector == detector]
        seconds, devices = _seconds(study, cells)
        if study.engine(detector):
            speed, source = _speed(1, seconds, devices, None, "")
            told = "unknown until one is finished" if speed is None else source
            found.append(Work(detector, len(cells), len(seconds), None, speed, told))
            continue
        steps = _steps(study, study.entry("detectors", detector)["recipe"])
        speed, source = _speed(steps, seconds, devices, given, "--steps-per-second")
        found.append(Work(detector, len(cells), len(seconds), steps, speed, source))
    return found


def _seconds(study: Study, cells: Sequence[Cell]) -> tuple[list[float], set[str]]:
    """Seconds of every finished cell (of its last run, where it was interrupted) and the devices they ran on."""
    seconds, devices = [], set()
    for cell in cells:
        path = study.folder / "cells" / cell.path / "metrics.json"
        if path.is_file():
            record = read_json(path)["provenance"].get("finetune", {})
            seconds.append(float(record.get("seconds", 0.0)))
            devices.add(str(record.get("device", "an unknown device")))
    return seconds, devices


def _pretrainings(study: Study, given: float | None) -> list[Work]:
    found = []
    for init, backbone in study.pretrainings:
        steps = _steps(study, study.entry("methods", study.entry("inits", init)["method"])["recipe"])
        done = (study.folder / "pretrained" / init / backbone / "checkpoint.pth").is_file()
        speed, source = _speed(steps, [], set(), given, "--pretraining-steps-per-second")
        found.append(Work(f"pre-training {init} of {backbone}", 1, int(done), steps, speed, source))
    return found


def _steps(study: Study, recipe: str) -> int:
    entry = study.entry("recipes", recipe)
    return entry["epochs"] * entry["steps_per_epoch"]


def _speed(
    steps: int, seconds: Sequence[float], devices: set[str], given: float | None, option: str
) -> tuple[float | None, str]:
    """The slowest half decides: a resumed training tells only the seconds of its last run."""
    told = [value for value in seconds if value > 0]
    if told:
        return steps / statistics.median_high(told), f"{len(told)} finished on {', '.join(sorted(devices))}"
    if given is not None:
        return given, option
    return None, f"unknown: give {option}"


def table(found: Sequence[Work]) -> list[tuple[str, ...]]:
    """Lines for people, the sum last."""
    lines = [
        (
            one.name,
            str(one.planned),
            str(one.done),
            "unknown" if one.steps is None else f"{one.steps:,}",
            "unknown" if one.steps is None or one.speed is None else f"{one.speed:.2f}",
            "unknown" if one.hours is None else f"{one.hours:,.1f}",
            one.source,
        )
        for one in found
    ]
    planned, done = sum(one.planned for one in found), sum(one.done for one in found)
    return [*lines, ("all", str(planned), str(done), "", "", _sum([one.hours for one in found]), "")]


def _sum(hours: Sequence[float | None]) -> str:
    known = sum(value or 0.0 for value in hours)
    if None not in hours:
        return f"{known:,.1f}"
    return f"at least {known:,.1f}" if known else "unknown"
