"""GPU-hours of what a study has planned and not yet done. A speed that nobody measured is "unknown", never guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detpretrain import training_speed
from detpretrain.study import Study
from detpretrain.training_speed import Speed

SECONDS = 3600


@dataclass(frozen=True)
class Work:
    """Trainings of one kind: how many are planned and done, steps of each and how fast they are.

    An engine's trainings have no known steps (None); their ``speed`` is in trainings per second.
    """

    name: str
    planned: int
    done: int
    steps: int | None
    speed: Speed

    @property
    def hours(self) -> float | None:
        left = self.planned - self.done
        if not left:
            return 0.0
        return None if self.speed.value is None else left * (self.steps or 1) / self.speed.value / SECONDS


def work(study: Study) -> list[Work]:
    return [*_fine_tunings(study), *_pretrainings(study)]


def _fine_tunings(study: Study) -> list[Work]:
    found = []
    for detector in sorted({cell.detector for cell in study.cells}):
        cells = [cell for cell in study.cells if cell.detector == detector]
        recipe = study.entry("detectors", detector).get("recipe")
        steps = training_speed.steps(study, recipe) if recipe else None
        done = sum((study.folder / "cells" / cell.path / "metrics.json").is_file() for cell in cells)
        found.append(Work(detector, len(cells), done, steps, training_speed.of_detector(study, detector)))
    return found


def _pretrainings(study: Study) -> list[Work]:
    found = []
    for init, backbone in study.pretrainings:
        steps = training_speed.steps(study, study.entry("methods", study.entry("inits", init)["method"])["recipe"])
        done = (study.folder / "pretrained" / init / backbone / "checkpoint.pth").is_file()
        speed = training_speed.of_pretraining(study, init, backbone)
        found.append(Work(f"pre-training {init} of {backbone}", 1, int(done), steps, speed))
    return found


def table(found: Sequence[Work]) -> list[tuple[str, ...]]:
    """Lines for people, the sum last."""
    lines = [
        (
            one.name,
            str(one.planned),
            str(one.done),
            "unknown" if one.steps is None else f"{one.steps:,}",
            "unknown" if one.steps is None or one.speed.value is None else f"{one.speed.value:.2f}",
            "unknown" if one.hours is None else f"{one.hours:,.1f}",
            one.speed.source,
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
