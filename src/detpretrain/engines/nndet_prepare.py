"""nnDetection's own planning and preprocessing of a task, once for all cells: ``nndet_prep``.

``plan.json`` names its planner. The folder of ``index.json`` holds ``data`` (its ``det_data``), and the index is written when
nnDetection has finished, so that the workflow sees one more way to preprocess a data set and nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detpretrain.engine_entries import EXECUTABLES, check_plan
from detpretrain.engines import command, nndet_task
from detpretrain.errors import InputError
from detpretrain.files import digest, read_json, write_json
from detpretrain.preprocessing.raw_case import find_cases
from detpretrain.tasks import CROSS_VALIDATION, Task

LOG = "nndet_prep.log"


def plan_task(task_root: Path, dataset: str, plan_name: str, spec: Mapping[str, Any], output: Path) -> None:
    """Writes plan.json: which planner nnDetection is to use, and what the task is; ``InputError`` for a bad spec."""
    check_plan(plan_name, spec)
    task = Task.read(task_root)
    content = {
        "engine": spec["engine"],
        "dataset": dataset,
        "plan": plan_name,
        "planner": spec["planner"],
        "overrides": list(spec.get("overrides", [])),
        "modalities": list(task.modalities.values()),
        "channels": len(task.modalities),
        "classes": len(task.labels),
        "class_names": list(task.labels.values()),
    }
    write_json(output, content)


def preprocess_task(task_root: Path, plan: Mapping[str, Any], output: Path, processes: int) -> None:
    """Has nnDetection plan and preprocess the cases of the folds, and writes ``index.json`` in the end.

    ``index.json`` holds ``cases`` (case, test_set, source: a hash of the case's files), ``plan`` and ``data_identifier``, the
    name of nnDetection's folder of arrays. What an interrupted run has cropped is kept if it is of the same files and plan.

    Raises:
        InputError: a file is missing, a name that nnDetection does not take, or one of its commands failed.
    """
    folder = nndet_task.check_folder(output)
    command.find(EXECUTABLES[plan["engine"]])
    task = Task.read(task_root)
    (folder / "index.json").unlink(missing_ok=True)
    cases = [
        {"case": files.case, "test_set": test_set, "source": digest(files.all)}
        for test_set in task.test_sets
        for files in find_cases(task, test_set)
    ]
    made_from = {"plan": dict(plan), "cases": [case for case in cases if case["test_set"] == CROSS_VALIDATION]}
    _begin(folder, made_from)
    target = nndet_task.task_folder(folder, plan["dataset"])
    nndet_task.write_task(task, plan["dataset"], target)
    _run(folder, plan, processes)
    made = planned(target, plan)
    write_json(folder / "index.json", {"cases": cases, "plan": dict(plan), "data_identifier": made["data_identifier"]})


def _begin(folder: Path, made_from: Mapping[str, Any]) -> None:
    """Removes what earlier files or another plan left: nnDetection would take it for its own."""
    signature = folder / "made_from.json"
    if not (signature.exists() and read_json(signature) == made_from):
        for name in ("data", "models"):
            shutil.rmtree(folder / name, ignore_errors=True)
        write_json(signature, made_from)
    (folder / "models").mkdir(parents=True, exist_ok=True)


def _run(folder: Path, plan: Mapping[str, Any], processes: int) -> None:
    name, log = nndet_task.task_name(plan["dataset"]), folder / LOG
    surroundings = nndet_task.environment(folder, processes)
    overrides = [f"planner={plan['planner']}", *plan["overrides"]]
    print(f"nnDetection plans and preprocesses: {log}", flush=True)
    command.run(["nndet_prep", name, "-o", *overrides, "-np", processes, "-npp", processes], surroundings, log)
    made = planned(nndet_task.task_folder(folder, plan["dataset"]), plan)
    if made.get("preprocessed_data_format", "npz") == "npz":  # training reads unpacked arrays only
        command.run(["nndet_unpack_task", name, made["data_identifier"], "-p", processes], surroundings, log)


def planned(task: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """nnDetection's own plan of full resolution; ``InputError`` when ``nndet_prep`` made none."""
    path = task / "preprocessed" / f"{plan['planner']}_3d.json"
    content = read_json(path) if path.is_file() else {}
    if "data_identifier" not in content:
        raise InputError(
            f"{path}: nndet_prep has not written this plan: it takes nnDetection's branch finetuning, see envs/nndet.yaml"
        )
    return content
