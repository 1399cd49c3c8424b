"""Making again what came from other source: which jobs Snakemake is told to run, and nothing that is fresh among them.

Of every stale cell the outermost stale stage is forced; what follows from it runs because its input is new. A pre-training is
forced only if its own results are stale: where it has been made again already, its cells need their fine-tuning and no more.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detpretrain import status, trainings
from detpretrain.status import FRESH, RUNNING, SOURCE, Now
from detpretrain.study import Cell, Study
from detpretrain.trainings import Training

CHAIN = ("pretrain", "finetune", "predict", "evaluate")


@dataclass(frozen=True)
class Order:
    """A cell to bring up to date.

    ``target``: its ``metrics.json``; ``stage``: the first one to run again; ``forced``: a result of that stage, which may be
    the pre-training's. One file is enough to force a job, and a command line is not endless.
    """

    cell: str
    target: Path
    stage: str
    forced: Path


def orders(study: Study) -> tuple[list[Order], list[str]]:
    """What to run, and the names of stale cells that have to wait because they, or their pre-training, are being trained."""
    states = status.cell_states(study)
    cells, pretrainings = status.now(study, states)
    pretrained = dict(zip(study.pretrainings, pretrainings, strict=True))
    found, waiting = [], []
    for cell, now, state in zip(study.cells, cells, states, strict=True):
        if state.state != SOURCE:
            continue
        source = pretrained.get((cell.init, study.entry("detectors", cell.detector)["backbone"]))
        if now.state == RUNNING or (source is not None and source.state == RUNNING):
            waiting.append(cell.path)
        else:
            found.append(_order(study, cell, state.stages, source))
    return found, waiting


def _order(study: Study, cell: Cell, stale: Mapping[str, str], source: Now | None) -> Order:
    training = trainings.of_cell(study, cell)
    target = training.folder / "metrics.json"
    first = next(stage for stage in CHAIN if stage in stale)
    if first == "pretrain" and source is not None and source.state != FRESH:
        init, backbone = source.name.split("/")
        made = trainings.of_pretraining(study, init, backbone)
        return Order(cell.path, target, first, _result(made, 0))
    place = _resumed(training, max(CHAIN.index(first) - 1, 0), target)
    return Order(cell.path, target, training.stages[place].name, _result(training, place))


def _resumed(training: Training, place: int, target: Path) -> int:
    """The stage to go on from: those that were made again after ``target``, by a run that was stopped, are not made twice."""
    present, written = training.results(), target.stat().st_mtime_ns
    while place < len(training.stages) - 1:
        results = training.stages[place].results
        if not results <= present:
            break
        if any((training.folder / name).stat().st_mtime_ns <= written for name in results):
            break
        place += 1
    return place


def _result(training: Training, place: int) -> Path:
    return training.folder / min(training.stages[place].results)


def command(found: Sequence[Order], config: Sequence[Path], dry_run: bool, arguments: Sequence[str]) -> list[str]:
    """Snakemake on exactly these cells; ``arguments`` are the user's own."""
    forced = sorted({str(order.forced) for order in found})
    return [
        *(sys.executable, "-m", "snakemake"),
        *(str(order.target) for order in found),
        *("--configfile", *map(str, config)),
        *("--forcerun", *forced),
        *(["--dry-run"] if dry_run else []),
        *arguments,
    ]
