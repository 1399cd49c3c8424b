"""Fine-tuning one cell by nnDetection: ``nndet_train`` on the study's fold, from the cell's checkpoint."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from detpretrain import provenance
from detpretrain.engine_entries import EXECUTABLES
from detpretrain.engines import command, nndet_log, nndet_model, nndet_task
from detpretrain.files import atomic_path, digest, read_json, write_json
from detpretrain.folds import read_fold
from detpretrain.tasks import read_splits
from detpretrain.training.lock import CellLock

STATE = "nndet"  # folder of what nnDetection has written so far, in the cell's work folder
CHECKPOINT = "checkpoint.pth"
SOURCES = ("detpretrain.engines.nndet_train",)


@dataclass(frozen=True, kw_only=True)
class NnDetCell:
    """What defines a fine-tuning by nnDetection.

    Attributes:
        name: ``dataset/detector/init/fold0-seed0``.
        detector: configuration entry, resolved for the study's size.
        init, fold, seed: of the cell. nnDetection draws without a seed: another one is another draw, and none can be repeated.
        checkpoint: a pre-trained encoder, None = from scratch.
        pretrained: provenance and citations of the checkpoint.
        signature: recipe hash of the cell.
    """

    name: str
    detector: Mapping[str, Any]
    init: str
    fold: int
    seed: int
    checkpoint: Path | None
    pretrained: Mapping[str, Any] | None
    signature: str


@dataclass(frozen=True)
class Limits:
    """How the job runs: as ``training.runtime.Runtime``."""

    device: str = "auto"
    workers: int = 0
    budget_minutes: float | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Limits:
        """From settings of which those that are None keep their default; nothing of an engine's is staged."""
        known = {name: settings.get(name) for name in cls.__dataclass_fields__}
        return cls(**{name: value for name, value in known.items() if value is not None})


def finetune(
    cell: NnDetCell, preprocessed: Path, splits: Path, work: Path, model_path: Path, log_path: Path, limits: Limits
) -> None:
    """Trains the cell (or goes on with it) and writes ``model.pth`` and ``log.csv``.

    nnDetection saves its state after every epoch; a run that was interrupted goes on from there if the recipe and the input files
    are the same.

    Raises:
        InputError: an input that does not fit, or ``nndet_train`` failed.
        SystemExit: SIGTERM (143) or the budget (75) ended the run early.
    """
    started = time.monotonic()
    deadline = started + 60 * limits.budget_minutes if limits.budget_minutes else math.inf
    work = nndet_task.check_folder(work)
    command.find(EXECUTABLES[cell.detector["engine"]])
    index, split = read_json(preprocessed / "index.json"), read_fold(splits, cell.fold)
    plan = index["plan"]
    inputs = [preprocessed / "index.json", splits, *([cell.checkpoint] if cell.checkpoint else [])]
    with CellLock(work):
        state = _begin(work / STATE, f"{cell.signature}-{digest(inputs)}")
        task = nndet_task.task_folder(state, plan["dataset"])
        prepared = nndet_task.task_folder(preprocessed.absolute(), plan["dataset"])
        nndet_task.with_own_splits(prepared, task, read_splits(splits))
        if cell.checkpoint:
            nndet_task.link(cell.checkpoint, state / CHECKPOINT)
        folder = state / "models" / task.name / model_name(cell, plan) / f"fold{cell.fold}"
        log = work / "nndet_train.log"
        print(f"nnDetection trains: {log}", flush=True)
        surroundings = nndet_task.environment(state, limits.workers, limits.device)
        command.run(training_command(cell, plan, state, folder), surroundings, log, deadline)
        seconds = round(time.monotonic() - started, 1)
        rows = nndet_log.rows(folder, seconds)
        facts = {
            "engine": cell.detector["engine"],
            "cell": cell.name,
            "model": model_name(cell, plan),
            "fold": cell.fold,
            "plan": plan,
            "trained_on": split["train"],
            "provenance": _record(cell, folder, limits, seconds),
        }
        nndet_model.write(model_path, folder, facts)
        with atomic_path(log_path) as temporary:
            pd.DataFrame(rows).to_csv(temporary, index=False)
        shutil.rmtree(state)  # the result is there; a forced rerun starts anew


def model_name(cell: NnDetCell, plan: Mapping[str, Any]) -> str:
    """Of nnDetection's folder: module, plan and tag."""
    return f"{_module(cell)}_{plan['planner']}_3d{_tag(cell)}"


def training_command(cell: NnDetCell, plan: Mapping[str, Any], state: Path, folder: Path) -> list[str]:
    """``nndet_train`` from the start, or from its last checkpoint in ``folder`` where there is one."""
    overrides = [f"module={_module(cell)}", f"planner={plan['planner']}", f"exp.tag={_tag(cell)}"]
    overrides += cell.detector.get("overrides", [])
    flags = []
    goes_on = (folder / nndet_model.CHECKPOINT).is_file()
    if cell.checkpoint:
        overrides.append(f"+transfer_learning_ckpt={state / CHECKPOINT}")
        # the architecture is the checkpoint's in any case, its weights are what a training begins with
        flags = ["--load_adapt_plan", *([] if goes_on else ["--transfer_learning"])]
    if goes_on:
        flags.append("--continue_training")
    return [
        *("nndet_train", nndet_task.task_name(plan["dataset"]), cell.detector["config"], str(cell.fold)),
        *("-o", *overrides, *flags),
    ]


def _module(cell: NnDetCell) -> str:
    return cell.detector["transfer" if cell.checkpoint else "module"]


def _tag(cell: NnDetCell) -> str:
    return f"_{cell.init}"


def _begin(state: Path, signature: str) -> Path:
    """The folder of the state: what is there if it is of this signature, else an empty one."""
    path = state / "signature.json"
    if state.exists() and not (path.exists() and read_json(path) == signature):
        print(f"{state}: of another recipe or other input, discarded", flush=True)
        shutil.rmtree(state)
    (state / "models").mkdir(parents=True, exist_ok=True)
    write_json(path, signature)
    return state


def _record(cell: NnDetCell, folder: Path, limits: Limits, seconds: float) -> dict[str, Any]:
    return provenance.record(
        cell.signature,
        SOURCES,
        seed=cell.seed,
        pretrain=cell.pretrained,
        engine=reported(folder),
        device="cuda" if _told(folder / "run_info.json").get("gpu0") else None,
        seconds=seconds,
    )


def reported(folder: Path) -> dict[str, Any]:
    """What nnDetection says about itself: commit and branch of its checkout, version of torch, GPU; None = not told."""
    meta = _told(folder / "meta.json")
    git = meta.get("git") or {}
    return {
        "name": "nnDetection",
        "commit": git.get("hash"),
        "branch": git.get("active_branch"),
        "torch": meta.get("torch_version"),
        "gpu": _told(folder / "run_info.json").get("gpu0"),
    }


def _told(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
