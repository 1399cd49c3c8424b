"""A whole task -> preprocessed cases, in parallel, all or nothing: index.json is written when every case is there."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detpretrain.errors import InputError
from detpretrain.files import read_json, write_json
from detpretrain.parallel import map_cases
from detpretrain.preprocessing import restore, store
from detpretrain.preprocessing.apply import Preprocessed, preprocess
from detpretrain.preprocessing.raw_case import CaseFiles, RawCase, find_cases, read_raw_case
from detpretrain.tasks import Task

log = logging.getLogger(__name__)

INDEX = "index.json"
VERSION = 1  # raise it when the same input and plan give other arrays: it decides whether a finished case is kept
# `source` makes the index differ whenever an array does: what is trained on it is judged by the index alone
INDEX_KEYS = ("case", "test_set", "shape", "ids", "classes", "boxes", "ignored", "source")


@dataclass(frozen=True)
class Job:
    """One case to be preprocessed."""

    files: CaseFiles
    plan: dict[str, Any]
    output: Path


def preprocess_task(task_root: Path | str, plan: Mapping[str, Any], output: Path | str, workers: int = 1) -> None:
    """Preprocesses every case of a task (all test sets) into ``output``.

    Files: those of ``store`` per case, and ``index.json`` with ``{"cases": [{case, test_set, shape, ids, classes, boxes,
    ignored, source}], "plan": plan}``, written last. A case whose files are there and come from the same input bytes, plan and
    version is kept, so a run that was cut short goes on. Objects that resampling leaves without a voxel are logged, and
    kept in the case's properties as ``lost``.

    Args:
        task_root: a canonical task folder.
        plan: the content of plan.json.
        output: folder for the results.
        workers: processes; the results do not depend on it.

    Raises:
        InputError: one or more cases are bad (one message names them all), or the plan does not fit the task.
    """
    jobs = jobs_of_task(task_root, plan, output)
    (Path(output) / INDEX).unlink(missing_ok=True)
    write_json(Path(output) / INDEX, {"cases": preprocess_jobs(jobs, workers), "plan": dict(plan)})


def jobs_of_task(task_root: Path | str, plan: Mapping[str, Any], output: Path | str) -> list[Job]:
    """All cases of a task; ``InputError`` when the plan does not fit the task, or it has no case."""
    task = Task.read(task_root)
    if len(task.modalities) != plan["channels"]:
        raise InputError(
            f"{task.root}: {len(task.modalities)} modalities, the plan has {plan['channels']}: plan this task again"
        )
    jobs = [Job(files, dict(plan), Path(output)) for test_set in task.test_sets for files in find_cases(task, test_set)]
    if not jobs:
        raise InputError(f"{task.raw}: no image CASE_0000.nii.gz in any images* folder: prepare the task again")
    return jobs


def preprocess_jobs(jobs: Sequence[Job], workers: int) -> list[dict[str, Any]]:
    """Preprocesses cases, which may be none; returns their entries of the index."""
    for job in jobs[:1]:
        job.output.mkdir(parents=True, exist_ok=True)
    cases = map_cases(_preprocess_case, jobs, workers, name=lambda job: job.files.case, what="preprocessed")
    for properties in cases:
        for line in _warnings(properties):
            log.warning(line)
    return [{key: properties[key] for key in INDEX_KEYS} for properties in cases]


def _preprocess_case(job: Job) -> dict[str, Any]:
    """Writes one case and returns its properties."""
    for path in job.files.all:
        if not path.is_file():
            raise InputError(f"{path}: file not found")
    digest = _digest(job)
    finished = _finished(job, digest)
    if finished is not None:
        return finished
    raw = read_raw_case(job.files)
    result = preprocess(raw.images, raw.geometry, job.plan, raw.instances)
    properties = {"case": job.files.case, "test_set": job.files.test_set, **result.properties, **_objects(raw, result)}
    properties["source"] = digest
    store.write_case(job.output, job.files.case, result.data, result.instances, properties)
    return properties


def _objects(raw: RawCase, result: Preprocessed) -> dict[str, Any]:
    """Ids, classes, boxes (preprocessed coordinates), ignored and lost ids of a case."""
    if raw.annotation is None:
        return {"ids": [], "classes": [], "boxes": [], "ignored": [], "lost": []}
    ids, boxes = result.properties["ids"], np.asarray(result.properties["boxes"], dtype=np.float64).reshape(-1, 6)
    for row, id in enumerate(ids):
        if id in (raw.annotation.boxes or {}):
            # A box annotation is the target itself; its raster only stands in for it in the segmentation branch.
            boxes[row] = restore.boxes_to_preprocessed(np.array([raw.annotation.boxes[id]]), result.properties)[0]
    return {
        "ids": ids,
        "classes": [raw.annotation.classes[id] for id in ids],
        "boxes": boxes.tolist(),
        "ignored": sorted(raw.annotation.ignored),
        "lost": sorted(set(raw.annotation.classes) - set(ids)),
    }


def _warnings(properties: Mapping[str, Any]) -> list[str]:
    if not properties["lost"]:
        return []
    ids = ", ".join(map(str, properties["lost"]))
    return [f"{properties['case']}: no voxel is left of instance {ids} after resampling: not used in training"]


def _digest(job: Job) -> str:
    """Identifies the result of a job: the bytes of its files, the plan, the version."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([VERSION, job.files.case, job.files.test_set, job.plan], sort_keys=True).encode())
    for path in job.files.all:
        with open(path, "rb") as handle:
            digest.update(hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).digest())
    return digest.hexdigest()


def _finished(job: Job, digest: str) -> dict[str, Any] | None:
    """The properties of a case that an earlier run has written from the same source."""
    path = job.output / f"{job.files.case}.json"
    if not path.exists():
        return None
    try:
        properties = read_json(path)
        if properties.get("source") != digest:
            return None
        stored = store.read_case(job.output, job.files.case)
    except InputError:
        return None
    return properties if (stored.instances is None) == (job.files.label is None) else None
