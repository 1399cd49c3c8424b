"""Where the trainings of a study lie: results, logs and work folder of every cell and every pre-training."""

from __future__ import annotations

import os
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from detpretrain.study import Cell, Study

ENGINE_STATE = "nndet"  # a folder


@dataclass(frozen=True)
class Stage:
    """A job: the result files that it makes in the training's folder, its log, and the benchmark, written if it ends well."""

    name: str
    results: frozenset[str]
    log: Path
    benchmark: Path


@dataclass(frozen=True)
class Training:
    """A cell or a pre-training.

    Attributes:
        name: the path of the cell, or ``INIT/BACKBONE``.
        folder: of its results.
        work: folder of the resumable state and of what tells about the run; nothing of it is a result.
        stages: in order; the first one is the training itself.
        state: what of the work folder an interrupted training goes on from.
    """

    name: str
    folder: Path
    work: Path
    stages: tuple[Stage, ...]
    state: str = "last.pth"

    def results(self) -> Set[str]:
        """Names of the files that are there."""
        try:
            return set(os.listdir(self.folder))
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def finished(self) -> bool:
        """Whether every stage has made all of its results."""
        found = self.results()
        return all(stage.results <= found for stage in self.stages)


def of_cell(study: Study, cell: Cell) -> Training:
    label = cell.path.replace("/", "-")
    files = {
        "finetune": {"model.pth", "log.csv"},
        "predict": {"raw_boxes.parquet"},
        "evaluate": {"metrics.json", "matches.parquet"},
    }
    return Training(
        cell.path,
        study.folder / "cells" / cell.path,
        study.work / cell.path,
        tuple(_stage(study, name, frozenset(results), label) for name, results in files.items()),
        **({"state": ENGINE_STATE} if study.engine(cell.detector) else {}),
    )


def of_pretraining(study: Study, init: str, backbone: str) -> Training:
    results = frozenset({"checkpoint.pth", "log.csv", "assessment.json", "preview.npz"})
    return Training(
        f"{init}/{backbone}",
        study.folder / "pretrained" / init / backbone,
        study.work / "pretrained" / init / backbone,
        (_stage(study, "pretrain", results, f"{init}-{backbone}"),),
    )


def _stage(study: Study, name: str, results: frozenset[str], label: str) -> Stage:
    log, benchmark = study.folder / "logs" / name / f"{label}.log", study.folder / "benchmarks" / name / f"{label}.tsv"
    return Stage(name, results, log, benchmark)


def of_study(study: Study) -> tuple[list[Training], list[Training]]:
    """Of the cells and of the pre-trainings, in the order of ``study.cells`` and ``study.pretrainings``."""
    cells = [of_cell(study, cell) for cell in study.cells]
    return cells, [of_pretraining(study, init, backbone) for init, backbone in study.pretrainings]
