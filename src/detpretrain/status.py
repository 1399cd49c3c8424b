"""Which cells and pre-trainings of a study are fresh, made by other source, made by another recipe, running, failed or missing.

Nothing is run. ``cell_states`` judges results alone; ``now`` looks at what is being made as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detpretrain import imported, leaves, provenance, snakemake_runs, trainings
from detpretrain.attempts import Attempt, Run, attempts
from detpretrain.files import read_json
from detpretrain.imported import Imported
from detpretrain.study import Cell, Study

FRESH, SOURCE, RECIPE, MISSING = "fresh", "source changed", "recipe changed", "missing"
RUNNING, FAILED = "running", "failed"
STATES = (FRESH, SOURCE, RECIPE, RUNNING, FAILED, MISSING)
INTERRUPTED = "interrupted, goes on where it stopped"
ENGINE_MODULES = {
    "finetune": ("detpretrain.engines.nndet_train",),
    "predict": ("detpretrain.engines.nndet_predict",),
}


@dataclass(frozen=True)
class CellState:
    """``stages``: of those that are not fresh, the state by stage; ``recorded``: the provenance in ``metrics.json``;
    ``imported``: None for results that were computed here.
    """

    cell: Cell
    state: str
    stages: Mapping[str, str]
    recorded: Mapping[str, Any]
    imported: Imported | None = None


@dataclass(frozen=True)
class Now:
    """A cell or a pre-training at this moment; ``name``: the cell's path or ``INIT/BACKBONE``; ``stages``: why, by stage;
    ``imported``: of the results that are there.
    """

    name: str
    state: str
    stages: Mapping[str, str]
    run: Run | None = None
    imported: Imported | None = None


def now(study: Study, states: Sequence[CellState]) -> tuple[list[Now], list[Now]]:
    """Cells and pre-trainings, in the order of ``study.cells`` and ``study.pretrainings``; ``states``: ``cell_states``."""
    cells, pretrainings = trainings.of_study(study)
    # the study's paths are relative to the working directory, and so is Snakemake's lock
    found = attempts([*cells, *pretrainings], snakemake_runs.locked(Path.cwd()))
    judged = [(state.state, state.stages) for state in states]
    judged += [pretraining_state(study, init, backbone) for init, backbone in study.pretrainings]
    marks = [state.imported for state in states] + [imported.of_pretraining(one.folder) for one in pretrainings]
    names = [training.name for training in (*cells, *pretrainings)]
    moments = [_now(*four) for four in zip(names, judged, found, marks, strict=True)]
    return moments[: len(cells)], moments[len(cells) :]


def _now(name: str, judged: tuple[str, Mapping[str, str]], attempt: Attempt, mark: Imported | None) -> Now:
    """An attempt outweighs what is there of earlier ones."""
    state, stages = judged
    if attempt.run is not None:
        return Now(name, RUNNING, stages, attempt.run, mark)
    if attempt.failed is not None:
        return Now(name, FAILED, dict([attempt.failed]), None, mark)
    if attempt.interrupted is not None and state == MISSING:
        return Now(name, MISSING, {attempt.interrupted: INTERRUPTED}, None, mark)
    return Now(name, state, stages, None, mark)


def cell_states(study: Study) -> list[CellState]:
    return [cell_state(study, cell) for cell in study.cells]


def cell_state(study: Study, cell: Cell) -> CellState:
    """Compares what ``metrics.json`` records with the present configuration and source."""
    path = study.folder / "cells" / cell.path / "metrics.json"
    if not path.exists():
        return CellState(cell, MISSING, {}, {})
    recorded = read_json(path)["provenance"]
    # the checkpoint's provenance travels inside that of the fine-tuning that started from it
    recorded["pretrain"] = recorded.get("finetune", {}).get("pretrain") or {}
    state, stages = _judge(expected(study, cell), recorded)
    return CellState(cell, state, stages, recorded, imported.of_cell(path.parent))


def pretraining_state(study: Study, init: str, backbone: str) -> tuple[str, Mapping[str, str]]:
    """Of its results, by what ``assessment.json`` records: the state, and the reason by stage."""
    folder = study.folder / "pretrained" / init / backbone
    path = folder / "assessment.json"
    if not (path.exists() and (folder / "checkpoint.pth").exists()):
        return MISSING, {}
    return _judge({"pretrain": _pretrain(study, init, backbone)}, {"pretrain": read_json(path)["provenance"]})


def _judge(
    expected: Mapping[str, tuple[str, tuple[str, ...]]], recorded: Mapping[str, Any]
) -> tuple[str, dict[str, str]]:
    stages = {}
    for stage, (recipe, modules) in expected.items():
        found = recorded.get(stage, {})
        if found.get("recipe") != recipe:
            stages[stage] = RECIPE
        elif found.get("source") != provenance.source_hash(modules):
            stages[stage] = SOURCE
    return RECIPE if RECIPE in stages.values() else SOURCE if stages else FRESH, stages


def expected(study: Study, cell: Cell) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Recipe and starting modules of each stage of a cell, as its results should record them."""
    finetune = leaves.finetune(study, cell.detector, cell.init, cell.fold, cell.seed)
    stages = {
        "finetune": (leaves.recipe("finetune", finetune), _training_modules(finetune)),
        "predict": (
            leaves.recipe("predict", leaves.predict(study, cell.detector)),
            _prediction_modules(finetune),
        ),
        "evaluate": (leaves.recipe("evaluate", {}), ("detpretrain.inference.scoring",)),
    }
    if study.needs_pretraining(cell.init):
        stages["pretrain"] = _pretrain(study, cell.init, study.entry("detectors", cell.detector)["backbone"])
    return stages


def _training_modules(finetune: Mapping[str, Any]) -> tuple[str, ...]:
    if "engine" in finetune["detector"]:
        return ENGINE_MODULES["finetune"]
    return ("detpretrain.training.finetune", *provenance.class_modules(finetune))


def _prediction_modules(finetune: Mapping[str, Any]) -> tuple[str, ...]:
    if "engine" in finetune["detector"]:
        return ENGINE_MODULES["predict"]
    return ("detpretrain.inference.predict", *provenance.class_modules(finetune["detector"], finetune["backbone"]))


def _pretrain(study: Study, init: str, backbone: str) -> tuple[str, tuple[str, ...]]:
    entries = leaves.pretrain(study, init, backbone)
    modules = ("detpretrain.training.pretrain", *provenance.class_modules(entries))
    return leaves.recipe("pretrain", entries), modules


def summary(states: Sequence[CellState]) -> list[dict[str, Any]]:
    """Lines of the report's provenance table: how many cells share recipe, source, commit, state and origin, by data set and
    detector.
    """
    counts: Counter[tuple[Any, ...]] = Counter()
    for state in states:
        made = state.recorded.get("finetune", {})
        commit = (made.get("commit") or "unknown")[:10] + ("+changes" if made.get("dirty") else "")
        key = (state.cell.dataset, state.cell.detector, state.cell.init, made.get("source", "-"), commit, state.state)
        counts[*key, str(state.imported or "-")] += 1
    names = ("data set", "detector", "initialisation", "source", "commit", "state", "imported from")
    return [{**dict(zip(names, key, strict=True)), "cells": count} for key, count in sorted(counts.items())]
