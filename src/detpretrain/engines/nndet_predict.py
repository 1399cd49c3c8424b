"""Predictions of one cell by nnDetection: ``nndet_sweep`` on the validation cases, ``nndet_predict_with_task`` on all others.

The sweep predicts the validation cases with all mirrors, chooses post-processing on them and applies it to them; the same
post-processing is what other cases are predicted with. So nnDetection's own procedure is optimistic on the validation cases, and
fair on a fold's test part and on test sets.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detpretrain import provenance
from detpretrain.engine_entries import EXECUTABLES
from detpretrain.engines import command, nndet_model, nndet_predictions, nndet_task
from detpretrain.engines.nndet_train import Limits
from detpretrain.evaluation import raw_boxes
from detpretrain.evaluation.ensemble import Candidates
from detpretrain.files import read_json
from detpretrain.folds import read_fold
from detpretrain.preprocessing.raw_case import CaseFiles, find_cases
from detpretrain.tasks import CROSS_VALIDATION, Task, read_splits
from detpretrain.volumes import read_geometry

STATE = "nndet_predict"
SOURCES = ("detpretrain.engines.nndet_predict",)


def predict(
    model: Path, fold: int, preprocessed: Path, splits: Path, works: Path, output: Path, recipe: str, limits: Limits
) -> None:
    """Writes ``raw_boxes.parquet`` of the fold's held-out cases and of the test sets: detections, nothing left to merge.

    Args:
        model: ``model.pth`` that ``nndet_train`` wrote.
        preprocessed: folder of ``index.json``.
        splits: splits.json in its task folder.
        works: folder of the work folders of the study's cells.
        recipe: hash of what defines the prediction.

    Raises:
        InputError: an input that does not fit, a command that failed, a case that it has not predicted.
    """
    started = time.monotonic()
    facts = nndet_model.read_facts(model)
    split = read_fold(splits, fold, facts["trained_on"])
    work = nndet_task.check_folder(works / facts["cell"])
    command.find(EXECUTABLES[facts["engine"]])
    plan, task = read_json(preprocessed / "index.json")["plan"], Task.read(splits.parent)
    state = work / STATE
    shutil.rmtree(state, ignore_errors=True)
    run = _Run(state, work / "nndet_predict.log", facts, limits)
    run.restore(model, preprocessed, splits)
    candidates, cases = {}, []
    for name, chosen in _parts(task, split).items():
        found = run.sweep() if name == "val" else run.predict(name, chosen)
        candidates |= nndet_predictions.read_cases(chosen, found, plan["classes"])
        cases += chosen
    record = provenance.record(
        recipe, SOURCES, device=facts["provenance"].get("device"), seconds=round(time.monotonic() - started, 1)
    )
    _write(output, candidates, cases, plan["classes"], {"finetune": facts["provenance"], "predict": record})
    shutil.rmtree(state)


def _parts(task: Task, split: dict[str, list[str]]) -> dict[str, list[CaseFiles]]:
    """What is predicted, by name: the fold's validation part, its test part and the test sets; empty ones left out."""
    folded = {case.case: case for case in find_cases(task)}
    parts = {part: [folded[case] for case in split.get(part, ())] for part in ("val", "test")}
    others = {f"set_{name}": find_cases(task, name) for name in task.test_sets if name != CROSS_VALIDATION}
    return {name: cases for name, cases in {**parts, **others}.items() if cases}


def _write(
    output: Path, candidates: dict[str, Candidates], cases: Sequence[CaseFiles], classes: int, facts: dict[str, Any]
) -> None:
    properties = {
        case.case: {"case": case.case, "test_set": case.test_set, "shape": list(read_geometry(case.images[0]).shape)}
        for case in cases
    }
    for case, found in candidates.items():
        print(f"{case}: {len(found.scores)} boxes", flush=True)
    raw_boxes.write(output, raw_boxes.RawBoxes(candidates, properties, 1, classes, facts, final=True))


class _Run:
    """nnDetection's folders for one prediction, and its commands in them."""

    def __init__(self, state: Path, log: Path, facts: dict[str, Any], limits: Limits) -> None:
        self.state, self.log, self.facts = state, log, facts
        self.dataset, self.workers = facts["plan"]["dataset"], max(1, limits.workers)
        self.task, self.model, self.fold = nndet_task.task_name(self.dataset), facts["model"], str(facts["fold"])
        self.folder = state / "models" / self.task / self.model / f"fold{self.fold}"
        self.environment = nndet_task.environment(state, limits.workers, limits.device)

    def restore(self, model: Path, preprocessed: Path, splits: Path) -> None:
        """``det_data`` with the study's folds and ``det_models`` with the model."""
        prepared = nndet_task.task_folder(preprocessed.absolute(), self.dataset)
        nndet_task.with_own_splits(prepared, nndet_task.task_folder(self.state, self.dataset), read_splits(splits))
        nndet_model.unpack(model, self.folder)

    def sweep(self) -> Path:
        self._run("nndet_sweep", self.task, self.model, self.fold)
        return self.folder / "val_predictions"

    def predict(self, name: str, cases: Sequence[CaseFiles]) -> Path:
        """Predicts a folder of images with the last weights; by default the best ones would take part too."""
        images, found = self.state / "images" / name, self.state / "predictions" / name
        nndet_task.link_images(cases, images)
        found.mkdir(parents=True)
        options = ("--load_models", "last", "--save_preprocessed_in_output", "-npp", self.workers)
        self._run("nndet_predict_with_task", images, found, self.task, self.model, self.fold, *options)
        return found

    def _run(self, *words: object) -> None:
        print(f"{words[0]}: {self.log}", flush=True)
        command.run(words, self.environment, self.log)
