"""``detpretrain import``: carries a plan out, one whole folder after the other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from detpretrain import snakemake_runs
from detpretrain.errors import InputError
from detpretrain.files import atomic_path
from detpretrain.importing.place import copy, forget, place
from detpretrain.importing.plan import Item, Plan
from detpretrain.training.lock import CellLock


def carry_out(plan: Plan, config: Sequence[Path], root: Path) -> Iterator[str]:
    """Copies what the plan brings and yields the name of each that is in place; what fails joins ``plan.refused``.

    Raises:
        InputError: Snakemake cannot be made to forget earlier runs; nothing was copied then.
    """
    forget(plan.outputs(), config, root)
    # checkpoints before what is made from them: times go by that order
    for item in plan.pretrainings:
        yield from _bring(f"pre-training {item.training.name}", item, plan)
    for source, target in plan.findings:
        with atomic_path(target) as temporary:
            copy(source, temporary, time.time_ns())
        yield str(target)
    for item in plan.cells:
        yield from _bring(item.training.name, item, plan)


def _bring(name: str, item: Item, plan: Plan) -> Iterator[str]:
    """Under the lock of the training, so that nobody trains it meanwhile."""
    try:
        with CellLock(item.training.work, trains=False):
            place(item.source, item.training.folder, item.stages, item.mark, item.inputs, item.benchmarks)
    except InputError as error:
        plan.refused.append((name, str(error)))
    except OSError as error:
        plan.refused.append((name, f"{error.filename or item.source}: cannot be copied ({error.strerror})"))
    else:
        yield name
    finally:
        _remove_empty(item.training.work)


def _remove_empty(work: Path) -> None:
    """The folder that the lock needed, unless something else lies in it."""
    with contextlib.suppress(OSError):
        work.rmdir()


def told(plan: Plan, root: Path) -> Iterator[str]:
    """What the user should know, beside what is brought and what is refused."""
    for name, why in plan.left:
        yield f"{name}: left alone: {why}"
    yield from plan.notes
    alive = snakemake_runs.processes(root)
    if alive and (plan.cells or plan.pretrainings):
        yield f"a Snakemake works here (process {alive[0]}): what it has planned it still makes, also what is imported now"
