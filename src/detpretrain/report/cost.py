"""What the study cost: hours and memory of its trainings and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from detpretrain.report.tables import NOT_DEFINED


@dataclass(frozen=True)
class JobCost:
    """One job; None = not recorded.

    Attributes:
        stage: "pre-training", "fine-tuning" or "prediction".
        what: detector, or backbone of a pre-training.
        init: initialisation.
        device: "cpu" or "cuda:0".
        hours: wall-clock hours; of a training that was interrupted, all attempts.
        memory_mib: peak of the GPU, or of the process on a CPU.
    """

    stage: str
    what: str
    init: str
    device: str | None
    hours: float | None
    memory_mib: float | None


def of_record(stage: str, what: str, init: str, record: Mapping[str, Any], seconds: float | None = None) -> JobCost:
    """From a provenance record; ``seconds`` instead of its own, which are those of the last attempt."""
    seconds = record.get("seconds") if seconds is None else seconds
    hours = None if seconds is None else seconds / 3600
    return JobCost(stage, what, init, record.get("device"), hours, record.get("peak_memory_mib"))


def cost_table(jobs: Sequence[JobCost]) -> pd.DataFrame:
    """A line per stage, detector (backbone) and init, then the sums by kind of device; empty without jobs."""
    lines = []
    table = pd.DataFrame([vars(job) for job in jobs])
    if table.empty:
        return table
    table["kind"] = table["device"].map(_kind)
    order = {stage: place for place, stage in enumerate(("pre-training", "fine-tuning", "prediction"))}
    for (_, stage, what, init), part in table.groupby([table["stage"].map(order), "stage", "what", "init"]):
        lines.append(
            (stage, what, init, str(len(part)), _kinds(part), *_hours(part["hours"]), _memory(part["memory_mib"]))
        )
    for kind, part in table.groupby("kind"):
        lines.append(("all", "", "", str(len(part)), kind, "", *_hours(part["hours"])[1:], _memory(part["memory_mib"])))
    columns = [
        "stage",
        "detector or backbone",
        "init",
        "jobs",
        "on",
        "hours each (median)",
        "hours in all",
        "peak memory",
    ]
    return pd.DataFrame(lines, columns=columns)


def _kind(device: str | None) -> str:
    return "GPU" if str(device).startswith("cuda") else "CPU" if device == "cpu" else "not recorded"


def _kinds(part: pd.DataFrame) -> str:
    return ", ".join(sorted(part["kind"].unique()))


def _hours(hours: pd.Series) -> tuple[str, str]:
    known = hours.dropna()
    if known.empty:
        return NOT_DEFINED, NOT_DEFINED
    missing = "" if len(known) == len(hours) else f" ({len(hours) - len(known)} not recorded)"
    return f"{known.median():.3g}", f"{known.sum():.3g}{missing}"


def _memory(mib: pd.Series) -> str:
    return NOT_DEFINED if mib.isna().all() else f"{mib.max() / 1024:.2f} GiB"
