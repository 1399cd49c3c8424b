"""What nnDetection's training tells, as rows of ``log.csv``.

Its csv logger (Lightning's) writes ``logging/csv/version_N/metrics.csv``, a new N for every run that goes on from a
checkpoint, and a line for what was logged at one moment, so that the losses of an epoch and its validation stand on two. The
seconds of an epoch are told by ``train.log`` alone.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from detpretrain.errors import InputError

# its column -> ours; ``train_loss/loss_NAME`` and ``val_loss/loss_NAME`` become ``train_NAME`` and ``val_NAME``
COLUMNS = {"step": "step", "val/box_AP_IoU_0.10": "val_ap", "val/box_mAP_IoU_0.10_0.50_0.05": "val_map"}
LOSS = re.compile(r"(train|val)_loss/(loss)(?:_(\w+))?")
TOOK = re.compile(r"(?:Train|Val) epoch (\d+) took ([\d.]+) s\b")


def rows(folder: Path, seconds: float) -> list[dict[str, Any]]:
    """One row per epoch: epoch (from 1), step, train_loss and val_loss with their parts, val_ap, val_map, seconds.

    ``val_ap`` is AP at IoU 0.10 of validation patches, as in our own trainings.

    Args:
        folder: nnDetection's folder of the fold.
        seconds: of the whole training, divided among the epochs where ``train.log`` does not tell their own.

    Raises:
        InputError: no metrics.csv, or one without losses.
    """
    found: dict[int, dict[str, Any]] = {}
    for path in sorted((folder / "logging" / "csv").glob("version_*/metrics.csv"), key=_version):
        for line in _read(path).to_dict("records"):
            if pd.notna(line["epoch"]):
                told = {_name(column): value for column, value in line.items() if pd.notna(value)}
                found.setdefault(int(line["epoch"]), {}).update(told)
    epochs = [number for number in sorted(found) if "train_loss" in found[number]]
    if not epochs:
        told = folder / "logging" / "csv"
        raise InputError(f"{told}: no training loss in any metrics.csv: see {folder / 'train.log'}")
    took = _seconds(folder / "train.log")
    share = {number: took.get(number, seconds / len(epochs)) for number in epochs}
    return [_row(number, found[number], share[number]) for number in epochs]


def _row(number: int, told: dict[str, Any], seconds: float) -> dict[str, Any]:
    values = {name: value for name, value in told.items() if name is not None}
    first = {name: values.pop(name) for name in ("step", "train_loss", "val_loss") if name in values}
    return {"epoch": number + 1, **first, **dict(sorted(values.items())), "seconds": round(seconds, 3)}


def _read(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as csv ({error}): train the cell again") from None
    if "epoch" not in table:
        raise InputError(f"{path}: no column epoch: train the cell again")
    return table


def _version(path: Path) -> int:
    return int(path.parent.name.rpartition("_")[2])


def _name(column: str) -> str | None:
    """Our name of a column, None for what is not kept."""
    loss = LOSS.fullmatch(column)
    if loss:
        return f"{loss[1]}_{loss[3] or loss[2]}"
    return COLUMNS.get(column)


def _seconds(log: Path) -> dict[int, float]:
    """Seconds of each epoch, training and validation; of an epoch that was begun twice, those of both."""
    found: dict[int, float] = {}
    for line in log.read_text(errors="replace").splitlines() if log.is_file() else ():
        took = TOOK.search(line)
        if took:
            found[int(took[1])] = found.get(int(took[1]), 0.0) + float(took[2])
    return found
