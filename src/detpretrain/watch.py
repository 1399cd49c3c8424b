"""The trainings of a study that run now, as a table that is drawn again every few seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from detpretrain import trainings
from detpretrain.attempts import Progress, Run, attempts
from detpretrain.study import Study
from detpretrain.trainings import Training

COLUMNS = ("training", "step", "loss", "val AP", "steps/s", "left", "host", "since")
UNKNOWN = "-"
MINUTE, HOUR, DAY = 60, 3600, 86400


def watch(study: Study, console: Console, interval: float, once: bool = False) -> None:
    """Draws until Ctrl-C; what is no terminal gets one table after the other."""
    if once:
        console.print(table(study))
        return
    try:
        if not console.is_terminal:
            while True:
                console.print(table(study))
                time.sleep(interval)
        with Live(table(study), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                live.update(table(study), refresh=True)
    except KeyboardInterrupt:
        pass


def table(study: Study) -> Table:
    """One line for every cell and pre-training whose lock is held by a living process."""
    cells, pretrainings = trainings.of_study(study)
    names = [cell.name.replace("/", " ") for cell in cells]
    names += [f"pre-training {training.name.replace('/', ' ')}" for training in pretrainings]
    found = attempts([*cells, *pretrainings])
    running = [(name, each.run) for name, each in zip(names, found, strict=True) if each.run is not None]
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=_caption(study, cells, len(running)))
    for name in COLUMNS:
        left = name in ("training", "host", "since")
        drawn.add_column(name, justify="left" if left else "right", overflow="fold")
    for name, run in running:
        drawn.add_row(*(text.replace("[", r"\[") for text in line(name, run, time.time())))
    return drawn


def line(name: str, run: Run, now: float) -> tuple[str, ...]:
    """The columns of a running training; what it has not told yet is a dash."""
    since = UNKNOWN if run.since is None else _clock(run.since, now)
    told = run.progress
    if told is None:
        return name, *([UNKNOWN] * 5), run.host, since
    numbers = (_number(told.loss, "{:.4g}"), _number(told.ap, "{:.3f}"), _number(told.speed, "{:.3g}"))
    return name, f"{told.step}/{told.total}", *numbers, _left(told, now), run.host, since


def _clock(moment: float, now: float) -> str:
    """Local time, with its day when that is not within the last twelve hours."""
    return time.strftime("%H:%M" if now - moment < DAY / 2 else "%m-%d %H:%M", time.localtime(moment))


def _left(told: Progress, now: float) -> str:
    """Time to the last step at the speed so far, which the time since the last word is taken from."""
    if not told.speed:
        return UNKNOWN
    return duration(max((told.total - told.step) / told.speed - max(now - told.time, 0.0), 0.0))


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 05 min`` or ``2 d 4 h``."""
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    if seconds < HOUR:
        return f"{seconds / MINUTE:.0f} min"
    if seconds < DAY:
        return f"{int(seconds // HOUR)} h {int(seconds % HOUR // MINUTE):02d} min"
    return f"{int(seconds // DAY)} d {int(seconds % DAY // HOUR)} h"


def _number(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else form.format(value)


def _caption(study: Study, cells: Sequence[Training], running: int) -> str:
    done = sum(training.finished() for training in cells)
    return f"study {study.name}: {running} running; {done} of {len(cells)} cells finished"
