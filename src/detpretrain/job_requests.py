"""What the trainings and predictions of a study ask a cluster for: minutes, attempts and main memory.

Minutes follow from a recipe's steps and their measured speed. Where nobody has measured one, a job asks for what a full-size
training may take, or for as much as one job may have (``runtime.budget_minutes``). A longer training is several jobs: each one
stops in time with its state saved (``time_limit``), and the next attempt goes on from there.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence

import numpy as np

from detpretrain import training_speed
from detpretrain.preprocessing import memory_estimate
from detpretrain.preprocessing.plan_spec import PlanSpec, parse_spec
from detpretrain.study import Study
from detpretrain.time_limit import MOST

UNKNOWN_MINUTES = {"finetune": 2880, "pretrain": 7200}
SLACK, START_MINUTES = 1.3, 15  # validation and slower nodes; imports, the first batches of a cold file system
# MB of main memory: the interpreter with torch, with CUDA's libraries and pinned buffers, and a loader process
PROCESS_MB, GPU_PROCESS_MB, LOADER_MB = 1500, 5000, 900
PREFETCHED, READ = 3, 4  # batches that wait, and how much more than its patch a rotated sample reads
PATCH = (128, 128, 128)  # of plans that derive it
# of a case at work: as read, cropped, resampled in double precision; and of one whose size nobody knows yet
CASE_BYTES, UNKNOWN_CASE_MB = 64, 8000
SINGLE = 4  # bytes of a voxel
ENGINE_MB = 32_000  # nnDetection with the loader processes that it starts by itself
CPU_STEP = 4  # times the reference network's half precision: single precision, and residual encoders keep twice as much


def finetune_minutes(study: Study, detector: str) -> int:
    """Time limit of a job that fine-tunes a detector."""
    return _of_one_job(study, _finetune_estimate(study, detector))


def pretrain_minutes(study: Study, init: str, backbone: str) -> int:
    return _of_one_job(study, _pretrain_estimate(study, init, backbone))


def finetune_jobs(study: Study) -> int:
    """Jobs that the longest fine-tuning of the study needs."""
    return _jobs(study, (_finetune_estimate(study, name) for name in sorted({row.detector for row in study.rows})))


def pretrain_jobs(study: Study) -> int:
    return _jobs(study, (_pretrain_estimate(study, init, backbone) for init, backbone in study.pretrainings))


def finetune_memory(study: Study, detector: str) -> int:
    """Main memory in MB."""
    entry = study.entry("detectors", detector)
    return ENGINE_MB if "engine" in entry else _memory(study, entry["plan"], entry["recipe"])


def pretrain_memory(study: Study, init: str) -> int:
    method = study.entry("methods", study.entry("inits", init)["method"])
    return _memory(study, method["plan"], method["recipe"])


def prediction_memory(study: Study, dataset: str, detector: str) -> int:
    """Main memory in MB of a job that holds one case at a time: of the largest one, once the data set is prepared."""
    entry = study.entry("detectors", detector)
    if "engine" in entry:
        return ENGINE_MB
    needed = GPU_PROCESS_MB if _on_gpu(study) else PROCESS_MB
    needed += _case_mb(study, dataset)
    if not _on_gpu(study):
        spec = parse_spec(entry["plan"], study.plan_spec(entry["plan"]))
        tiles = entry.get("inference", {}).get("tile_batch", memory_estimate.BATCH)
        needed += CPU_STEP * _step_mb(spec, spec.patch or PATCH) * tiles / memory_estimate.BATCH
    return _rounded(needed)


def preparation_memory(study: Study, dataset: str, processes: int) -> int:
    """Main memory in MB of a job that plans or preprocesses, so many cases at a time."""
    return _rounded(PROCESS_MB + processes * _case_mb(study, dataset))


def _case_mb(study: Study, dataset: str) -> float:
    """Of the largest case, as far as the data set is prepared."""
    cases = study.data / dataset / "task" / "cases.csv"
    if not cases.is_file():
        return UNKNOWN_CASE_MB
    with cases.open(newline="") as handle:
        shapes = [[int(line[f"shape_{axis}"]) for axis in "zyx"] for line in csv.DictReader(handle)]
    return CASE_BYTES * max(map(math.prod, shapes), default=0) / 2**20


def _finetune_estimate(study: Study, detector: str) -> int:
    recipe = study.entry("detectors", detector).get("recipe")
    total = 1 if recipe is None else training_speed.steps(study, recipe)
    return _minutes("finetune", total, training_speed.of_detector(study, detector).value)


def _pretrain_estimate(study: Study, init: str, backbone: str) -> int:
    total = training_speed.steps(study, study.entry("methods", study.entry("inits", init)["method"])["recipe"])
    return _minutes("pretrain", total, training_speed.of_pretraining(study, init, backbone).value)


def _minutes(stage: str, steps: int, speed: float | None) -> int:
    return UNKNOWN_MINUTES[stage] if speed is None else math.ceil(round(SLACK * steps / speed / 60, 6)) + START_MINUTES


def _of_one_job(study: Study, estimate: int) -> int:
    return min(estimate, math.ceil(study.config["runtime"].get("budget_minutes", estimate)))


def _jobs(study: Study, estimates: Iterable[int]) -> int:
    longest = max(estimates, default=0)
    allowed = study.config["runtime"].get("budget_minutes", longest)
    if longest <= allowed:
        return 1
    # every job starts anew and stops a while before its limit
    used = max(allowed - MOST - START_MINUTES, allowed / 2)
    return math.ceil(longest / used)


def _memory(study: Study, plan: str, recipe: str) -> int:
    """Of a node's training processes and their loaders; without a GPU also what a step of the reference network keeps."""
    spec, entry, runtime = (
        parse_spec(plan, study.plan_spec(plan)),
        study.entry("recipes", recipe),
        study.config["runtime"],
    )
    patch = spec.patch or PATCH
    gpus, workers = runtime.get("gpus", 0), runtime.get("workers", 0)
    batch = entry["batch_size"] * math.prod(patch) * 2 * SINGLE * READ / 2**20  # images and instances
    needed = (
        (GPU_PROCESS_MB if gpus else PROCESS_MB) * max(gpus, 1) + PREFETCHED * batch + workers * (LOADER_MB + batch)
    )
    if not _on_gpu(study):
        passed = math.ceil(entry["batch_size"] / entry.get("accumulate", 1))
        needed += CPU_STEP * _step_mb(spec, patch) * passed / memory_estimate.BATCH
    return _rounded(needed)


def _on_gpu(study: Study) -> bool:
    return study.config["runtime"].get("gpus", 0) > 0 and study.config["runtime"].get("device") != "cpu"


def _rounded(megabytes: float) -> int:
    return 500 * math.ceil(megabytes / 500)


def _step_mb(spec: PlanSpec, patch: Sequence[int]) -> float:
    """MB of a step of the reference network in half precision; the budget it is planned for where the plan derives it."""
    if not (spec.strides and spec.kernels and spec.detection_levels):
        return memory_estimate.BUDGET / 2**20
    kernels = spec.kernels * len(spec.strides) if len(spec.kernels) == 1 else spec.kernels
    strides = np.asarray(spec.strides)
    return memory_estimate.training_bytes(patch, strides, kernels, spec.detection_levels, channels=2, classes=2) / 2**20
