"""Which cells of a study are fresh, made by other source, made by another recipe, or missing. Nothing is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detpretrain import leaves, provenance
from detpretrain.files import read_json
from detpretrain.study import Cell, Study

FRESH, SOURCE, RECIPE, MISSING = "fresh", "source changed", "recipe changed", "missing"


@dataclass(frozen=True)
class CellState:
    """``stages``: of those that are not fresh, the state by stage; ``recorded``: the provenance in ``metrics.json``."""

    cell: Cell
    state: str
    stages: Mapping[str, str]
    recorded: Mapping[str, Any]


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
    stages = {}
    for stage, (recipe, modules) in expected(study, cell).items():
        found = recorded.get(stage, {})
        if found.get("recipe") != recipe:
            stages[stage] = RECIPE
        elif found.get("source") != provenance.source_hash(modules):
            stages[stage] = SOURCE
    worst = RECIPE if RECIPE in stages.values() else SOURCE if stages else FRESH
    return CellState(cell, worst, stages, recorded)


def expected(study: Study, cell: Cell) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Recipe and starting modules of each stage of a cell, as its results should record them."""
    finetune = leaves.finetune(study, cell.detector, cell.init, cell.fold, cell.seed)
    network = provenance.class_modules(finetune["detector"], finetune["backbone"])
    stages = {
        "finetune": (
            leaves.recipe("finetune", finetune),
            ("detpretrain.training.finetune", *provenance.class_modules(finetune)),
        ),
        "predict": (
            leaves.recipe("predict", leaves.predict(study, cell.detector)),
            ("detpretrain.inference.predict", *network),
        ),
        "evaluate": (leaves.recipe("evaluate", {}), ("detpretrain.inference.scoring",)),
    }
    if study.needs_pretraining(cell.init):
        pretrain = leaves.pretrain(study, cell.init, study.entry("detectors", cell.detector)["backbone"])
        modules = ("detpretrain.training.pretrain", *provenance.class_modules(pretrain))
        stages["pretrain"] = (leaves.recipe("pretrain", pretrain), modules)
    return stages


def summary(states: Sequence[CellState]) -> list[dict[str, Any]]:
    """Lines of the report's provenance table: how many cells share recipe, source, commit and state, by data set and detector."""
    counts: Counter[tuple[Any, ...]] = Counter()
    for state in states:
        made = state.recorded.get("finetune", {})
        commit = (made.get("commit") or "unknown")[:10] + ("+changes" if made.get("dirty") else "")
        key = (state.cell.dataset, state.cell.detector, state.cell.init, made.get("source", "-"), commit, state.state)
        counts[key] += 1
    names = ("data set", "detector", "initialisation", "source", "commit", "state")
    return [{**dict(zip(names, key, strict=True)), "cells": count} for key, count in sorted(counts.items())]
