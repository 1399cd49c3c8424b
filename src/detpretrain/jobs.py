"""What the workflow's scripts share: the study arguments, and the check that the study is still the one that was planned."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detpretrain import leaves, time_limit
from detpretrain.errors import InputError
from detpretrain.study import Study


def parser(description: str) -> argparse.ArgumentParser:
    """``--recipe`` is on every job: the hash that its result records."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--recipe", required=True, help="hash of the configuration leaves that define the result")
    return result


def add_study(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument(
        "--config",
        type=lambda text: [Path(part) for part in text.split(os.pathsep)],
        required=True,
        help=f"study file, or several with {os.pathsep!r} between them (later ones override)",
    )


def add_runtime(arguments: argparse.ArgumentParser) -> None:
    """How the job runs; what is not given comes from the study's ``runtime:``."""
    arguments.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    arguments.add_argument("--workers", type=int, help="loader processes; the result does not depend on it")
    arguments.add_argument("--budget-minutes", type=float, help="stop early, with the state saved and exit status 75")
    arguments.add_argument(
        "--job-minutes", type=float, help="time limit of the batch job, where its scheduler cannot be asked"
    )
    arguments.add_argument("--stage", help="folder on a disk of this node, where a copy of what is read is kept")


def runtime_settings(arguments: argparse.Namespace, study: Study) -> dict[str, Any]:
    """The fields of ``training.runtime.Runtime`` as given on the command line, else by the study, else None.

    In a batch job the budget is no more than the job has left.
    """
    names = ("device", "workers", "budget_minutes", "stage")
    given = {name: getattr(arguments, name, None) for name in names}
    settings = {name: study.config["runtime"].get(name) if value is None else value for name, value in given.items()}
    left = time_limit.minutes_to_train(os.environ, getattr(arguments, "job_minutes", None))
    budgets = [minutes for minutes in (settings["budget_minutes"], left) if minutes is not None]
    return {**settings, "budget_minutes": min(budgets, default=None)}


def processes(arguments: argparse.Namespace, study: Study, work: Path) -> dict[str, Any]:
    """Of a training, with its work folder: arguments of ``training.distributed.relaunch``."""
    runtime = study.config["runtime"]
    cpus = 1 + (runtime_settings(arguments, study)["workers"] or 0)
    return {"processes": runtime.get("gpus", 0), "nodes": runtime.get("nodes"), "cpus": cpus, "work": work}


def check_recipe(stage: str, defining: Mapping[str, Any], expected: str) -> None:
    """A job whose configuration changed since it was planned would record a wrong recipe: it refuses.

    Raises:
        InputError: the hash of ``defining`` is not ``expected``.
    """
    found = leaves.recipe(stage, defining)
    if found != expected:
        raise InputError(
            f"{stage}: the configuration hashes to {found}, the job was planned with {expected}: "
            "it was edited in between; start snakemake again"
        )
