"""The work files of trainings that are finished: nothing needs them any more, and over a study they add up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from detpretrain import trainings
from detpretrain.attempts import attempts
from detpretrain.errors import InputError
from detpretrain.study import Study
from detpretrain.trainings import Training

UNITS = ("B", "KB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Leftover:
    """The work folder of a finished training, its size in bytes and the number of its files."""

    training: Training
    size: int
    files: int


def leftovers(study: Study) -> list[Leftover]:
    """Of every cell and pre-training whose results are all there and that nobody trains again at this moment."""
    cells, pretrainings = trainings.of_study(study)
    every = [training for training in (*cells, *pretrainings) if _may_go(training)]
    still = [training for training, found in zip(every, attempts(every), strict=True) if found.run is None]
    return [_measured(training) for training in still]


def remove(found: list[Leftover]) -> Iterator[Leftover]:
    """Removes work folders and yields each that is gone; one that has come into use again in between stays.

    Raises:
        InputError: a file cannot be removed.
    """
    for each in found:
        # A training that begins anew loses its results first (Snakemake removes them) and takes its lock seconds later.
        if not _may_go(each.training) or attempts([each.training])[0].run is not None:
            continue
        try:
            shutil.rmtree(each.training.work)
        except OSError as error:
            raise InputError(
                f"{error.filename or each.training.work}: cannot be removed ({error.strerror}): correct its permissions"
            ) from None
        yield each


def _may_go(training: Training) -> bool:
    """Only a real folder: what a link points to belongs to somebody else."""
    return training.work.is_dir() and not training.work.is_symlink() and training.finished()


def _measured(training: Training) -> Leftover:
    sizes = [os.lstat(Path(folder) / name).st_size for folder, _, names in os.walk(training.work) for name in names]
    return Leftover(training, sum(sizes), len(sizes))


def readable(size: int) -> str:
    """``512 B``, ``3.4 MB``: in powers of 1000."""
    value, unit = float(size), 0
    while value >= 1000 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {UNITS[unit]}" if unit == 0 else f"{value:.1f} {UNITS[unit]}"
