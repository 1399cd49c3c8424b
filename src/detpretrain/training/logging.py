"""What a training tells: one line per epoch (a bar on a terminal), ``log.csv`` rows, TensorBoard, ``progress.json``."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from detpretrain.files import atomic_path, write_json
from detpretrain.models import ranks

PROGRESS_SECONDS = 10.0


class Log:
    """Rows of a run. Everything but the rows themselves is for people who watch, and of several ranks the first one's."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.rows: list[dict[str, Any]] = []
        self._first_step = 0
        self._writer: SummaryWriter | None = None
        self._bar: tqdm | None = None
        self._told = 0.0
        self._began = time.monotonic()

    def resume(self, rows: list[dict[str, Any]], step: int) -> None:
        self.rows, self._first_step = rows, step
        print(f"resumed at step {step}", flush=True)

    def progress(self, step: int, total: int, means: dict[str, float]) -> None:
        if not ranks.is_first():
            return
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(total=total, initial=self._first_step, unit="step", dynamic_ncols=True)
            self._bar.update(step - self._bar.n)
            self._bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()})
        if time.monotonic() - self._told > PROGRESS_SECONDS:
            self._told = time.monotonic()
            write_json(self.work / "progress.json", self._position(step, total, means))

    def _position(self, step: int, total: int, means: dict[str, float]) -> dict[str, Any]:
        """``speed``: steps per second since this run began or went on, validation included; ``epoch``: the last finished one."""
        last = self.rows[-1] if self.rows else {}
        return {
            "step": step,
            "total": total,
            "means": means,
            "speed": (step - self._first_step) / max(time.monotonic() - self._began, 1e-9),
            # a validation loss may be no number, which JSON does not know
            "epoch": {name: value for name, value in last.items() if math.isfinite(value)},
            "time": time.time(),
        }

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        self.rows.append(row)
        if not ranks.is_first():
            return
        if self._writer is None:
            self._writer = SummaryWriter(self.work / "tensorboard", purge_step=self._first_step or None)
        for name, value in row.items():
            if name not in ("epoch", "step"):
                self._writer.add_scalar(name, value, row["step"])
        shown = {name: value for name, value in row.items() if name not in ("epoch", "step")}
        text = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        line = f"epoch {row['epoch']}/{epochs}  step {row['step']}  {text}"
        tqdm.write(line) if self._bar is not None else print(line, flush=True)

    def close(self) -> None:
        for item in (self._writer, self._bar):
            if item is not None:
                item.close()


def write_log(path: Path, rows: list[dict[str, Any]]) -> None:
    """``log.csv``: one line per epoch."""
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
