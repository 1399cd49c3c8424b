"""A cell outside the workflow: its entries, and the matches of its model on some cases, as the study makes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from detpretrain import leaves, study
from detpretrain.evaluation import matches
from detpretrain.evaluation.raw_boxes import RawBoxes
from detpretrain.files import read_json
from detpretrain.inference.model import Model
from detpretrain.inference.predict import predict_case
from detpretrain.inference.scoring import FoldBoxes, Truth, score_cell
from detpretrain.preprocessing.store import read_case
from detpretrain.training.finetune import Cell

ROOT = Path(__file__).resolve().parents[1]


def demo_study(dataset: str, detectors: Collection[str]) -> study.Study:
    """A study of demo size with these detectors from scratch."""
    rows = [{"detector": name, "init": "scratch"} for name in detectors]
    return study.assemble({"study": "bench", "size": "demo", "datasets": [dataset], "rows": rows}, ROOT, "benchmark")


def scratch_cell(
    chosen: study.Study, dataset: str, detector: str, fold: int = 0, recipe: str | None = None, **changes: Any
) -> Cell:
    """The cell of the study, from scratch with seed 0; ``changes`` replace values of its recipe, or of the one named."""
    entry = chosen.entry("detectors", detector)
    recipe = recipe or entry["recipe"]
    return Cell(
        name=f"{dataset}/{detector}/scratch/fold{fold}-seed0",
        detector=entry,
        backbone=leaves.finetune(chosen, detector, "scratch", fold, 0)["backbone"],
        recipe={**chosen.entry("recipes", recipe), **changes},
        recipe_name=recipe,
        fold=fold,
        seed=0,
        checkpoint=None,
        signature="benchmark",
    )


def match_cases(
    model: Model, cell: Cell, preprocessed: Path, task: Path, cases: Collection[str], device: torch.device
) -> pd.DataFrame:
    """Matches of these cases: tiles, mirrors, default post-processing."""
    candidates: dict[str, Any] = {}
    properties: dict[str, Mapping[str, Any]] = {}
    for name in (record["case"] for record in read_json(preprocessed / "index.json")["cases"]):
        if name in cases:
            case = read_case(preprocessed, name)
            image, patch = case.data[...], model.plan["patch"]
            candidates[name] = predict_case(model.detector, image, patch, model.settings, device, model.precision)
            properties[name] = case.properties
    raw = RawBoxes(candidates, properties, len(model.settings.mirrors), model.plan["classes"], {})
    run = matches.Run("benchmark", cell.name.split("/")[0], "", cell.name, "scratch", cell.seed)
    return score_cell(FoldBoxes(cell.fold, raw), Truth.read(task), run)
